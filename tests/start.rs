//! How much memory an agent and a watch take at most, and how soon a service of a new agent runs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::rig::{AgentProcess, Rig, report};
use support::{Watch, needs_root, now, proc_status, skip};

/// The most that either may take, in KiB.
const MOST_KIB: u64 = 16 << 10;
/// A service runs far sooner than this, whatever else the machine does.
const GENEROUS: Duration = Duration::from_secs(20);

fn peak_kib(pid: u32) -> u64 {
    let peak = proc_status(pid, "VmHWM");
    peak.strip_suffix(" kB").unwrap().trim().parse().unwrap()
}

/// Pages of rings and other maps of the kernel's that a process has mapped.
fn of_maps_kib(pid: u32) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut is_map = false;
    let mut sum = 0;
    for line in smaps.lines() {
        if let Some(rss) = line.strip_prefix("Rss:") {
            let rss: u64 = rss.trim_end_matches("kB").trim().parse().unwrap();
            sum += if is_map { rss } else { 0 };
        } else if line.split(' ').next().unwrap().contains('-') {
            is_map = line.contains("bpf-map");
        }
    }
    sum
}

fn assert_small(what: &str, pid: u32) {
    let (peak, maps) = (peak_kib(pid), of_maps_kib(pid));
    report(&format!("start: of that, {maps} KiB are the kernel's"));
    let peak = peak.saturating_sub(maps);
    report(&format!("start: {what} took {peak} KiB at most"));
    assert!(
        peak <= MOST_KIB,
        "{what} took {peak} KiB, of {MOST_KIB} allowed"
    );
}

/// Starts an agent, and waits until the service runs.
fn started(rig: &Rig, what: &str, known: usize) -> AgentProcess {
    let mut ledger = rig.ledger();
    let before = now();
    let agent = rig.agent();
    ledger.next_agent(known);
    ledger.current("web");
    let took = before.elapsed();
    report(&format!("start: {what}, a service ran after {took:?}"));
    assert!(took < GENEROUS, "{what}: {took:?}");
    agent
}

#[test]
fn a_start_is_short_and_takes_little_memory() {
    needs_root!("a_start_is_short_and_takes_little_memory");
    let rig = Rig::new();
    rig.sleeper("web");
    let mut agent = started(&rig, "with nothing known", 0);
    assert_small("an agent that loads its programs", agent.pid());
    agent.kill();
    let mut agent = started(&rig, "with pins", 1);
    assert_small("an agent with pins", agent.pid());
    agent.kill();
    fs::remove_dir_all(rig.pin_dir()).unwrap();
    let agent = started(&rig, "with the kernel known", 2);
    assert_small("an agent that knows the kernel", agent.pid());
}

#[test]
fn a_watch_takes_little_memory() {
    needs_root!("a_watch_takes_little_memory");
    let mut watch = Watch::start(&["--all"]);
    let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    watch.exit_of(pid);
    assert_small("watch --all", watch.pid());
    watch.stop();
}

/// A cgroup of its own, with a limit on memory; removed with the value.
struct Small(PathBuf);

impl Small {
    fn new(bytes: u64) -> Option<Self> {
        let roots = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        roots.into_iter().find_map(|(root, limit)| {
            let path = Path::new(root).join(format!("respawn-test-small-{}", std::process::id()));
            fs::create_dir(&path).ok()?;
            let small = Self(path);
            fs::write(small.0.join(limit), bytes.to_string()).ok()?;
            Some(small)
        })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn an_agent_starts_in_a_small_cgroup() {
    const NAME: &str = "an_agent_starts_in_a_small_cgroup";
    needs_root!(NAME);
    let Some(small) = Small::new(24 << 20) else {
        return skip(NAME, "no cgroup whose memory can be limited");
    };
    let rig = Rig::new();
    rig.sleeper("web");
    let agent = rig.agent_command();
    let script = "echo $$ > \"$0\" && exec \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(small.0.join("cgroup.procs"))
        .arg(agent.get_program())
        .args(agent.get_args())
        .envs(
            agent
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdin(Stdio::null());
    let mut agent = AgentProcess::from_command(&mut command);
    let mut ledger = rig.ledger();
    ledger.current("web");
    assert!(rig.pin("EVENTS").exists(), "without eBPF");
    agent.signal(Signal::SIGKILL);
    agent.wait();
}
