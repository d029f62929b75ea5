//! `respawn recorder`: keeps the deaths of the whole host.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};

use super::Global;
use super::deaths::Place;
use crate::accounts::Accounts;
use crate::probe::{Keep, sets};
use crate::recorder::{self, journald};

/// The smallest size that is accepted for the files: a line may have several KiB.
const SMALLEST: u64 = 64 * 1024;

/// Record the deaths of all processes of this host
///
/// Runs in the foreground, as init wants it, and needs no agent. It records deaths by a signal, kills
/// by the out-of-memory killer and core dumps, and exits with another status than 0 of children of PID
/// 1 and of a container's first process. For each death it records the program, its arguments, its
/// ancestors and its cgroup, and the same of the process that sent the signal. `respawn deaths` and
/// `respawn why` read the records, also after a reboot.
///
/// The kernel keeps deaths in a buffer while no recorder runs, once one has run in this boot.
///
/// Arguments may contain secrets. Only root can read the files, or also a group that you choose with
/// --group. Values of options such as --password are replaced by "***", as far as they are recognised;
/// --no-argv records no arguments at all.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which deaths to record
    #[arg(long, value_enum, default_value = "abnormal")]
    keep: Keep,
    #[command(flatten)]
    place: Place,
    /// How much disk space the records may take, in bytes or with a unit such as "64MiB"; when it is
    /// used up, the older half is removed
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = size)]
    max_size: u64,
    /// Let the members of this group read the records
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Do not write the deaths of systemd's units to journald, where `journalctl -u` shows them
    #[arg(long)]
    no_journald: bool,
    /// Where journald listens, to test it
    #[arg(long, value_name = "PATH", default_value = journald::SOCKET, hide = true)]
    journald_socket: PathBuf,
    /// Do not record the arguments of programs
    #[arg(long)]
    no_argv: bool,
    /// Size of the ring between kernel and recorder, in bytes: a power of two, at least a page
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 22, value_parser = super::watch::ring_bytes)]
    ring_bytes: u32,
    /// Use the kernel program for kernels before 6.16, to test it
    #[arg(long, hide = true)]
    live_zero: bool,
}

fn size(text: &str) -> Result<u64> {
    let expected = "expected a number of bytes of at least 64KiB, such as \"64MiB\"";
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => bail!(expected),
    };
    let number: u64 = digits.parse().context(expected)?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes >= SMALLEST => Ok(bytes),
        _ => bail!(expected),
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let group = arguments.group.as_deref().map(group).transpose()?;
    recorder::run(&recorder::Options {
        dir: arguments.place.dir.clone(),
        max_size: arguments.max_size,
        keep: arguments.keep,
        argv: !arguments.no_argv,
        journald: (!arguments.no_journald).then(|| arguments.journald_socket.clone()),
        group,
        pin_dir: global.pin_dir.join(sets::RECORDER),
        ring_bytes: arguments.ring_bytes,
        live_zero: arguments.live_zero,
        btf: global.btf.clone(),
        object: global.bpf_object.clone(),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn group(name: &str) -> Result<u32> {
    let group = Accounts::of_this_host().group_named(name);
    let group = group.map_err(|error| anyhow!("--group {name}: {error}"))?;
    let group = group.with_context(|| format!("--group {name}: there is no such group"))?;
    Ok(group.gid)
}
