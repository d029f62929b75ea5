//! `metrics`: what it shows of an agent, its journal and a recorder's files, with and without each; that
//! no counter goes back; that no client holds up another; and that a real Prometheus reads it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::rig::Seeded;
use support::tools::{NOT_HERE, tool};
use support::{
    Agent, DEADLINE, Lines, eventually, respawn, signal_to, skip, sleeping, start_time_ns,
};

/// A recorder's directory and a runtime directory, without recorder and agent.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = respawn();
        command
            .arg("metrics")
            .args(arguments)
            .env("RESPAWN_RUNTIME_DIR", self.path("run"))
            .env("RESPAWN_RECORDER_DIR", self.path("deaths"))
            .env_remove("RESPAWN_METRICS_STATE")
            .stdin(Stdio::null());
        command
    }

    fn append(&self, death: &Value) {
        fs::create_dir_all(self.path("deaths")).unwrap();
        support::append(&self.path("deaths/deaths"), &format!("{death}\n"));
    }
}

/// A death as a recorder writes it.
fn death(seq: u64, unit: &str) -> Value {
    json!({
        "seq": seq, "event": "exited", "time": "2026-07-24T12:00:00Z", "pid": 700,
        "start_time_ns": 1000, "comm": "nginx", "uptime_ns": 5,
        "cause": {"kind": "signaled", "code": null, "signal": "SIGKILL", "core_dumped": false,
            "how": "kill", "fault": null, "oom": null, "sender": null},
        "exe": "/usr/sbin/nginx", "argv": ["nginx", "--password=hunter2"], "argv_cut": false,
        "cgroup": "/system.slice/nginx.service", "unit": unit, "user_unit": null,
        "slice": "system.slice", "container": null, "runtime": null, "pod": null, "qos": null,
        "ancestors": [], "since_boot_ns": 9 + seq, "boot_id": "b", "host": "web1",
        "cursor": format!("{seq}-0000001a-{:x}", 9 + seq),
    })
}

fn run(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    (output, said)
}

fn shown(command: &mut Command) -> String {
    let (output, said) = run(command);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Each sample's name and labels, and its value.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

/// A server that listens.
struct Served {
    child: Child,
    said: Lines,
    address: String,
}

impl Served {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Lines::of(child.stderr.take().unwrap());
        let address = loop {
            let line = said.next().unwrap();
            if let Some((_, address)) = line.split_once("serving metrics on ") {
                break address.to_owned();
            }
        };
        Self {
            child,
            said,
            address,
        }
    }

    fn port(&self) -> u16 {
        let address = self.address.strip_prefix("http://127.0.0.1:").unwrap();
        address.strip_suffix("/metrics").unwrap().parse().unwrap()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port())).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Status line and headers, and body.
    fn get(&self, path: &str, headers: &str) -> (String, String) {
        ask(
            self.connect(),
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"),
        )
    }

    fn samples(&self) -> BTreeMap<String, f64> {
        let (head, body) = self.get("/metrics", "");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        samples(&body)
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(mut stream: impl Read + Write, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned() + "\r\n", body.to_owned())
}

#[test]
fn without_any_source_it_says_so() {
    let place = Place::new();
    let text = shown(&mut place.command(&[]));
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = samples(&text);
    for (source, up) in [
        ("agent", 0.0),
        ("journal", 0.0),
        ("recorder", 0.0),
        ("state", 1.0),
    ] {
        assert_eq!(samples[&format!("respawn_up{{source=\"{source}\"}}")], up);
    }
    assert_eq!(samples[r#"respawn_agent_role{role="main"}"#], 0.0);
    assert_eq!(
        samples[r#"respawn_events_lost_total{source="agent",reason="ring_full"}"#],
        0.0
    );
    // Nothing was made.
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 0);
}

/// The wall clock, as a file system has it.
fn now_by(file: &Path) -> f64 {
    fs::write(file, "").unwrap();
    let modified = fs::metadata(file).unwrap().modified().unwrap();
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs_f64()
}

#[test]
fn what_an_agent_and_its_journal_say_is_shown() {
    let mut agent = Agent::start(&[("web", &sleeping("")), ("db", &sleeping(""))]);
    let killed = agent.running("web");
    agent.running("db");
    agent.must("stop", "db");
    signal_to(killed, Signal::SIGKILL);
    let pid = agent.replaced("web", killed);
    let place = Place::new();
    let show = |agent: &Agent| {
        let mut command = place.command(&[]);
        samples(&shown(
            command.env("RESPAWN_RUNTIME_DIR", agent.runtime_dir()),
        ))
    };
    let now = show(&agent);
    for (name, value) in [
        (r#"respawn_up{source="agent"}"#, 1.0),
        (r#"respawn_up{source="journal"}"#, 1.0),
        (r#"respawn_agent_role{role="main"}"#, 1.0),
        (r#"respawn_agent_role{role="spare"}"#, 0.0),
        (
            r#"respawn_service_state{service="web",state="running"}"#,
            1.0,
        ),
        (
            r#"respawn_service_state{service="web",state="failed"}"#,
            0.0,
        ),
        (
            r#"respawn_service_state{service="db",state="stopped"}"#,
            1.0,
        ),
        (
            r#"respawn_service_restarts_total{service="web",blame="someone_else"}"#,
            1.0,
        ),
        ("respawn_exit_to_start_seconds_count", 1.0),
        (r#"respawn_exit_to_start_seconds_bucket{le="+Inf"}"#, 1.0),
    ] {
        assert_eq!(now.get(name), Some(&value), "{name}: {now:?}");
    }
    let started = now[r#"respawn_service_start_time_seconds{service="web"}"#];
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let since_boot = Value::from(start_time_ns(pid)).as_f64().unwrap() / 1e9;
    let clock = now_by(&place.path("clock"));
    let expected = clock - (uptime - since_boot);
    assert!((started - expected).abs() < 5.0, "{started} {expected}");
    assert!(!now.contains_key(r#"respawn_service_start_time_seconds{service="db"}"#));
    let spare = agent.another();
    let role = r#"respawn_agent_role{role="spare"}"#;
    eventually("the spare is seen", || {
        (show(&agent)[role] == 1.0).then_some(())
    });
    agent.replace_by(spare);
    // With the journal alone.
    agent.kill();
    let now = show(&agent);
    assert_eq!(now[r#"respawn_up{source="agent"}"#], 0.0);
    assert_eq!(now[r#"respawn_up{source="journal"}"#], 1.0);
    assert_eq!(
        now[r#"respawn_service_restarts_total{service="web",blame="someone_else"}"#],
        1.0
    );
    assert!(
        !now.keys()
            .any(|name| name.starts_with("respawn_service_state")),
        "{now:?}"
    );
}

#[test]
fn no_argument_of_a_program_is_in_a_label() {
    let place = Place::new();
    place.append(&death(1, "nginx.service"));
    place.append(&death(2, "session-7.scope"));
    place.append(&death(3, "a\"b\\c\n.service"));
    let text = shown(&mut place.command(&[]));
    assert!(!text.contains("hunter2"), "{text}");
    let labels = r#"cause="signaled",signal="SIGKILL",oom="""#;
    for unit in ["nginx.service", "session-*.scope", r#"a\"b\\c\n.service"#] {
        let line = format!("respawn_deaths_total{{unit=\"{unit}\",{labels}}} 1\n");
        assert!(text.contains(&line), "{line}: {text}");
    }
    assert_eq!(samples(&text)[r#"respawn_up{source="recorder"}"#], 1.0);
}

const DEATHS: &str =
    r#"respawn_deaths_total{unit="nginx.service",cause="signaled",signal="SIGKILL",oom=""}"#;
const REMOVED: &str = r#"respawn_events_lost_total{source="recorder",reason="removed"}"#;

/// Files are turned over, and the server is killed at any moment, and asked at any moment.
#[test]
fn no_counter_goes_back_and_no_death_is_counted_twice() {
    let place = Place::new();
    let mut random = Seeded(3);
    let mut seq = 0;
    let mut last = 0.0;
    let listen = ["--listen", "127.0.0.1:0"];
    for round in 0..15 {
        let served = Served::start(&mut place.command(&listen));
        for _ in 0..random.below(4) {
            for _ in 0..=random.below(20) {
                seq += 1;
                place.append(&death(seq, "nginx.service"));
            }
            if random.below(2) == 0 {
                let now = served.samples();
                let deaths = now.get(DEATHS).copied().unwrap_or(0.0);
                assert!(deaths >= last, "round {round}: {deaths} after {last}");
                last = deaths;
            }
        }
        served.kill();
        // What the killed one has not read is in the older file now.
        if random.below(3) == 0 && place.path("deaths/deaths").exists() {
            fs::rename(place.path("deaths/deaths"), place.path("deaths/deaths.1")).unwrap();
        }
    }
    let now = Served::start(&mut place.command(&listen)).samples();
    assert_eq!(
        (now[DEATHS], now[REMOVED]),
        (json!(seq).as_f64().unwrap(), 0.0)
    );
    // What is gone before it was counted is counted as that.
    fs::remove_file(place.path("deaths/deaths.1")).unwrap();
    fs::remove_file(place.path("deaths/deaths")).unwrap();
    place.append(&death(seq + 11, "nginx.service"));
    let now = Served::start(&mut place.command(&listen)).samples();
    assert_eq!(
        (now[DEATHS], now[REMOVED]),
        (json!(seq + 1).as_f64().unwrap(), 10.0)
    );
    // Once for itself, it shows what is there.
    assert_eq!(samples(&shown(&mut place.command(&[])))[DEATHS], 1.0);
    let state = place.path("deaths/metrics.json");
    assert_eq!(
        fs::metadata(&state).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let with_state = ["--state", state.to_str().unwrap()];
    let once = samples(&shown(&mut place.command(&with_state)));
    assert_eq!((once[DEATHS], once[REMOVED]), (now[DEATHS], now[REMOVED]));
}

#[test]
fn counts_have_one_owner_and_survive_damage_to_their_file() {
    let place = Place::new();
    place.append(&death(1, "nginx.service"));
    let listen = ["--listen", "0"];
    let served = Served::start(&mut place.command(&listen));
    let (output, said) = run(&mut place.command(&listen));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("another process keeps its counters in "),
        "{said}"
    );
    served.kill();
    let state = place.path("deaths/metrics.json");
    fs::write(&state, "{\"since\": 7").unwrap();
    let mut served = Served::start(&mut place.command(&listen));
    assert_eq!(served.samples()[DEATHS], 1.0);
    assert!(place.path("deaths/metrics.json.damaged").exists());
    // A disk that takes nothing.
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    place.append(&death(2, "nginx.service"));
    let full = eventually("it is told", || {
        let now = served.samples();
        (now[r#"respawn_up{source="state"}"#] == 0.0).then_some(now)
    });
    assert_eq!(full[DEATHS], 2.0);
    assert!(
        served
            .said
            .next()
            .unwrap()
            .contains("cannot keep the counters in ")
    );
    fs::remove_dir(&state).unwrap();
    eventually("it is kept again", || {
        state.is_file().then_some(served.samples())
    });
    // Without a file, from now on.
    let served = Served::start(&mut place.command(&["--listen", "0", "--state", "none"]));
    assert_eq!(served.samples().get(DEATHS), None);
    place.append(&death(3, "nginx.service"));
    eventually("one is counted", || {
        (served.samples().get(DEATHS) == Some(&1.0)).then_some(())
    });
}

#[test]
fn a_client_gets_the_form_that_it_takes() {
    let place = Place::new();
    let served = Served::start(&mut place.command(&["--listen", "127.0.0.1:0"]));
    let accept = "Accept: application/openmetrics-text; version=1.0.0,text/plain;q=0.5\r\n";
    let (head, body) = served.get("/metrics", accept);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(
        head.contains(&format!("content-type: {kind}\r\n")),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
    let (head, body) = served.get("/metrics", "Accept: */*\r\n");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{head}"
    );
    assert!(!body.contains("# EOF"), "{body}");
    assert!(served.get("/", "").0.starts_with("HTTP/1.1 200 "));
    assert!(served.get("/secret", "").0.starts_with("HTTP/1.1 404 "));
    let (head, _) = ask(
        served.connect(),
        "POST /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    let (head, body) = ask(
        served.connect(),
        "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    assert!(
        head.starts_with("HTTP/1.1 200 ") && body.is_empty(),
        "{head}"
    );
    signal_to(served.child.id(), Signal::SIGTERM);
    let mut served = served;
    assert!(served.child.wait().unwrap().success());
}

/// Idle ones, half a request, no HTTP, too much of it, and answers that nobody reads.
#[test]
fn no_client_holds_up_another() {
    let place = Place::new();
    for seq in 1..=90 {
        place.append(&death(seq, &format!("{}{seq}.service", "x".repeat(200))));
    }
    let served = Served::start(&mut place.command(&["--listen", "127.0.0.1:0"]));
    let hold = |request: &[u8]| {
        let mut stream = served.connect();
        // It may be closed by then.
        let _ = stream.write_all(request);
        stream
    };
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(hold(b""));
        held.push(hold(b"GET /metrics HT"));
        held.push(hold(b"\0\xff\n\r\n"));
        held.push(hold(&[b'a'; 100_000]));
        held.push(hold(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(served.samples().len() > 90);
    }
    let descriptors = format!("/proc/{}/fd", served.child.id());
    let count = fs::read_dir(descriptors).unwrap().count();
    assert!(count < 100, "{count} descriptors");
    // Whoever says nothing is closed, though nobody else comes.
    let mut silent = served.connect();
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_socket_is_its_users_alone_and_goes_with_the_server() {
    let place = Place::new();
    let path = place.path("metrics.sock");
    let listen = format!("unix:{}", path.display());
    let command = || place.command(&["--listen", &listen]);
    Served::start(&mut command()).kill();
    assert!(path.exists(), "a killed one leaves it");
    let mut served = Served::start(&mut command());
    let file = fs::metadata(&path).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    // Another one does not take the place of one that lives.
    let (other, said) = run(place
        .command(&["--listen", &listen])
        .args(["--state", "none"]));
    assert_eq!(other.status.code(), Some(1), "{said}");
    assert!(said.contains("another process"), "{said}");
    let stream = UnixStream::connect(&path).unwrap();
    let (head, _) = ask(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    signal_to(served.child.id(), Signal::SIGTERM);
    assert!(served.child.wait().unwrap().success());
    assert!(!path.exists());
    fs::write(&path, "mine").unwrap();
    let (output, said) = run(&mut command());
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("exists and is not a socket"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
}

#[test]
fn an_address_that_others_reach_is_warned_of() {
    let place = Place::new();
    let mut child = place
        .command(&["--listen", "0.0.0.0:0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = Lines::of(child.stderr.take().unwrap()).next().unwrap();
    assert!(
        said.contains("warning: others than this host can reach this address"),
        "{said}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    for listen in ["localhost:9550", ":9550", "127.0.0.1"] {
        let (output, said) = run(&mut place.command(&["--listen", listen]));
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("expected an address with a port"), "{said}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (output, said) = run(&mut place.command(&["--listen", &address]));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains(&format!("cannot listen on {address}: ")),
        "{said}"
    );
}

/// An agent one of whose services was killed, and a recorder's files.
fn scene() -> (Agent, Place) {
    let agent = Agent::start(&[("web", &sleeping(""))]);
    let killed = agent.running("web");
    signal_to(killed, Signal::SIGKILL);
    agent.replaced("web", killed);
    let place = Place::new();
    for (seq, unit) in [(1, "nginx.service"), (2, "a\"b\\c\n.service"), (3, "")] {
        place.append(&death(seq, unit));
    }
    (agent, place)
}

#[test]
fn promtool_finds_nothing_wrong() {
    let Some(mut promtool) = tool("prometheus", "promtool") else {
        return skip("promtool_finds_nothing_wrong", NOT_HERE);
    };
    let (agent, place) = scene();
    let mut command = place.command(&["--format", "prometheus"]);
    let text = shown(command.env("RESPAWN_RUNTIME_DIR", agent.runtime_dir()));
    assert!(text.contains("respawn_service_restarts_total{"), "{text}");
    let file = place.path("text");
    fs::write(&file, &text).unwrap();
    promtool
        .args(["check", "metrics"])
        .stdin(File::open(&file).unwrap());
    let (output, said) = run(&mut promtool);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

/// A Prometheus that runs.
struct Prometheus {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Prometheus {
    /// Starts one with the configuration of the examples that scrapes that port, in that directory.
    fn start(mut program: Command, dir: &Path, scraped: u16) -> Self {
        let example = |name: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/fleet");
            fs::read_to_string(folder.join(name)).unwrap()
        };
        let config = example("prometheus.yml");
        let changed = config
            .replace("127.0.0.1:9550", &format!("127.0.0.1:{scraped}"))
            .replace("scrape_interval: 15s", "scrape_interval: 1s");
        assert!(
            !changed.contains("9550") && !changed.contains("15s"),
            "{config}"
        );
        let file = dir.join("prometheus.yml");
        fs::write(&file, changed).unwrap();
        let rules = "respawn.rules.yml";
        fs::write(dir.join(rules), example(rules)).unwrap();
        // Free a moment ago; another one would make it end, and the test fail.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let log = dir.join("prometheus.log");
        let child = program
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { child, port, log }
    }

    /// What it answers, once it can be reached.
    fn get(&self, path: &str) -> Value {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return Value::Null;
        };
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let (_, body) = ask(stream, &format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n"));
        serde_json::from_str(&body).unwrap_or_default()
    }

    /// Labels and value of each series of a query.
    fn query(&self, query: &str) -> Vec<(Value, String)> {
        let answer = self.get(&format!("/api/v1/query?query={query}"));
        let results = answer["data"]["result"].as_array().cloned();
        let series = results.unwrap_or_default().into_iter().map(|series| {
            let value = series["value"][1].as_str().unwrap().to_owned();
            (series["metric"].clone(), value)
        });
        series.collect()
    }

    /// The series of a query, once there is one.
    fn one(&self, query: &str) -> (Value, String) {
        let log = || fs::read_to_string(&self.log).unwrap();
        support::eventually_or(query, || self.query(query).pop(), log)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_real_prometheus_reads_it() {
    let Some(program) = tool("prometheus", "prometheus") else {
        return skip("a_real_prometheus_reads_it", NOT_HERE);
    };
    let (agent, place) = scene();
    let mut command = place.command(&["--listen", "127.0.0.1:0"]);
    let served = Served::start(command.env("RESPAWN_RUNTIME_DIR", agent.runtime_dir()));
    let prometheus = Prometheus::start(program, place.0.path(), served.port());
    let restarts = "respawn_service_restarts_total";
    let (labels, value) = prometheus.one(restarts);
    let of = (&labels["service"], &labels["blame"]);
    assert_eq!(of, (&json!("web"), &json!("someone_else")));
    assert_eq!(value, "1");
    let pid = agent.running("web");
    signal_to(pid, Signal::SIGKILL);
    eventually("the next restart is seen", || {
        (prometheus.one(restarts).1 == "2").then_some(())
    });
    assert_eq!(prometheus.one("up").1, "1");
    let groups = prometheus.get("/api/v1/rules")["data"]["groups"].clone();
    assert_eq!(groups[0]["name"], "respawn", "{groups}");
    assert!(
        groups[0]["rules"]
            .as_array()
            .is_some_and(|rules| !rules.is_empty())
    );
    let running = prometheus.one(r#"respawn_service_state{state="running"}"#);
    assert_eq!(running.0["service"], "web");
    assert_eq!(prometheus.one("respawn_exit_to_start_seconds_count").1, "2");
    let units: Vec<Value> = prometheus
        .query("respawn_deaths_total")
        .into_iter()
        .map(|(labels, _)| labels["unit"].clone())
        .collect();
    // A label without a value is none.
    for unit in [
        json!("nginx.service"),
        json!("a\"b\\c\n.service"),
        Value::Null,
    ] {
        assert!(units.contains(&unit), "{unit}: {units:?}");
    }
    // It knows the kinds of the metrics.
    let kinds = prometheus.get("/api/v1/metadata");
    for (name, kind) in [
        ("respawn_deaths", "counter"),
        ("respawn_exit_to_start_seconds", "histogram"),
        ("respawn_service_state", "gauge"),
        ("respawn_build", "info"),
    ] {
        assert_eq!(kinds["data"][name][0]["type"], kind, "{kinds}");
    }
}
