//! What a cgroup's path says of a process: its unit, container, pod and service.
//!
//! Pure: reads the path alone. It asks no container runtime and no API server, so a pod has its uid
//! here and not its name, and a container its ID and not its name. Where a path leaves something
//! open, it is `None`.
//!
//! The path is read from the outside in. What is further inside wins, since a process in a container
//! belongs to that container and not to the one around it:
//!
//! ```text
//! /system.slice/docker-ID.scope/kubelet.slice/…/kubelet-kubepods-podUID.slice/cri-containerd-ID.scope
//!  slice        container, unit  slice           slice, pod, QoS class         container, unit
//! ```

mod container;
mod pod;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// Whom a process belonged to. Every key but `service` is always there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The unit of the system's systemd: "nginx.service", "session-3.scope", "init.scope". Of a
    /// process in a container that runs a systemd of its own: that one's unit.
    pub(crate) unit: Option<String>,
    /// The unit of a user's systemd; `unit` is "user@UID.service" then.
    pub(crate) user_unit: Option<String>,
    /// The innermost slice: "system.slice".
    pub(crate) slice: Option<String>,
    /// The container's ID; its name where the runtime uses that in the path.
    pub(crate) container: Option<String>,
    /// "docker", "containerd", "cri-o", "podman", "runc", "crun", "lxc", "libvirt-lxc" or
    /// "systemd-nspawn". Kubernetes with the cgroupfs driver leaves open which one it uses.
    pub(crate) runtime: Option<String>,
    /// The uid of the Kubernetes pod, or the ID of the podman pod.
    pub(crate) pod: Option<String>,
    /// The QoS class of the Kubernetes pod: "guaranteed", "burstable" or "besteffort".
    pub(crate) qos: Option<String>,
    /// The service of a respawn agent or of OpenRC. Without one there is no such key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
}

impl Owner {
    /// Reads a path as in `/proc/PID/cgroup`, from the root of the hierarchy on.
    pub(crate) fn of_cgroup(path: &str) -> Self {
        // As the kernel marks a cgroup that was removed.
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        let mut walk = Walk::default();
        for component in path.split('/').filter(|component| !component.is_empty()) {
            walk.enter(component);
        }
        walk.owner
    }
}

/// On the way inwards.
#[derive(Default)]
struct Walk<'a> {
    owner: Owner,
    /// Units from here on are those of a user's systemd.
    is_of_user: bool,
    /// The two components before.
    above: [&'a str; 2],
}

impl<'a> Walk<'a> {
    fn enter(&mut self, component: &'a str) {
        if let Some(service) = service(self.above, component) {
            self.owner.service = Some(service);
        } else if let Some((slice, scope)) = container::unsplit(component) {
            self.enter_slice(slice);
            self.enter_container(&scope);
        } else if is_slice(component) {
            self.enter_slice(component);
        } else {
            self.enter_pod(pod::of_directory(self.above, component));
            self.enter_unit(component);
            self.enter_container(component);
        }
        self.above = [self.above[1], component];
    }

    fn enter_slice(&mut self, slice: &str) {
        self.owner.slice = Some(slice.to_owned());
        self.enter_pod(pod::of_slice(slice));
    }

    fn enter_pod(&mut self, pod: Option<pod::Pod>) {
        if let Some(pod::Pod { id, qos }) = pod {
            self.owner.pod = Some(id);
            self.owner.qos = qos.map(str::to_owned);
        }
    }

    fn enter_unit(&mut self, component: &str) {
        let Some(unit) = unit(component) else {
            return;
        };
        if self.is_of_user {
            self.owner.user_unit = Some(unit.to_owned());
            return;
        }
        self.owner.unit = Some(unit.to_owned());
        self.owner.user_unit = None;
        self.is_of_user = unit.starts_with("user@");
    }

    fn enter_container(&mut self, component: &str) {
        if let Some(container) = container::of(self.above, component) {
            self.owner.container = Some(container.id);
            self.owner.runtime = container.runtime.map(str::to_owned);
            // Units in it are those of its own system.
            self.is_of_user = false;
        }
    }
}

/// A service of a respawn agent (`respawn/AGENT/SERVICE.0`, see `os/cgroup.rs`), or of OpenRC
/// (`openrc.SERVICE`, with the old hierarchy `openrc/SERVICE`).
fn service(above: [&str; 2], component: &str) -> Option<String> {
    if let Some(service) = component.strip_prefix("openrc.") {
        return (!service.is_empty()).then(|| service.to_owned());
    }
    if above[1] == "openrc" {
        return Some(component.to_owned());
    }
    let (service, slot) = component.rsplit_once('.')?;
    let is_of_agent = above[0] == "respawn" && ["0", "1", "left"].contains(&slot);
    (is_of_agent && !service.is_empty()).then(|| unescape(service))
}

/// The kinds of units whose processes have a cgroup.
/// <https://www.freedesktop.org/software/systemd/man/latest/systemd.unit.html>
const UNITS: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// The unit that a component names. Of a name that would be mistaken for a file of the kernel's,
/// systemd puts a "_" before it.
/// <https://systemd.io/CGROUP_DELEGATION/>
fn unit(component: &str) -> Option<&str> {
    let name = component.strip_prefix('_').unwrap_or(component);
    let is_kind = |kind: &&str| {
        name.strip_suffix(*kind)
            .is_some_and(|stem| !stem.is_empty())
    };
    (is_unit_name(name) && UNITS.iter().any(is_kind)).then_some(name)
}

fn is_slice(component: &str) -> bool {
    component != ".slice" && component.ends_with(".slice") && is_unit_name(component)
}

fn is_unit_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.bytes().all(is_allowed)
}

/// `\xHH` as the byte that it stands for.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail
            .split_first_chunk::<3>()
            .filter(|([x, ..], _)| (*first, *x) == (b'\\', b'x'));
        let byte = escaped.and_then(|([_, high, low], after)| {
            let digit = |byte: &u8| char::from(*byte).to_digit(16);
            let byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
            Some((byte, after))
        });
        let (byte, after) = byte.unwrap_or((*first, tail));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
