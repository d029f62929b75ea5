//! Stops an agent before and after each of its system calls, to kill it at one of them.
//!
//! Only the agent's own calls count. Its children are not traced: a child that it has just made
//! runs on whatever becomes of the agent.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::rig::AgentProcess;
use crate::{eventually, now};

/// After so many looks without a stop the agent is taken to wait for something.
const PATIENCE: u32 = 50;

/// The system calls that wait for events.
const WAITS: &[i64] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
];

/// A traced agent, stopped. It goes with its tracer.
pub struct Traced {
    agent: AgentProcess,
}

/// How far the agent went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    /// To the stop with the number that was asked for, where it is.
    There,
    /// Not so far: it was done after so many stops.
    Done(usize),
}

impl Traced {
    /// Begins to trace a running agent, once it has nothing to do.
    pub fn seize(agent: AgentProcess) -> Self {
        let traced = Self { agent };
        eventually("the agent waits", || {
            let call = std::fs::read_to_string(format!("/proc/{}/syscall", traced.pid()));
            let number = call.ok()?.split(' ').next()?.parse().ok()?;
            WAITS.contains(&number).then_some(())
        });
        ptrace::seize(traced.pid(), options()).expect("ptrace");
        ptrace::interrupt(traced.pid()).expect("ptrace");
        waitpid(traced.pid(), None).expect("waitpid");
        traced
    }

    /// Starts an agent that is traced from its first system call on.
    pub fn start(mut command: Command) -> Self {
        // SAFETY: the call is safe between fork and exec: it touches no memory.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from)) };
        let traced = Self {
            agent: AgentProcess::from_command(&mut command),
        };
        waitpid(traced.pid(), None).expect("waitpid");
        ptrace::setoptions(traced.pid(), options()).expect("ptrace");
        traced
    }

    /// Lets it go on to the `last`-th stop from here, or until `is_done` while it waits for
    /// something.
    pub fn run(&self, last: usize, mut is_done: impl FnMut() -> bool) -> Went {
        let mut stops = 0;
        let mut idle = 0;
        self.go_on(None);
        while stops < last {
            match waitpid(self.pid(), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::StillAlive) => {
                    idle += 1;
                    if idle % PATIENCE == 0 && is_done() {
                        return Went::Done(stops);
                    }
                    rest(idle);
                    continue;
                }
                Ok(WaitStatus::PtraceSyscall(_)) => stops += 1,
                Ok(WaitStatus::Stopped(_, signal)) => {
                    self.go_on(Some(signal));
                    idle = 0;
                    continue;
                }
                Ok(WaitStatus::PtraceEvent(..)) => {}
                other => panic!("the agent ended by itself: {other:?}"),
            }
            idle = 0;
            if stops < last {
                self.go_on(None);
            }
        }
        Went::There
    }

    /// Kills it where it is.
    pub fn kill(mut self) {
        self.agent.kill();
    }

    fn go_on(&self, signal: Option<Signal>) {
        match ptrace::syscall(self.pid(), signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("ptrace: {error}"),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.agent.pid().cast_signed())
    }
}

fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL
}

/// The next stop mostly comes at once.
fn rest(idle: u32) {
    if idle < 20 {
        let start = now();
        while start.elapsed() < Duration::from_micros(5) {
            thread::yield_now();
        }
    } else {
        thread::sleep(Duration::from_micros(100));
    }
}
