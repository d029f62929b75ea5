//! The article's race: the watcher and what it watches are killed in the same instant, from two
//! CPUs. Both come back, nothing is lost, nothing runs twice.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::needs_root;
use support::rig::{AgentProcess, Distribution, Ledger, Memory, Rig, Seeded, is_soak, report};
use support::{eventually, now, rest};

/// Who starts work again after an agent's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// One that init starts now.
    Fresh,
    /// One that waits already; init starts another spare.
    Spare,
}

#[test]
fn killed_with_its_service_an_agent_that_init_restarts_loses_and_doubles_nothing() {
    needs_root!("race with a fresh agent");
    race(Next::Fresh, Memory::Kernel);
}

#[test]
fn killed_with_its_service_an_agent_that_a_spare_follows_loses_and_doubles_nothing() {
    needs_root!("race with a spare");
    race(Next::Spare, Memory::Kernel);
}

#[test]
fn without_ebpf_an_agent_that_is_killed_with_its_service_loses_and_doubles_nothing() {
    race(Next::Fresh, Memory::FilesAlone);
}

#[test]
fn without_ebpf_a_spare_that_follows_loses_and_doubles_nothing() {
    race(Next::Spare, Memory::FilesAlone);
}

/// What the rounds showed.
#[derive(Default)]
struct Figures {
    apart: Distribution,
    takeover: Distribution,
    recovery: Distribution,
}

/// 1,000 rounds, or as many as `RESPAWN_RACES` has it.
fn race(next: Next, memory: Memory) {
    let asked = std::env::var("RESPAWN_RACES").map(|text| text.parse().unwrap());
    let rounds = asked.unwrap_or(if is_soak() { 10_000 } else { 1_000 });
    assert!(rounds > 0);
    let mut random = Seeded(rounds);
    let mut race = Race::begin(next, memory);
    for round in 0..rounds {
        let offset = i64::try_from(random.below(101)).unwrap() - 50;
        race.round(offset);
        // Looking at every process of the host takes long on a busy one.
        if round % 50 == 0 || round + 1 == rounds {
            race.assert_single_by_full_scan();
        }
    }
    race.end(usize::try_from(rounds).unwrap());
}

struct Race {
    next: Next,
    rig: Rig,
    ledger: Ledger,
    agent: AgentProcess,
    spare: Option<AgentProcess>,
    /// The one that is killed with the agent.
    victim: (u32, u64),
    /// The one that is not.
    bystander: (u32, u64),
    figures: Figures,
}

impl Race {
    fn begin(next: Next, memory: Memory) -> Self {
        let rig = Rig::with(memory);
        rig.sleeper("victim");
        rig.sleeper("bystander");
        let mut ledger = rig.ledger();
        let agent = rig.agent();
        let victim = ledger.current("victim");
        let bystander = ledger.current("bystander");
        let spare = (next == Next::Spare).then(|| rig.spare());
        Self {
            next,
            rig,
            ledger,
            agent,
            spare,
            victim,
            bystander,
            figures: Figures::default(),
        }
    }

    fn round(&mut self, offset_us: i64) {
        rest();
        let agents = self.ledger.agents.len();
        let killed = self.kill_both(offset_us);
        self.figures.apart.add(killed.apart());
        let pid = self.ledger.next_agent(agents);
        self.figures.takeover.add(killed.agent.elapsed());
        assert_eq!(pid, self.agent.pid());

        let old = self.victim;
        self.victim = self.ledger.wait("the victim is back", |ledger| {
            let instance = ledger.has_current("victim")?;
            (instance != old && ledger.has_exited("victim", old)).then_some(instance)
        });
        self.figures.recovery.add(killed.victim.elapsed());
        assert_eq!(self.ledger.current("bystander"), self.bystander);
        for ((pid, _), lives) in [(old, false), (self.victim, true), (self.bystander, true)] {
            assert_eq!(is_alive(pid), lives, "pid {pid}");
        }
        if self.next == Next::Spare && self.spare.is_none() {
            self.spare = Some(self.rig.spare());
        }
    }

    /// Kills agent and victim, each from a CPU of its own, the victim so much later; restarts what
    /// init would restart.
    fn kill_both(&mut self, offset_us: i64) -> Killed {
        let ready = AtomicUsize::new(0);
        let delay = |us: i64| Duration::from_micros(u64::try_from(us).unwrap_or(0));
        let (agent, victim) = (self.agent.pid(), self.victim.0);
        thread::scope(|scope| {
            let agent = scope.spawn(|| kill_from(0, agent, delay(-offset_us), &ready));
            let victim = scope.spawn(|| kill_from(1, victim, delay(offset_us), &ready));
            self.agent.wait();
            self.agent = match self.spare.take() {
                Some(spare) => spare,
                None => self.rig.agent(),
            };
            Killed {
                agent: agent.join().unwrap(),
                victim: victim.join().unwrap(),
            }
        })
    }

    fn assert_single_by_full_scan(&self) {
        self.rig.assert_single("victim", self.victim);
        self.rig.assert_single("bystander", self.bystander);
    }

    fn end(mut self, rounds: usize) {
        drop(self.spare);
        self.ledger.read();
        assert_eq!(self.ledger.agents.len(), rounds + 1);
        let exited = self.ledger.assert_each_exited_once("victim", "SIGKILL");
        let causes = self.ledger.causes_of("victim");
        assert_eq!(exited, rounds);
        assert_eq!(self.ledger.lost, 0);
        let Figures {
            apart,
            takeover,
            recovery,
        } = &mut self.figures;
        report(&format!(
            "race, next agent {:?}, memory {:?}: {rounds} rounds, 0 lost, 0 doubled\n  \
             causes told: {causes:?}\n  kills apart: {}\n  takeover (agent's death to agent_started): {}\n  \
             recovery (service's death to its new instance): {}",
            self.next,
            self.rig.memory(),
            apart.summary(),
            takeover.summary(),
            recovery.summary()
        ));
    }
}

/// When the two were killed.
struct Killed {
    agent: Instant,
    victim: Instant,
}

impl Killed {
    fn apart(&self) -> Duration {
        self.agent.max(self.victim) - self.agent.min(self.victim)
    }
}

/// From the n-th CPU that this process may use, once two threads are ready; returns when.
fn kill_from(cpu: usize, pid: u32, delay: Duration, ready: &AtomicUsize) -> Instant {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let mut cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap());
    // With one CPU alone they still race, if not at once.
    if let Some(cpu) = cpus.nth(cpu) {
        let mut one = CpuSet::new();
        one.set(cpu).unwrap();
        sched_setaffinity(this, &one).unwrap();
    }
    ready.fetch_add(1, Ordering::SeqCst);
    while ready.load(Ordering::SeqCst) < 2 {
        thread::yield_now();
    }
    let start = now();
    while start.elapsed() < delay {
        std::hint::spin_loop();
    }
    let at = now();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    at
}

/// Whether a process lives; waits until one that is on its way out is gone for good.
fn is_alive(pid: u32) -> bool {
    eventually("a state", || {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return Some(false);
        };
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        Some(!rest.starts_with(['Z', 'X']))
    })
}
