//! The kernel's memory of the services: what is pinned, what it takes, and what the host's other
//! processes pay for it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::bpf::{self, Object};
use support::rig::{Rig, report};
use support::{Victim, needs_root};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

/// Processes of the host that are nobody's business.
const STRANGERS: u64 = 5_000;
const RESTARTS: u64 = 200;

/// What a program's runs took so far.
#[derive(Clone, Copy)]
struct Runs {
    count: u64,
    nanoseconds: u64,
}

impl Runs {
    fn of(program: &Object) -> Self {
        Self {
            count: program.figure("run_cnt").unwrap(),
            nanoseconds: program.figure("run_time_ns").unwrap(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            count: self.count - before.count,
            nanoseconds: self.nanoseconds - before.nanoseconds,
        }
    }

    fn each(self) -> u64 {
        self.nanoseconds / self.count.max(1)
    }
}

#[test]
fn what_is_pinned_is_small_and_what_runs_is_short() {
    needs_root!("what is pinned");
    let rig = Rig::new();
    rig.sleeper("web");
    let mut ledger = rig.ledger();
    let _agent = rig.agent();
    let mut web = ledger.current("web");

    let mut bytes = 0;
    let mut programs = Vec::new();
    for entry in fs::read_dir(rig.pin("EVENTS").parent().unwrap()).unwrap() {
        let (path, name) = entry
            .map(|entry| (entry.path(), entry.file_name()))
            .unwrap();
        let object = Object::pinned(&path).unwrap();
        match (object.figure("prog_id"), object.figure("memlock")) {
            (Some(id), None) => programs.push((name, Object::program(id).unwrap())),
            (_, memory) => {
                let memory = memory.unwrap();
                bytes += memory;
                report(&format!("pinned: {name:?}, a map of {} KB", memory / 1024));
            }
        }
    }
    for (name, program) in &programs {
        let memory = program.figure("memlock").unwrap();
        bytes += memory;
        report(&format!(
            "pinned: {name:?}, a program of {} KB",
            memory / 1024
        ));
    }
    report(&format!("pinned: {} KB in all", bytes / 1024));
    let pinned = |wanted: &str| programs.iter().any(|(name, _)| name == wanted);
    assert!(pinned("birth") && pinned("signal"));
    assert!(bytes < 16 << 20, "{bytes} bytes");

    let _counting = bpf::statistics().unwrap();
    let all = || -> Vec<Runs> { programs.iter().map(|(_, it)| Runs::of(it)).collect() };
    let before = all();
    let mut storm = Victim::start(VICTIM, &["storm", &STRANGERS.to_string()]);
    assert!(storm.wait().success());
    let strangers = all();
    for _ in 0..RESTARTS {
        support::rest();
        kill(Pid::from_raw(web.0.cast_signed()), Signal::SIGKILL).unwrap();
        web = ledger.wait("it is back", |ledger| {
            ledger.has_current("web").filter(|new| *new != web)
        });
    }
    let own = all();
    for (index, (name, _)) in programs.iter().enumerate() {
        let of_strangers = strangers[index].since(before[index]);
        let of_own = own[index].since(strangers[index]);
        // Nobody runs out of memory here.
        assert!(of_strangers.count >= STRANGERS || name == "oom", "{name:?}");
        report(&format!(
            "cost of {name:?}: {} ns for each of {} processes, nearly all strangers; \
             {} ns for each of {} while a service was restarted {RESTARTS} times",
            of_strangers.each(),
            of_strangers.count,
            of_own.each(),
            of_own.count
        ));
        assert!(of_strangers.each() < 20_000, "{name:?}");
    }
}
