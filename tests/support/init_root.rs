//! A real init as PID 1 of a PID namespace, on the host's kernel.
//!
//! Mounts, host name, IPC, cgroups and pids are its own: `/usr` is the host's with a Debian
//! package over it, and what is written there is held in memory, as is all else, which is made for the
//! test. When the value goes, all of
//! it goes: PID 1 is killed, the kernel ends every process of the namespace, and with the last one
//! the mounts.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::{DEADLINE, cgroup_mount, eventually, eventually_or, now, respawn};
use tempfile::TempDir;

/// What both ways to boot have in common; runs as PID 1. $1 is the directory of the test, the rest is the
/// init's command.
const PREPARE: &str = r#"
set -e
test=$1; shift
root=$test/root
mount --make-rprivate /
mount_kernels() {
    mount -t proc proc proc
    mount -t sysfs sys sys
    mount -t bpf -o mode=700 bpf sys/fs/bpf
    mount -t cgroup2 cgroup sys/fs/cgroup
    mount -t tmpfs -o mode=755 dev dev
    for device in null zero full random urandom tty; do
        : > "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    ln -s /proc/self/fd dev/fd
    : > dev/console
    mount --bind "$test/console" dev/console
    mount -t tmpfs -o mode=755 run run
    mount -t tmpfs -o mode=1777 tmp tmp
}
"#;

/// Mounts a root of a few packages and becomes the init.
const BOOT: &str = r#"
mount -t tmpfs -o mode=755 root "$root"
cd "$root"
mkdir usr proc sys dev run tmp var var/log root
for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$dir"; done
mkdir -p .usr/upper .usr/work
mount -t overlay -o "lowerdir=$LAYERS,upperdir=.usr/upper,workdir=.usr/work" usr usr
cp -a "$test/image/etc" etc
mount_kernels
mkdir run/service
exec chroot . "$@" < /dev/null > dev/console 2>&1
"#;

/// The same for a root of Debian's packages, which stays as it is: what changes is held in memory.
/// $RESPAWN is the binary, if there is to be one already. It has a network of its own, too.
const BOOT_DEBIAN: &str = r#"
mkdir "$test/changes"
mount -t tmpfs -o mode=755 changes "$test/changes"
mkdir "$test/changes/upper" "$test/changes/work"
chmod 755 "$test/changes/upper"
mount -t overlay -o "lowerdir=$LAYERS,upperdir=$test/changes/upper,workdir=$test/changes/work" root "$root"
cd "$root"
cp -a "$test/image/etc/." etc
if [ -n "$RESPAWN" ]; then
    : > usr/sbin/respawn
    mount --bind "$RESPAWN" usr/sbin/respawn
fi
mount_kernels
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
mkdir run/lock
: > run/utmp
chroot . ip link set lo up
exec chroot . "$@" < /dev/null > dev/console 2>&1
"#;

/// The same for a root of one static program, $LAYERS, which is busybox: there is no C library.
const BOOT_BARE: &str = r#"
mount -t tmpfs -o mode=755 root "$root"
cd "$root"
mkdir bin sbin usr usr/bin usr/sbin etc proc sys dev run tmp var var/cache var/log root
cp "$LAYERS" bin/busybox
chroot . /bin/busybox --install -s
cp -a "$test/image/etc/." etc
mount_kernels
exec chroot . "$@" < /dev/null > dev/console 2>&1
"#;

/// Where `cargo xtask setup` unpacks the Debian packages of inits.
pub(crate) fn package(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/test-packages")
        .join(name);
    path.join("usr").is_dir().then_some(path)
}

/// A root that is not booted yet.
#[derive(Clone)]
pub(crate) struct Plan {
    /// What is laid over the host's `/usr`: the directories of packages.
    pub(crate) packages: Vec<PathBuf>,
    /// The command that becomes PID 1.
    pub(crate) init: Vec<&'static str>,
    /// For `install --init`, if the entry is to be there at boot.
    pub(crate) installed: Option<&'static str>,
    /// (path below `/etc`, content); what begins with `#!` can be run, what begins with `-> ` is a
    /// link.
    pub(crate) etc: Vec<(&'static str, String)>,
}

/// A running init, and all processes below it.
pub(crate) struct Namespace {
    /// PID 1, by its pid on the host.
    init: u32,
    /// The PID namespace's name.
    name: PathBuf,
    /// What the services have in their environment.
    mark: String,
    /// Where the control socket and the journal are.
    runtime_dir: &'static str,
    /// `None` if it is all of this machine.
    held: Option<Held>,
}

/// What goes with a namespace of the test's own.
struct Held {
    unshare: Child,
    cgroup: PathBuf,
    dir: TempDir,
}

/// A root that stays as it is: what changes is held in memory.
pub(crate) enum Root {
    /// Layers of Debian's packages, the upper one first.
    Debian(Vec<PathBuf>),
    /// This static busybox alone.
    Bare(PathBuf),
}

/// How a root is booted.
struct Boot<'a> {
    /// What follows [`PREPARE`].
    script: &'static str,
    layers: String,
    /// Namespaces of its own, in addition to those of pids and mounts.
    namespaces: &'static str,
    init: &'a [&'static str],
    /// Has the binary under test, where the script has not put it there before.
    has_respawn: bool,
}

/// A service, as the agent tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// Within the namespace.
    pub(crate) pid: u32,
    pub(crate) start_time_ns: u64,
}

/// The names of the services.
pub(crate) const SERVICES: [&str; 3] = ["one", "two", "three"];

impl Namespace {
    /// Boots it, with three services configured and no entry for an agent.
    pub(crate) fn boot(plan: &Plan) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mark = format!("{}-{}", std::process::id(), dir.path().display());
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("console"), "").unwrap();
        let image = dir.path().join("image");
        write_etc(&image, plan, &mark);
        fs::create_dir_all(image.join("usr/sbin")).unwrap();
        let binary = PathBuf::from(respawn().get_program());
        fs::copy(binary, image.join("usr/sbin/respawn")).unwrap();
        if let Some(init) = plan.installed {
            let mut install = respawn();
            install.args(["install", "--init", init]).arg("--root");
            install.arg(&image);
            let status = install.args(["--binary", "/usr/sbin/respawn"]).status();
            assert!(status.unwrap().success());
        }
        let mut layers = vec![image.join("usr")];
        layers.extend(plan.packages.iter().map(|package| package.join("usr")));
        layers.push("/usr".into());
        let layers: Vec<String> = layers
            .iter()
            .map(|path| path.canonicalize().unwrap().display().to_string())
            .collect();
        let boot = Boot {
            script: BOOT,
            layers: layers.join(":"),
            namespaces: "--uts --ipc --cgroup",
            init: &plan.init,
            has_respawn: true,
        };
        Self::start(dir, mark, &boot)
    }

    /// Boots a root of Debian's packages, with these files in its `/etc`, as [`Plan::etc`] has them.
    /// Nothing of it is started but the init that they are for, which is sysvinit.
    pub(crate) fn boot_debian(root: &Path, etc: Vec<(&'static str, String)>) -> Self {
        Self::boot_root(
            &Root::Debian(vec![root.to_owned()]),
            &["/sbin/init"],
            etc,
            true,
        )
    }

    /// Boots a root with another init, these files in its `/etc`, three services configured, and no `respawn` yet.
    pub(crate) fn boot_fresh(
        root: &Root,
        init: &[&'static str],
        etc: Vec<(&'static str, String)>,
    ) -> Self {
        Self::boot_root(root, init, etc, false)
    }

    fn boot_root(
        root: &Root,
        init: &[&'static str],
        etc: Vec<(&'static str, String)>,
        has_respawn: bool,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Users of the packages have to get to their own files.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let mark = format!("{}-{}", std::process::id(), dir.path().display());
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::write(dir.path().join("console"), "").unwrap();
        let mut files: Vec<(String, String)> = Vec::new();
        if !has_respawn {
            files.extend(service_files(&mark));
        }
        let given = etc.into_iter();
        files.extend(given.map(|(path, text)| (path.to_owned(), text)));
        write_files(
            &dir.path().join("image/etc"),
            files.iter().map(|(path, text)| (&**path, &**text)),
        );
        let (script, layers, namespaces) = match root {
            Root::Debian(layers) => (BOOT_DEBIAN, layers.clone(), "--uts --ipc --cgroup --net"),
            Root::Bare(busybox) => (BOOT_BARE, vec![busybox.clone()], "--uts --ipc --cgroup"),
        };
        let layers = layers.iter().map(|path| path.canonicalize().unwrap());
        let layers: Vec<String> = layers.map(|path| path.display().to_string()).collect();
        let boot = Boot {
            script,
            layers: layers.join(":"),
            namespaces,
            init,
            has_respawn,
        };
        Self::start(dir, mark, &boot)
    }

    fn start(dir: TempDir, mark: String, boot: &Boot<'_>) -> Self {
        let cgroup = make_cgroup(dir.path());
        // Into the cgroup first, so that the cgroup namespace begins there.
        let script = "echo $$ > \"$CGROUP/cgroup.procs\" && exec unshare --pid --fork \
                      --kill-child=KILL --mount $NAMESPACES sh -c \"$BOOT\" boot \"$@\"";
        let binary = match boot.has_respawn {
            true => PathBuf::from(respawn().get_program())
                .canonicalize()
                .unwrap(),
            false => PathBuf::new(),
        };
        let unshare = Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(dir.path())
            .args(boot.init)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("container", "respawn-test")
            .env("BOOT", [PREPARE, boot.script].concat())
            .env("NAMESPACES", boot.namespaces)
            .env("LAYERS", &boot.layers)
            .env("RESPAWN", binary)
            .env("CGROUP", &cgroup)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let parent = unshare.id();
        let mut namespace = Self {
            init: 0,
            name: PathBuf::new(),
            mark,
            runtime_dir: "/run/respawn",
            held: Some(Held {
                unshare,
                cgroup,
                dir,
            }),
        };
        namespace.await_boot(parent);
        namespace
    }

    /// This machine as it has booted, which is the test's own. Its services have `mark` in their
    /// environment, as [`service_file`] writes it.
    pub(crate) fn of_this_machine(mark: &str, runtime_dir: &'static str) -> Self {
        Self {
            init: 1,
            name: fs::read_link("/proc/1/ns/pid").unwrap(),
            mark: mark.to_owned(),
            runtime_dir,
            held: None,
        }
    }

    fn await_boot(&mut self, parent: u32) {
        self.init = eventually("PID 1", || {
            let children = format!("/proc/{parent}/task/{parent}/children");
            let children = fs::read_to_string(children).ok()?;
            children.split_whitespace().next()?.parse().ok()
        });
        self.name = fs::read_link(format!("/proc/{}/ns/pid", self.init)).unwrap();
        eventually("the init's own program", || {
            let comm = fs::read_to_string(format!("/proc/{}/comm", self.init)).ok()?;
            (!["unshare", "sh", "chroot"].contains(&comm.trim())).then_some(())
        });
    }

    /// A path inside, seen from outside.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// What was said on the console.
    pub(crate) fn console(&self) -> String {
        let Some(held) = &self.held else {
            return "the machine keeps it".to_owned();
        };
        let bytes = fs::read(held.dir.path().join("console")).unwrap();
        String::from_utf8_lossy(&bytes).replace('\0', "")
    }

    /// Forgets what was said there.
    pub(crate) fn clear_console(&self) {
        if let Some(held) = &self.held {
            fs::write(held.dir.path().join("console"), "").unwrap();
        }
    }

    /// A command that runs inside.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .arg("--root")
            .args(["--wd=/", "--"])
            .args(words)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command inside to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        let output = self.command(words).output().unwrap();
        eprintln!(
            "{words:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// All processes inside, by their pids on the host.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| self.is_inside(*pid))
            .collect()
    }

    fn is_inside(&self, pid: u32) -> bool {
        fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|name| name == self.name)
    }

    /// The agents, by their pids on the host.
    pub(crate) fn agents(&self) -> Vec<u32> {
        let mut pids = self.pids();
        pids.retain(|pid| self.is_agent(*pid));
        pids
    }

    fn is_agent(&self, pid: u32) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        // A service between fork and exec has the agent's command line, but not its parent.
        words.next() == Some(b"/usr/sbin/respawn")
            && words.any(|word| word == b"agent")
            && self.is_inside(pid)
            && stat(pid).is_some_and(|stat| stat.state != 'Z' && !self.is_forked(stat.parent))
    }

    fn is_forked(&self, parent: u32) -> bool {
        fs::read(format!("/proc/{parent}/cmdline"))
            .is_ok_and(|line| line.starts_with(b"/usr/sbin/respawn\0"))
    }

    /// The recorders, by their pids on the host.
    pub(crate) fn recorders(&self) -> Vec<u32> {
        let is_recorder = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(b"/usr/sbin/respawn\0recorder"))
        };
        self.pids().into_iter().filter(is_recorder).collect()
    }

    /// The agent that has the lock.
    pub(crate) fn holder(&self) -> Option<u32> {
        locks(false).into_iter().find(|pid| self.is_agent(*pid))
    }

    /// The agent that waits for another one's lock.
    pub(crate) fn spare(&self) -> Option<u32> {
        locks(true).into_iter().find(|pid| self.is_agent(*pid))
    }

    /// The instances of a service, by their pids on the host.
    pub(crate) fn instances(&self, service: &str) -> Vec<u32> {
        let mark = format!("RESPAWN_TEST={}-{service}", self.mark);
        let has_mark = |pid: &u32| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
                environ
                    .split(|byte| *byte == 0)
                    .any(|variable| variable == mark.as_bytes())
            })
        };
        self.pids().into_iter().filter(has_mark).collect()
    }

    /// Asks the agent for all services' status; `None` if no agent answers.
    pub(crate) fn status(&self) -> Option<Vec<Value>> {
        let socket = self.path(&format!("{}/control.sock", self.runtime_dir));
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
            .write_all(b"{\"version\":1,\"command\":\"status\"}\n")
            .ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        let answer: Value = serde_json::from_str(&line).ok()?;
        answer["services"].as_array().cloned()
    }

    /// The services, once an agent says that all of them run, and there is one instance of each.
    pub(crate) fn services(&self) -> Vec<Service> {
        eventually_or(
            "all services up",
            || self.try_services(),
            || self.describe(),
        )
    }

    fn try_services(&self) -> Option<Vec<Service>> {
        let status = self.status()?;
        let mut services = Vec::new();
        for name in SERVICES {
            let instances = self.instances(name);
            assert!(
                instances.len() < 2,
                "{name} runs twice: {instances:?}\n{}",
                self.describe()
            );
            let service = status.iter().find(|service| service["service"] == name)?;
            if service["state"] != "running" {
                return None;
            }
            let pid = u32::try_from(service["pid"].as_u64()?).unwrap();
            let [on_host] = instances[..] else {
                return None;
            };
            if pid_inside(on_host)? != pid {
                return None;
            }
            services.push(Service {
                name: name.to_owned(),
                pid,
                start_time_ns: service["start_time_ns"].as_u64()?,
            });
        }
        Some(services)
    }

    /// What there is, for a test that fails.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for pid in self.pids() {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            // The kernel's own threads have none.
            if line.is_empty() {
                continue;
            }
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let inside = pid_inside(pid).unwrap_or(0);
            text += &format!("  {pid} ({inside}) {line}\n");
        }
        format!(
            "processes:\n{text}status: {:?}\nconsole:\n{}",
            self.status(),
            self.console()
        )
    }

    /// The journal's events, oldest first.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let dir = self.path(self.runtime_dir);
        let mut files: Vec<PathBuf> = fs::read_dir(dir)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("journal"))
            })
            .collect();
        files.sort();
        let mut events = Vec::new();
        for file in files {
            let text = fs::read_to_string(file).unwrap();
            events.extend(
                text.lines()
                    .filter_map(|line| serde_json::from_str(line).ok()),
            );
        }
        events.sort_by_key(|event: &Value| event["seq"].as_u64());
        events
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let Some(mut held) = self.held.take() else {
            return;
        };
        // The child of an unshare that ends is killed, and with PID 1 all below it.
        let _ = held.unshare.kill();
        let _ = held.unshare.wait();
        let pids = || self.pids();
        let deadline = now() + DEADLINE;
        while !pids().is_empty() && now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        remove_cgroups(&held.cgroup);
    }
}

/// Kills a process of the host's view, if it is still there.
pub(crate) fn kill_9(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
}

/// A process's pid in its innermost namespace.
pub(crate) fn pid_inside(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().last()?.parse().ok()
}

/// The processes that have a `flock`, or those that wait for one.
fn locks(waiting: bool) -> Vec<u32> {
    let locks = fs::read_to_string("/proc/locks").unwrap();
    let pid = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [_, "->", "FLOCK", _, _, pid, ..] if waiting => pid.parse().ok(),
            [_, "FLOCK", _, _, pid, ..] if !waiting => pid.parse().ok(),
            _ => None,
        }
    };
    locks.lines().filter_map(pid).collect()
}

struct Stat {
    state: char,
    parent: u32,
}

fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat.rsplit_once(')')?.1.split_whitespace();
    Some(Stat {
        state: words.next()?.chars().next()?,
        parent: words.next()?.parse().ok()?,
    })
}

fn write_etc(image: &Path, plan: &Plan, mark: &str) {
    let etc = image.join("etc");
    fs::create_dir_all(&etc).unwrap();
    for package in &plan.packages {
        let from = package.join("etc/.");
        if from.is_dir() {
            let copy = Command::new("cp").arg("-a").args([&from, &etc]).status();
            assert!(copy.unwrap().success());
        }
    }
    let mut files: Vec<(String, String)> = vec![
        (
            "passwd".to_owned(),
            "root:x:0:0:root:/root:/bin/sh\n".to_owned(),
        ),
        ("group".to_owned(), "root:x:0:\n".to_owned()),
    ];
    files.extend(service_files(mark));
    let given = plan.etc.iter();
    files.extend(given.map(|(path, text)| ((*path).to_owned(), text.clone())));
    let files = files.iter();
    write_files(&etc, files.map(|(path, text)| (&**path, &**text)));
}

/// Writes files below a directory, as [`Plan::etc`] has them.
fn write_files<'a>(dir: &Path, files: impl Iterator<Item = (&'a str, &'a str)>) {
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix("-> ") {
            Some(target) => symlink(target, path).unwrap(),
            None => {
                fs::write(&path, text).unwrap();
                let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

/// The files of the services, below `/etc`.
fn service_files(mark: &str) -> [(String, String); 3] {
    SERVICES.map(|name| {
        (
            format!("respawn/services/{name}.toml"),
            service_file(mark, name),
        )
    })
}

/// The file of one of the services.
pub(crate) fn service_file(mark: &str, name: &str) -> String {
    format!(
        "command = [\"/bin/sleep\", \"infinity\"]\n\
         environment = {{ RESPAWN_TEST = \"{mark}-{name}\" }}\n"
    )
}

fn make_cgroup(dir: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from("respawn-test-");
    name.push(dir.file_name().unwrap());
    let path = cgroup_mount().unwrap().join(name);
    fs::create_dir(&path).unwrap();
    path
}

fn remove_cgroups(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let deadline = now() + Duration::from_secs(5);
    while fs::remove_dir(path).is_err() && path.exists() && now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}
