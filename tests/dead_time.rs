//! What happens while no agent lives is not lost: the kernel remembers it, or says that it could
//! not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::needs_root;
use support::rig::{AgentProcess, Instance, Ledger, Memory, Rig, report};
use support::{eventually, now};

const SERVICES: usize = 2_000;

/// An agent with very many services, all of which run.
struct Crowd {
    rig: Rig,
    ledger: Ledger,
    agent: AgentProcess,
    names: Vec<String>,
}

impl Crowd {
    fn start(count: usize, ring_bytes: Option<u32>) -> Self {
        let mut rig = Rig::new();
        if let Some(bytes) = ring_bytes {
            rig.set("RESPAWN_RING_BYTES", bytes.to_string());
        }
        Self::with(rig, count)
    }

    fn with(rig: Rig, count: usize) -> Self {
        let names: Vec<String> = (0..count).map(|n| format!("s{n:04}")).collect();
        for name in &names {
            rig.sleeper(name);
        }
        let mut ledger = rig.ledger();
        let agent = rig.agent();
        ledger.wait("all run", |ledger| {
            (ledger.last.len() == count).then_some(())
        });
        Self {
            rig,
            ledger,
            agent,
            names,
        }
    }

    fn instances(&self) -> BTreeMap<String, Instance> {
        let last = self.ledger.last.iter();
        last.map(|(name, (instance, _))| (name.clone(), *instance))
            .collect()
    }

    /// Kills the agent, and then all services, the n-th by the n-th of these signals.
    fn all_die(&mut self, signals: &[Signal]) -> BTreeMap<String, Instance> {
        let old = self.instances();
        self.agent.kill();
        for (instance, signal) in old.values().zip(signals.iter().cycle()) {
            kill(Pid::from_raw(instance.0.cast_signed()), *signal).unwrap();
        }
        eventually("all are dead", || {
            self.rig.live("").is_empty().then_some(())
        });
        old
    }

    /// Starts the next agent; returns how long it took until all ran again.
    fn all_come_back(&mut self, old: &BTreeMap<String, Instance>) -> Duration {
        let start = now();
        self.agent = self.rig.agent();
        let starts = old.len() * 2;
        self.ledger.wait("all are started", |ledger| {
            (ledger.starts >= starts).then_some(())
        });
        let took = start.elapsed();
        self.ledger.wait("all are back", |ledger| {
            let is_back = |(name, old): (&String, &Instance)| {
                ledger.has_current(name).is_some_and(|new| new != *old)
            };
            old.iter().all(is_back).then_some(())
        });
        for name in &self.names {
            assert_eq!(self.ledger.instances_of(name).count(), 2, "{name}");
        }
        eventually("one instance of each", || {
            (self.rig.live("").len() == self.names.len()).then_some(())
        });
        took
    }
}

#[test]
fn exits_while_no_agent_lives_are_told_with_their_causes() {
    needs_root!("exits while no agent lives");
    let mut crowd = Crowd::start(SERVICES, None);
    let signals = [
        Signal::SIGKILL,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGALRM,
    ];
    let old = crowd.all_die(&signals);
    let took = crowd.all_come_back(&old);
    for ((name, instance), signal) in old.iter().zip(signals.iter().cycle()) {
        let exits = &crowd.ledger.told(name, *instance).exits;
        assert_eq!(exits.len(), 1, "{name}: {exits:?}");
        assert_eq!(exits[0]["cause"]["signal"], signal.as_str(), "{name}");
        // From the kernel's record, not from what the next agent could still see.
        assert!(exits[0]["host_pid"].is_number(), "{name}");
    }
    assert_eq!(crowd.ledger.lost, 0);
    report(&format!(
        "dead time: {SERVICES} services ended while no agent lived; all told once with their \
         causes, all back {took:.2?} after the next agent's start"
    ));
}

#[test]
fn a_ring_too_small_for_the_exits_loses_no_cause_and_no_sender() {
    needs_root!("a ring too small for the exits");
    let mut crowd = Crowd::start(SERVICES, Some(4096));
    let old = crowd.all_die(&[Signal::SIGKILL]);
    let took = crowd.all_come_back(&old);
    for (name, instance) in &old {
        let exits = &crowd.ledger.told(name, *instance).exits;
        assert_eq!(exits.len(), 1, "{name}: {exits:?}");
        let cause = &exits[0]["cause"];
        assert_eq!(cause["signal"], "SIGKILL", "{name}: {exits:?}");
        let sender = &cause["sender"]["pid"];
        assert_eq!(*sender, std::process::id(), "{name}: {exits:?}");
    }
    // The next agent has nothing more to say of it.
    crowd.agent.kill();
    let agents = crowd.ledger.agents.len();
    crowd.agent = crowd.rig.agent();
    crowd.ledger.next_agent(agents);
    for name in &crowd.names {
        crowd.ledger.current(name);
    }
    assert_eq!(crowd.ledger.lost, 0);
    for name in &crowd.names {
        assert_eq!(crowd.ledger.instances_of(name).count(), 2, "{name}");
    }
    report(&format!(
        "dead time, ring of 4096 bytes: {SERVICES} services ended, all told with cause and sender, \
         all back once, {took:.2?} after the next agent's start"
    ));
}

#[test]
fn a_ring_that_fills_up_under_a_living_agent_loses_no_cause() {
    needs_root!("a ring that fills up under an agent");
    const SERVICES: usize = 200;
    let mut crowd = Crowd::start(SERVICES, Some(4096));
    let old = crowd.instances();
    crowd.agent.signal(Signal::SIGSTOP);
    for instance in old.values() {
        kill(Pid::from_raw(instance.0.cast_signed()), Signal::SIGKILL).unwrap();
    }
    eventually("all are dead", || {
        crowd.rig.live("").is_empty().then_some(())
    });
    crowd.agent.signal(Signal::SIGCONT);
    crowd.ledger.wait("all are started", |ledger| {
        (ledger.starts >= SERVICES * 2).then_some(())
    });
    for (name, instance) in &old {
        let exits = &crowd.ledger.told(name, *instance).exits;
        assert_eq!(exits.len(), 1, "{name}: {exits:?}");
        let sender = &exits[0]["cause"]["sender"]["pid"];
        assert_eq!(*sender, std::process::id(), "{name}: {exits:?}");
    }
    assert_eq!(crowd.ledger.lost, 0);
}

#[test]
fn without_ebpf_every_service_is_told_and_restarted_once() {
    const SERVICES: usize = 500;
    let mut crowd = Crowd::with(Rig::with(Memory::FilesAlone), SERVICES);
    let old = crowd.all_die(&[Signal::SIGKILL]);
    let took = crowd.all_come_back(&old);
    let mut with_cause = 0;
    for (name, instance) in &old {
        let exits = &crowd.ledger.told(name, *instance).exits;
        assert_eq!(exits.len(), 1, "{name}: {exits:?}");
        // Where nobody has reaped it yet.
        let is_known = exits[0]["cause"]["kind"] != "unknown";
        with_cause += usize::from(is_known);
        assert!(!is_known || exits[0]["cause"]["signal"] == "SIGKILL");
    }
    report(&format!(
        "dead time, without eBPF: {SERVICES} services ended while no agent lived; all told once, \
         {with_cause} with their causes, all back {took:.2?} after the next agent's start"
    ));
}
