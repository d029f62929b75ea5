//! The descriptors of the agent's that a child takes along: a file as standard input, the sockets that
//! are held for it from 3 on, and the one that it sends notifications to. As in `child`: no allocation,
//! no lock, no libc, no panic.

use std::ffi::{c_char, c_int};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::landlock::Landlocked;
use super::prepared::Prepared;
use crate::model::FIRST_DESCRIPTOR;
use crate::os::notify;
use crate::os::sys::{self, Errno};

const NAME: &str = "LISTEN_PID=";

/// Digits of the largest number.
const DIGITS: usize = 10;

/// The variable that says whose the sockets are: `sd_listen_fds(3)`.
#[derive(Debug)]
pub(super) struct ListenPid {
    /// Ends in a NUL. Atomic, for a child in the same memory writes to it.
    bytes: Box<[AtomicU8]>,
}

impl ListenPid {
    pub(super) fn new() -> Self {
        let room = std::iter::repeat_n(b'\0', DIGITS + 1);
        Self {
            bytes: NAME.bytes().chain(room).map(AtomicU8::new).collect(),
        }
    }

    /// For an environment that is used no longer than this value lives.
    pub(super) fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }

    /// Has it name this process.
    pub(super) fn name(&self, pid: u32) {
        let mut places = self.bytes.iter().skip(NAME.len());
        let mut put = |byte| {
            if let Some(place) = places.next() {
                place.store(byte, Ordering::Relaxed);
            }
        };
        let mut divisor = 1_000_000_000_u32;
        let mut begun = false;
        while divisor > 0 {
            // One digit.
            let digit = u8::try_from((pid / divisor) % 10).unwrap_or(0);
            begun |= digit != 0 || divisor == 1;
            if begun {
                put(b'0'.saturating_add(digit));
            }
            divisor /= 10;
        }
        put(b'\0');
    }
}

/// What a child takes along, by the agent's numbers; -1: nothing.
pub(super) struct Handed<'a> {
    stdin: c_int,
    notify: c_int,
    sockets: &'a [Arc<OwnedFd>],
    /// For the child alone: exec closes it.
    ruleset: c_int,
}

/// Where the ruleset of Landlock is in a child.
pub(super) const RULESET: c_int = notify::DESCRIPTOR + 1;

impl<'a> Handed<'a> {
    pub(super) fn of(command: &'a Prepared) -> Self {
        let notify = command.notify.as_ref();
        Self {
            stdin: command.stdin.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            notify: notify.map_or(-1, |socket| socket.as_fd().as_raw_fd()),
            sockets: &command.sockets,
            ruleset: command.landlock.as_ref().map_or(-1, Landlocked::number),
        }
    }

    pub(super) fn has_sockets(&self) -> bool {
        !self.sockets.is_empty()
    }

    /// The highest of the agent's numbers.
    pub(super) fn last(&self) -> c_int {
        let sockets = self.sockets.iter().map(|socket| socket.as_raw_fd());
        let others = self.stdin.max(self.notify).max(self.ruleset);
        sockets.fold(others, c_int::max)
    }

    /// Puts all of it where it belongs, and closes the rest, in a file table that is the caller's own.
    pub(super) fn place(&self) -> Result<(), Errno> {
        let first = c_int::from(FIRST_DESCRIPTOR);
        let count = c_int::try_from(self.sockets.len()).unwrap_or(c_int::MAX);
        // Above all that is read and written here, so that nothing is overwritten before it was read.
        let above = self.last().max(first.saturating_add(count));
        let above = if self.ruleset >= 0 {
            above.max(RULESET)
        } else if self.notify >= 0 {
            above.max(notify::DESCRIPTOR)
        } else {
            above
        };
        let above = above.saturating_add(1);
        let ruleset = above.saturating_add(count);
        if self.ruleset >= 0 {
            sys::duplicate_for_now(self.ruleset, ruleset)?;
        }
        for (socket, offset) in self.sockets.iter().zip(0..) {
            sys::duplicate_for_now(socket.as_raw_fd(), above.saturating_add(offset))?;
        }
        if self.stdin >= 0 {
            sys::duplicate(self.stdin, libc::STDIN_FILENO)?;
        }
        if self.notify >= 0 {
            // Where the limit on descriptors is lower, it goes without: messages then need an agent.
            let _ = sys::duplicate(self.notify, notify::DESCRIPTOR);
        }
        for offset in 0..count {
            let socket = above.saturating_add(offset);
            sys::duplicate(socket, first.saturating_add(offset))?;
        }
        if self.ruleset >= 0 {
            sys::duplicate_for_now(ruleset, RULESET)?;
        }
        let mut next = first.saturating_add(count);
        for (number, place) in [(self.notify, notify::DESCRIPTOR), (self.ruleset, RULESET)] {
            if number >= 0 {
                sys::close_from_to(next, place - 1);
                next = place + 1;
            }
        }
        if self.last() >= 0 {
            sys::close_from_to(next, c_int::MAX);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_is_named_after_the_other() {
        let pid = ListenPid::new();
        for number in [7, 4_194_304, u32::MAX, 10, 1] {
            pid.name(number);
            // SAFETY: it ends in a NUL, and nobody writes to it now.
            let text = unsafe { std::ffi::CStr::from_ptr(pid.as_ptr()) };
            assert_eq!(text.to_str().unwrap(), format!("LISTEN_PID={number}"));
        }
    }
}
