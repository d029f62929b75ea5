//! How it is seen from outside that a service is ready (`ready`), and that it still works (`check`).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use hyper::http::uri::Scheme;

use super::cursor::{Item, Keys, keep};
use super::hooks;
use super::service::{command, interval, program};
use super::value::{absolute_path, word};
use crate::model::{Check, NotifyAccess, Probe, Ready};

/// The forms of `ready`, a line each, and what goes with one.
#[rustfmt::skip]
const READY: &Keys<ReadyDraft> = &[
    ("fd", |d, i| d.ways.extend(i.integer::<u8>("the number of a file descriptor", 3..=255).map(Ready::Fd))),
    ("notify", |d, i| d.ways.extend(notify(i))),
    ("tcp", |d, i| d.ways.extend(tcp(i).map(Ready::Probe))),
    ("unix", |d, i| d.ways.extend(absolute_path(i).map(Probe::Unix).map(Ready::Probe))),
    ("http", |d, i| d.ways.extend(http(i).map(Ready::Probe))),
    ("file", |d, i| d.ways.extend(absolute_path(i).map(Probe::File).map(Ready::Probe))),
    ("command", |d, i| d.ways.extend(words(i).map(Ready::Probe))),
    ("access", |d, i| keep(&mut d.access, word(i, ACCESSES).map(Some))),
];

/// Whose notifications count.
const ACCESSES: &[(&str, NotifyAccess)] =
    &[("all", NotifyAccess::All), ("main", NotifyAccess::Main)];

#[derive(Default)]
struct ReadyDraft {
    ways: Vec<Ready>,
    access: Option<NotifyAccess>,
}

/// The keys of `check`, a line each.
#[rustfmt::skip]
const CHECK: &Keys<ProbeDraft> = &[
    ("tcp", |d, i| d.probes.extend(tcp(i))),
    ("unix", |d, i| d.probes.extend(absolute_path(i).map(Probe::Unix))),
    ("http", |d, i| d.probes.extend(http(i))),
    ("command", |d, i| d.probes.extend(words(i))),
    ("interval", |d, i| keep(&mut d.interval, interval(i))),
    ("timeout", |d, i| keep(&mut d.timeout, hooks::timeout(i))),
    ("failures", |d, i| keep(&mut d.failures, i.integer::<u32>("a number of failures in a row", 1..=1000))),
];

/// The keys that say what is looked at.
const PROBES: [&str; 4] = ["tcp", "unix", "http", "command"];

struct ProbeDraft {
    probes: Vec<Probe>,
    interval: Duration,
    timeout: Duration,
    failures: u32,
}

/// Reads `ready`.
pub(super) fn ready(item: &Item<'_>) -> Option<(Ready, NotifyAccess)> {
    const WHAT: &str = "a table with one way to report it, such as { notify = true } or { tcp = \"127.0.0.1:80\" }";
    let table = item.table(WHAT)?;
    let mut draft = ReadyDraft::default();
    table.read(READY, &mut draft);
    let ways = table.items().filter(|(key, _)| *key != "access");
    if let Some(why) = not_one(ways.count(), "one way to report it") {
        item.problem(format!("expected {WHAT}, found {why}"));
        return None;
    }
    let ready = draft.ways.pop()?;
    if draft.access.is_some()
        && ready != Ready::Notify
        && let Some(item) = table.get("access")
    {
        item.problem_at_key("this needs notify = true");
    }
    Some((ready, draft.access.unwrap_or_default()))
}

/// Reads `check`.
pub(super) fn check(item: &Item<'_>) -> Option<Check> {
    const WHAT: &str = "a table such as { tcp = \"127.0.0.1:80\", interval = \"10s\" } with one of tcp, unix, http and command";
    let table = item.table(WHAT)?;
    let mut draft = ProbeDraft {
        probes: Vec::new(),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(2),
        failures: 3,
    };
    table.read(CHECK, &mut draft);
    let probes = table.items().filter(|(key, _)| PROBES.contains(key));
    if let Some(why) = not_one(probes.count(), "one of these") {
        item.problem(format!("expected {WHAT}, found {why}"));
        return None;
    }
    Some(Check {
        probe: draft.probes.pop()?,
        interval: draft.interval,
        timeout: draft.timeout,
        failures: draft.failures,
    })
}

/// What is wrong with so many.
fn not_one(count: usize, of: &str) -> Option<String> {
    match count {
        0 => Some("a table with none".to_owned()),
        1 => None,
        count => Some(format!("a table with {count}, and not {of}")),
    }
}

/// Looks a command's program up in `search`. `item`: the table that the probe is in.
pub(super) fn look_up(probe: &mut Probe, item: &Item<'_>, search: &str) -> Option<()> {
    let Probe::Command {
        program: path,
        arguments,
    } = probe
    else {
        return Some(());
    };
    let item = item.table("a table")?.get("command")?;
    *path = program(arguments.first()?, &item, search, "the probe fails")?;
    Some(())
}

fn words(item: &Item<'_>) -> Option<Probe> {
    Some(Probe::Command {
        program: PathBuf::new(),
        arguments: command(item)?,
    })
}

fn notify(item: &Item<'_>) -> Option<Ready> {
    if item.boolean()? {
        return Some(Ready::Notify);
    }
    item.expected("true; without `ready`, nothing is waited for", None);
    None
}

/// An address that needs no look-up.
fn tcp(item: &Item<'_>) -> Option<Probe> {
    const WHAT: &str = "an IP address and a port such as \"127.0.0.1:80\" or \"[::1]:80\"";
    if let Some((port, _)) = item.as_integer() {
        item.expected(WHAT, Some(&format!("write \"127.0.0.1:{port}\"")));
        return None;
    }
    let text = item.string(WHAT)?;
    let address = address(text);
    if address.is_none() {
        item.expected(WHAT, None);
    }
    address.map(Probe::Tcp)
}

fn address(text: &str) -> Option<SocketAddr> {
    let address: Option<SocketAddr> = match text.strip_prefix("localhost:") {
        Some(port) => Some((Ipv4Addr::LOCALHOST, port.parse().ok()?).into()),
        None => text.parse().ok(),
    };
    address.filter(|address| address.port() != 0)
}

fn http(item: &Item<'_>) -> Option<Probe> {
    const WHAT: &str =
        "a URL of an IP address or localhost such as \"http://127.0.0.1:8080/health\"";
    let text = item.string(WHAT)?;
    let uri = text.parse::<Uri>().ok();
    let uri = uri.filter(|uri| uri.scheme() == Some(&Scheme::HTTP) && server(uri).is_some());
    if uri.is_none() {
        item.expected(WHAT, None);
    }
    uri.map(|_| Probe::Http(text.to_owned()))
}

/// The address of a URL's server; `None`: that needs a look-up, or the URL has more than host and port
/// there, or a port that is none.
pub(crate) fn server(uri: &Uri) -> Option<SocketAddr> {
    let (all, host) = (uri.authority()?.as_str(), uri.host()?);
    match uri.port_u16() {
        None if all == host => address(&format!("{host}:80")),
        Some(port) if all == format!("{host}:{port}") => address(all),
        _ => None,
    }
}
