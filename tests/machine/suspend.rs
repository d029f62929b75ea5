//! The machine is suspended to memory, and woken by its own clock.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use support::rig::{Rig, report};
use support::{signal_to, skip};

use super::is_machine;

const STATE: &str = "/sys/power/state";
const ALARM: &str = "/sys/class/rtc/rtc0/wakealarm";

const TIMES: u32 = 2;

/// All the time that the machine has slept.
fn slept() -> Duration {
    let [with, without] =
        [ClockId::CLOCK_BOOTTIME, ClockId::CLOCK_MONOTONIC].map(|id| clock_gettime(id).unwrap());
    Duration::from(with).saturating_sub(Duration::from(without))
}

#[test]
fn a_machine_that_was_asleep_has_the_same_agent() {
    let test = "a_machine_that_was_asleep_has_the_same_agent";
    if !is_machine(test, "suspend") {
        return;
    }
    let states = fs::read_to_string(STATE).unwrap_or_default();
    if !states.split_whitespace().any(|state| state == "mem") || !Path::new(ALARM).exists() {
        return skip(test, "this machine cannot be suspended and woken again");
    }
    let rig = Rig::new();
    rig.sleeper("web");
    let mut ledger = rig.ledger();
    let agent = rig.agent();
    let mut web = ledger.current("web");
    let spare = rig.spare();
    let before = slept();
    for _ in 0..TIMES {
        // Long enough that it is asleep before, on a slow machine too: nothing else wakes it.
        fs::write(ALARM, "0").unwrap();
        fs::write(ALARM, "+12").unwrap();
        // What is due now may have to wait until it is awake again.
        signal_to(web.0, Signal::SIGKILL);
        fs::write(STATE, "mem").unwrap();
        let old = web;
        web = ledger.wait("it is back", |ledger| {
            ledger.has_current("web").filter(|now| *now != old)
        });
        // As long as a spare is patient, and longer.
        std::thread::sleep(Duration::from_secs(3));
    }
    let slept = slept() - before;
    assert!(slept > Duration::from_secs(u64::from(TIMES)), "{slept:?}");
    ledger.read();
    assert_eq!(ledger.agents, [agent.pid()], "{}", rig.log());
    assert!(Path::new(&format!("/proc/{}", spare.pid())).exists());
    rig.assert_single("web", web);
    report(&format!(
        "asleep {TIMES} times, {slept:.1?} in all: no takeover, the service back each time"
    ));
}
