//! systemd's socket units, as a part of the service that they are for: `listen`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Severity::{self, Approximated, Lost};
use super::unit::{self, Assignment};
use super::words::Specifiers;
use super::{Text, values};

/// What a unit has come to.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// Items of `listen`.
    pub(super) listen: Vec<Value>,
    /// What they are from.
    pub(super) origins: Vec<Assignment>,
    pub(super) findings: Vec<(Severity, Assignment, String)>,
}

/// Keys that say where it listens, and the kinds of sockets for IP addresses and for paths.
const LISTEN: &[(&str, Option<&str>, &str)] = &[
    ("ListenStream", Some("tcp"), "unix"),
    ("ListenDatagram", Some("udp"), "unix_datagram"),
    ("ListenSequentialPacket", None, "unix_seqpacket"),
];

/// Keys of which nothing is lost, or that `Sockets::read` uses.
const SILENT: &[&str] = &[
    "Accept",
    "Backlog",
    "BindIPv6Only",
    "FileDescriptorName",
    "FreeBind",
    "RemoveOnStop",
    "ReusePort",
    "Service",
    "SocketGroup",
    "SocketMode",
    "SocketUser",
];

/// The service unit that a socket unit is for.
pub(super) fn service_of(text: &Text) -> String {
    let given = assignments(text).into_iter().rev();
    let mut given = given.filter(|it| it.section == "Socket" && it.key == "Service");
    let stem = text.name.strip_suffix(".socket").unwrap_or(&text.name);
    given
        .next()
        .map(|it| it.value)
        .filter(|it| !it.is_empty())
        .unwrap_or_else(|| format!("{stem}.service"))
}

fn assignments(text: &Text) -> Vec<Assignment> {
    let (mut all, _) = unit::parse(&text.path, &text.text);
    for (path, added) in &text.added {
        all.extend(unit::parse(path, added).0);
    }
    all
}

/// What all of a service's sockets have in common.
struct Common {
    name: String,
    of_unix: Vec<(&'static str, Value)>,
    of_ip: Vec<(&'static str, Value)>,
    ipv6_only: Option<bool>,
    backlog: Option<u32>,
}

impl Sockets {
    /// Reads a unit.
    pub(super) fn read(text: &Text, host: &str) -> Self {
        let mut sockets = Self::default();
        let specifiers = Specifiers {
            unit: text.name.clone(),
            host: host.to_owned(),
        };
        let mut all = Vec::new();
        for mut from in assignments(text) {
            if from.section != "Socket" {
                continue;
            }
            match specifiers.expand(&from.value) {
                Ok(value) => {
                    from.value = value;
                    all.push(from);
                }
                Err(specifier) => {
                    let message = format!("{specifier} has no fixed meaning; it is left out");
                    sockets.find(Lost, &from, message);
                }
            }
        }
        let last = |key: &str| all.iter().rfind(|it| it.key == key);
        if let Some(from) = last("Accept").filter(|it| values::boolean(&it.value)) {
            let message = "no process is started for each connection; no socket is held for it";
            sockets.find(Lost, from, message);
            return sockets;
        }
        let common = Common::of(&text.name, |key| {
            last(key)
                .map(|it| it.value.clone())
                .filter(|it| !it.is_empty())
        });
        for from in &all {
            sockets.take(from, &common);
        }
        if let Some(from) = sockets.origins.first().cloned() {
            let message = "its service starts at once, and not at the first connection";
            sockets.find(Approximated, &from, message);
        }
        sockets
    }

    fn find(&mut self, severity: Severity, from: &Assignment, message: impl Into<String>) {
        self.findings.push((severity, from.clone(), message.into()));
    }

    fn take(&mut self, from: &Assignment, common: &Common) {
        let kind = LISTEN.iter().find(|(key, ..)| *key == from.key);
        match kind {
            // It takes back what all of these keys have said.
            Some(_) if from.value.is_empty() => {
                self.listen.clear();
                self.origins.clear();
            }
            Some((_, ip, unix)) => match common.item(&from.value, *ip, unix) {
                Some(item) => {
                    self.warn_of_directory(from);
                    self.listen.push(item);
                    self.origins.push(from.clone());
                }
                None => self.find(Lost, from, "there is no such socket here"),
            },
            None if SILENT.contains(&from.key.as_str()) => {}
            None if from.key.starts_with("Listen") => {
                self.find(Lost, from, "it is not a socket that can be held");
            }
            None => self.find(Approximated, from, "it is not carried over"),
        }
    }

    fn warn_of_directory(&mut self, from: &Assignment) {
        let directory = Path::new(&from.value).parent();
        if let Some(directory) = directory.filter(|it| it.is_absolute() && *it != Path::new("/run"))
        {
            let message = format!(
                "{} has to be there before the start, and writable only for root",
                directory.display()
            );
            self.find(Approximated, from, message);
        }
    }
}

impl Common {
    fn of(unit: &str, value: impl Fn(&str) -> Option<String>) -> Self {
        let mode = value("SocketMode").map(|mode| json!(format!("{mode:0>4}")));
        let of_unix = [
            ("mode", mode),
            ("user", value("SocketUser").map(Value::from)),
            ("group", value("SocketGroup").map(Value::from)),
        ];
        let is_on = |key: &str| value(key).is_some_and(|it| values::boolean(&it));
        let of_ip = [
            ("reuse_port", is_on("ReusePort").then_some(json!(true))),
            ("freebind", is_on("FreeBind").then_some(json!(true))),
        ];
        let said = |entries: Vec<(&'static str, Option<Value>)>| {
            let said = entries.into_iter();
            said.filter_map(|(key, value)| Some((key, value?)))
                .collect()
        };
        Self {
            name: value("FileDescriptorName").unwrap_or_else(|| unit.to_owned()),
            of_unix: said(of_unix.into()),
            of_ip: said(of_ip.into()),
            ipv6_only: match value("BindIPv6Only").as_deref() {
                Some("both") => Some(false),
                Some("ipv6-only") => Some(true),
                _ => None,
            },
            backlog: value("Backlog")
                .and_then(|it| it.parse().ok())
                .filter(|it| (1..=i32::MAX.unsigned_abs()).contains(it)),
        }
    }

    /// One item of `listen`; `None`: an address that cannot be one.
    fn item(&self, address: &str, ip: Option<&str>, unix: &str) -> Option<Value> {
        let mut item = Map::new();
        let mut put = |key: &str, value: Value| drop(item.insert(key.to_owned(), value));
        if address.starts_with('/') {
            put(unix, json!(address));
            put("name", json!(self.name));
            self.of_unix
                .iter()
                .for_each(|(key, value)| put(key, value.clone()));
        } else {
            let address = ip_address(address)?;
            put(ip?, json!(address));
            put("name", json!(self.name));
            self.of_ip
                .iter()
                .for_each(|(key, value)| put(key, value.clone()));
            if let Some(only) = self.ipv6_only.filter(|_| address.is_ipv6()) {
                put("ipv6_only", json!(only));
            }
        }
        if let Some(backlog) = self.backlog.filter(|_| !["unix_datagram"].contains(&unix)) {
            put("backlog", json!(backlog));
        }
        Some(Value::Object(item))
    }
}

/// `80` is that port of all addresses.
fn ip_address(text: &str) -> Option<SocketAddr> {
    let address = match text.parse::<u16>() {
        Ok(port) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        Err(_) => text.parse().ok()?,
    };
    (address.port() != 0).then_some(address)
}
