//! The container image, run by crun: its recorder, with two capabilities and the host's pids, reports who
//! killed another container on the host, and which one that was.
//!
//! The image of a release has a static binary. Where the one under test is not static, its containers see
//! the host's libraries too.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::tools::{NOT_HERE, tool};
use support::{cgroup_mount, eventually, needs_root, signal_to, skip};
use tempfile::TempDir;

/// The other container's name, as a runtime has it in its cgroup's path.
const VICTIM: &str = "5d0e2a2f1f6c4f0e9a5b7c1d3e8f4a605d0e2a2f1f6c4f0e9a5b7c1d3e8f4a60";

/// Runs crun where the only cgroups are of version 2, which is all that it takes here.
const RUN: &str = "[ -z \"$CGROUP\" ] || echo $$ > \"$CGROUP/cgroup.procs\"
                   mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";

/// Where the dynamic loader and libraries are.
const LIBRARIES: [&str; 3] = ["/lib", "/lib64", "/usr/lib"];

/// What a container gets beside the image.
struct Rights<'a> {
    capabilities: &'a [&'a str],
    namespaces: &'a [&'a str],
    /// Directories of the host, and where they are inside.
    mounts: &'a [(&'a Path, &'a str)],
}

/// The image's content, and the containers' places.
struct Runtime {
    dir: TempDir,
    crun: PathBuf,
    libraries: Option<std::ffi::OsString>,
    cgroup: PathBuf,
}

fn image() -> Result<PathBuf, String> {
    let folder = std::env::var_os("RESPAWN_PACKAGES").ok_or_else(|| {
        let reason = std::env::var("RESPAWN_NO_PACKAGES");
        reason.unwrap_or_else(|_| "no image: `cargo xtask test` builds one".to_owned())
    })?;
    let files = fs::read_dir(folder).unwrap().flatten();
    let mut files = files.map(|entry| entry.path());
    let is_image = |path: &PathBuf| path.to_string_lossy().ends_with(".oci.tar");
    files
        .find(is_image)
        .ok_or_else(|| "no image in RESPAWN_PACKAGES".to_owned())
}

fn unpack(archive: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive);
    assert!(tar.arg("--directory").arg(to).status().unwrap().success());
}

impl Runtime {
    fn new(image: &Path, crun: &Command, cgroups: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        unpack(image, &dir.path().join("image"));
        let name = format!("respawn-test-image-{}", std::process::id());
        let cgroup = cgroups.join(name).join("docker").join(VICTIM);
        fs::create_dir_all(&cgroup).unwrap();
        let variables = crun.get_envs();
        let mut libraries = variables.filter(|(name, _)| *name == "LD_LIBRARY_PATH");
        Self {
            crun: crun.get_program().into(),
            libraries: libraries
                .next()
                .and_then(|(_, path)| path)
                .map(OsStr::to_owned),
            dir,
            cgroup,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn blob(&self, described: &Value) -> PathBuf {
        let digest = described["digest"].as_str().unwrap().replacen(':', "/", 1);
        self.path("image/blobs").join(digest)
    }

    fn json(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// Makes a bundle of the image: a root, and what to run in it with which rights.
    fn bundle(&self, name: &str, words: &[&str], rights: &Rights<'_>) {
        let index = Self::json(&self.path("image/index.json"));
        let manifest = Self::json(&self.blob(&index["manifests"][0]));
        let config = Self::json(&self.blob(&manifest["config"]))["config"].take();
        let root = self.path(name).join("rootfs");
        unpack(&self.blob(&manifest["layers"][0]), &root);
        let mut mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs" }),
            json!({ "destination": "/run", "type": "tmpfs", "source": "tmpfs" }),
            json!({ "destination": "/sys", "source": "/sys", "options": ["rbind", "ro"] }),
            // The containers' own, which goes with them: a node's would keep the pins.
            json!({ "destination": "/sys/fs/bpf", "type": "bpf", "source": "bpf" }),
        ];
        let binary = root.join("usr/sbin/respawn");
        if !is_static(&binary) {
            let there = LIBRARIES.iter().filter(|path| Path::new(path).is_dir());
            mounts.extend(there.map(
                |path| json!({ "destination": path, "source": path, "options": ["bind", "ro"] }),
            ));
        }
        mounts.extend(rights.mounts.iter().map(
            |(from, to)| json!({ "destination": to, "source": from, "options": ["bind", "rw"] }),
        ));
        let mut arguments = config["Entrypoint"].as_array().unwrap().clone();
        arguments.extend(words.iter().map(|word| json!(word)));
        let capabilities = rights.capabilities;
        let namespaces = rights.namespaces.iter().map(|name| json!({ "type": name }));
        let bundle = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": arguments,
                "env": config["Env"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {
                    "bounding": capabilities,
                    "effective": capabilities,
                    "permitted": capabilities,
                },
            },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": mounts,
            "linux": { "namespaces": namespaces.collect::<Vec<_>>() },
        });
        fs::write(self.path(name).join("config.json"), bundle.to_string()).unwrap();
    }

    /// crun with these words, in a cgroup if one is given.
    fn crun(&self, words: &[&str], cgroup: Option<&Path>) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", RUN, "sh"])
            .arg(&self.crun);
        command.arg("--root").arg(self.path("state"));
        command.args(["--cgroup-manager=disabled"]).args(words);
        command.env("CGROUP", cgroup.map_or(OsStr::new(""), Path::as_os_str));
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts a container: its pid.
    fn start(&self, name: &str, cgroup: Option<&Path>) -> u32 {
        let (bundle, pid) = (self.path(name), self.path(&format!("{name}.pid")));
        let (bundle, pid) = (bundle.to_string_lossy(), pid.to_string_lossy());
        let words = [
            "run",
            "--detach",
            "--bundle",
            &bundle,
            "--pid-file",
            &pid,
            name,
        ];
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        let mut crun = self.crun(&words, cgroup);
        crun.stdout(log.try_clone().unwrap()).stderr(log);
        let status = crun.status().unwrap();
        assert!(status.success(), "{}", self.log(name));
        fs::read_to_string(&*pid).unwrap().trim().parse().unwrap()
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Without cgroups of its own, crun ends no container.
    fn end_recorder(&self) {
        let pid = fs::read_to_string(self.path("recorder.pid")).unwrap_or_default();
        let Ok(pid) = pid.trim().parse::<u32>() else {
            return;
        };
        let line = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let runs = || line().starts_with(b"/usr/sbin/respawn\0recorder\0");
        if runs() {
            signal_to(pid, Signal::SIGTERM);
            eventually("the recorder has ended", || (!runs()).then_some(()));
        }
    }

    /// What `respawn` says in a container.
    fn respawn(&self, name: &str, words: &[&str]) -> String {
        let words = [&["exec", name, "/usr/sbin/respawn"], words].concat();
        let output = self.crun(&words, None).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.end_recorder();
        for name in ["recorder", "victim"] {
            let _ = self.crun(&["delete", "--force", name], None).output();
        }
        for folder in self.cgroup.ancestors().take(3) {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn is_static(binary: &Path) -> bool {
    use object::Object as _;
    let bytes = fs::read(binary).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    file.section_by_name(".interp").is_none()
}

#[test]
fn a_recorder_in_a_container_knows_who_killed_another_one() {
    let test = "a_recorder_in_a_container_knows_who_killed_another_one";
    needs_root!(test);
    let image = match image() {
        Ok(image) => image,
        Err(reason) => return skip(test, &reason),
    };
    let Some(crun) = tool("crun", "crun") else {
        return skip(test, &format!("no crun: {NOT_HERE}"));
    };
    let Some(cgroups) = cgroup_mount() else {
        return skip(test, "no cgroup2 is mounted");
    };
    let runtime = Runtime::new(&image, &crun, &cgroups);
    let records = runtime.path("records");
    fs::create_dir(&records).unwrap();
    let rights = Rights {
        capabilities: &["CAP_BPF", "CAP_PERFMON"],
        namespaces: &["mount", "ipc", "uts"],
        mounts: &[(&records, "/var/lib/respawn")],
    };
    runtime.bundle("recorder", &["recorder"], &rights);
    let rights = Rights {
        capabilities: &[],
        namespaces: &["mount", "ipc", "uts", "pid"],
        mounts: &[],
    };
    runtime.bundle("victim", &["agent"], &rights);
    runtime.start("recorder", None);
    eventually("it records", || {
        let doctor = runtime.respawn("recorder", &["doctor"]);
        doctor.contains(" records the host's deaths").then_some(())
    });
    let pid = runtime.start("victim", Some(&runtime.cgroup));
    let killer = format!("kill -9 {pid}; exit 0");
    Command::new("sh").args(["-c", &killer]).status().unwrap();
    let death: Value = eventually("the death is recorded", || {
        let deaths = runtime.respawn("recorder", &["deaths", "--json"]);
        let deaths = deaths
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        deaths.into_iter().find(|death| death["pid"] == pid)
    });
    assert_eq!(death["container"], VICTIM, "{death}");
    assert_eq!(death["runtime"], "docker", "{death}");
    assert_eq!(death["cause"]["signal"], "SIGKILL", "{death}");
    assert_eq!(death["cause"]["sender"]["comm"], "sh", "{death}");
    let told = runtime.respawn("recorder", &["why", VICTIM]);
    assert!(told.contains("killed by SIGKILL from sh"), "{told}");
}
