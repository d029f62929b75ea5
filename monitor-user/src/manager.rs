//! What the service manager or init that started this process wants of it: to hear, by sd_notify(3),
//! that it works, and no end right after its start.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

/// How long what cannot start waits before it ends, so that init does not start it in a tight loop:
/// sysvinit puts aside for minutes what it has started ten times in two.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(15);

/// Has a child of PID 1 end late if it has failed.
///
/// # Errors
/// Those of `result`, of any other process.
pub(crate) fn end_late(result: Result<ExitCode>) -> Result<ExitCode> {
    match result {
        Err(error) if nix::unistd::getppid().as_raw() == 1 => {
            // Standard error may be closed: then nobody is left to tell.
            let _ = writeln!(io::stderr(), "respawn: {error:#}");
            pause()
        }
        result => result,
    }
}

/// Waits before the end, unless someone wants it at once.
fn pause() -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            () = tokio::time::sleep(PAUSE_AFTER_FAILURE) => (),
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
        }
        Ok(ExitCode::FAILURE)
    })
}

/// Who is told. Without a service manager, or under one that does not ask, nobody.
pub(crate) struct Manager {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear of us: twice in the time that it allows.
    interval: Option<Duration>,
    next: Option<Instant>,
}

impl Manager {
    /// By this process's environment.
    pub(crate) fn of_this_process() -> Self {
        let connected = env::var_os("NOTIFY_SOCKET").map(|path| connect(&path));
        let socket = connected.and_then(|socket| {
            socket
                .map_err(|error| tracing::warn!("cannot notify the service manager: {error}"))
                .ok()
        });
        let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let allowed = number("WATCHDOG_USEC").filter(|time| is_ours && *time > 0);
        Self {
            interval: allowed
                .filter(|_| socket.is_some())
                .map(|time| Duration::from_micros(time) / 2),
            socket,
            next: None,
        }
    }

    /// How often `ping` is to be called.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.interval
    }

    /// It works, as the agent or as a spare.
    pub(crate) fn ready(&self, as_what: &str) {
        self.send(&format!("READY=1\nSTATUS={as_what}"));
    }

    /// It still does. To be called by what would not get so far if it did not.
    pub(crate) fn ping(&self) {
        if self.interval.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// When `handle_timeout` is to be called.
    pub(crate) fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let interval = self.interval?;
        Some(*self.next.get_or_insert(now + interval))
    }

    /// Pings when that is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.next.is_some_and(|at| at <= now) {
            self.next = None;
            self.ping();
        }
    }

    fn send(&self, words: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(words.as_bytes())
        {
            tracing::warn!("cannot notify the service manager: {error}");
        }
    }
}

fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // One that does not read must not hold up the agent.
    socket.set_nonblocking(true)?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    Ok(socket)
}
