//! `respawn recorder`: keeps the deaths of the whole host in files, for `deaths` and `why`.
//!
//! A process of its own with pins of its own, so that a storm of deaths delays no service's restart.
//! The kernel chooses what is kept; while no recorder runs, it waits in the pinned ring. Restarts
//! nothing, and decides nothing.
//!
//! A death is taken out of the ring once its line is written. A recorder that dies in between leaves
//! both; the next one compares the first death in the ring with the last line. Where the disk takes
//! nothing, deaths stay in the ring, and the write is tried again every second.

pub(crate) mod journald;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, chown};
use tokio::signal::unix::{SignalKind, signal};

use self::journald::Journald;
use crate::agent;
use crate::clock::{self, WallClock};
use crate::deaths;
use crate::decode;
use crate::journal::Deaths;
use crate::manager::{self, Manager};
use crate::model::{Event, Profile, What};
use crate::os::proc;
use crate::os::trust::stranger_on_way;
use crate::probe::{self, Keep, KernelProbe, PinDir, namespace};

/// Between two tries to write what the disk did not take.
const PAUSE: Duration = Duration::from_secs(1);

/// How often what is kept of signals to processes that have ended is looked for.
const TIDY_EVERY: Duration = Duration::from_secs(3600);

/// So many deaths are written before signals and the service manager are looked after again.
const BATCH: usize = 256;

/// Deaths that come sooner than this after the last ones wait as long for others. To wake a recorder costs the
/// process that ends more than its record does.
const BUSY: Duration = Duration::from_millis(2);

/// What was asked for.
pub(crate) struct Options {
    pub(crate) dir: PathBuf,
    /// Of all files together, in bytes.
    pub(crate) max_size: u64,
    pub(crate) keep: Keep,
    /// Whether arguments of programs are kept.
    pub(crate) argv: bool,
    /// Who may read the files beside their owner.
    pub(crate) group: Option<u32>,
    /// Where journald listens, if it is told of the deaths of units.
    pub(crate) journald: Option<PathBuf>,
    pub(crate) pin_dir: PathBuf,
    pub(crate) ring_bytes: u32,
    /// Load the program for kernels before 6.16 whatever the kernel.
    pub(crate) live_zero: bool,
    pub(crate) btf: Option<PathBuf>,
    pub(crate) object: Option<PathBuf>,
}

struct Recorder {
    probe: KernelProbe,
    pins: PinDir,
    deaths: Deaths,
    journald: Option<Journald>,
    argv: bool,
    /// Lost deaths that a line tells of.
    lost_told: u64,
    /// Why the disk took nothing at the last try.
    blocked: Option<String>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The directory cannot be used, the kernel programs cannot be loaded, or another recorder has the
/// pins.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let worked = runtime.block_on(work(options));
    manager::end_late(worked.map(|()| ExitCode::SUCCESS))
}

async fn work(options: &Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that goes away ends no recorder.
    let _hangup = signal(SignalKind::hangup())?;
    let mut manager = Manager::of_this_process();
    let mut recorder = Recorder::open(options)?;
    let words = format!("recording deaths in {}", options.dir.display());
    tracing::info!("{words}");
    agent::tell_terminal(&format!("{words}; Ctrl-C ends it"));
    manager.ready("the recorder");
    let mut tidy_at = now();
    let mut busy_until = now();
    loop {
        let more = recorder.record()?;
        let begun = now();
        if more {
            busy_until = begun + BUSY;
        }
        if begun >= tidy_at {
            recorder.tidy();
            tidy_at = begun + TIDY_EVERY;
        }
        let retry = recorder.blocked.is_some().then(|| begun + PAUSE);
        let ping = manager.poll_timeout(begun);
        let wake = [retry, ping, Some(tidy_at)].into_iter().flatten().min();
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = std::future::ready(()), if more => (),
            () = sleep_until(wake) => (),
            ready = recorder.probe.readable(), if recorder.blocked.is_none() => {
                ready?;
                if now() < busy_until {
                    tokio::time::sleep(BUSY).await;
                }
            }
            () = journald_ready(recorder.journald.as_mut()) => recorder.tell_journald(),
        }
        manager.handle_timeout(now());
    }
    // What is in the ring by now is the next one's if the disk takes nothing.
    while recorder.record()? {}
    if let Some(journald) = &mut recorder.journald {
        journald.give_up();
    }
    recorder.tell_missed();
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the recorder's loop reads the clock"
)]
fn now() -> Instant {
    Instant::now()
}

async fn journald_ready(journald: Option<&mut Journald>) {
    match journald {
        Some(journald) => journald.ready().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl Recorder {
    fn open(options: &Options) -> Result<Self> {
        prepare(&options.dir, options.group)?;
        // First, so that no other recorder writes to the files.
        let mut settings = probe::Options {
            btf: options.btf.clone(),
            object: options.object.clone(),
            ring_bytes: Some(options.ring_bytes),
            watched: Some(1),
            keep: Some(options.keep),
            live_zero: options.live_zero,
            known: probe::KnownIn::At(options.dir.clone()),
            ..probe::Options::default()
        };
        let mut pins = PinDir::open(&options.pin_dir)?;
        let owner = agent::place(&options.dir);
        let probe = KernelProbe::resume(&mut settings, &pins, owner).inspect_err(|_| {
            pins.remove_if_empty();
        })?;
        pins.name_holder(&options.dir);
        let deaths = Deaths::open(&options.dir, options.max_size, options.group)?;
        let mut recorder = Self {
            lost_told: probe.lost_told()?,
            probe,
            pins,
            deaths,
            journald: options.journald.clone().map(Journald::at),
            argv: options.argv,
            blocked: None,
        };
        recorder.skip_known()?;
        Ok(recorder)
    }

    /// Makes room for the signals of others. From another PID namespace nobody sees which pids of the
    /// initial one live.
    fn tidy(&mut self) {
        if namespace::observer().is_ok_and(|observer| observer == 0) {
            let lives = |pid: u32| proc::start_time_ns(pid).is_ok();
            self.probe.forget_signals_of_dead(lives);
        }
    }

    /// Takes the first death out of the ring if the last line tells of it.
    fn skip_known(&mut self) -> Result<()> {
        let first = self.probe.peek(1, decode::death)?;
        if let Some(Some(death)) = first.first()
            && self.deaths.last_is(&death.exit)
        {
            self.probe.forget_next();
        }
        Ok(())
    }

    /// Writes down what is in the ring. `true`: there may be more, of which the kernel says nothing, as
    /// it came before the rest was taken out.
    fn record(&mut self) -> Result<bool> {
        self.pins.is_at_work();
        let wall = WallClock::read();
        let batch = self.probe.peek(BATCH, decode::death)?;
        let more = !batch.is_empty();
        for death in batch {
            match death {
                None => tracing::error!("the ring holds a record that is not of this build"),
                Some(death) => {
                    let at = death.exit.exited_at;
                    let (exited, profile) = deaths::told(death, self.argv, &wall);
                    let mut exited = exited.into();
                    if !self.append(&mut exited, Some(&profile), at) {
                        return Ok(false);
                    }
                    if let Some(journald) = &mut self.journald {
                        journald.tell(&exited, &profile);
                    }
                }
            }
            self.probe.forget_next();
        }
        self.tell_lost()?;
        self.tell_missed();
        Ok(more)
    }

    /// Sends on what journald has not taken so far.
    fn tell_journald(&mut self) {
        if let Some(journald) = &mut self.journald {
            journald.flush();
        }
        self.tell_missed();
    }

    /// Writes down how many deaths journald was never told of, once that is known.
    fn tell_missed(&mut self) {
        let missed = self.journald.as_ref().map_or(0, Journald::missed);
        if missed == 0 {
            return;
        }
        let what = What::JournaldMissed { count: missed };
        let mut event = Event::new(clock::now(), None, what);
        if self.append(&mut event, None, clock::since_boot())
            && let Some(journald) = &mut self.journald
        {
            journald.told_missed(missed);
        }
    }

    fn tell_lost(&mut self) -> Result<()> {
        let lost = self.probe.lost();
        if lost > self.lost_told {
            let count = lost - self.lost_told;
            let mut event = Event::new(clock::now(), None, What::DeathsLost { count });
            if self.append(&mut event, None, clock::since_boot()) {
                self.lost_told = lost;
                self.probe.set_lost_told(lost)?;
            }
        }
        Ok(())
    }

    /// `false`: the disk does not take it now.
    fn append(&mut self, event: &mut Event, profile: Option<&Profile>, at: Duration) -> bool {
        let since_boot_ns = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        match self.deaths.append(event, profile, since_boot_ns) {
            Ok(()) => {
                if self.blocked.take().is_some() {
                    tracing::info!("deaths are written again");
                }
                true
            }
            Err(error) => {
                let error = error.to_string();
                if self.blocked.as_ref() != Some(&error) {
                    tracing::error!(
                        "cannot write down a death: {error}; deaths wait in the kernel meanwhile"
                    );
                }
                self.blocked = Some(error);
                false
            }
        }
    }
}

/// Makes the directory where it is missing, and refuses one that somebody else may change.
fn prepare(dir: &Path, group: Option<u32>) -> Result<()> {
    refuse_strangers(dir)?;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make {}", dir.display()))?;
    refuse_strangers(dir)?;
    set_readers(dir, group).with_context(|| format!("cannot set who may read {}", dir.display()))
}

fn set_readers(dir: &Path, group: Option<u32>) -> io::Result<()> {
    if let Some(gid) = group {
        chown(dir, None, Some(Gid::from_raw(gid)))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o750))?;
    }
    Ok(())
}

fn refuse_strangers(dir: &Path) -> Result<()> {
    match stranger_on_way(dir)? {
        None => Ok(()),
        Some(weakness) => bail!(
            "cannot record deaths in {}: {weakness}; change that ({}), or give another --dir",
            dir.display(),
            weakness.stranger.remedy()
        ),
    }
}
