//! Puts the agent and its spare, or the recorder, under the host's init: one file an init system.
//!
//! Lays out what to write and what to ask ([`Plan`]); `cli::install` shows or does it. Starts
//! nothing itself: that is init's, now and after each death.
//!
//! ```text
//! Facts ─detect─▶ Init ─▶ InitSystem::install(site, entry) ─▶ Plan { before, changes, after }
//! ```
//!
//! Agent and spare are one command run twice: whichever takes the lock first works, the other one
//! waits for it. Both must be kept by init for ever, however often they die, and their death must
//! take no service along; each file says how its init is told so, and where that is written. The
//! recorder has an entry of its own, which comes and goes without the agents' one.

mod busybox;
pub(crate) mod detect;
mod diff;
mod dinit;
pub(crate) mod entry;
pub(crate) mod inittab;
pub(crate) mod locks;
mod openrc;
mod plan;
pub(crate) mod presence;
mod procd;
pub(crate) mod rearm;
mod root;
mod runit;
mod s6;
mod systemd;
mod sysvinit;
pub(crate) mod takeover;

#[cfg(test)]
mod tests;

use std::fmt;

use anyhow::Result;
use clap::ValueEnum;

pub(crate) use entry::InitEntry;
pub(crate) use plan::Plan;
pub(crate) use root::Root;
pub(crate) use takeover::Takeover;

/// What init is to keep running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The agent and its spare.
    Agent,
    /// The recorder.
    Recorder,
}

/// One process that init keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    /// Where init has names for services.
    name: &'static str,
    /// For people.
    role: &'static str,
}

impl Program {
    /// Its processes, in the order in which they are started.
    const fn kept(self) -> &'static [Kept] {
        match self {
            Self::Agent => &[
                Kept {
                    name: "respawn",
                    role: "agent",
                },
                Kept {
                    name: "respawn-spare",
                    role: "spare agent",
                },
            ],
            Self::Recorder => &[Kept {
                name: "respawn-recorder",
                role: "recorder",
            }],
        }
    }

    /// The names of its processes.
    fn names(self) -> impl DoubleEndedIterator<Item = &'static str> {
        self.kept().iter().map(|kept| kept.name)
    }
}

/// An init system that can keep agents and a recorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Init {
    /// Lines in /etc/inittab
    Sysvinit,
    /// Lines in /etc/inittab
    Busybox,
    /// Units in /etc/systemd/system
    Systemd,
    /// Scripts in /etc/init.d, kept by supervise-daemon
    Openrc,
    /// Directories in /etc/sv
    Runit,
    /// Service directories in the scan directory
    S6,
    /// Files in /etc/dinit.d
    Dinit,
    /// A script in /etc/init.d (OpenWrt)
    Procd,
}

/// Where an entry is written, and whether its init runs there.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) root: Root,
    /// The init that is asked is running here: else what is written counts from the next boot.
    pub(crate) is_running: bool,
    /// The directory that a running runsvdir or s6-svscan looks at.
    pub(crate) scan_dir: Option<String>,
}

/// What `respawn install` knows of one init system.
pub(crate) trait InitSystem {
    /// What to write and to ask so that init keeps the entry's program. What is as it should be is
    /// left out.
    ///
    /// # Errors
    /// A file that is not as expected, or somebody else's; an entry beyond init's limits.
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan>;

    /// What to remove and to ask so that nothing of the program's is left. Empty changes: nothing was
    /// there.
    ///
    /// # Errors
    /// A file that cannot be read, or is not as expected.
    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan>;
}

impl Init {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Sysvinit,
        Self::Busybox,
        Self::Systemd,
        Self::Openrc,
        Self::Runit,
        Self::S6,
        Self::Dinit,
        Self::Procd,
    ];

    /// Its way of doing it.
    pub(crate) fn system(self) -> &'static dyn InitSystem {
        match self {
            Self::Sysvinit => &sysvinit::Sysvinit,
            Self::Busybox => &busybox::Busybox,
            Self::Systemd => &systemd::Systemd,
            Self::Openrc => &openrc::Openrc,
            Self::Runit => &runit::Runit,
            Self::S6 => &s6::S6,
            Self::Dinit => &dinit::Dinit,
            Self::Procd => &procd::Procd,
        }
    }

    /// As it is called on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sysvinit => "sysvinit",
            Self::Busybox => "busybox",
            Self::Systemd => "systemd",
            Self::Openrc => "openrc",
            Self::Runit => "runit",
            Self::S6 => "s6",
            Self::Dinit => "dinit",
            Self::Procd => "procd",
        }
    }

    /// All names, for those who have to choose one.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
