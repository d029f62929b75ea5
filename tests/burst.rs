//! Very many processes that end in the same instant: each exit is shown or counted as lost, and a
//! service that dies among them always comes back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::ChildStdin;

use nix::sys::signal::Signal;
use support::rig::{Instance, Rig, report};
use support::{Victim, Watch, eventually, needs_root, signal_to};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

/// How many end at once under a watch, and how often; `RESPAWN_BURSTS` has it less often.
const PROCESSES: usize = 1000;
const BURSTS: usize = 8;

/// The same, with a service among them.
const OTHERS: usize = 250;
const KILLS: usize = 200;

/// Makes bursts when it is asked to.
struct Burster {
    process: Victim,
    input: ChildStdin,
    /// Only the processes of this test have this name, so that the count is theirs.
    name: String,
    _folder: tempfile::TempDir,
}

impl Burster {
    fn start(letter: char, processes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("burst{letter}{}", std::process::id());
        let link = folder.path().join(&name);
        symlink(VICTIM, &link).unwrap();
        let arguments = ["burst", &processes.to_string()];
        let mut process = Victim::start(link.to_str().unwrap(), &arguments);
        assert_eq!(process.line(), "ready");
        let input = process.stdin().unwrap();
        Self {
            process,
            input,
            name,
            _folder: folder,
        }
    }

    /// Has the processes made; returns how many they are.
    fn gather(&mut self) -> u64 {
        self.input.write_all(b"\n").unwrap();
        self.process.line().parse().unwrap()
    }

    /// Has all of them end now.
    fn release(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    /// Waits until all have ended.
    fn await_end(&mut self) {
        assert_eq!(self.process.line(), "gone");
    }
}

/// Waits until a watch has shown all that it has seen: then all of its threads sleep. Once it is asked
/// to end, it goes on for half a second, which is not enough on a slow machine.
fn await_shown(watch: u32) {
    let sleeps = |thread: fs::DirEntry| {
        // A thread of its pool may end at any time.
        let stat = fs::read_to_string(thread.path().join("stat"));
        stat.is_ok_and(|stat| stat.rsplit_once(')').unwrap().1.starts_with(" S"))
    };
    eventually("the watch has shown all", || {
        support::rest();
        let mut threads = fs::read_dir(format!("/proc/{watch}/task")).unwrap();
        threads.all(|thread| sleeps(thread.unwrap())).then_some(())
    });
}

/// What is shown of the burst's processes, and what is told to be lost.
fn shown_and_lost(mut burster: Burster, arguments: &[&str]) -> (u64, u64, u64) {
    let watch = Watch::start(arguments);
    let mut made = 0;
    let bursts = std::env::var("RESPAWN_BURSTS").map_or(BURSTS, |text| text.parse().unwrap());
    for _ in 0..bursts {
        made += burster.gather();
        burster.release();
        burster.await_end();
    }
    await_shown(watch.pid());
    let ended = watch.stop();
    let is_ours = |event: &&serde_json::Value| event["comm"] == burster.name.as_str();
    let shown = ended.exits.iter().filter(is_ours).count();
    let lost = ended.summary["lost"].as_u64().unwrap();
    report(&format!(
        "{arguments:?}: {made} exits in {bursts} bursts, {shown} shown, {lost} told as lost"
    ));
    (made, u64::try_from(shown).unwrap(), lost)
}

#[test]
fn each_exit_of_a_burst_is_shown_or_counted_as_lost() {
    needs_root!("each_exit_of_a_burst_is_shown_or_counted_as_lost");
    let burster = Burster::start('n', PROCESSES);
    let name = burster.name.clone();
    let (made, shown, lost) = shown_and_lost(burster, &["--name", &name]);
    assert_eq!(shown + lost, made);
}

#[test]
fn among_all_exits_of_the_host_each_of_a_burst_is_shown_or_counted_as_lost() {
    needs_root!("among_all_exits_of_the_host_each_of_a_burst_is_shown_or_counted_as_lost");
    let (made, shown, lost) = shown_and_lost(Burster::start('a', PROCESSES), &["--all"]);
    // Others of the host may be lost too.
    assert!(
        shown <= made && shown + lost >= made,
        "{shown} {lost} {made}"
    );
}

#[test]
fn a_service_that_is_killed_in_a_burst_is_always_back() {
    needs_root!("a_service_that_is_killed_in_a_burst_is_always_back");
    let rig = Rig::new();
    rig.sleeper("web");
    let mut ledger = rig.ledger();
    let _agent = rig.agent();
    let mut web: Instance = ledger.current("web");
    let mut burster = Burster::start('s', OTHERS);
    let mut unknown = 0;
    for _ in 0..KILLS {
        support::rest();
        burster.gather();
        burster.release();
        signal_to(web.0, Signal::SIGKILL);
        let old = web;
        web = ledger.wait("it is back", |ledger| {
            let new = ledger.has_current("web")?;
            (new != old && ledger.has_exited("web", old)).then_some(new)
        });
        burster.await_end();
        let told = ledger.told("web", old);
        assert_eq!(told.exits.len(), 1, "{told:?}");
        let cause = &told.exits[0]["cause"];
        let by = &cause["sender"]["host_pid"];
        if cause["kind"] == "unknown" || by.is_null() {
            unknown += 1;
        } else {
            assert_eq!(
                (cause["signal"].as_str(), by),
                (Some("SIGKILL"), &std::process::id().into()),
                "{cause}"
            );
        }
    }
    rig.assert_single("web", web);
    report(&format!(
        "{KILLS} kills among {OTHERS} exits each: as many restarts, {unknown} of unknown cause"
    ));
}
