//! The logger: one process that writes the output of all services with `log` to where it goes, whatever
//! dies meanwhile, itself included. It reads each service's FIFO in turn, a bounded piece each time.
//!
//! Who holds a FIFO open keeps what is in it: the service, this process, and the agent. Starts and ends
//! nothing but itself; the agent keeps it alive, and says in files which services there are (`place`).
//! How a kill at any instant loses and doubles nothing is in `sink`.
//!
//! It sleeps until a service writes, the agent changes something, or a signal comes. Only while a log
//! cannot be written does it wake by itself, once a second.

mod compress;
mod file;
mod lines;
mod message;
mod output_dir;
mod record;
mod sink;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};

use self::compress::Compressor;
pub(crate) use self::compress::FileId;
pub(crate) use self::lines::{END, plain, split_stamp, without_stamp};
pub(crate) use self::output_dir::{OUTPUT, OutputDir, Progress, Settings};
use self::sink::{Sink, Turned};
use crate::clock;
use crate::model::Instance;
use crate::os::proc;
use crate::os::spawn::raise_fd_limit;

/// Between two tries to write what could not be written.
const PAUSE: Duration = Duration::from_secs(1);

/// What an event of the kernel is about; services have the numbers from [`FIRST`] on.
const SIGNALS: u64 = 0;
const CHANGES: u64 = 1;
const FIRST: u64 = 2;

/// How many events are taken at once.
const EVENTS: usize = 64;

/// Runs until SIGTERM or SIGINT, or until another logger is found at work; with `drain` until all is written.
///
/// # Errors
/// It cannot begin: the directory is not there, or the kernel has no descriptor left.
pub(crate) fn run(runtime_dir: &Path, drain: bool) -> Result<ExitCode> {
    // Each file that is made has exactly its mode.
    umask(Mode::empty());
    if let Err(error) = raise_fd_limit() {
        tracing::warn!("cannot raise the limit on open files: {error}");
    }
    let place = OutputDir::of(runtime_dir);
    let Some(_lock) = lock(&place)? else {
        tracing::info!("another logger is at work");
        return Ok(ExitCode::SUCCESS);
    };
    let mut logger = Logger::begin(place)?;
    match drain {
        true => logger.drain(),
        false => logger.work()?,
    }
    Ok(ExitCode::SUCCESS)
}

/// `None`: another one has it.
fn lock(place: &OutputDir) -> Result<Option<Flock<File>>> {
    let path = place.lock();
    let context = || format!("cannot use {}", path.display());
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).with_context(context)?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
        Err((_, error)) => return Err(error).with_context(context),
    };
    let pid = std::process::id();
    let myself = Instance {
        pid,
        start_time_ns: proc::start_time_ns(pid).context("cannot read /proc/self/stat")?,
    };
    lock.set_len(0).with_context(context)?;
    io::Write::write_all(&mut *lock, &serde_json::to_vec(&myself)?).with_context(context)?;
    Ok(Some(lock))
}

struct Logger {
    place: OutputDir,
    epoll: Epoll,
    signals: SignalFd,
    changes: Inotify,
    compressor: Arc<Compressor>,
    sinks: BTreeMap<u64, Sink>,
    numbers: BTreeMap<String, u64>,
    last_number: u64,
    /// Those whose log cannot be written.
    blocked: BTreeSet<u64>,
    /// Those whose log is to say that lines were dropped.
    owing: BTreeSet<u64>,
    /// When these are tried again.
    retry_at: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    End,
}

impl Logger {
    fn begin(place: OutputDir) -> Result<Self> {
        let mut mask = SigSet::empty();
        // A terminal that goes away ends no logger.
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&mask, flags)?;
        let changes = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let what = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let dir = place.settings_dir();
        let context = || format!("cannot watch {}", dir.display());
        changes.add_watch(&dir, what).with_context(context)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&signals, EpollEvent::new(EpollFlags::EPOLLIN, SIGNALS))?;
        epoll.add(&changes, EpollEvent::new(EpollFlags::EPOLLIN, CHANGES))?;
        let mut logger = Self {
            place,
            epoll,
            signals,
            changes,
            compressor: Arc::new(Compressor::start()),
            sinks: BTreeMap::new(),
            numbers: BTreeMap::new(),
            last_number: FIRST,
            blocked: BTreeSet::new(),
            owing: BTreeSet::new(),
            retry_at: Duration::ZERO,
        };
        logger.look_at_all();
        Ok(logger)
    }

    fn work(&mut self) -> Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Err(Errno::EINTR) => continue,
                count => count?,
            };
            for event in events.iter().take(count) {
                let flow = match event.data() {
                    SIGNALS => self.read_signals()?,
                    CHANGES => self.read_changes()?,
                    number => {
                        self.turn(number);
                        Flow::GoOn
                    }
                };
                if flow == Flow::End {
                    return Ok(());
                }
            }
            self.try_again();
        }
    }

    fn timeout(&self) -> EpollTimeout {
        if self.is_well() {
            return EpollTimeout::NONE;
        }
        let rest = self.retry_at.saturating_sub(clock::awake());
        // Not a moment too soon, which would be once more.
        let milliseconds = u16::try_from(rest.as_millis() + 1).unwrap_or(u16::MAX);
        EpollTimeout::from(milliseconds)
    }

    fn is_well(&self) -> bool {
        self.blocked.is_empty() && self.owing.is_empty() && !message::has_begun_line()
    }

    fn read_signals(&mut self) -> Result<Flow> {
        while let Some(signal) = self.signals.read_signal()? {
            if i32::try_from(signal.ssi_signo) != Ok(libc::SIGHUP) {
                self.drain();
                return Ok(Flow::End);
            }
        }
        Ok(Flow::GoOn)
    }

    /// Writes all that there is.
    fn drain(&mut self) {
        for sink in self.sinks.values_mut() {
            sink.drain();
        }
    }

    fn read_changes(&mut self) -> Result<Flow> {
        let events = match self.changes.read_events() {
            Err(Errno::EAGAIN) => return Ok(Flow::GoOn),
            events => events?,
        };
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_DELETE_SELF) {
                tracing::warn!("{} was removed", self.place.settings_dir().display());
                return Ok(Flow::End);
            }
            match event.name.as_deref().map(OsStr::to_str) {
                Some(Some(service)) => self.look_at(service),
                Some(None) => {}
                // Too many to be told.
                None => self.look_at_all(),
            }
        }
        Ok(Flow::GoOn)
    }

    fn look_at_all(&mut self) {
        let mut services: BTreeSet<String> = self.place.known().into_iter().collect();
        services.extend(self.numbers.keys().cloned());
        for service in services {
            self.look_at(&service);
        }
    }

    /// The agent may have said something else of a service.
    fn look_at(&mut self, service: &str) {
        let settings = self.place.read_settings(service);
        let number = self.numbers.get(service).copied();
        match (settings, number) {
            (Some(settings), Some(number)) => {
                let Some(sink) = self.sinks.get_mut(&number) else {
                    return;
                };
                if sink.has_current_fifo() {
                    sink.set(settings);
                    return;
                }
                drop(self.remove(service, number));
                self.add(service, settings);
            }
            (Some(settings), None) => self.add(service, settings),
            (None, Some(number)) => {
                if let Some(mut sink) = self.remove(service, number) {
                    sink.give_up();
                }
                self.place.forget(service);
            }
            (None, None) => {}
        }
    }

    fn add(&mut self, service: &str, settings: Settings) {
        self.last_number += 1;
        let number = self.last_number;
        let sink = Sink::open(&self.place, service, settings, &self.compressor);
        let added = sink.and_then(|sink| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
            self.epoll.add(sink.fifo(), event)?;
            Ok(sink)
        });
        match added {
            Ok(sink) => {
                let has_rest = sink.has_rest();
                self.sinks.insert(number, sink);
                self.numbers.insert(service.to_owned(), number);
                if has_rest {
                    self.turn(number);
                }
            }
            Err(error) => tracing::error!(%service, "cannot read its output: {error}"),
        }
    }

    /// Reads the rest, and then no more.
    fn remove(&mut self, service: &str, number: u64) -> Option<Sink> {
        self.numbers.remove(service);
        self.blocked.remove(&number);
        self.owing.remove(&number);
        let mut sink = self.sinks.remove(&number)?;
        sink.finish();
        // It goes with the descriptor in any case.
        let _ = self.epoll.delete(sink.fifo());
        Some(sink)
    }

    fn turn(&mut self, number: u64) {
        let Some(sink) = self.sinks.get_mut(&number) else {
            return;
        };
        let turned = sink.turn();
        let is_well = turned.is_ok();
        let was_well = !self.blocked.contains(&number);
        if self.blocked.is_empty() && self.owing.is_empty() {
            self.retry_at = clock::awake() + PAUSE;
        }
        match turned {
            Ok(Turned::Dropped) => drop(self.owing.insert(number)),
            _ => drop(self.owing.remove(&number)),
        }
        if is_well == was_well {
            return;
        }
        let flags = match is_well {
            true => EpollFlags::EPOLLIN,
            false => EpollFlags::empty(),
        };
        let mut event = EpollEvent::new(flags, number);
        if let Err(error) = self.epoll.modify(sink.fifo().as_fd(), &mut event) {
            tracing::error!("cannot wait for a FIFO: {error}");
        }
        if is_well {
            self.blocked.remove(&number);
        } else {
            self.blocked.insert(number);
        }
    }

    /// Once a second, as long as something cannot be written.
    fn try_again(&mut self) {
        if self.is_well() || clock::awake() < self.retry_at {
            return;
        }
        self.retry_at = clock::awake() + PAUSE;
        message::go_on_with_line();
        for number in self.blocked.union(&self.owing).copied().collect::<Vec<_>>() {
            self.turn(number);
        }
    }
}
