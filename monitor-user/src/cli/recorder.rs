//! `respawn recorder`: keeps the deaths of the whole host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum as _;

use super::Global;
use super::deaths::RecorderDir;
use crate::accounts::Accounts;
use crate::config::parse_size;
use crate::probe::{Keep, sets};
use crate::recorder::{self, journald};

/// The smallest size that is accepted for the files: a line may have several KiB.
const SMALLEST: u64 = 64 * 1024;

/// Record the deaths of all processes of this host
///
/// Runs in the foreground, for init to keep running, and needs no agent. It records deaths by a signal,
/// kills by the out-of-memory killer, core dumps, and exits with a status other than 0 of children of PID
/// 1 and of a container's first process. For each death it records the program, its arguments, its
/// ancestors and its cgroup, and the same of the process that sent the signal. `respawn deaths` and
/// `respawn why` read the records, also after a reboot.
///
/// Once a recorder has run since the boot, the kernel keeps deaths in a buffer while none is running.
///
/// Arguments may contain secrets. Only root can read the files, or also a group that you choose with
/// --group. Values of options such as --password are replaced by "***", as far as they are recognised;
/// --no-argv records no arguments at all.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: Settings,
    /// Where journald listens, to test it
    #[arg(long, value_name = "PATH", default_value = journald::SOCKET, hide = true)]
    journald_socket: PathBuf,
    /// Size of the ring between kernel and recorder, in bytes: a power of two, at least a page
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 22, value_parser = super::watch::ring_bytes)]
    ring_bytes: u32,
    /// Use the kernel program for kernels before 6.16, to test it
    #[arg(long, hide = true)]
    live_zero: bool,
}

/// What `install --recorder` takes too.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// Which deaths to record
    #[arg(long, value_enum, default_value = "abnormal")]
    keep: Keep,
    #[command(flatten)]
    place: RecorderDir,
    /// How much disk space the records may take; when it is used up, the older half is removed
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    max_size: u64,
    /// Let the members of this group read the records: a name or an ID
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Do not write the deaths of systemd's units to journald, where `journalctl -u` shows them
    #[arg(long)]
    no_journald: bool,
    /// Do not record the arguments of programs
    #[arg(long)]
    no_argv: bool,
}

/// The names of [`Settings`].
pub(super) const SETTINGS: [&str; 6] =
    ["keep", "dir", "max_size", "group", "no_journald", "no_argv"];

const DEFAULT_DIR: &str = "/var/lib/respawn";
const DEFAULT_MAX_SIZE: u64 = 64 * 1024 * 1024;

impl Settings {
    /// What differs from the defaults, as options with their values. `dir` is where else the deaths are
    /// to be, unless an option says where.
    ///
    /// # Errors
    /// There is no such group.
    pub(super) fn words(
        &self,
        dir: Option<OsString>,
    ) -> Result<Vec<(&'static str, Option<String>)>> {
        let mut words = Vec::new();
        let keep = self.keep.to_possible_value();
        let keep = keep.map(|it| it.get_name().to_owned());
        words.extend((self.keep != Keep::Abnormal).then_some(("--keep", keep)));
        let given = Some(&self.place.dir).filter(|it| **it != Path::new(DEFAULT_DIR));
        let dir = given.cloned().or(dir.map(PathBuf::from));
        let dir = std::path::absolute(dir.unwrap_or_else(|| DEFAULT_DIR.into()))?;
        if dir != Path::new(DEFAULT_DIR) {
            words.push(("--dir", Some(dir.to_string_lossy().into_owned())));
        }
        if self.max_size != DEFAULT_MAX_SIZE {
            words.push(("--max-size", Some(self.max_size.to_string())));
        }
        if let Some(name) = &self.group {
            group(name)?;
            words.push(("--group", Some(name.clone())));
        }
        words.extend(self.no_journald.then_some(("--no-journald", None)));
        words.extend(self.no_argv.then_some(("--no-argv", None)));
        Ok(words)
    }
}

fn size(text: &str) -> Result<u64> {
    let bytes = text.parse().ok().or_else(|| parse_size(text).ok());
    match bytes {
        Some(bytes) if bytes >= SMALLEST => Ok(bytes),
        _ => bail!("expected a size of at least \"64KiB\", such as \"64MiB\""),
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let group = arguments.settings.group.as_deref().map(group).transpose()?;
    recorder::run(&recorder::Options {
        dir: arguments.settings.place.dir.clone(),
        max_size: arguments.settings.max_size,
        keep: arguments.settings.keep,
        argv: !arguments.settings.no_argv,
        journald: (!arguments.settings.no_journald).then(|| arguments.journald_socket.clone()),
        group,
        pin_dir: global.pin_dir.join(sets::RECORDER),
        ring_bytes: arguments.ring_bytes,
        live_zero: arguments.live_zero,
        btf: global.btf.clone(),
        object: global.bpf_object.clone(),
    })
}

/// By name; a number that is no name is the ID.
fn group(name: &str) -> Result<u32> {
    let group = Accounts::of_this_host().group_named(name);
    let group = group.map_err(|error| anyhow!("--group {name}: {error}"))?;
    match group {
        Some(group) => Ok(group.gid),
        None => name
            .parse()
            .ok()
            .with_context(|| format!("--group {name}: there is no such group")),
    }
}
