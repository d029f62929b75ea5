//! The container image, run by crun: its recorder, with two capabilities and the host's pids, reports who
//! killed a process of the host and another container, and which one that was; and the containers of the
//! DaemonSet among the examples do what `docs/fleet.md` says of them.
//!
//! The image of a release has a static binary. Where the one under test is not static, its containers see
//! the host's libraries too.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::tools::{NOT_HERE, tool};
use support::{
    DEADLINE, Victim, cgroup_mount, eventually, eventually_or, needs_root, signal_to, skip, yaml,
};
use tempfile::TempDir;

/// The other container's name, as a runtime has it in its cgroup's path.
const VICTIM: &str = "5d0e2a2f1f6c4f0e9a5b7c1d3e8f4a605d0e2a2f1f6c4f0e9a5b7c1d3e8f4a60";

/// Runs crun where the only cgroups are of version 2, which is all that it takes here.
const RUN: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";

/// Who makes cgroups of containers: nobody, or crun itself.
pub(crate) const NO_CGROUP: &str = "disabled";
const OWN_CGROUP: &str = "cgroupfs";

/// Where the dynamic loader and libraries are.
const LIBRARIES: [&str; 3] = ["/lib", "/lib64", "/usr/lib"];

/// What a container gets beside the image.
#[derive(Default)]
pub(crate) struct Rights {
    pub(crate) capabilities: Vec<String>,
    pub(crate) namespaces: Vec<&'static str>,
    /// Directories of the host, and where they are inside.
    pub(crate) mounts: Vec<(PathBuf, String)>,
    /// The cgroup that the runtime makes for it.
    pub(crate) cgroup: Option<String>,
}

/// The image's content, and the containers' places.
pub(crate) struct Runtime {
    dir: TempDir,
    crun: PathBuf,
    libraries: Option<std::ffi::OsString>,
    cgroups: PathBuf,
    /// In which the other container's is.
    slice: String,
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
    /// For one test.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn new(test: &str) -> Result<Self, String> {
        let image = image()?;
        let crun = tool("crun", "crun").ok_or(format!("no crun: {NOT_HERE}"))?;
        let cgroups = cgroup_mount().ok_or("no cgroup2 is mounted")?;
        let dir = tempfile::tempdir().unwrap();
        unpack(&image, &dir.path().join("image"));
        let variables = crun.get_envs();
        let mut libraries = variables.filter(|(name, _)| *name == "LD_LIBRARY_PATH");
        Ok(Self {
            crun: crun.get_program().into(),
            libraries: libraries
                .next()
                .and_then(|(_, path)| path)
                .map(OsStr::to_owned),
            dir,
            cgroups,
            slice: format!("respawn-test-image-{}-{test}", std::process::id()),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
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
    pub(crate) fn bundle(&self, name: &str, words: &[String], rights: &Rights) {
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
        let capabilities = &rights.capabilities;
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
            "linux": { "namespaces": namespaces.collect::<Vec<_>>(), "cgroupsPath": rights.cgroup },
        });
        fs::write(self.path(name).join("config.json"), bundle.to_string()).unwrap();
    }

    /// crun with these words.
    pub(crate) fn crun(&self, words: &[&str], manager: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", RUN, "sh"])
            .arg(&self.crun);
        command.arg("--root").arg(self.path("state"));
        command.arg(format!("--cgroup-manager={manager}"));
        command.args(words);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Starts a container, with a cgroup of its own or not: its pid.
    fn start(&self, name: &str, manager: &str) -> u32 {
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
        let mut crun = self.crun(&words, manager);
        crun.stdout(log.try_clone().unwrap()).stderr(log);
        let status = crun.status().unwrap();
        assert!(status.success(), "{}", self.log(name));
        fs::read_to_string(&*pid).unwrap().trim().parse().unwrap()
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// Without cgroups of its own, crun ends no container.
    fn end(&self, name: &str) {
        let pid = fs::read_to_string(self.path(&format!("{name}.pid"))).unwrap_or_default();
        let Ok(pid) = pid.trim().parse::<u32>() else {
            return;
        };
        let line = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let start = format!("/usr/sbin/respawn\0{name}\0");
        let runs = || line().starts_with(start.as_bytes());
        if runs() {
            signal_to(pid, Signal::SIGTERM);
            eventually("it has ended", || (!runs()).then_some(()));
        }
    }

    /// The death of a process of the host, as the recorder in its container has it.
    fn death_of(&self, pid: u32) -> Value {
        eventually("the death is recorded", || {
            let deaths = self.respawn("recorder", &["deaths", "--json"]);
            let deaths = deaths
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            deaths.into_iter().find(|death| death["pid"] == pid)
        })
    }

    fn await_recorder(&self) {
        eventually("it records", || {
            let doctor = self.respawn("recorder", &["doctor"]);
            doctor.contains(" records the host's deaths").then_some(())
        });
    }

    /// What `respawn` says in a container.
    fn respawn(&self, name: &str, words: &[&str]) -> String {
        let words = [&["exec", name, "/usr/sbin/respawn"], words].concat();
        let output = self.crun(&words, NO_CGROUP).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let names = ["metrics", "recorder", "victim"];
        for name in names {
            self.end(name);
        }
        for name in names {
            let manager = if name == "victim" {
                OWN_CGROUP
            } else {
                NO_CGROUP
            };
            let _ = self.crun(&["delete", "--force", name], manager).output();
        }
        // The innermost one is gone with its container.
        let slice = self.cgroups.join(&self.slice);
        for folder in [
            slice.join("docker").join(VICTIM),
            slice.join("docker"),
            slice,
        ] {
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

/// A process of the host that a shell kills: its pid.
fn kill_one() -> u32 {
    let mut victim = Victim::start("sleep", &["100000"]);
    let killer = format!("kill -9 {}; exit 0", victim.pid());
    Command::new("sh").args(["-c", &killer]).status().unwrap();
    victim.wait();
    victim.pid()
}

#[test]
fn a_recorder_in_a_container_knows_who_killed_another_one() {
    let test = "a_recorder_in_a_container_knows_who_killed_another_one";
    needs_root!(test);
    let runtime = match Runtime::new("recorder") {
        Ok(runtime) => runtime,
        Err(reason) => return skip(test, &reason),
    };
    let records = runtime.path("records");
    fs::create_dir(&records).unwrap();
    let rights = Rights {
        capabilities: ["CAP_BPF", "CAP_PERFMON"].map(str::to_owned).into(),
        namespaces: vec!["mount", "ipc", "uts"],
        mounts: vec![(records, "/var/lib/respawn".to_owned())],
        cgroup: None,
    };
    runtime.bundle("recorder", &["recorder".to_owned()], &rights);
    let rights = Rights {
        namespaces: vec!["mount", "ipc", "uts", "pid"],
        cgroup: Some(format!("/{}/docker/{VICTIM}", runtime.slice)),
        ..Rights::default()
    };
    runtime.bundle("victim", &["agent".to_owned()], &rights);
    runtime.start("recorder", NO_CGROUP);
    runtime.await_recorder();
    let pid = runtime.start("victim", OWN_CGROUP);
    let killer = format!("kill -9 {pid}; exit 0");
    Command::new("sh").args(["-c", &killer]).status().unwrap();
    let death = runtime.death_of(pid);
    assert_eq!(death["container"], VICTIM, "{death}");
    assert_eq!(death["runtime"], "docker", "{death}");
    assert_eq!(death["cause"]["signal"], "SIGKILL", "{death}");
    assert_eq!(death["cause"]["sender"]["comm"], "sh", "{death}");
    let told = runtime.respawn("recorder", &["why", VICTIM]);
    assert!(told.contains("killed by SIGKILL from sh"), "{told}");
    // And of the host itself.
    let death = runtime.death_of(kill_one());
    assert_eq!(death["comm"], "sleep", "{death}");
    assert_eq!(death["container"], Value::Null, "{death}");
    assert_eq!(death["cause"]["sender"]["comm"], "sh", "{death}");
}

/// Of the examples.
fn daemon_set() -> Value {
    let path = "../examples/fleet/respawn-recorder.daemonset.yml";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    yaml::read(&fs::read_to_string(path).unwrap())
}

fn item<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut items = list.as_array().unwrap().iter();
    items.find(|item| item["name"] == name).unwrap()
}

fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .map(|item| item.as_str().unwrap().to_owned())
        .collect()
}

/// What a container of a pod may do, with a directory of the test for the node's.
fn rights_of(container: &Value, pod: &Value, records: &Path) -> Rights {
    let context = &container["securityContext"];
    assert_eq!(context["runAsUser"], 0);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(pod["hostPID"], true);
    let capabilities = texts(&context["capabilities"]["add"]);
    let mounts = container["volumeMounts"].as_array().unwrap().iter();
    let mounts = mounts.filter_map(|mount| {
        let volume = item(&pod["volumes"], mount["name"].as_str().unwrap());
        let to = mount["mountPath"].as_str().unwrap().to_owned();
        let from = &volume["hostPath"]["path"];
        // What the node has in its memory alone, the containers here have of their own.
        let is_memory = from == "/sys/fs/bpf" || from.is_null();
        assert!(is_memory || from == "/var/lib/respawn", "{volume}");
        (!is_memory).then(|| (records.to_owned(), to))
    });
    Rights {
        capabilities: capabilities
            .iter()
            .map(|name| format!("CAP_{name}"))
            .collect(),
        namespaces: vec!["mount", "ipc", "uts"],
        mounts: mounts.collect(),
        cgroup: None,
    }
}

/// The body of an answer at `/metrics`.
fn scrape(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
}

#[test]
fn the_daemon_set_records_and_serves_what_it_has_recorded() {
    let test = "the_daemon_set_records_and_serves_what_it_has_recorded";
    needs_root!(test);
    let manifest = daemon_set();
    let template = &manifest["spec"]["template"];
    let pod = &template["spec"];
    let [recorder, metrics] = ["recorder", "metrics"].map(|name| item(&pod["containers"], name));
    assert_eq!(recorder["image"], metrics["image"]);
    assert_eq!(recorder["args"], json!(["recorder"]));
    assert_eq!(
        recorder["securityContext"]["capabilities"]["add"],
        json!(["BPF", "PERFMON"])
    );
    // What Prometheus is told is where it listens.
    let port = item(&metrics["ports"], "metrics")["containerPort"].to_string();
    let annotations = &template["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/scrape"], "true");
    assert_eq!(annotations["prometheus.io/port"], port);
    assert_eq!(annotations["prometheus.io/path"], "/metrics");
    let mut serve = texts(&metrics["args"]);
    assert_eq!(serve, ["metrics", "--listen", &format!("0.0.0.0:{port}")]);
    // The host's own ports are the containers' here.
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    serve[2] = format!("127.0.0.1:{port}");
    let runtime = match Runtime::new("daemonset") {
        Ok(runtime) => runtime,
        Err(reason) => return skip(test, &reason),
    };
    let records = runtime.path("records");
    fs::create_dir(&records).unwrap();
    for (container, words) in [(recorder, texts(&recorder["args"])), (metrics, serve)] {
        let name = container["name"].as_str().unwrap();
        runtime.bundle(name, &words, &rights_of(container, pod, &records));
        runtime.start(name, NO_CGROUP);
    }
    runtime.await_recorder();
    let is_up = |text: &String| text.contains("respawn_up{source=\"recorder\"} 1");
    let log = || format!("{:?}\n{}", scrape(port), runtime.log("metrics"));
    eventually_or("the records are read", || scrape(port).filter(is_up), log);
    runtime.death_of(kill_one());
    let counted = "respawn_deaths_total{unit=\"\",cause=\"signaled\",signal=\"SIGKILL\",oom=\"\"} ";
    let shown = eventually("the death is counted", || {
        scrape(port).filter(|text| text.contains(counted))
    });
    assert!(shown.contains("respawn_up{source=\"state\"} 1"), "{shown}");
    assert!(records.join("metrics.json").exists());
}
