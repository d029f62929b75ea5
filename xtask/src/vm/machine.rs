//! One emulated machine: boots a kernel on an initramfs, passes on what comes out of it, and ends
//! it in any case.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    demo::tethered_command, report::now, static_build::Arch, unpacked::Runnable, workspace::shown,
};

/// What a machine is to be.
pub(super) struct Machine<'a> {
    pub(super) arch: Arch,
    pub(super) emulator: &'a Runnable,
    pub(super) kernel: &'a Path,
    /// Archives that the kernel unpacks one over the other.
    pub(super) archives: Vec<PathBuf>,
    pub(super) processors: u32,
    /// Whether each processor is emulated by a thread of its own. On x86-64 a kernel may then crash or
    /// hang where it patches its own code (a static key that changes), while another processor runs it.
    pub(super) is_parallel: bool,
    pub(super) memory_mib: u32,
    /// Added to the kernel's command line.
    pub(super) append: String,
    pub(super) limit: Duration,
}

/// What came out of a machine.
pub(super) struct Ended {
    pub(super) end: End,
    /// Whether the job was begun.
    pub(super) is_up: bool,
    /// What was on its disk, packed, if the job has left a list.
    pub(super) disk: String,
}

/// How a machine ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its job ended with this status, and it switched itself off.
    Job(i32),
    /// It ended without a word of its job: the kernel panicked, or the emulator failed.
    Crashed,
    /// It was ended when its time was up.
    TimedOut,
}

/// When a machine has to be up. It takes seconds, and a minute where much else runs beside it.
const BOOT_LIMIT: Duration = Duration::from_mins(5);

/// What is said before the job; what the job's last line begins with, and those before it that have
/// what was on the disk.
const FIRST_LINE: &str = "@@up";
const LAST_LINE: &str = "@@exit ";
const DISK_LINE: &str = "@@disk ";

/// How long a machine may take to switch itself off, once its job is done: one that was suspended never does.
const OFF_WITHIN: Duration = Duration::from_secs(20);

impl Machine<'_> {
    /// Boots it and waits for its end. Each line of the results goes to `on_line`; `folder` gets
    /// the initramfs and `console`, what the kernel and the init wrote.
    ///
    /// # Errors
    /// When the emulator cannot be started or the folder not be written.
    pub(super) fn run(&self, folder: &Path, mut on_line: impl FnMut(&str)) -> Result<Ended> {
        let initrd = folder.join("initrd");
        let mut to = File::create(&initrd)?;
        for archive in &self.archives {
            let mut from = File::open(archive)?;
            std::io::copy(&mut from, &mut to).context("write the initramfs")?;
        }
        let mut command = self.command(&initrd, &folder.join("console"))?;
        let mut emulator = Emulator(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("start {}", self.emulator.program.display()))?,
        );
        fs::write(folder.join("command"), shown(&command) + "\n")?;
        let stdout = emulator.0.stdout.take().context("stdout is not piped")?;
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
            lines.try_for_each(|line| send.send(line))
        });
        let started = now();
        let mut status = None;
        let mut disk = String::new();
        let mut is_up = false;
        let end = loop {
            let limit = match is_up {
                true => self.limit,
                false => self.limit.min(BOOT_LIMIT),
            };
            let left = match status {
                Some(_) => OFF_WITHIN,
                None => limit.saturating_sub(started.elapsed()),
            };
            match lines.recv_timeout(left) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line);
                    let line = line.trim_end_matches('\r');
                    if line == FIRST_LINE {
                        is_up = true;
                    } else if let Some(code) = line.strip_prefix(LAST_LINE) {
                        status = code.trim().parse().ok();
                    } else if let Some(part) = line.strip_prefix(DISK_LINE) {
                        disk += part;
                    } else {
                        on_line(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break status.map_or(End::Crashed, End::Job),
                Err(RecvTimeoutError::Timeout) => break status.map_or(End::TimedOut, End::Job),
            }
        };
        drop(emulator);
        Ok(Ended { end, is_up, disk })
    }

    fn command(&self, initrd: &Path, console: &Path) -> Result<Command> {
        let (port, _) = self.arch.ports();
        let mut command = tethered_command(&self.emulator.program)?;
        command
            .envs(
                self.emulator
                    .variables
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .args(&self.emulator.arguments)
            .args([
                "-accel",
                if self.is_parallel {
                    "tcg,thread=multi"
                } else {
                    "tcg,thread=single"
                },
            ])
            .args(self.arch.machine())
            .args(["-smp", &self.processors.to_string()])
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-display", "none", "-monitor", "none", "-nic", "none"])
            .args(["-no-reboot", "-nodefaults", "-no-user-config"])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-chardev", "stdio,id=result,signal=off"])
            .args(self.arch.result_port())
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(format!(
                "console={port} rdinit=/sbin/init panic=-1 no_timer_check quiet {}",
                self.append
            ));
        Ok(command)
    }
}

/// The emulator's process, which goes with the value.
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
