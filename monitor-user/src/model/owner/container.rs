//! Which container a component of a cgroup's path is of. Knows the layouts that the runtimes
//! document, and asks none of them.

use super::unescape;

/// A container as the path has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) id: String,
    /// `None`: the layout is one that several use.
    pub(super) runtime: Option<&'static str>,
}

/// What stands before the ID of a container, in a scope of systemd (`docker-ID.scope`) as well as in
/// a directory (`crio-ID`). The runtime's monitor of a container (conmon) counts as of it. A longer
/// one comes before its own beginning.
const PREFIXES: [(&str, &str); 8] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    // https://github.com/containerd/nerdctl
    ("nerdctl-", "containerd"),
    ("crio-conmon-", "cri-o"),
    ("crio-", "cri-o"),
    ("libpod-conmon-", "podman"),
    // Of a unit that podman shares with systemd (`--cgroups=split`, Quadlet).
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
];

/// The runtimes that make a scope for a container with a name that its user chose.
/// <https://github.com/opencontainers/runc/blob/main/docs/systemd.md>
const NAMED: [(&str, &str); 2] = [("runc-", "runc"), ("crun-", "crun")];

/// LXC's and Incus' directories. `lxc.monitor` is the process that keeps the container.
const LXC: [&str; 3] = ["lxc.payload", "lxc.monitor", "lxc"];

/// The container that begins with this component; `above` are the two before.
pub(super) fn of(above: [&str; 2], component: &str) -> Option<Container> {
    let stem = component.strip_suffix(".scope").unwrap_or(component);
    let prefixed = PREFIXES.iter().find_map(|(prefix, runtime)| {
        let id = stem.strip_prefix(prefix)?;
        is_id(id, 12).then(|| found(id, Some(runtime)))
    });
    prefixed
        .or_else(|| named(component))
        .or_else(|| lxc(above, component))
        .or_else(|| machine(component))
        .or_else(|| plain(above, component))
}

/// `SLICE:PREFIX:NAME`, where the caller means the systemd driver and the runtime has the other: the
/// slice, and `PREFIX-NAME`.
pub(super) fn unsplit(component: &str) -> Option<(&str, String)> {
    let (slice, scope) = component.split_once(':')?;
    let (prefix, name) = scope.split_once(':')?;
    let is_it = super::is_slice(slice) && is_id(name, 12);
    is_it.then(|| (slice, format!("{prefix}-{name}")))
}

fn found(id: &str, runtime: Option<&'static str>) -> Container {
    let id = id.to_owned();
    Container { id, runtime }
}

/// Runtimes make IDs of 64 hexadecimal digits, and shorten them to 12.
fn is_id(text: &str, least: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (least..=64).contains(&text.len()) && text.bytes().all(is_digit)
}

fn named(component: &str) -> Option<Container> {
    let stem = component.strip_suffix(".scope")?;
    NAMED.iter().find_map(|(prefix, runtime)| {
        let id = stem.strip_prefix(prefix).filter(|id| !id.is_empty())?;
        Some(found(id, Some(runtime)))
    })
}

/// `/lxc/NAME`, `/lxc.payload/NAME`, `/lxc.payload.NAME`.
fn lxc(above: [&str; 2], component: &str) -> Option<Container> {
    let joined = LXC[..2].iter().find_map(|prefix| {
        let name = component.strip_prefix(prefix)?.strip_prefix('.')?;
        (!name.is_empty()).then_some(name)
    });
    let name = joined.or_else(|| LXC.contains(&above[1]).then_some(component))?;
    Some(found(name, Some("lxc")))
}

/// `machine-NAME.scope` and `systemd-nspawn@NAME.service`. A virtual machine, which has a scope of the
/// same kind, is no container.
fn machine(component: &str) -> Option<Container> {
    let (name, is_of_machined) = match component.strip_prefix("machine-") {
        Some(rest) => (rest.strip_suffix(".scope")?, true),
        None => {
            let rest = component.strip_prefix("systemd-nspawn@")?;
            (rest.strip_suffix(".service")?, false)
        }
    };
    let name = unescape(name);
    if is_of_machined && libvirt(&name, "qemu-").is_some() {
        return None;
    }
    let lxc = libvirt(&name, "lxc-").filter(|_| is_of_machined);
    match lxc {
        Some(name) => Some(found(name, Some("libvirt-lxc"))),
        None if name.is_empty() => None,
        None => Some(found(&name, Some("systemd-nspawn"))),
    }
}

/// libvirt numbers its machines: `qemu-2-NAME`.
fn libvirt<'a>(name: &'a str, driver: &str) -> Option<&'a str> {
    let (number, name) = name.strip_prefix(driver)?.split_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(name)
}

/// A directory with the ID alone, as the cgroupfs driver makes it: of docker in `docker`, and else of
/// whatever Kubernetes, ECS or another caller uses.
fn plain(above: [&str; 2], component: &str) -> Option<Container> {
    is_id(component, 64).then(|| found(component, (above[1] == "docker").then_some("docker")))
}
