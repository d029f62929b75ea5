//! A process that this one traces until it is to run: it becomes its program, has its libraries linked, and
//! stops before that program's own first instruction. Decides neither when it is made nor when it runs.
//!
//! ```text
//! made, waits to be let go on ─seize─▶ sets itself up ─exec─▶ stops (PTRACE_EVENT_EXEC)
//!   breakpoint at the entry point ─▶ the dynamic linker, and what the libraries run at their start
//!   ─trap─▶ breakpoint taken out, stopped ─release─▶ runs, traced by nobody
//! ```
//!
//! The kernel kills it if this process ends first (`PTRACE_O_EXITKILL`): from before its exec until its
//! release there is no moment in which it would outlive the tracer.
//! <https://man7.org/linux/man-pages/man2/ptrace.2.html>
//!
//! The tracer is a thread, and only that thread may call these functions.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use nix::errno::Errno;
use nix::sys::ptrace::{self, AddressType, Options};
use nix::sys::signal::Signal as Number;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::sys;

/// Entries of the auxiliary vector: `include/uapi/linux/auxvec.h`.
const AT_PAGESZ: u64 = 6;
const AT_ENTRY: u64 = 9;

const CAP_SYS_PTRACE: u32 = 19;

/// Signals that any thread may take: `PTRACE_PEEKSIGINFO_SHARED`, whose type libc has otherwise on each
/// processor.
const OF_THE_PROCESS: u32 = 1;

/// What stops a processor, and the bytes of a word that it takes.
#[cfg(target_arch = "x86_64")]
const TRAP: (u64, u64) = (0xcc, 0xff);
#[cfg(target_arch = "aarch64")]
const TRAP: (u64, u64) = (0xd420_0000, 0xffff_ffff);

/// How far a traced process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is not its program yet.
    BeforeExec,
    /// It runs up to the breakpoint; the word that was there before.
    ToEntry { address: u64, word: i64 },
    /// It is stopped, and may be released.
    Loaded,
}

/// What a look at a traced process has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is on its way.
    UnderWay,
    /// It is stopped before its first instruction.
    Loaded,
    /// It cannot wait there, for this reason. It is stopped, and has to be killed.
    Unfit(&'static str),
    /// It was sent a signal. It is stopped, and has to be killed.
    Disturbed,
    /// It has ended, and is reaped.
    Ended,
}

/// One traced process.
#[derive(Debug)]
pub(crate) struct Traced {
    pid: Pid,
    stage: Stage,
}

/// Begins to trace a process that has not become its program yet.
///
/// # Errors
/// EPERM where that is not allowed: Yama's `ptrace_scope`, a seccomp filter, another user's process.
pub(crate) fn seize(pid: u32) -> io::Result<()> {
    // What its libraries start before its `main` could run on, so that stops too, and dies as well.
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE;
    Ok(ptrace::seize(as_pid(pid)?, options)?)
}

/// Whether a program that this process traces gets the rights that its file gives it: set-uid, set-gid and
/// capabilities. `cap_bprm_creds_from_file`, security/commoncap.c
pub(crate) fn leaves_rights() -> bool {
    sys::has_capability(CAP_SYS_PTRACE)
}

/// Has a child that was seized go on, if a signal has stopped it before its exec: nobody knows of it yet
/// whom that signal could have been for. Its exec is left for [`Traced::look`]. `false`: it is not stopped,
/// or not traced.
pub(super) fn let_go_on(pid: u32) -> bool {
    let Ok(pid) = as_pid(pid) else {
        return false;
    };
    let peek = WaitPidFlag::WEXITED
        | WaitPidFlag::WSTOPPED
        | WaitPidFlag::WNOHANG
        | WaitPidFlag::WNOWAIT
        | WaitPidFlag::__WALL;
    match waitid(Id::Pid(pid), peek) {
        Ok(WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC)) => false,
        Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..)) | Err(Errno::EINVAL) => {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL));
            ptrace::cont(pid, None).is_ok()
        }
        _ => false,
    }
}

impl Traced {
    /// One that was seized before its exec.
    ///
    /// # Errors
    /// A number that is no pid.
    pub(crate) fn new(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid: as_pid(pid)?,
            stage: Stage::BeforeExec,
        })
    }

    /// Looks what has become of it, and has it go on where that is due. Does not wait.
    pub(crate) fn look(&mut self) -> Seen {
        loop {
            let seen = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::StillAlive) => return Seen::UnderWay,
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => {
                    return Seen::Ended;
                }
                Err(Errno::EINTR) => continue,
                Ok(status) => self.stopped(status),
                // A real-time signal.
                Err(_) => Seen::Disturbed,
            };
            if seen != Seen::UnderWay {
                return seen;
            }
        }
    }

    fn stopped(&mut self, status: WaitStatus) -> Seen {
        let gone = |_| Seen::Disturbed;
        match (status, self.stage) {
            (WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC), Stage::BeforeExec) => {
                self.run_to_entry().unwrap_or_else(gone)
            }
            (WaitStatus::Stopped(_, Number::SIGTRAP), Stage::ToEntry { address, word }) => {
                self.arrive(address, word).unwrap_or_else(gone)
            }
            // It may have been sent because the start took long, and does nothing to a program. The kernel
            // tells that it was sent (`ptrace_trap_notify`, kernel/signal.c), and then that it is there.
            (
                WaitStatus::PtraceEvent(_, Number::SIGTRAP, libc::PTRACE_EVENT_STOP)
                | WaitStatus::Stopped(_, Number::SIGCONT),
                Stage::BeforeExec | Stage::ToEntry { .. },
            ) => {
                let went = ptrace::cont(self.pid, None);
                went.map_or(Seen::Disturbed, |()| Seen::UnderWay)
            }
            (
                WaitStatus::PtraceEvent(
                    ..,
                    libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE,
                ),
                _,
            ) => Seen::Unfit("its libraries start processes or threads before its main function"),
            (WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC), _) => {
                Seen::Unfit("its libraries run another program before its main function")
            }
            _ => Seen::Disturbed,
        }
    }

    /// It is its program, and nothing of that has run: has it run as far as the entry point.
    fn run_to_entry(&mut self) -> io::Result<Seen> {
        let auxiliary = fs::read(format!("/proc/{}/auxv", self.pid))?;
        let Some(entry) = entry_point(&auxiliary, super::page_size()) else {
            // A program for another processor mode, which waits here.
            self.stage = Stage::Loaded;
            return Ok(Seen::Loaded);
        };
        let address = entry & !7;
        let word = ptrace::read(self.pid, at(address))?;
        let patched = patched(word.cast_unsigned(), entry - address);
        ptrace::write(self.pid, at(address), patched.cast_signed())?;
        self.stage = Stage::ToEntry {
            address: entry,
            word,
        };
        ptrace::cont(self.pid, None)?;
        Ok(Seen::UnderWay)
    }

    /// It has met the breakpoint.
    fn arrive(&mut self, address: u64, word: i64) -> io::Result<Seen> {
        if !go_back_to(self.pid, address)? {
            return Ok(Seen::Disturbed);
        }
        ptrace::write(self.pid, at(address & !7), word)?;
        self.stage = Stage::Loaded;
        Ok(Seen::Loaded)
    }

    /// Whether it may be released: it is stopped before its first instruction, and no signal waits for it.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Loaded && self.has_no_signal().unwrap_or(false)
    }

    /// Whether no signal waits for it that would reach it as soon as it runs.
    fn has_no_signal(&self) -> io::Result<bool> {
        for flags in [0, OF_THE_PROCESS] {
            let mut infos = [const { MaybeUninit::<libc::siginfo_t>::zeroed() }; 4];
            let which = libc::ptrace_peeksiginfo_args {
                off: 0,
                flags,
                nr: 4,
            };
            // SAFETY: the kernel reads `which`, and fills in at most as many infos as that says.
            let count = unsafe {
                libc::ptrace(
                    libc::PTRACE_PEEKSIGINFO,
                    self.pid.as_raw(),
                    ptr::from_ref(&which),
                    infos.as_mut_ptr(),
                )
            };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            let found = infos.get(..count).unwrap_or(&infos);
            // SAFETY: all bit patterns, zeros among them, are a siginfo_t.
            let mut found = found.iter().map(|info| unsafe { info.assume_init_ref() });
            if found.any(|info| info.si_signo != libc::SIGCONT) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets it run, traced by nobody from now on.
    ///
    /// # Errors
    /// ESRCH if it has been killed just now.
    pub(crate) fn release(self) -> io::Result<()> {
        Ok(ptrace::detach(self.pid, None)?)
    }
}

fn as_pid(pid: u32) -> io::Result<Pid> {
    let pid = i32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    Ok(Pid::from_raw(pid))
}

/// An address in the other process.
fn at(address: u64) -> AddressType {
    ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0))
}

/// Where a program begins that was linked for this processor's own word length, by its auxiliary vector.
fn entry_point(auxiliary: &[u8], page_size: u64) -> Option<u64> {
    let mut words = auxiliary
        .chunks_exact(8)
        .map(|word| word.try_into().map_or(0, u64::from_ne_bytes));
    let (mut entry, mut pages) = (None, None);
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            AT_ENTRY => entry = Some(value),
            AT_PAGESZ => pages = Some(value),
            _ => {}
        }
    }
    entry.filter(|entry| *entry != 0 && pages == Some(page_size))
}

/// A word in which the processor stops at that byte.
fn patched(word: u64, byte: u64) -> u64 {
    let (trap, mask) = TRAP;
    let shift = 8 * byte;
    word & !(mask << shift) | trap << shift
}

/// Puts the program counter where the breakpoint is. `false`: it was not that one.
#[cfg(target_arch = "x86_64")]
fn go_back_to(pid: Pid, address: u64) -> io::Result<bool> {
    let mut registers = ptrace::getregs(pid)?;
    if registers.rip != address + 1 {
        return Ok(false);
    }
    registers.rip = address;
    ptrace::setregs(pid, registers)?;
    Ok(true)
}

/// There it stays.
#[cfg(target_arch = "aarch64")]
fn go_back_to(pid: Pid, address: u64) -> io::Result<bool> {
    Ok(ptrace::getregs(pid)?.pc == address)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use nix::sys::signal::kill;

    use super::*;
    use crate::os::testing::{alone, until};

    #[test]
    fn a_sigcont_while_it_is_loaded_does_nothing() {
        // Another test that waits for any child would take its stop.
        if !alone("os::trace::tests::a_sigcont_while_it_is_loaded_does_nothing") {
            return;
        }
        let script = "echo; read line; exec sleep 60";
        let mut child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its own exec is over then.
        let mut newline = [0];
        child
            .stdout
            .take()
            .unwrap()
            .read_exact(&mut newline)
            .unwrap();
        seize(child.id()).unwrap();
        let mut traced = Traced::new(child.id()).unwrap();
        kill(traced.pid, Number::SIGCONT).unwrap();
        let is_stopped = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.contains(") t ")
        };
        until("it has stopped for it", is_stopped);
        // It stops a second time, for the signal itself, if that is not looked at by the same look.
        assert_eq!(traced.look(), Seen::UnderWay);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        until("it is loaded", || match traced.look() {
            Seen::UnderWay => false,
            seen => {
                assert_eq!(seen, Seen::Loaded);
                true
            }
        });
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
