//! What is measured here: `respawn agent`, in its variants.

use std::{
    ffi::OsStr,
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    bench::{
        Bench,
        compare::{
            namespace::{Kept, supervised},
            peer::{Peer, Running, Service, Stage},
        },
        process::Started,
        wait::ends_within,
    },
    workspace::output_of,
};

/// How long the agent may take to stop its services and itself.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

pub(in crate::bench::compare) struct Respawn {
    name: &'static str,
    settings: &'static str,
    overlap: bool,
    standby: bool,
    /// Where its first process starts it again: with a spare.
    spare: bool,
}

impl Respawn {
    pub(in crate::bench::compare) const PLAIN: Self = Self {
        name: "respawn",
        settings: "its defaults: no delay",
        overlap: false,
        standby: false,
        spare: false,
    };
    pub(in crate::bench::compare) const OVERLAP: Self = Self {
        name: "respawn, overlap",
        settings: "`overlap = true`: it starts when the exit is final, and not when memory and files are free",
        overlap: true,
        ..Self::PLAIN
    };
    pub(in crate::bench::compare) const STANDBY: Self = Self {
        name: "respawn, standby",
        settings: "`standby = true`: the next instance is loaded and waits",
        standby: true,
        ..Self::PLAIN
    };
    pub(in crate::bench::compare) const STANDBY_OVERLAP: Self = Self {
        name: "respawn, standby and overlap",
        settings: "`standby = true` and `overlap = true`",
        overlap: true,
        standby: true,
        ..Self::PLAIN
    };
    /// Where an agent dies with a service.
    pub(in crate::bench::compare) const SPARE: Self = Self {
        name: "respawn with its spare",
        settings: "its defaults, and two entries in the init, as `respawn install` makes them",
        spare: true,
        ..Self::PLAIN
    };

    fn service_file(&self, service: &Service, arena: &Path) -> String {
        let mut table = toml::Table::new();
        table.insert("command".into(), service.words(arena).into());
        if self.overlap {
            table.insert("overlap".into(), true.into());
        }
        if self.standby {
            table.insert("standby".into(), true.into());
        }
        if let Some(port) = service.held_port() {
            let mut socket = toml::Table::new();
            socket.insert("tcp".into(), format!("127.0.0.1:{port}").into());
            table.insert("listen".into(), vec![socket].into());
        }
        table.to_string()
    }
}

impl Peer for Respawn {
    fn name(&self) -> &'static str {
        self.name
    }

    fn settings(&self) -> &'static str {
        self.settings
    }

    fn overlaps(&self) -> bool {
        self.overlap
    }

    /// Whether this build knows the keys.
    fn check(&self, bench: &Bench) -> Result<()> {
        if !self.standby {
            return Ok(());
        }
        let folder = tempfile::tempdir().context("make a directory")?;
        let services = folder.path().join("services");
        fs::create_dir(&services)?;
        let text = "command = [\"/bin/true\"]\nstandby = true\n";
        fs::write(services.join("x.toml"), text)?;
        let mut command = Command::new(&bench.respawn);
        command.arg("check").arg("--config").arg(folder.path());
        if output_of(&mut command).is_err() {
            bail!("this build does not know `standby`");
        }
        Ok(())
    }

    fn start(&self, stage: &Stage<'_>, services: &[Service]) -> Result<Running> {
        for service in services {
            let text = self.service_file(service, stage.arena.path());
            stage.write(&format!("config/services/{}.toml", service.id), &text)?;
        }
        let runtime_dir = runtime_dir(&stage.directory);
        let own = stage.directory.file_name().unwrap_or_default();
        let arena = stage.arena.path().file_name().unwrap_or_default();
        let pins = [OsStr::new("respawn-bench"), arena, own].join(OsStr::new("-"));
        let pin_dir = Path::new("/sys/fs/bpf").join(pins);
        let words = words(
            &stage.bench.respawn,
            &stage.directory.join("config"),
            &runtime_dir,
            &pin_dir,
        );
        if stage.kept {
            let kept = if self.spare {
                Kept::WithSpare
            } else {
                Kept::Always
            };
            let running = supervised(stage, kept, &words, None)?;
            return Ok(running.ending(move |process| {
                let _ = process.signal(Signal::SIGKILL);
                let _ = ends_within(process.as_fd(), STOP_PATIENCE);
                let _ = fs::remove_dir_all(&pin_dir);
            }));
        }
        let mut command = stage.bench.command(Path::new(&words[0]))?;
        command.args(&words[1..]).stdout(Stdio::null());
        command.stderr(fs::File::create(stage.directory.join("log"))?);
        let running = Running::of(Started::start(&mut command)?);
        let respawn = stage.bench.respawn.clone();
        Ok(running.ending(move |process| shut_down(process, &respawn, &runtime_dir, &pin_dir)))
    }
}

/// Where the agent of a stage with this directory keeps its state.
pub(in crate::bench::compare) fn runtime_dir(stage: &Path) -> PathBuf {
    stage.join("run")
}

fn words(respawn: &Path, config: &Path, runtime_dir: &Path, pin_dir: &Path) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut words = vec![
        text(respawn),
        "agent".into(),
        "--config".into(),
        text(config),
    ];
    words.extend(["--runtime-dir".into(), text(runtime_dir)]);
    words.extend(["--pin-dir".into(), text(pin_dir)]);
    words
}

/// As well as it can be done: an agent that does not end in order is killed, and services that it leaves end
/// with the arena.
fn shut_down(process: &Started, respawn: &Path, runtime_dir: &PathBuf, pin_dir: &PathBuf) {
    let mut command = Command::new(respawn);
    command
        .arg("shutdown")
        .arg("--runtime-dir")
        .arg(runtime_dir);
    let _ = output_of(&mut command);
    if !ends_within(process.as_fd(), STOP_PATIENCE).unwrap_or(false) {
        let _ = process.signal(Signal::SIGKILL);
    }
    let _ = fs::remove_dir_all(pin_dir);
}
