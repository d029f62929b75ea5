//! Ends that nobody saw: without eBPF, a service that ends while no agent lives has an unknown cause.
//! It restarts at once, and no failure is counted; its starts count.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use support::rig::{AgentProcess, Instance, Ledger, Memory, Rig};
use support::{eventually, signal_to};

/// A service that a failure of its own keeps down for longer than any test.
struct Scene {
    rig: Rig,
    ledger: Ledger,
    agent: AgentProcess,
    web: Instance,
}

impl Scene {
    fn new(keys: &str) -> Self {
        let rig = Rig::with(Memory::FilesAlone);
        let keys = format!("restart_delay = \"1h\"\nstable_after = \"1h\"\n{keys}");
        rig.service("web", r#"["/usr/bin/sleep", "100000"]"#, &keys);
        let mut ledger = rig.ledger();
        let agent = rig.agent();
        let web = ledger.current("web");
        Self {
            rig,
            ledger,
            agent,
            web,
        }
    }

    /// Ends agent and service; the next agent starts when nothing is left of either.
    fn end_unseen(&mut self, signal: Signal) {
        self.agent.kill();
        let pid = self.web.0;
        signal_to(pid, signal);
        eventually("the service is gone", || {
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
        self.agent = self.rig.agent();
    }

    /// Waits until the service is back; returns what is told of the end before.
    fn back(&mut self) -> Value {
        let old = self.web;
        self.web = self.ledger.wait("it is back", |ledger| {
            let new = ledger.has_current("web").filter(|new| *new != old)?;
            ledger.has_exited("web", old).then_some(new)
        });
        self.rig.assert_single("web", self.web);
        let exits = &self.ledger.told("web", old).exits;
        assert_eq!(exits.len(), 1, "{exits:?}");
        exits[0].clone()
    }
}

#[test]
fn a_service_that_ended_with_its_agent_is_back_at_once_each_time() {
    let mut scene = Scene::new("");
    // By these signals a service fails by itself, if anybody sees it.
    for signal in [Signal::SIGKILL, Signal::SIGUSR1, Signal::SIGSEGV] {
        scene.end_unseen(signal);
        let exit = scene.back();
        assert_eq!(exit["cause"]["kind"], "unknown", "{exit}");
    }
    // What an agent sees is what it was before: a failure of its own.
    signal_to(scene.web.0, Signal::SIGUSR1);
    let web = scene.web;
    scene.ledger.wait("its end is told", |ledger| {
        ledger.has_exited("web", web).then_some(())
    });
    let waits = |rig: &Rig| {
        let output = rig.run(&["status", "web"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.contains("backoff").then_some(())
    };
    eventually("it waits", || waits(&scene.rig));
}

#[test]
fn a_service_killed_at_the_same_moment_as_its_agent_is_back_at_once() {
    let mut scene = Scene::new("");
    for _ in 0..5 {
        let agents = scene.ledger.agents.len();
        let spare = scene.rig.spare();
        signal_to(scene.agent.pid(), Signal::SIGKILL);
        signal_to(scene.web.0, Signal::SIGKILL);
        scene.agent.wait();
        scene.agent = spare;
        scene.ledger.next_agent(agents);
        // Whether the spare sees how it ended depends on who is first.
        scene.back();
        std::thread::sleep(Duration::from_millis(60));
    }
}

#[test]
fn ends_that_nobody_saw_stay_within_the_start_limit() {
    let mut scene = Scene::new("start_limit = { burst = 3, interval = \"1h\" }");
    for _ in 0..2 {
        scene.end_unseen(Signal::SIGKILL);
        scene.back();
    }
    scene.end_unseen(Signal::SIGKILL);
    let reason = scene.ledger.wait("it is given up", |ledger| {
        let mut others = ledger.others.iter();
        let failed = others.find(|event| event["event"] == "failed")?;
        Some(failed["reason"].as_str().unwrap().to_owned())
    });
    assert!(reason.contains("3 starts within"), "{reason}");
    assert!(reason.ends_with("gone, cause unknown"), "{reason}");
}
