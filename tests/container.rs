//! The container image with services in a layer on top, run by crun: `respawn agent` as PID 1 starts them in
//! order, each when the one before is ready, passes their lines on with their names, stops them in the opposite
//! order at SIGTERM, and ends with the exit status of the service that the container is there for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};

use nix::sys::signal::Signal;
use support::tools::NOT_HERE;
use support::{copy_program, eventually_or, needs_root, signal_to, skip};

use crate::image::{NO_CGROUP, Rights, Runtime};
use crate::init_root::package;

/// Tells what it does in a file that keeps the order of all services, and then in its own output.
const TELL: &str = "tell() { echo \"$name $1\" >> /told/order; echo \"$1\"; }
trap 'tell stops; exit 0' TERM\n";

/// What a service does after that: it waits for its end, without a child that could outlive it.
const WAIT: &str = "/bin/busybox mkfifo /run/$name; while :; do read line <> /run/$name; done\n";

/// The services: a name, what each does, and more keys of its file. The first is ready when the test says so.
const SERVICES: [(&str, &str, &str); 3] = [
    (
        "db",
        "tell opens; until [ -e /told/go ]; do /bin/busybox sleep 0.05; done; tell 'is ready'; echo >&3\n",
        "ready = { fd = 3 }",
    ),
    (
        "app",
        "tell runs; echo >&3; until [ -e /told/end ]; do /bin/busybox sleep 0.05; done; tell ends; exit 7\n",
        "requires = [\"db\"]\nready = { fd = 3 }\nessential = true\nrestart = \"no\"",
    ),
    ("worker", "tell runs\n", "requires = [\"app\", \"db\"]"),
];

/// A container that runs in the foreground, as long as the value lives.
struct Container<'a> {
    runtime: &'a Runtime,
    name: &'a str,
    /// Shared with it.
    told: PathBuf,
    crun: Child,
}

impl<'a> Container<'a> {
    fn start(runtime: &'a Runtime, name: &'a str, busybox: &Path) -> Self {
        let told = runtime.path(&format!("{name}-told"));
        fs::create_dir(&told).unwrap();
        let rights = Rights {
            namespaces: vec!["mount", "ipc", "uts", "pid"],
            mounts: vec![(told.clone(), "/told".to_owned())],
            ..Rights::default()
        };
        runtime.bundle(name, &["agent".to_owned()], &rights);
        add_layer(&runtime.path(name).join("rootfs"), busybox);
        let (bundle, pid) = (runtime.path(name), runtime.path(&format!("{name}.pid")));
        let (bundle, pid) = (bundle.to_string_lossy(), pid.to_string_lossy());
        let words = ["run", "--bundle", &bundle, "--pid-file", &pid, name];
        let log = File::create(runtime.path(&format!("{name}.log"))).unwrap();
        let mut crun = runtime.crun(&words, NO_CGROUP);
        crun.stdout(log.try_clone().unwrap()).stderr(log);
        Self {
            runtime,
            name,
            told,
            crun: crun.spawn().unwrap(),
        }
    }

    /// Waits for a line of the container's log.
    fn await_line(&self, line: &str) {
        let is_there = || self.log().lines().any(|it| it == line).then_some(());
        eventually_or(line, is_there, || self.log());
    }

    fn log(&self) -> String {
        self.runtime.log(self.name)
    }

    /// Lets services go on that wait for a file.
    fn allow(&self, name: &str) {
        fs::write(self.told.join(name), "").unwrap();
    }

    /// What the services have told, in order.
    fn order(&self) -> Vec<String> {
        let order = fs::read_to_string(self.told.join("order")).unwrap_or_default();
        order.lines().map(str::to_owned).collect()
    }

    /// Its PID 1, by its pid on the host.
    fn init(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.runtime.path(&format!("{}.pid", self.name)));
        pid.ok()?.trim().parse().ok()
    }

    /// Waits for its end: crun's status is its own.
    fn wait(&mut self) -> ExitStatus {
        let log = self.runtime.log(self.name);
        eventually_or(
            "the container ends",
            || self.crun.try_wait().unwrap(),
            || log,
        )
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Until it has been waited for, crun keeps its child's pid.
        if let (Ok(None), Some(pid)) = (self.crun.try_wait(), self.init()) {
            signal_to(pid, Signal::SIGKILL);
            let _ = self.crun.wait();
        }
        let delete = ["delete", "--force", self.name];
        let _ = self.runtime.crun(&delete, NO_CGROUP).output();
    }
}

/// The services' files, and the program that they are scripts of.
fn add_layer(root: &Path, busybox: &Path) {
    fs::create_dir_all(root.join("bin")).unwrap();
    copy_program(busybox, root.join("bin/busybox"));
    fs::create_dir_all(root.join("etc/respawn/services")).unwrap();
    for (name, does, keys) in SERVICES {
        let script = root.join(format!("etc/{name}.sh"));
        fs::write(script, format!("name={name}\n{TELL}{does}{WAIT}")).unwrap();
        let text = format!(
            "command = [\"/bin/busybox\", \"sh\", \"/etc/{name}.sh\"]\n\
             log = {{ stdout = true }}\n{keys}\n"
        );
        let file = format!("etc/respawn/services/{name}.toml");
        fs::write(root.join(file), text).unwrap();
    }
}

#[test]
fn an_agent_as_pid_1_of_a_container_keeps_order_and_ends_as_its_service_does() {
    let test = "an_agent_as_pid_1_of_a_container_keeps_order_and_ends_as_its_service_does";
    needs_root!(test);
    let busybox = package("busybox-static").map(|folder| folder.join("usr/bin/busybox"));
    let Some(busybox) = busybox.filter(|busybox| busybox.exists()) else {
        return skip(test, &format!("no busybox: {NOT_HERE}"));
    };
    let runtime = match Runtime::new("container") {
        Ok(runtime) => runtime,
        Err(reason) => return skip(test, &reason),
    };

    let mut container = Container::start(&runtime, "terminated", &busybox);
    container.await_line("db: opens");
    assert_eq!(container.order(), ["db opens"], "who is not ready holds up");
    container.allow("go");
    container.await_line("worker: runs");
    container.await_line("app: runs");
    signal_to(container.init().unwrap(), Signal::SIGTERM);
    let status = container.wait();
    assert_eq!(status.code(), Some(0), "{}", container.log());
    let order = container.order();
    let starts = ["db opens", "db is ready", "app runs", "worker runs"];
    assert_eq!(order[..4], starts, "{}", container.log());
    assert_eq!(order[4..], ["worker stops", "app stops", "db stops"]);
    for line in ["worker: stops", "app: stops", "db: stops"] {
        container.await_line(line);
    }

    let mut container = Container::start(&runtime, "essential", &busybox);
    container.allow("go");
    container.await_line("worker: runs");
    container.allow("end");
    let status = container.wait();
    assert_eq!(status.code(), Some(7), "{}", container.log());
    assert_eq!(
        container.order()[4..],
        ["app ends", "worker stops", "db stops"]
    );
}
