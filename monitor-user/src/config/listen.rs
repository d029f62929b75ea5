//! The key `listen`: the sockets that are held for a service.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Loader;
use super::accounts::{self, Account};
use super::cursor::{Item, Keys, Table, keep, quoted};
use super::relations;
use super::service::octal;
use super::value::absolute_path;
use crate::model::{Address, Listen, MOST_SOCKETS, ServiceName, Spec};
use crate::os::mounts::may_hang;

const WHAT: &str = r#"an array of tables such as [{ tcp = "127.0.0.1:80" }]"#;

const ONE: &str = r#"a table such as { tcp = "127.0.0.1:80", name = "http" } with one of tcp, udp, unix, unix_datagram and unix_seqpacket"#;

/// The longest path of a socket, in bytes: `sun_path` less a NUL.
const LONGEST_PATH: usize = 107;

/// As in systemd's `FileDescriptorName=`.
const LONGEST_NAME: usize = 255;

/// The keys that say where it listens.
const ADDRESSES: [&str; 5] = ["tcp", "udp", "unix", "unix_datagram", "unix_seqpacket"];

/// What was read so far of one.
#[derive(Default)]
struct ListenDraft {
    address: Option<Address>,
    name: Option<String>,
    backlog: Option<u32>,
    reuse_port: bool,
    ipv6_only: Option<bool>,
    freebind: bool,
    mode: Option<u32>,
    user: Option<Account>,
    group: Option<u32>,
}

#[rustfmt::skip]
const KEYS: &Keys<ListenDraft> = &[
    ("tcp", |d, i| keep(&mut d.address, ip(i).map(Address::Tcp))),
    ("udp", |d, i| keep(&mut d.address, ip(i).map(Address::Udp))),
    ("unix", |d, i| keep(&mut d.address, socket_path(i).map(Address::Unix))),
    ("unix_datagram", |d, i| keep(&mut d.address, socket_path(i).map(Address::UnixDatagram))),
    ("unix_seqpacket", |d, i| keep(&mut d.address, socket_path(i).map(Address::UnixSeqpacket))),
    ("name", |d, i| keep(&mut d.name, name(i))),
    ("backlog", |d, i| keep(&mut d.backlog, i.integer::<u32>("a number of connections", 1..=i64::from(i32::MAX)))),
    ("reuse_port", |d, i| keep(&mut d.reuse_port, i.boolean())),
    ("ipv6_only", |d, i| keep(&mut d.ipv6_only, i.boolean())),
    ("freebind", |d, i| keep(&mut d.freebind, i.boolean())),
    ("mode", |d, i| keep(&mut d.mode, octal(i, "a mode in octal such as \"0660\""))),
    ("user", |d, i| keep(&mut d.user, accounts::user(i))),
    ("group", |d, i| keep(&mut d.group, accounts::group(i))),
];

/// The keys of one kind of address alone, and of which.
const OF_UNIX: [&str; 3] = ["mode", "user", "group"];
const OF_IP: [&str; 3] = ["reuse_port", "ipv6_only", "freebind"];

/// Reads `listen`.
pub(super) fn listen(item: &Item<'_>) -> Option<Vec<Listen>> {
    let items = item.array(WHAT)?;
    if items.len() > MOST_SOCKETS {
        item.problem(format!("expected at most {MOST_SOCKETS} sockets"));
        return None;
    }
    let mut sockets: Vec<Listen> = Vec::new();
    let mut all_read = true;
    for item in &items {
        let Some(socket) = one(item) else {
            all_read = false;
            continue;
        };
        if sockets.iter().any(|other| socket.conflicts_with(other)) {
            item.problem(format!("{} is listed twice", socket.address));
        }
        sockets.push(socket);
    }
    all_read.then_some(sockets)
}

fn one(item: &Item<'_>) -> Option<Listen> {
    let table = item.table(ONE)?;
    let mut draft = ListenDraft::default();
    table.read(KEYS, &mut draft);
    let is_address = |key: &&str| table.get(key).is_some();
    if ADDRESSES.iter().filter(|key| is_address(key)).count() != 1 {
        item.expected(ONE, None);
        return None;
    }
    let address = draft.address?;
    refuse_useless(&table, &address);
    let (uid, primary) = match draft.user.as_ref().map(Account::ids) {
        Some((uid, primary)) => (Some(uid), primary),
        None => (None, None),
    };
    Some(Listen {
        address,
        name: draft.name,
        backlog: draft.backlog,
        reuse_port: draft.reuse_port,
        ipv6_only: draft.ipv6_only,
        freebind: draft.freebind,
        mode: draft.mode,
        uid,
        gid: draft.group.or(primary),
    })
}

/// Reports keys that would have no effect.
fn refuse_useless(table: &Table<'_>, address: &Address) {
    let useless = |keys: &[&str], of: &str| {
        for item in keys.iter().filter_map(|key| table.get(key)) {
            item.problem_at_key(format!("this only has a meaning for {of}; leave it out"));
        }
    };
    match address.ip() {
        Some(ip) => {
            useless(&OF_UNIX, "Unix sockets");
            if ip.is_ipv4() {
                useless(&["ipv6_only"], "IPv6");
            }
        }
        None => useless(&OF_IP, "IP addresses"),
    }
    if !address.is_accepting() {
        useless(&["backlog"], "sockets with connections");
    }
}

/// An address that needs no look-up.
fn ip(item: &Item<'_>) -> Option<SocketAddr> {
    const WHAT: &str = "an IP address and a port such as \"127.0.0.1:80\" or \"[::1]:80\"";
    if let Some((port, _)) = item.as_integer() {
        let hint = format!("for all addresses write \"[::]:{port}\"");
        item.expected(WHAT, Some(&hint));
        return None;
    }
    let address: Option<SocketAddr> = item.string(WHAT)?.parse().ok();
    let address = address.filter(|address| address.port() != 0);
    if address.is_none() {
        item.expected(WHAT, None);
    }
    address
}

fn socket_path(item: &Item<'_>) -> Option<PathBuf> {
    let path = absolute_path(item)?;
    let length = path.as_os_str().len();
    if path.file_name().is_none() || length > LONGEST_PATH {
        let what = format!("the absolute path of a socket, of at most {LONGEST_PATH} bytes");
        item.expected(&what, Some(&format!("it has {length}")));
        return None;
    }
    if may_hang(&path) {
        item.warn("it is on a mount whose server may be gone, so the start fails");
        return Some(path);
    }
    let found = fs::symlink_metadata(&path);
    if found.is_ok_and(|found| !found.file_type().is_socket()) {
        item.warn("what is there is not a socket and is not replaced, so the start fails");
    }
    Some(path)
}

fn name(item: &Item<'_>) -> Option<String> {
    const WHAT: &str = "a name of at most 255 printable ASCII characters without ':'";
    let name = item.string(WHAT)?;
    let allowed = |byte: u8| matches!(byte, b' '..=b'~') && byte != b':';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(allowed) {
        item.expected(WHAT, None);
        return None;
    }
    Some(name.to_owned())
}

/// Reports addresses that two services have, and has the later one by name not used.
pub(super) fn check(loader: &mut Loader<'_>) {
    for (service, address, other) in shared(loader) {
        let message = format!("{address} is taken: {} listens there too", quoted(&other));
        let problem = relations::problem(loader, &service, "listen", message);
        relations::refuse(loader, &service, problem);
    }
}

fn shared(loader: &Loader<'_>) -> Vec<(ServiceName, Address, ServiceName)> {
    // By port or path, as only those with the same one can conflict.
    let mut seen: BTreeMap<_, Vec<(&ServiceName, &Listen)>> = BTreeMap::new();
    let mut shared = Vec::new();
    for (service, spec) in &loader.services {
        for listen in &spec.exec.listen {
            let port = listen.address.ip().map(|ip| ip.port());
            let seen = seen.entry((port, listen.address.path())).or_default();
            let mut others = seen.iter().filter(|(other, _)| *other != service);
            match others.find(|(_, taken)| listen.conflicts_with(taken)) {
                Some((other, _)) => {
                    shared.push((service.clone(), listen.address.clone(), (*other).clone()));
                }
                None => seen.push((service, listen)),
            }
        }
    }
    shared
}

/// As it could stand in the file.
pub(super) fn describe(spec: &Spec) -> Value {
    spec.exec.listen.iter().map(describe_one).collect()
}

fn describe_one(listen: &Listen) -> Value {
    let address = match &listen.address {
        Address::Tcp(address) | Address::Udp(address) => json!(address),
        Address::Unix(path) | Address::UnixDatagram(path) | Address::UnixSeqpacket(path) => {
            json!(path.to_string_lossy())
        }
    };
    let mode = listen.mode.map(|mode| format!("{mode:04o}"));
    let entries = [
        (listen.address.key(), address),
        ("name", json!(listen.name)),
        ("backlog", json!(listen.backlog)),
        ("reuse_port", json!(listen.reuse_port.then_some(true))),
        ("ipv6_only", json!(listen.ipv6_only)),
        ("freebind", json!(listen.freebind.then_some(true))),
        ("mode", json!(mode)),
        ("user", json!(listen.uid)),
        ("group", json!(listen.gid)),
    ];
    let said = entries.into_iter().filter(|(_, value)| !value.is_null());
    let said = said.map(|(key, value)| (key.to_owned(), value));
    Value::Object(said.collect::<Map<_, _>>())
}
