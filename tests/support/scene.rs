//! A service that runs, its agent, and what is done between two agents.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::rig::{AgentProcess, Instance, Ledger, Memory, Rig};
use crate::signal_to;

/// The service "web" that sleeps, and its agent.
pub struct Scene {
    /// What outlives the agent.
    pub rig: Rig,
    /// What the journal tells.
    pub ledger: Ledger,
    /// The agent at work.
    pub agent: AgentProcess,
    /// The instance that runs.
    pub web: Instance,
}

impl Scene {
    /// Starts both.
    pub fn new(memory: Memory) -> Self {
        Self::with(Rig::with(memory))
    }

    /// The same, with what the rig has been told before.
    pub fn with(rig: Rig) -> Self {
        rig.sleeper("web");
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

    /// Does something while no agent lives; returns what the next one then said at its start.
    pub fn between_agents(&mut self, what: impl FnOnce(&mut Rig)) -> String {
        self.agent.kill();
        self.ledger.read();
        let (said, agents) = (self.rig.log().len(), self.ledger.agents.len());
        what(&mut self.rig);
        self.agent = self.rig.agent();
        self.ledger.next_agent(agents);
        self.ledger.current("web");
        self.rig.log()[said..].to_owned()
    }

    /// Kills the service, without a wait for anything.
    pub fn kill_web(&self) {
        signal_to(self.web.0, Signal::SIGKILL);
    }

    /// Ends the service by a signal while no agent lives; asserts that the next one tells its exit
    /// once, and has it back. Returns what is told.
    pub fn dies_unseen(&mut self, signal: Signal) -> Value {
        let old = self.web;
        self.between_agents(|_| signal_to(old.0, signal));
        self.web = self.ledger.wait("it is back", |ledger| {
            let new = ledger.has_current("web").filter(|new| *new != old)?;
            ledger.has_exited("web", old).then_some(new)
        });
        self.rig.assert_single("web", self.web);
        let exits = &self.ledger.told("web", old).exits;
        assert_eq!(exits.len(), 1, "{exits:?}");
        exits[0].clone()
    }

    /// Asserts that the service was kept as it was.
    pub fn assert_same(&mut self) {
        assert_eq!(self.ledger.current("web"), self.web);
        self.rig.assert_single("web", self.web);
    }

    /// Kills the service; asserts that its exit is told once, and that it is back.
    pub fn assert_mended(&mut self) -> Value {
        let old = self.web;
        self.kill_web();
        self.web = self.ledger.wait("it is back", |ledger| {
            ledger.has_current("web").filter(|new| *new != old)
        });
        self.rig.assert_single("web", self.web);
        let exits = &self.ledger.told("web", old).exits;
        assert_eq!(exits.len(), 1, "{exits:?}");
        exits[0].clone()
    }

    /// Asserts the same, and that the kernel's record told it.
    pub fn assert_watched(&mut self) {
        let exit = self.assert_mended();
        assert!(exit["host_pid"].is_number(), "{exit}");
        assert_eq!(exit["cause"]["signal"], "SIGKILL", "{exit}");
    }

    /// Asserts that the service was kept as it was, and is watched as well as ever.
    pub fn assert_kept(&mut self) {
        self.assert_same();
        self.assert_watched();
    }
}
