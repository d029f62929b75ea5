//! Nothing of a running service hangs on its agent, and the next agent goes on where it was.

use std::fs;
use std::process::Child;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::{
    Agent, SIGHTS, Setup, Sight, eventually, is_alive, pid_of, shell, signal_to, sleeping,
};

const VICTIM: &str = env!("CARGO_BIN_EXE_victim");

/// What of a status must be the same before and after another agent has taken over.
fn lasting(agent: &Agent) -> Vec<Value> {
    let keys = [
        "service",
        "state",
        "desired",
        "pid",
        "start_time_ns",
        "restarts",
        "last_exit",
        "last_exit_time",
        "error",
    ];
    let statuses = agent.statuses();
    let kept = statuses.iter().map(|status| {
        let pairs = keys.map(|key| (key.to_owned(), status[key].clone()));
        Value::Object(pairs.into_iter().collect())
    });
    kept.collect()
}

/// Whether the kernel program tells causes.
fn remembers(sight: Sight) -> bool {
    sight == Sight::Best && nix::unistd::geteuid().is_root()
}

#[test]
fn after_a_kill_all_services_are_adopted_as_they_were() {
    let keys = "restart_max_delay = \"0s\"";
    for sight in SIGHTS {
        let mut agent = Agent::seeing(
            sight,
            &[
                ("up", &sleeping(keys)),
                ("restarted", &sleeping(keys)),
                ("stopped", &sleeping("")),
                ("failed", "command = [\"false\"]\nrestart = \"no\""),
                ("finished", "command = [\"true\"]\nrestart = \"no\""),
                ("waiting", "command = [\"false\"]\nrestart_delay = \"1h\""),
            ],
        );
        agent.wait_state("failed", "failed");
        agent.wait_state("finished", "stopped");
        agent.wait_state("waiting", "backoff");
        for signal in [Signal::SIGUSR1, Signal::SIGKILL] {
            let pid = agent.running("restarted");
            signal_to(pid, signal);
            agent.replaced("restarted", pid);
        }
        agent.must("stop", "stopped");
        agent.running("up");
        let before = lasting(&agent);
        for _ in 0..3 {
            agent.kill();
            agent.start_again();
            assert_eq!(lasting(&agent), before);
        }
        for (service, started, adopted) in [
            ("up", 1, 3),
            ("restarted", 3, 3),
            ("stopped", 1, 0),
            ("waiting", 1, 0),
        ] {
            assert_eq!(agent.count(service, "started"), started, "{service}");
            assert_eq!(agent.count(service, "adopted"), adopted, "{service}");
        }
        agent.assert_single("up");
        agent.assert_single("restarted");
        for service in ["stopped", "failed", "finished", "waiting"] {
            assert_eq!(agent.live(service), [0; 0]);
        }
    }
}

#[test]
fn the_death_of_an_adopted_service_is_told_and_mended() {
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("web", &sleeping("")), ("off", &sleeping(""))]);
        let (web, off) = (agent.running("web"), agent.running("off"));
        agent.kill();
        agent.start_again();
        let mut journal = agent.follow();
        let adopted = journal.next_of("web", "adopted");
        assert_eq!(pid_of(&adopted), web);
        signal_to(web, Signal::SIGKILL);
        let exited = journal.next_of("web", "exited");
        assert_eq!(exited["pid"], web);
        assert_eq!(exited["start_time_ns"], adopted["start_time_ns"]);
        // Without the kernel program nobody but its new parent is told how it ended.
        if remembers(sight) {
            assert_eq!(exited["cause"]["signal"], "SIGKILL", "{exited}");
        }
        agent.replaced("web", web);
        agent.assert_single("web");
        assert_eq!(agent.status("web")["restarts"], 1);

        agent.must("stop", "off");
        assert!(!is_alive(off));
        assert_eq!(agent.live("off"), [0; 0]);
        agent.must("start", "off");
        agent.assert_single("off");
    }
}

/// The second agent of a service, the process that takes the orphans of the first one and reaps none
/// of them, and the service's pid, which is such an orphan.
fn with_orphans(sight: Sight) -> (Agent, Child, u32) {
    let setup = Setup {
        sight,
        wrapper: vec![VICTIM.to_owned(), "reap-no-orphans".to_owned()],
        ..Setup::default()
    };
    let mut agent = Agent::with(&setup, &[("web", &sleeping(""))]);
    let web = agent.running("web");
    signal_to(pid_of(&agent.follow().event()), Signal::SIGKILL);
    let wrapper = agent.unwrap_next();
    (agent, wrapper, web)
}

#[test]
fn an_adopted_death_is_acted_on_before_the_parent_reaps_it() {
    for sight in SIGHTS {
        let (agent, mut wrapper, web) = with_orphans(sight);
        let mut journal = agent.follow();
        journal.next_of("web", "adopted");
        signal_to(web, Signal::SIGKILL);
        let exited = journal.next_of("web", "exited");
        assert_eq!(exited["pid"], web);
        agent.replaced("web", web);
        agent.assert_single("web");
        let stat = std::fs::read_to_string(format!("/proc/{web}/stat")).unwrap();
        assert!(stat.contains(") Z "), "{stat}");
        agent.must("stop", "web");
        wrapper.kill().unwrap();
        wrapper.wait().unwrap();
    }
}

/// The agent before wrote down neither its end nor the next start. The cgroup that it was in is by
/// now the next one's.
#[test]
fn a_dead_one_that_nobody_reaps_takes_nothing_with_it() {
    for sight in SIGHTS {
        let (mut agent, mut wrapper, web) = with_orphans(sight);
        agent.follow().next_of("web", "adopted");
        let memory = agent.runtime_dir().join("state/web.json");
        let remembered = eventually("it is remembered", || {
            let text = fs::read_to_string(&memory).ok()?;
            text.contains(&web.to_string()).then_some(text)
        });
        signal_to(web, Signal::SIGKILL);
        let second = agent.replaced("web", web);
        agent.assert_single("web");
        agent.kill();
        fs::write(&memory, remembered).unwrap();
        agent.start_again();
        agent.wait_state("web", "running");
        assert_eq!(agent.assert_single("web"), second, "{}", agent.log());
        agent.must("stop", "web");
        wrapper.kill().unwrap();
        wrapper.wait().unwrap();
    }
}

#[test]
fn a_service_that_dies_while_no_agent_lives_is_started_again_once() {
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("web", &sleeping("")), ("idle", &sleeping(""))]);
        let (web, idle) = (agent.running("web"), agent.running("idle"));
        agent.kill();
        signal_to(web, Signal::SIGKILL);
        eventually("it is dead", || (!is_alive(web)).then_some(()));
        agent.start_again();
        agent.replaced("web", web);
        agent.assert_single("web");
        assert_eq!(agent.assert_single("idle"), idle);
        assert_eq!(agent.count("web", "started"), 2);
        assert_eq!(agent.count("web", "exited"), 1);
        let status = agent.status("web");
        assert_eq!(status["restarts"], 1);
        // The kernel remembers what nobody was there to see.
        if remembers(sight) {
            assert_eq!(status["last_exit"]["signal"], "SIGKILL", "{status}");
        }
    }
}

#[test]
fn killed_at_any_moment_of_a_restart_the_agent_leaves_one_instance() {
    const ROUNDS: u64 = 25;
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("web", &sleeping(""))]);
        for round in 0..ROUNDS {
            let pid = agent.assert_single("web");
            signal_to(pid, Signal::SIGKILL);
            // Somewhere between the death, the start and the end of all book-keeping.
            thread::sleep(Duration::from_micros(round * 150));
            agent.kill();
            agent.start_again();
            agent.replaced("web", pid);
        }
        agent.assert_single("web");
        assert_eq!(agent.status("web")["restarts"], ROUNDS);
    }
}

#[test]
fn a_stop_that_was_under_way_is_gone_on_with() {
    let text = shell(
        "trap '' TERM; sleep 1000; sleep 1000",
        "stop_timeout = \"1s\"",
    );
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("slow", &text)]);
        let pid = agent.stubborn("slow");
        let request = json!({"command": "stop", "services": ["slow"], "no_wait": true});
        assert_eq!(agent.ask(&request)["ok"], true);
        agent.kill();
        assert!(is_alive(pid));
        agent.start_again();
        agent.wait_state("slow", "stopped");
        assert_eq!(agent.live("slow"), [0; 0]);
    }
}

#[test]
fn sigterm_and_sigint_end_the_agent_and_leave_its_services() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut agent = Agent::start(&[("web", &sleeping(""))]);
        let pid = agent.assert_single("web");
        agent.signal(signal);
        assert!(agent.wait().success());
        assert!(is_alive(pid));
        let last = agent.events().pop().unwrap();
        assert_eq!(last["event"], "agent_stopped", "{last}");
        agent.start_again();
        assert_eq!(agent.assert_single("web"), pid);
        assert_eq!(agent.count("web", "exited"), 0);
    }
}

#[test]
fn a_spare_waits_and_takes_over() {
    for sight in SIGHTS {
        let mut agent = Agent::seeing(sight, &[("web", &sleeping("")), ("off", &sleeping(""))]);
        agent.must("stop", "off");
        for _ in 0..5 {
            let pid = agent.assert_single("web");
            let mut spare = agent.another();
            eventually("the spare waits", || {
                let waits = format!("another agent works in {}", agent.runtime_dir().display());
                agent.log().contains(&waits).then_some(())
            });
            let agents = agent.agents();
            assert!(spare.try_wait().unwrap().is_none());
            agent.replace_by(spare);
            assert_eq!(agent.agents(), agents + 1);
            assert_eq!(agent.assert_single("web"), pid);
            assert_eq!(agent.status("off")["state"], "stopped");
        }
        assert_eq!(agent.count("web", "started"), 1);
    }
}

/// The kernel closes a dying agent's files from the highest number down, and takes tens of milliseconds for an inotify
/// instance: an agent that takes over would wait for that.
#[test]
fn what_the_next_agent_waits_for_is_closed_before_what_takes_long() {
    let agent = Agent::seeing(Sight::Best, &[("web", &sleeping(""))]);
    agent.assert_single("web");
    let files = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap();
    let (mut locks, mut slow) = (Vec::new(), Vec::new());
    for file in files {
        let path = file.unwrap().path();
        let number: u32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(&path).unwrap_or_default();
        let target = target.to_string_lossy();
        if target.ends_with("inotify") {
            slow.push(number);
        }
        let is_pin_dir = target.starts_with("/sys/fs/bpf/");
        if is_pin_dir || target.ends_with("/lock") || target.ends_with("/cgroup.procs") {
            locks.push(number);
        }
    }
    assert!(!slow.is_empty() && !locks.is_empty(), "{slow:?}, {locks:?}");
    assert!(
        slow.iter().max() < locks.iter().min(),
        "{slow:?}, {locks:?}"
    );
}
