//! One row for each layout: the path, and every key that is not null.

use serde_json::{Value, json};

use super::*;

const ID: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";
const OUTER: &str = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";
const UID_IN_SLICE: &str = "74c13223_5a00_11e9_b385_42010a80018d";

/// What is known of the path; `ID`, `OUTER`, `UID` and `UID_` stand for the constants.
fn known(path: &str) -> Value {
    let path = path
        .replace("OUTER", OUTER)
        .replace("UID_", UID_IN_SLICE)
        .replace("UID", UID)
        .replace("ID", ID);
    let Value::Object(all) = serde_json::to_value(Owner::of_cgroup(&path)).unwrap() else {
        panic!("no object");
    };
    assert_eq!(
        all.len(),
        7 + usize::from(all.contains_key("service")),
        "{all:?}"
    );
    all.into_iter()
        .filter(|(_, value)| !value.is_null())
        .collect()
}

/// Compares, with the same placeholders in what is expected.
fn check(rows: &[(&str, Value)]) {
    for (path, expected) in rows {
        let text = expected.to_string();
        let expected: Value = serde_json::from_str(
            &text
                .replace("\"OUTER\"", &json!(OUTER).to_string())
                .replace("\"UID\"", &json!(UID).to_string())
                .replace("\"ID\"", &json!(ID).to_string())
                .replace("-OUTER.", &format!("-{OUTER}."))
                .replace("UID_", UID_IN_SLICE)
                .replace("-ID.", &format!("-{ID}.")),
        )
        .unwrap();
        assert_eq!(known(path), expected, "{path}");
    }
}

#[test]
fn units_of_systemd() {
    check(&[
        ("/", json!({})),
        ("", json!({})),
        ("/init.scope", json!({"unit": "init.scope"})),
        (
            "/system.slice/nginx.service",
            json!({"unit": "nginx.service", "slice": "system.slice"}),
        ),
        (
            "/system.slice/nginx.service (deleted)",
            json!({"unit": "nginx.service", "slice": "system.slice"}),
        ),
        (
            r"/system.slice/system-getty.slice/getty@tty1.service",
            json!({"unit": "getty@tty1.service", "slice": "system-getty.slice"}),
        ),
        // The name stays as it is.
        (
            r"/system.slice/system-postgresql.slice/dev-disk-by\x2dlabel-a\x20b.swap",
            json!({"unit": r"dev-disk-by\x2dlabel-a\x20b.swap", "slice": "system-postgresql.slice"}),
        ),
        (
            "/system.slice/_memory.service",
            json!({"unit": "memory.service", "slice": "system.slice"}),
        ),
        // What a service makes below itself, being allowed to.
        (
            "/system.slice/app.service/workers/3",
            json!({"unit": "app.service", "slice": "system.slice"}),
        ),
        (
            "/system.slice/var-lib.mount",
            json!({"unit": "var-lib.mount", "slice": "system.slice"}),
        ),
        ("/some/where", json!({})),
        ("/.service/.scope/.slice", json!({})),
        ("/not a unit.service", json!({})),
    ]);
}

#[test]
fn units_of_users() {
    check(&[
        (
            "/user.slice/user-1000.slice/session-3.scope",
            json!({"unit": "session-3.scope", "slice": "user-1000.slice"}),
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
            json!({"unit": "user@1000.service", "user_unit": "x.service", "slice": "app.slice"}),
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            json!({"unit": "user@1000.service", "user_unit": "init.scope", "slice": "user-1000.slice"}),
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-a.slice/app-gnome-a-7.scope",
            json!({"unit": "user@1000.service", "user_unit": "app-gnome-a-7.scope",
                "slice": "app-gnome-a.slice"}),
        ),
    ]);
}

#[test]
fn docker() {
    check(&[
        (
            "/docker/ID",
            json!({"container": "ID", "runtime": "docker"}),
        ),
        (
            "/system.slice/docker-ID.scope",
            json!({"container": "ID", "runtime": "docker", "unit": "docker-ID.scope",
                "slice": "system.slice"}),
        ),
        // Docker in docker, with a service of the inner system's.
        (
            "/docker/OUTER/docker/ID",
            json!({"container": "ID", "runtime": "docker"}),
        ),
        (
            "/docker/OUTER/system.slice/nginx.service",
            json!({"container": "OUTER", "runtime": "docker", "unit": "nginx.service",
                "slice": "system.slice"}),
        ),
        // docker run --cgroup-parent, Amazon ECS.
        ("/mine/ID", json!({"container": "ID"})),
        ("/ecs/0123456789abcdef/ID", json!({"container": "ID"})),
        // No container's.
        (
            "/system.slice/docker-compose.scope",
            json!({"unit": "docker-compose.scope", "slice": "system.slice"}),
        ),
        (
            "/system.slice/docker.service",
            json!({"unit": "docker.service", "slice": "system.slice"}),
        ),
        ("/docker/buildkit", json!({})),
    ]);
}

#[test]
fn containerd() {
    check(&[
        (
            "/system.slice/cri-containerd-ID.scope",
            json!({"container": "ID", "runtime": "containerd", "unit": "cri-containerd-ID.scope",
                "slice": "system.slice"}),
        ),
        (
            "/system.slice/nerdctl-ID.scope",
            json!({"container": "ID", "runtime": "containerd", "unit": "nerdctl-ID.scope",
                "slice": "system.slice"}),
        ),
        ("/default/ID", json!({"container": "ID"})),
        // The kubelet has the systemd driver and containerd the other.
        (
            "/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID",
            json!({"container": "ID", "runtime": "containerd", "unit": "containerd.service",
                "slice": "kubepods-burstable-podUID_.slice", "pod": "UID", "qos": "burstable"}),
        ),
    ]);
}

#[test]
fn cri_o() {
    check(&[
        (
            "/kubepods.slice/kubepods-podUID_.slice/crio-ID.scope/container",
            json!({"container": "ID", "runtime": "cri-o", "unit": "crio-ID.scope",
                "slice": "kubepods-podUID_.slice", "pod": "UID", "qos": "guaranteed"}),
        ),
        (
            "/kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope",
            json!({"container": "ID", "runtime": "cri-o", "unit": "crio-conmon-ID.scope",
                "slice": "kubepods-podUID_.slice", "pod": "UID", "qos": "guaranteed"}),
        ),
        (
            "/kubepods/besteffort/podUID/crio-ID",
            json!({"container": "ID", "runtime": "cri-o", "pod": "UID", "qos": "besteffort"}),
        ),
    ]);
}

#[test]
fn podman() {
    let of_user = "/user.slice/user-1000.slice/user@1000.service/user.slice";
    check(&[
        (
            "/machine.slice/libpod-ID.scope/container",
            json!({"container": "ID", "runtime": "podman", "unit": "libpod-ID.scope",
                "slice": "machine.slice"}),
        ),
        (
            "/machine.slice/libpod-conmon-ID.scope",
            json!({"container": "ID", "runtime": "podman", "unit": "libpod-conmon-ID.scope",
                "slice": "machine.slice"}),
        ),
        (
            "/libpod_parent/libpod-ID/container",
            json!({"container": "ID", "runtime": "podman"}),
        ),
        (
            "/machine.slice/machine-libpod_pod_OUTER.slice/libpod-ID.scope",
            json!({"container": "ID", "runtime": "podman", "unit": "libpod-ID.scope",
                "slice": format!("machine-libpod_pod_{OUTER}.slice"), "pod": "OUTER"}),
        ),
        // Without root, and of a unit's own (Quadlet).
        (
            &format!("{of_user}/libpod-ID.scope/container"),
            json!({"container": "ID", "runtime": "podman", "unit": "user@1000.service",
                "user_unit": "libpod-ID.scope", "slice": "user.slice"}),
        ),
        (
            "/system.slice/web.service/libpod-payload-ID",
            json!({"container": "ID", "runtime": "podman", "unit": "web.service",
                "slice": "system.slice"}),
        ),
        // A systemd within.
        (
            &format!("{of_user}/libpod-ID.scope/container/system.slice/nginx.service"),
            json!({"container": "ID", "runtime": "podman", "unit": "nginx.service",
                "slice": "system.slice"}),
        ),
    ]);
}

#[test]
fn runc_and_crun() {
    check(&[
        (
            "/system.slice/runc-my-app_1.scope",
            json!({"container": "my-app_1", "runtime": "runc", "unit": "runc-my-app_1.scope",
                "slice": "system.slice"}),
        ),
        (
            "/machine.slice/crun-web.scope",
            json!({"container": "web", "runtime": "crun", "unit": "crun-web.scope",
                "slice": "machine.slice"}),
        ),
        // Without systemd nothing says that it is a container's.
        ("/my-app_1", json!({})),
        ("/ID", json!({"container": "ID"})),
        ("/machine.slice", json!({"slice": "machine.slice"})),
    ]);
}

#[test]
fn lxc() {
    check(&[
        ("/lxc/web", json!({"container": "web", "runtime": "lxc"})),
        ("/lxc/101/ns", json!({"container": "101", "runtime": "lxc"})),
        (
            "/lxc.payload/web/system.slice/nginx.service",
            json!({"container": "web", "runtime": "lxc", "unit": "nginx.service",
                "slice": "system.slice"}),
        ),
        (
            "/lxc.payload.web.1/init.scope",
            json!({"container": "web.1", "runtime": "lxc", "unit": "init.scope"}),
        ),
        (
            "/lxc.monitor.web",
            json!({"container": "web", "runtime": "lxc"}),
        ),
        (
            "/lxc.payload.alpine/openrc.sshd",
            json!({"container": "alpine", "runtime": "lxc", "service": "sshd"}),
        ),
        ("/lxc", json!({})),
        ("/lxc.payload.", json!({})),
    ]);
}

#[test]
fn machines() {
    check(&[
        (
            r"/machine.slice/machine-my\x2dbox.scope/payload",
            json!({"container": "my-box", "runtime": "systemd-nspawn",
                "unit": r"machine-my\x2dbox.scope", "slice": "machine.slice"}),
        ),
        (
            r"/machine.slice/systemd-nspawn@my\x2dbox.service/payload/system.slice/nginx.service",
            json!({"container": "my-box", "runtime": "systemd-nspawn", "unit": "nginx.service",
                "slice": "system.slice"}),
        ),
        (
            "/machine.slice/systemd-nspawn@box.service/supervisor",
            json!({"container": "box", "runtime": "systemd-nspawn",
                "unit": "systemd-nspawn@box.service", "slice": "machine.slice"}),
        ),
        (
            r"/machine.slice/machine-lxc\x2d12\x2dmy\x2dbox.scope",
            json!({"container": "my-box", "runtime": "libvirt-lxc",
                "unit": r"machine-lxc\x2d12\x2dmy\x2dbox.scope", "slice": "machine.slice"}),
        ),
        // A virtual machine.
        (
            r"/machine.slice/machine-qemu\x2d2\x2dvm1.scope/libvirt/emulator",
            json!({"unit": r"machine-qemu\x2d2\x2dvm1.scope", "slice": "machine.slice"}),
        ),
    ]);
}

#[test]
fn kubernetes() {
    check(&[
        (
            "/kubepods/podUID/ID",
            json!({"container": "ID", "pod": "UID", "qos": "guaranteed"}),
        ),
        (
            "/kubepods/burstable/podUID/ID",
            json!({"container": "ID", "pod": "UID", "qos": "burstable"}),
        ),
        (
            "/kubepods/besteffort/podUID/ID",
            json!({"container": "ID", "pod": "UID", "qos": "besteffort"}),
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
            json!({"container": "ID", "runtime": "containerd", "unit": "cri-containerd-ID.scope",
                "slice": "kubepods-burstable-podUID_.slice", "pod": "UID", "qos": "burstable"}),
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/docker-ID.scope",
            json!({"container": "ID", "runtime": "docker", "unit": "docker-ID.scope",
                "slice": "kubepods-besteffort-podUID_.slice", "pod": "UID", "qos": "besteffort"}),
        ),
        // A static pod's hash.
        (
            "/kubepods/burstable/pod0123456789abcdef0123456789abcdef/ID",
            json!({"container": "ID", "pod": "0123456789abcdef0123456789abcdef", "qos": "burstable"}),
        ),
        // No pods.
        ("/kubepods/burstable", json!({})),
        ("/pods/podUID", json!({})),
        (
            "/my.slice/my-podUID_.slice",
            json!({"slice": "my-podUID_.slice"}),
        ),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod.slice",
            json!({"slice": "kubepods-burstable-pod.slice"}),
        ),
    ]);
}

#[test]
fn kubernetes_in_a_container_of_kind() {
    check(&[
        (
            "/system.slice/docker-OUTER.scope/kubelet.slice/kubelet-kubepods.slice/\
             kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podUID_.slice/\
             cri-containerd-ID.scope",
            json!({"container": "ID", "runtime": "containerd", "unit": "cri-containerd-ID.scope",
                "slice": "kubelet-kubepods-besteffort-podUID_.slice", "pod": "UID",
                "qos": "besteffort"}),
        ),
        (
            "/docker/OUTER/kubelet/kubepods/podUID/ID",
            json!({"container": "ID", "pod": "UID", "qos": "guaranteed"}),
        ),
        (
            "/docker/OUTER/system.slice/containerd.service",
            json!({"container": "OUTER", "runtime": "docker", "unit": "containerd.service",
                "slice": "system.slice"}),
        ),
    ]);
}

#[test]
fn services_of_respawn_and_of_openrc() {
    check(&[
        (
            r"/respawn/run\x2frespawn@0:25/web.0",
            json!({"service": "web"}),
        ),
        (
            r"/respawn/run\x2frespawn@0:25/a.b\x2f\xc3\xbc.1/below",
            json!({"service": "a.b/ü"}),
        ),
        (
            r"/system.slice/respawn.service/respawn/run\x2frespawn@0:25/web.left",
            json!({"service": "web", "unit": "respawn.service", "slice": "system.slice"}),
        ),
        (
            r"/respawn/respawn/web.1/docker/ID",
            json!({"service": "web", "container": "ID", "runtime": "docker"}),
        ),
        ("/openrc.sshd", json!({"service": "sshd"})),
        ("/openrc/sshd", json!({"service": "sshd"})),
        ("/respawn/x/web.2", json!({})),
        ("/respawn/x/.0", json!({})),
        ("/openrc.", json!({})),
    ]);
}

#[test]
fn an_owner_is_read_back() {
    let owner = Owner::of_cgroup(&format!("/system.slice/docker-{ID}.scope"));
    let line = json!({"pid": 7, "unit": owner.unit, "slice": owner.slice,
        "container": owner.container, "runtime": owner.runtime});
    assert_eq!(serde_json::from_value::<Owner>(line).unwrap(), owner);
}

#[test]
fn escapes_are_undone_where_they_are_whole() {
    for (name, expected) in [
        (r"a\x2db", "a-b"),
        (r"\x2", r"\x2"),
        (r"\xzz\x41", r"\xzzA"),
        (r"\", r"\"),
        (r"\xff", "\u{fffd}"),
        (r"\x+1", r"\x+1"),
    ] {
        assert_eq!(unescape(name), expected, "{name}");
    }
}
