//! Users and groups that a host's files lack: known to its name service, or to nobody.
//!
//! Each test has an `/etc` and a `getent` of its own, in a mount namespace. They hold for a dynamic
//! binary and for a static one (`cargo xtask build --static`, named by `RESPAWN_BIN`): that one
//! would crash if it loaded a module of the host, as libc's own functions do.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{Agent, Setup, needs_root, proc_status, respawn, skip};
use tempfile::TempDir;

/// The host that a test runs on, as a process sees it in the test's mount namespace.
struct Host(TempDir);

impl Host {
    /// One whose `nsswitch.conf` has these sources, and whose programs are these: a name and a
    /// shell script each.
    fn new(sources: &str, programs: &[(&str, &str)]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        for directory in ["etc", "bin", "var-lib/extrausers"] {
            fs::create_dir_all(host.0.path().join(directory)).unwrap();
        }
        host.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n+:::::\n");
        host.write("etc/group", "root:x:0:\nlocal:x:40400:remote,extra\n");
        let nsswitch = format!("passwd: {sources}\ngroup: {sources}\n");
        host.write("etc/nsswitch.conf", &nsswitch);
        for (name, script) in programs {
            let path = host.write(&format!("bin/{name}"), &format!("#!/bin/sh\n{script}\n"));
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        host
    }

    fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::write(&path, text).unwrap();
        path
    }

    /// A service's file.
    fn service(&self, text: &str) -> PathBuf {
        let text = format!("command = [\"/bin/sleep\", \"1000\"]\n{text}");
        self.write("web.toml", &text)
    }

    /// What runs a command on this host: it takes the command line as its last arguments. The
    /// host's programs are found before the real ones.
    fn wrapper(&self) -> Vec<String> {
        let dir = self.0.path().display();
        let script = format!(
            "mount --bind '{dir}/etc' /etc && mount --bind '{dir}/var-lib' /var/lib && \
             PATH='{dir}/bin':$PATH exec \"$@\""
        );
        ["unshare", "--mount", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .into()
    }

    fn check(&self, service: &Path) -> Output {
        let wrapper = self.wrapper();
        let mut command = Command::new(&wrapper[0]);
        command
            .args(&wrapper[1..])
            .arg(respawn().get_program())
            .arg("check")
            .arg(service);
        command.output().unwrap()
    }

    /// Asserts that `check` refuses a service with these keys, and what it says to that.
    fn assert_refused(&self, keys: &str, expected: &str) {
        let output = self.check(&self.service(keys));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{keys}: {output:?}");
        assert!(said.contains(expected), "{keys}: {said}");
    }

    /// Starts an agent with a service that has these keys; returns the user, the group and the
    /// supplementary groups that it runs with.
    fn identity(&self, keys: &str) -> [String; 3] {
        let setup = Setup {
            wrapper: self.wrapper(),
            ..Setup::default()
        };
        let service = format!("command = [\"/bin/sleep\", \"1000\"]\n{keys}");
        let agent = Agent::with(&setup, &[("web", &service)]);
        let pid = agent.running("web");
        ["Uid", "Gid", "Groups"].map(|field| {
            let value = proc_status(pid, field);
            let mut words: Vec<_> = value.split_whitespace().collect();
            words.dedup();
            words.join(" ")
        })
    }
}

const REMOTE: &str = "case $* in
    'passwd remote') echo 'remote:x:70000:70001:Remote:/:/bin/sh' ;;
    'group crew') echo 'crew:x:70002:remote' ;;
    'initgroups remote') echo 'remote                70002 70003' ;;
    *) exit 2 ;;
    esac";

#[test]
fn a_service_runs_as_a_user_that_only_the_name_service_knows() {
    needs_root!("a_service_runs_as_a_user_that_only_the_name_service_knows");
    let host = Host::new("files systemd", &[("getent", REMOTE)]);
    let identity = host.identity("user = \"remote\"");
    assert_eq!(identity, ["70000", "70001", "40400 70001 70002 70003"]);
    let identity = host.identity("user = \"remote\"\ngroup = \"crew\"");
    assert_eq!(identity, ["70000", "70002", "40400 70002 70003"]);
}

#[test]
fn a_user_that_nobody_knows_is_an_error_that_says_so() {
    needs_root!("a_user_that_nobody_knows_is_an_error_that_says_so");
    for sources in ["files systemd", "files", "compat", "systemd files sss"] {
        let host = Host::new(sources, &[("getent", REMOTE)]);
        host.assert_refused("user = \"nobody-here\"", "no user is named \"nobody-here\"");
        host.assert_refused("group = \"nobody-here\"", "no group is named");
        host.assert_refused("user = 70009", "user 70009 has no primary group");
    }
    // Without a word in nsswitch.conf, the files are all that there is.
    let host = Host::new("files", &[("getent", REMOTE)]);
    host.assert_refused("user = \"remote\"", "no user is named \"remote\"");
    fs::remove_file(host.0.path().join("etc/nsswitch.conf")).unwrap();
    host.assert_refused("user = \"remote\"", "no user is named \"remote\"");
}

#[test]
fn a_name_service_that_fails_is_no_missing_user() {
    needs_root!("a_name_service_that_fails_is_no_missing_user");
    for (script, expected) in [
        (
            "kill -SEGV $$",
            "getent passwd remote was killed by SIGSEGV",
        ),
        (
            "exec sleep 1000",
            "getent passwd remote did not answer within 3s",
        ),
        ("exec cat /dev/zero", "printed more than 1048576 bytes"),
        ("exit 1", "getent passwd remote ended with status 1"),
    ] {
        let host = Host::new("files systemd", &[("getent", script)]);
        host.assert_refused("user = \"remote\"", expected);
    }
}

#[test]
fn a_name_service_that_hangs_holds_up_a_reload_for_so_long_and_changes_nothing() {
    needs_root!("a_name_service_that_hangs_holds_up_a_reload");
    let host = Host::new("files systemd", &[("getent", "exec sleep 1000")]);
    let setup = Setup {
        wrapper: host.wrapper(),
        ..Setup::default()
    };
    let agent = Agent::with(&setup, &[("web", "command = [\"/bin/sleep\", \"1000\"]\n")]);
    let pid = agent.running("web");
    let keys = "command = [\"/bin/sleep\", \"1000\"]\nuser = \"remote\"\n";
    agent.write_service("web", keys);
    agent.write_service("other", keys);
    let output = agent.run(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did not answer within 3s"), "{said}");
    assert_eq!(agent.assert_single("web"), pid);
}

/// The programs and modules of this host itself, if it has them all.
fn real(name: &str, module: Option<PathBuf>) -> Option<(PathBuf, PathBuf)> {
    let getent = ["/usr/bin/getent", "/bin/getent"].map(PathBuf::from);
    match (getent.into_iter().find(|path| path.exists()), module) {
        (Some(getent), Some(module)) => Some((getent, module)),
        (None, _) => {
            skip(name, "no getent on this host");
            None
        }
        (_, None) => {
            skip(
                name,
                "the module for it is not there: run `cargo xtask setup`",
            );
            None
        }
    }
}

#[test]
fn the_module_of_systemd_crashes_nothing() {
    needs_root!("the_module_of_systemd_crashes_nothing");
    let folders = ["/usr/lib", "/usr/lib64", "/lib"].map(PathBuf::from);
    let below = folders.iter().flat_map(fs::read_dir).flatten().flatten();
    let module = below
        .map(|entry| entry.path())
        .chain(folders.clone())
        .map(|folder| folder.join("libnss_systemd.so.2"))
        .find(|module| module.exists());
    if real("the_module_of_systemd_crashes_nothing", module).is_none() {
        return;
    }
    let host = Host::new("files systemd", &[]);
    host.assert_refused("user = \"nobody-here\"", "no user is named \"nobody-here\"");
    host.assert_refused("group = \"nobody-here\"", "no group is named");
    host.assert_refused("user = 70009", "user 70009 has no primary group");
    assert_eq!(host.identity("user = \"root\"")[0], "0");
}

#[test]
fn a_service_runs_as_a_user_of_a_real_module() {
    let name = "a_service_runs_as_a_user_of_a_real_module";
    needs_root!(name);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/test-packages/libnss-extrausers/usr/lib");
    let module = folder.join("libnss_extrausers.so.2");
    let Some((getent, module)) = real(name, Some(module).filter(|module| module.exists())) else {
        return;
    };
    let script = format!(
        "LD_LIBRARY_PATH={} exec {} \"$@\"",
        module.parent().unwrap().display(),
        getent.display()
    );
    let host = Host::new("files extrausers", &[("getent", &script)]);
    host.write(
        "var-lib/extrausers/passwd",
        "extra:x:70100:70101:Extra:/:/bin/sh\n",
    );
    host.write(
        "var-lib/extrausers/group",
        "extra:x:70101:\nmore:x:70102:extra\n",
    );
    let identity = host.identity("user = \"extra\"");
    assert_eq!(identity, ["70100", "70101", "40400 70101 70102"]);
    assert_eq!(host.identity("group = \"more\"")[1], "70102");
    host.assert_refused("user = \"nobody-here\"", "no user is named \"nobody-here\"");
}
