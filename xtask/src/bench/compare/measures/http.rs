//! A small HTTP server is killed ten times a second while clients ask it: what they notice.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::{
    bench::{
        Bench,
        arena::Arena,
        compare::{
            contest::Skipped,
            page::Section,
            peer::{Peer, Service, Stage},
            peers::{Floor, Respawn, S6, Systemd},
            plot::Plot,
        },
        sample::{Sample, Unit},
        table::Table,
        wait::monotonic_ns,
    },
    report::note,
};

const CLIENTS: usize = 4;
/// Of each client: so many requests a second at most.
const PAUSE: Duration = Duration::from_millis(1);
const KILL_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(3);

/// A way to keep the server.
struct Way {
    words: &'static str,
    peer: Box<dyn Peer>,
    held: bool,
    killed: bool,
}

/// What the clients of a run have seen.
#[derive(Clone, Copy, Default)]
struct Seen {
    kills: u64,
    served: u64,
    refused: u64,
    /// Cut off, or not answered.
    failed: u64,
    /// The longest time from an answer to the same client's next one.
    gap_ns: u64,
}

fn ways() -> [Way; 8] {
    let way = |words, peer, held, killed| Way {
        words,
        peer,
        held,
        killed,
    };
    [
        way("never killed", Box::new(Floor), false, false),
        way("C floor, nothing held", Box::new(Floor), false, true),
        way(
            "respawn, nothing held",
            Box::new(Respawn::PLAIN),
            false,
            true,
        ),
        way("respawn, `listen`", Box::new(Respawn::PLAIN), true, true),
        way(
            "respawn, `listen` and standby",
            Box::new(Respawn::STANDBY),
            true,
            true,
        ),
        way("systemd, nothing held", Box::new(Systemd), false, true),
        way("systemd, socket unit", Box::new(Systemd), true, true),
        way("s6, s6-fdholder", Box::new(S6), true, true),
    ]
}

pub(in crate::bench::compare) fn run(bench: &Bench) -> Result<Section> {
    let (runs, length) = match bench.quick {
        true => (1, Duration::from_secs(3)),
        false => (5, Duration::from_secs(10)),
    };
    let ways = ways();
    let mut seen: Vec<Vec<Seen>> = ways.iter().map(|_| Vec::new()).collect();
    let mut skipped = Skipped::new();
    for number in 1..=runs {
        note!(
            "bench: HTTP under load: run {number} of {runs}, {} ways",
            ways.len()
        );
        for (way, seen) in ways.iter().zip(&mut seen) {
            if skipped.contains_key(way.words) {
                continue;
            }
            match way.peer.check(bench).and_then(|()| way.run(bench, length)) {
                Ok(found) => seen.push(found),
                Err(error) => {
                    bench.interrupt.pause(Duration::ZERO)?;
                    skipped.insert(way.words, format!("{error:#}"));
                }
            }
        }
    }
    Ok(section(&ways, &seen, length, skipped))
}

fn section(ways: &[Way], seen: &[Vec<Seen>], length: Duration, skipped: Skipped) -> Section {
    let mut section = Section::new("http", "An HTTP server is killed ten times a second");
    section.say(format!(
        "{CLIENTS} clients on loopback, a new connection for each request, each with a rest of 1 ms after it, for \
         {} s; the server, one thread in C, is killed every 100 ms if it runs. The gap is the longest time that a client \
         went without an answer: the median of the runs' maxima, and the worst. Refused and failed are sums of all runs; \
         failed is what was cut off.",
        length.as_secs()
    ));
    let header = [
        "",
        "runs",
        "kills",
        "served",
        "refused",
        "failed",
        "gap, ms",
        "worst gap",
    ];
    let mut table = Table::new("", &header);
    let mut gaps = Vec::new();
    for (way, seen) in ways.iter().zip(seen).filter(|(_, seen)| !seen.is_empty()) {
        let sum = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
        let sample = Sample::of(seen.iter().map(|it| it.gap_ns).collect());
        let [median, _, max] = sample.cells(Unit::Milliseconds);
        table.row([
            way.words.into(),
            seen.len().to_string(),
            sum(|it| it.kills).to_string(),
            sum(|it| it.served).to_string(),
            sum(|it| it.refused).to_string(),
            sum(|it| it.failed).to_string(),
            median,
            max,
        ]);
        gaps.push((way.words.to_string(), sample.median_us()));
        section.json[way.words] = seen.iter().map(Seen::json).collect::<Value>();
    }
    section.table(table);
    section.plot(Plot::of_times("HTTP: the longest gap", &gaps));
    section.skipped(skipped);
    section
}

impl Way {
    fn run(&self, bench: &Bench, length: Duration) -> Result<Seen> {
        let mut arena = Arena::open(bench)?;
        let port = free_port()?;
        let stage = Stage::make(bench, &arena, self.peer.name())?;
        let service = Service::http("web", port, self.held);
        let _running = self.peer.start(&stage, &[service])?;
        let ids = ["web".to_string()];
        arena.wait_until_ready(&ids, &bench.interrupt)?;
        bench.interrupt.pause(Duration::from_millis(1200))?;
        let load = Load::start(port);
        let end = monotonic_ns()? + u64::try_from(length.as_nanos())?;
        let mut kills = 0;
        let mut last = None;
        while monotonic_ns()? < end {
            bench.interrupt.pause(KILL_EVERY)?;
            let instance = arena.instance("web")?.context("the server is not known")?;
            if self.killed && last != Some(instance) {
                // It has told its pid, and nobody else kills it.
                kill(instance.0, Signal::SIGKILL).context("kill the server")?;
                last = Some(instance);
                kills += 1;
            }
        }
        let mut seen = load.end();
        seen.kills = kills;
        Ok(seen)
    }
}

impl Seen {
    fn json(&self) -> Value {
        json!({
            "kills": self.kills,
            "served": self.served,
            "refused": self.refused,
            "failed": self.failed,
            "gap_us": self.gap_ns / 1000,
        })
    }
}

/// Clients that ask until they are ended.
struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    fn start(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let client = |_| {
            let over = over.clone();
            thread::spawn(move || client(address, &over))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { over, clients }
    }

    fn end(self) -> Seen {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().unwrap_or_default();
            all.served += seen.served;
            all.refused += seen.refused;
            all.failed += seen.failed;
            all.gap_ns = all.gap_ns.max(seen.gap_ns);
        }
        all
    }
}

fn client(address: SocketAddr, over: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut answered_ns = None;
    while !over.load(Ordering::Relaxed) {
        let answer = ask(address);
        let now = monotonic_ns().unwrap_or(0);
        match answer {
            Ok(()) => {
                seen.served += 1;
                if let Some(before) = answered_ns.replace(now) {
                    seen.gap_ns = seen.gap_ns.max(now - before);
                }
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => seen.refused += 1,
            Err(_) => seen.failed += 1,
        }
        thread::sleep(PAUSE);
    }
    seen
}

fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer.starts_with(b"HTTP/1.1 200 OK") {
        true => Ok(()),
        false => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// One that nobody has.
fn free_port() -> Result<u16> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind a port")?;
    Ok(socket.local_addr()?.port())
}
