//! A command around the run of a service, and what has to hold for it to be started.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::look::Started;
use crate::config::{self, Surroundings};
use crate::model::{Cause, Condition, Step, Test};
use crate::os::mounts;

/// How much of the end of its output is told of a command that fails.
const LONGEST_OUTPUT: usize = 600;
const MOST_LINES: usize = 5;

/// How long is waited for the rest of its output, when all that could write it has been killed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a command has ended.
#[derive(Debug)]
enum Ended {
    With(Cause),
    /// After so long.
    TooLate(Duration),
}

/// Runs a command, in `timeout` if it names no other, with its output passed on to this process's own. All
/// that it has started is killed when its main process has ended.
///
/// # Errors
/// It cannot be run.
async fn run(step: &Step, timeout: Duration) -> Result<(Ended, String)> {
    let environment = Surroundings::of_this_process().environment;
    let words = config::expand(&step.arguments, &environment).context("cannot be expanded")?;
    let (from_stdout, stdout) = io::pipe()?;
    let (from_stderr, stderr) = io::pipe()?;
    let mut command = Command::new(&step.program);
    command
        .args(words.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr);
    if let Some(name) = words.first() {
        command.arg0(name);
    }
    let started = Started;
    let child = command.spawn().context("cannot be run");
    // With it this process's own ends of the pipes go.
    drop(command);
    let mut child = child?;
    let tail = Arc::new(Mutex::new(VecDeque::new()));
    let (done, all_done) = channel();
    pass_on(from_stdout, io::stdout(), &tail, &done);
    pass_on(from_stderr, io::stderr(), &tail, &done);
    let timeout = step.timeout.unwrap_or(timeout);
    let waited = tokio::time::timeout(timeout, child.wait()).await;
    drop(started);
    for _ in 0..2 {
        let _ = all_done.recv_timeout(PATIENCE);
    }
    let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    let output = last_lines(&tail.iter().copied().collect::<Vec<u8>>());
    let ended = match waited {
        Ok(status) => {
            let status = std::os::unix::process::ExitStatusExt::into_raw(status?);
            Ended::With(Cause::from_wait_status(status))
        }
        Err(_) => Ended::TooLate(timeout),
    };
    Ok((ended, output))
}

/// In a thread: where the output goes may block for as long as it likes.
fn pass_on(
    mut from: PipeReader,
    mut to: impl Write + Send + 'static,
    tail: &Arc<Mutex<VecDeque<u8>>>,
    done: &Sender<()>,
) {
    let (tail, done) = (Arc::clone(tail), done.clone());
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            let bytes = bytes.get(..length).unwrap_or_default();
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(bytes);
            let surplus = tail.len().saturating_sub(4 * LONGEST_OUTPUT);
            tail.drain(..surplus);
            drop(tail);
            // Nobody is left to tell if that fails.
            let _ = to.write_all(bytes).and_then(|()| to.flush());
        }
        let _ = done.send(());
    });
}

/// "unknown directive / test failed"
fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    let first = lines.len().saturating_sub(MOST_LINES);
    let text = lines.get(first..).unwrap_or_default().join(" / ");
    let from = text.len().saturating_sub(LONGEST_OUTPUT);
    text[text.ceil_char_boundary(from)..].to_owned()
}

/// What has gone wrong with it, in words; `None`: nothing.
pub(super) async fn failure(step: &Step, timeout: Duration) -> Option<String> {
    let (ended, output) = match run(step, timeout).await {
        Ok(ended) => ended,
        Err(error) => return Some(format!("{error:#}")),
    };
    let what = match ended {
        Ended::With(Cause::Exited { code: 0 }) => return None,
        Ended::With(cause) => cause.to_string(),
        Ended::TooLate(timeout) => format!("did not end within {timeout:?}, and was killed"),
    };
    Some(match output.as_str() {
        "" => what,
        output => format!("{what}; its last output: {output}"),
    })
}

/// Whether a condition holds.
///
/// # Errors
/// That cannot be found out.
pub(super) async fn holds(condition: &Condition, timeout: Duration) -> Result<bool> {
    let holds = match &condition.test {
        Test::PathExists(path) => path.exists(),
        Test::PathMatches(pattern) => glob::glob(pattern)?.flatten().next().is_some(),
        Test::PathIsDirectory(path) => path.is_dir(),
        Test::PathIsMountPoint(path) => is_mount_point(path),
        Test::FileIsExecutable(path) => path
            .metadata()
            .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0),
        Test::FileNotEmpty(path) => path
            .metadata()
            .is_ok_and(|it| it.is_file() && it.size() > 0),
        Test::DirectoryNotEmpty(path) => {
            fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        }
        Test::KernelCommandLine(word) => {
            is_in_command_line(&fs::read_to_string("/proc/cmdline")?, word)
        }
        Test::Capability(number) => {
            has_capability(&fs::read_to_string("/proc/self/status")?, *number)
        }
        Test::AcPower => has_ac_power(Path::new("/sys/class/power_supply")),
        Test::Container => is_container(),
        Test::VirtualMachine => is_virtual_machine(),
        Test::Command(step) => match run(step, timeout).await {
            // It counts as a success whatever it does.
            _ if step.ignore_failure => true,
            Ok((Ended::With(Cause::Exited { code: 0 }), _)) => true,
            Ok((Ended::With(Cause::Exited { code: 1..=254 }), _)) => false,
            Ok((Ended::With(cause), _)) => bail!("{cause}"),
            Ok((Ended::TooLate(timeout), _)) => bail!("did not end within {timeout:?}"),
            Err(error) => return Err(error),
        },
    };
    Ok(holds != condition.negated)
}

/// A word, or the name before a `=`.
fn is_in_command_line(line: &str, word: &str) -> bool {
    line.split_ascii_whitespace().any(|it| {
        let name = it.split_once('=').map_or(it, |(name, _)| name);
        it == word || name == word
    })
}

/// Whether it is in the bounding set, as systemd's `ConditionCapability=` has it.
fn has_capability(status: &str, number: u8) -> bool {
    let mut lines = status.lines();
    let bounding = lines.find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bounding.is_some_and(|set| set & (1 << number) != 0)
}

/// Whether one of the power supplies other than batteries is online, or there is none of those.
fn has_ac_power(supplies: &Path) -> bool {
    let supplies = fs::read_dir(supplies).into_iter().flatten().flatten();
    let read = |path: &Path, name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
    let mains: Vec<bool> = supplies
        .map(|supply| supply.path())
        .filter(|path| !matches!(read(path, "type").trim(), "Battery" | ""))
        .map(|path| read(&path, "online").trim() != "0")
        .collect();
    mains.is_empty() || mains.contains(&true)
}

/// By the marks that containers' runtimes leave, as systemd knows them (`detect_container`).
fn is_container() -> bool {
    let marks = [
        "/run/.containerenv",
        "/.dockerenv",
        "/run/systemd/container",
    ];
    let variables = fs::read("/proc/1/environ").unwrap_or_default();
    let mut variables = variables.split(|byte| *byte == 0);
    marks.iter().any(|mark| Path::new(mark).exists())
        || variables.any(|it| it.starts_with(b"container="))
        || Path::new("/proc/vz").exists() && !Path::new("/proc/bc").exists()
}

/// By what the processor or the firmware says of itself.
fn is_virtual_machine() -> bool {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut flags = processors.lines().filter(|line| line.starts_with("flags"));
    let has_flag = flags.next().is_some_and(|line| {
        line.split_ascii_whitespace()
            .any(|flag| flag == "hypervisor")
    });
    let tree = Path::new("/proc/device-tree/hypervisor/compatible");
    has_flag || tree.exists() || Path::new("/sys/hypervisor/type").exists()
}

fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let mounts = mounts::mounts().unwrap_or_default();
    mounts.iter().any(|mount| mount.point == path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::alone;

    fn shell(script: &str) -> Step {
        Step {
            program: "/bin/sh".into(),
            arguments: ["sh", "-c", script].map(str::to_owned).to_vec(),
            identity: None,
            timeout: None,
            ignore_failure: false,
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_command_that_fails_is_told_with_its_last_lines() {
        // It kills all children of its process.
        if !alone("prober::step::tests::a_command_that_fails_is_told_with_its_last_lines") {
            return;
        }
        assert_eq!(failure(&shell("echo x; exit 0"), MINUTE).await, None);
        let told = failure(&shell("echo a; echo; echo b >&2; exit 3"), MINUTE).await;
        let told = told.unwrap();
        assert!(
            told.starts_with("exited with 3; its last output: "),
            "{told}"
        );
        assert!(told.contains('a') && told.contains('b'), "{told}");
        assert_eq!(
            failure(&shell("exit 3"), MINUTE).await.unwrap(),
            "exited with 3"
        );
        let missing = Step {
            program: "/nonexistent".into(),
            ..shell("")
        };
        let told = failure(&missing, MINUTE).await.unwrap();
        assert!(told.starts_with("cannot be run: No such file"), "{told}");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed() {
        // It kills all children of its process.
        if !alone("prober::step::tests::a_command_that_takes_too_long_is_killed") {
            return;
        }
        let script = "echo begun; exec sleep 1000";
        let told = failure(&shell(script), Duration::from_millis(200))
            .await
            .unwrap();
        assert!(
            told.starts_with("did not end within 200ms, and was killed"),
            "{told}"
        );
    }

    #[test]
    fn the_last_lines_are_short() {
        assert_eq!(last_lines(b"1\n2\n3\n4\n5\n6\n\n"), "2 / 3 / 4 / 5 / 6");
        assert_eq!(
            last_lines("ä".repeat(1000).as_bytes()).len(),
            LONGEST_OUTPUT
        );
        assert_eq!(last_lines(b""), "");
    }

    #[test]
    fn words_of_the_kernels_command_line_are_whole() {
        let line = "root=/dev/x quiet audit=0\n";
        for (word, expected) in [
            ("quiet", true),
            ("audit", true),
            ("audit=0", true),
            ("audit=1", false),
            ("qui", false),
        ] {
            assert_eq!(is_in_command_line(line, word), expected, "{word}");
        }
    }

    #[test]
    fn capabilities_are_those_of_the_bounding_set() {
        let status = "Name:\tx\nCapEff:\t0000000000000000\nCapBnd:\t0000000002000001\n";
        for (number, expected) in [(0, true), (1, false), (25, true), (40, false)] {
            assert_eq!(has_capability(status, number), expected, "{number}");
        }
        assert!(!has_capability("", 0));
    }

    #[test]
    fn mains_power_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(has_ac_power(&dir.path().join("none")));
        let supply = |name: &str, kind: &str, online: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("type"), kind).unwrap();
            fs::write(path.join("online"), online).unwrap();
        };
        supply("BAT0", "Battery\n", "0\n");
        assert!(has_ac_power(dir.path()));
        supply("AC", "Mains\n", "0\n");
        assert!(!has_ac_power(dir.path()));
        supply("usb", "USB\n", "1\n");
        assert!(has_ac_power(dir.path()));
    }

    #[tokio::test]
    async fn conditions_hold_or_not() {
        // It kills all children of its process.
        if !alone("prober::step::tests::conditions_hold_or_not") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("full"), "x").unwrap();
        fs::write(at("empty"), "").unwrap();
        fs::create_dir(at("dir")).unwrap();
        let pattern = |name: &str| at(name).to_string_lossy().into_owned();
        let command = |script: &str| Test::Command(shell(script));
        for (test, expected) in [
            (Test::PathExists(at("full")), true),
            (Test::PathExists(at("none")), false),
            (Test::PathMatches(pattern("f*")), true),
            (Test::PathMatches(pattern("g*")), false),
            (Test::PathIsDirectory(at("dir")), true),
            (Test::PathIsDirectory(at("full")), false),
            (Test::PathIsMountPoint("/proc".into()), true),
            (Test::PathIsMountPoint(at("dir")), false),
            (Test::FileIsExecutable("/bin/sh".into()), true),
            (Test::FileIsExecutable(at("full")), false),
            (Test::FileNotEmpty(at("full")), true),
            (Test::FileNotEmpty(at("empty")), false),
            (Test::DirectoryNotEmpty(dir.path().into()), true),
            (Test::DirectoryNotEmpty(at("dir")), false),
            (Test::KernelCommandLine("no-such-word".to_owned()), false),
            (command("exit 0"), true),
            (command("exit 1"), false),
        ] {
            for negated in [false, true] {
                let test = test.clone();
                let condition = Condition { test, negated };
                let found = holds(&condition, MINUTE).await.unwrap();
                assert_eq!(found, expected != negated, "{condition:?}");
            }
        }
        let condition = Condition {
            test: command("kill -9 $$"),
            negated: false,
        };
        assert!(holds(&condition, MINUTE).await.is_err());
    }
}
