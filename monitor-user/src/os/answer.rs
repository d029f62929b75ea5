//! Runs a program for what it prints, and gives it up after a while or beyond a size.
//!
//! For programs whose code is not ours to trust with time or memory. Runs no hooks and no
//! services: those are `spawn`'s.

use std::borrow::Cow;
use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{mounts, pidfd, progress};
use crate::clock;

/// What a program may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// From its start to its end.
    pub(crate) time: Duration,
    /// What it prints on standard output, in bytes.
    pub(crate) size: usize,
}

/// An agent that waits longer than that shows that it does.
const STEP_MS: u128 = 250;

/// How a program ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// There is no such program.
    NoProgram,
    /// It was killed after this time.
    Late(Duration),
    /// It was killed after it had printed more than this many bytes.
    TooLong(usize),
    /// It could not be started, read or waited for.
    Failed(io::Error),
}

/// Runs a program, found in `PATH`, without input and with no other variables than `PATH` and the
/// C locale. Its standard error is dropped.
///
/// # Errors
/// See [`NoAnswer`]. Nothing of it is left running then, unless the kernel does not let it go.
pub(crate) fn answer(
    program: &Path,
    arguments: &[&str],
    bounds: Bounds,
) -> Result<Answer, NoAnswer> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let program = find(program, &path).ok_or(NoAnswer::NoProgram)?;
    let mut child = Command::new(&*program)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // So that what it starts can be killed with it.
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NoAnswer::NoProgram,
            _ => NoAnswer::Failed(error),
        })?;
    let answer = listen(&mut child, bounds);
    if answer.is_err() {
        give_up(&mut child);
    }
    answer
}

/// Where a program is: libc would look in directories too where nobody answers, and wait for ever.
fn find<'p>(program: &'p Path, path: &OsStr) -> Option<Cow<'p, Path>> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Some(program.into());
    }
    let mut places = env::split_paths(path).map(|directory| directory.join(program));
    let found = places.find(|place| !mounts::may_hang(place) && place.is_file());
    found.map(Cow::from)
}

fn listen(child: &mut Child, bounds: Bounds) -> Result<Answer, NoAnswer> {
    let late = || NoAnswer::Late(bounds.time);
    let deadline = clock::awake().saturating_add(bounds.time);
    let mut pipe = child
        .stdout
        .take()
        .ok_or_else(|| NoAnswer::Failed(io::Error::other("its output is not piped")))?;
    let mut stdout = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if !readable_until(&pipe, deadline)? {
            return Err(late());
        }
        match pipe.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => stdout.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(NoAnswer::Failed(error)),
        }
        if stdout.len() > bounds.size {
            return Err(NoAnswer::TooLong(bounds.size));
        }
    }
    // Its end is known by the pidfd, as there is no wait with a timeout.
    let end = pidfd::open(child.id()).map_err(NoAnswer::Failed)?;
    if !readable_until(&end, deadline)? {
        return Err(late());
    }
    let status = child.wait().map_err(NoAnswer::Failed)?;
    Ok(Answer { status, stdout })
}

/// Waits until there is something to read; `false` when the deadline has passed.
fn readable_until(fd: &impl AsFd, deadline: Duration) -> Result<bool, NoAnswer> {
    loop {
        progress::count();
        let left = deadline.saturating_sub(clock::awake());
        // A millisecond more, as a part of one would be rounded to none.
        let timeout = PollTimeout::try_from(left.as_millis().saturating_add(1).min(STEP_MS))
            .unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(NoAnswer::Failed(error.into())),
        }
    }
}

/// Kills it with what it has started. Waits for its end only for a while: a process that hangs in
/// the kernel does not die, and is left to whoever reaps orphans.
fn give_up(child: &mut Child) {
    const DYING: Duration = Duration::from_secs(1);
    let Ok(pid) = i32::try_from(child.id()) else {
        return;
    };
    // It has not been waited for, so the number is still its own.
    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    let deadline = clock::awake().saturating_add(DYING);
    let has_ended = pidfd::open(child.id())
        .map_err(NoAnswer::Failed)
        .and_then(|end| readable_until(&end, deadline));
    if matches!(has_ended, Ok(true)) {
        let _ = child.wait();
    }
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProgram => f.write_str("is not there"),
            Self::Late(time) => write!(f, "did not answer within {time:?}"),
            Self::TooLong(size) => write!(f, "printed more than {size} bytes"),
            Self::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

/// "ended with status 3", "was killed by SIGSEGV".
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(number)) => match crate::model::Signal::from_number(number) {
            Some(signal) => format!("was killed by {signal}"),
            None => format!("was killed by signal {number}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        time: Duration::from_secs(60),
        size: 100_000,
    };

    fn shell(script: &str, bounds: Bounds) -> Result<Answer, NoAnswer> {
        answer(Path::new("sh"), &["-c", script], bounds)
    }

    #[test]
    fn returns_what_it_prints_and_how_it_ends() {
        let answer = shell("printf 'a\\nb'; echo x >&2; cat; exit 3", BOUNDS).unwrap();
        assert_eq!(answer.stdout, b"a\nb");
        assert_eq!(ending(answer.status), "ended with status 3");
        let answer = shell("kill -SEGV $$", BOUNDS).unwrap();
        assert_eq!(ending(answer.status), "was killed by SIGSEGV");
    }

    #[test]
    fn an_answer_as_long_as_allowed_is_whole_and_a_longer_one_is_given_up() {
        let script = "head -c 100000 /dev/zero";
        assert_eq!(shell(script, BOUNDS).unwrap().stdout.len(), 100_000);
        let endless = shell("exec cat /dev/zero", BOUNDS);
        assert!(matches!(endless, Err(NoAnswer::TooLong(100_000))));
    }

    #[test]
    fn an_answer_that_does_not_come_is_given_up_with_what_the_program_started() {
        let bounds = Bounds {
            time: Duration::from_millis(300),
            ..BOUNDS
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 1000 & echo $! > {}; wait", file.path().display());
        let late = shell(&script, bounds);
        assert!(matches!(late, Err(NoAnswer::Late(time)) if time == bounds.time));
        let pid = std::fs::read_to_string(file.path()).unwrap();
        let pid: u32 = pid.trim().parse().unwrap();
        crate::os::testing::until("its child is gone", || {
            super::super::proc::stat(pid).map_or(true, |stat| stat.is_zombie())
        });
        // One that closes its output and goes on.
        let late = shell("exec >&-; exec sleep 1000", bounds);
        assert!(matches!(late, Err(NoAnswer::Late(_))));
    }

    #[test]
    fn a_program_that_is_not_there_is_told_from_one_that_cannot_run() {
        let none = answer(Path::new("/no/such/program"), &[], BOUNDS);
        assert!(matches!(none, Err(NoAnswer::NoProgram)));
        let directory = answer(Path::new("/"), &[], BOUNDS);
        assert!(matches!(directory, Err(NoAnswer::Failed(_))));
    }
}
