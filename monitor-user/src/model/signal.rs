//! Signal numbers and their names, real-time signals included. Sends nothing: that is `os::signal`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Linux signal, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Signal(u8);

/// The names of signals 1 to 31, on every architecture that respawn runs on (x86-64, aarch64).
const NAMES: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// The first and the last real-time signal of user space (glibc and musl keep 32 and up to 34).
const REAL_TIME: (u8, u8) = (34, 64);

impl Signal {
    /// SIGHUP
    pub(crate) const HUP: Self = Self(1);
    /// SIGINT
    pub(crate) const INT: Self = Self(2);
    /// SIGKILL
    pub(crate) const KILL: Self = Self(9);
    /// SIGTERM
    pub(crate) const TERM: Self = Self(15);
    /// SIGCONT: has a stopped process go on.
    pub(crate) const CONT: Self = Self(18);
    /// SIGSTOP
    pub(crate) const STOP: Self = Self(19);

    /// The signal of that number; `None` outside 1 to 64.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|n| (1..=64).contains(n))
            .map(Self)
    }

    /// All that have a name.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let has_name = |signal: &Self| !(32..REAL_TIME.0).contains(&signal.0);
        (1..=REAL_TIME.1).map(Self).filter(has_name)
    }

    /// The kernel's number, 1 to 64.
    pub(crate) fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0) - 1) {
            Some(name) => f.write_str(name),
            None if self.0 == REAL_TIME.0 => f.write_str("SIGRTMIN"),
            None if self.0 > REAL_TIME.0 => write!(f, "SIGRTMIN+{}", self.0 - REAL_TIME.0),
            None => write!(f, "SIG{}", self.0),
        }
    }
}

/// What is no signal, in the words shown to the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownSignal(String);

impl fmt::Display for UnknownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "unknown signal {:?}: expected a name such as SIGTERM, TERM or SIGRTMIN+1, or a number from 1 to 64",
            self.0
        )
    }
}

impl std::error::Error for UnknownSignal {}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Reads "SIGTERM", "term", "15", "SIGRTMIN+3" or "RTMAX-1".
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownSignal(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Self::from_number(number).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(index) = NAMES.iter().position(|known| &known[3..] == name) {
            return u8::try_from(index + 1).map(Self).map_err(|_| unknown());
        }
        // 32 and 33 have no other name than that by which they are shown.
        if let Ok(number @ 32..=33) = name.parse() {
            return Self::from_number(number).ok_or_else(unknown);
        }
        let (base, offset) = if let Some(rest) = name.strip_prefix("RTMIN") {
            (REAL_TIME.0, rest)
        } else {
            (REAL_TIME.1, name.strip_prefix("RTMAX").ok_or_else(unknown)?)
        };
        let offset: i32 = match offset {
            "" => 0,
            signed if signed.starts_with(['+', '-']) => signed.parse().map_err(|_| unknown())?,
            _ => return Err(unknown()),
        };
        u8::try_from(i32::from(base) + offset)
            .ok()
            .filter(|number| (REAL_TIME.0..=REAL_TIME.1).contains(number))
            .map(Self)
            .ok_or_else(unknown)
    }
}

impl Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_reads_back_from_its_name() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal));
            assert_eq!(number.to_string().parse(), Ok(signal));
        }
        assert_eq!("kill".parse(), Ok(Signal::KILL));
        assert_eq!("RTMAX-1".parse(), Ok(Signal(63)));
    }

    #[test]
    fn names_agree_with_the_c_library() {
        for signal in nix::sys::signal::Signal::iterator() {
            assert_eq!(
                signal.as_str().parse(),
                Ok(Signal::from_number(signal as i32).unwrap())
            );
        }
    }

    #[test]
    fn no_signal_is_an_error() {
        for text in [
            "",
            "SIG",
            "0",
            "-9",
            "65",
            "SIGRTMIN+31",
            "SIGRTMIN-1",
            "RTMIN3",
            "SIGTERMX",
        ] {
            assert!(text.parse::<Signal>().is_err(), "{text:?}");
        }
    }
}
