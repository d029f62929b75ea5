//! Who killed it: the ways in which a process is killed on a host, and what `why` then tells of the killer,
//! which has ended by then. Once with a recorder at work, and once with one that starts after it all.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::cgroup::{Cgroup, small_cgroup};
use support::recorder::RecorderDirs;
use support::tools::{NOT_HERE, tool};
use support::{
    Victim, cgroup_mount, copy_program, eventually, in_pid_namespace, needs_root, skip,
    unprivileged,
};
use tempfile::TempDir;

/// Who had logged in, whoever kills.
const LOGIN: u32 = 4242;

/// The user that kills after a change of user.
const NOBODY: u32 = 65534;

const CULPRIT: &str = env!("CARGO_BIN_EXE_culprit");

/// The container's name, as a runtime has it in its cgroup's path.
const CONTAINER: &str = "7d0e2a2f1f6c4f0e9a5b7c1d3e8f4a607d0e2a2f1f6c4f0e9a5b7c1d3e8f4a60";

/// What is to be told of a killer.
struct Killer {
    /// Its program.
    exe: PathBuf,
    /// It may have replaced itself by a copy that has no path.
    may_hide: bool,
    argv: Vec<String>,
    /// The nearest of them, with their pids.
    ancestors: Vec<(u32, &'static str)>,
    uid: u32,
}

/// One that was killed, and how.
struct Killed {
    way: &'static str,
    pid: u32,
    /// Its own arguments, if the test has given them.
    argv: Value,
    /// Part of the path of its cgroup.
    cgroup: String,
    /// `None`: no process sent the signal.
    killer: Option<Killer>,
}

/// Who kills: shells in a cgroup of their own, for somebody who has logged in.
struct Scene {
    folder: TempDir,
    /// `None`: there is no cgroup2 here.
    cgroup: Option<Cgroup>,
    /// The path that the kernel has for it.
    shown: String,
    has_login: bool,
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("100000");
    command
}

/// A program of the host, as the kernel names it.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut there = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = there.find(|path| path.is_file()).unwrap();
    fs::canonicalize(found).unwrap()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Of a process, in the hierarchy of version 2.
fn cgroup_of(pid: u32) -> String {
    let shown = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = shown.lines().find_map(|line| line.strip_prefix("0::"));
    line.unwrap_or("/").to_owned()
}

impl Scene {
    fn new() -> Self {
        let cgroup = cgroup_mount().and_then(|mount| Cgroup::new(&mount));
        let mut scene = Self {
            folder: tempfile::tempdir().unwrap(),
            cgroup,
            shown: String::new(),
            has_login: true,
        };
        let (_, said) = scene.session("cat /proc/self/cgroup; cat /proc/self/loginuid", &[]);
        scene.has_login = said.last().is_some_and(|uid| *uid == LOGIN.to_string());
        let shown = said.iter().find_map(|line| line.strip_prefix("0::"));
        shown.unwrap_or("/").clone_into(&mut scene.shown);
        scene
    }

    /// Runs a script in the shell of a login, with these arguments from `$0` on: the shell's pid, and what
    /// it said.
    fn session(&self, script: &str, arguments: &[&str]) -> (u32, Vec<String>) {
        let procs = self
            .cgroup
            .as_ref()
            .map(|it| it.path().join("cgroup.procs"));
        let procs = procs.unwrap_or_else(|| "/dev/null".into());
        let script = format!(
            "echo $$ > {}; {{ echo {LOGIN} > /proc/self/loginuid; }} 2> /dev/null; echo $$
             {script}
             true",
            procs.display()
        );
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).args(arguments);
        let output = shell.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let mut lines = said.lines().map(str::to_owned);
        let pid = lines.next().unwrap().parse().unwrap();
        (pid, lines.collect())
    }

    /// Starts a process, has a script kill it, whose `$0` it is and `$1` the scene's folder, and waits for
    /// its end.
    fn kill(&self, victim: &mut Command, script: &str) -> (u32, u32, Vec<String>) {
        let mut victim = Victim::from_command(victim);
        let pid = victim.pid();
        let arguments = [&pid.to_string(), self.folder.path().to_str().unwrap()];
        let (shell, said) = self.session(script, &arguments);
        victim.wait();
        (pid, shell, said)
    }

    fn killed(&self, way: &'static str, pid: u32, killer: Killer) -> Killed {
        Killed {
            way,
            pid,
            argv: json!(["sleep", "100000"]),
            cgroup: cgroup_of(std::process::id()),
            killer: Some(killer),
        }
    }

    /// A `kill` that has ended since.
    fn kill_by_hand(&self) -> Killed {
        let kill = program("kill");
        let script = format!("{} -9 $0", kill.display());
        let (pid, shell, _) = self.kill(&mut sleeper(), &script);
        let killer = Killer {
            argv: words(&[kill.to_str().unwrap(), "-9", &pid.to_string()]),
            exe: kill,
            ancestors: vec![(shell, "sh")],
            uid: 0,
            may_hide: false,
        };
        self.killed("kill", pid, killer)
    }

    fn run_out_of_time(&self) -> Killed {
        let (shell, said) =
            self.session("timeout -s KILL 0.2 sh -c 'echo $$; exec sleep 4242'", &[]);
        let pid = said[0].parse().unwrap();
        let script = "echo $$; exec sleep 4242";
        let killer = Killer {
            exe: program("timeout"),
            argv: words(&["timeout", "-s", "KILL", "0.2", "sh", "-c", script]),
            ancestors: vec![(shell, "sh")],
            uid: 0,
            may_hide: false,
        };
        Killed {
            argv: json!(["sleep", "4242"]),
            cgroup: self.shown.clone(),
            ..self.killed("timeout", pid, killer)
        }
    }

    /// A script that another one runs, which a job of cron runs.
    fn kill_by_cron(&self) -> Killed {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        for (name, next) in [
            ("cron-job", path("rotate")),
            ("rotate", path("cleanup")),
            ("cleanup", "kill -9".to_owned()),
        ] {
            let text = format!("#!/bin/sh\necho $$\n{next} \"$1\"\ntrue\n");
            let new = path("new");
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
            copy_program(&new, path(name));
        }
        let (pid, shell, said) = self.kill(&mut sleeper(), "\"$1\"/cron-job $0");
        let pids: Vec<u32> = said.iter().map(|pid| pid.parse().unwrap()).collect();
        let killer = Killer {
            exe: fs::canonicalize("/bin/sh").unwrap(),
            argv: words(&["/bin/sh", &path("cleanup"), &pid.to_string()]),
            ancestors: vec![(pids[1], "rotate"), (pids[0], "cron-job"), (shell, "sh")],
            uid: 0,
            may_hide: false,
        };
        self.killed("cron", pid, killer)
    }

    /// What somebody runs as another user, as by sudo.
    fn kill_as_another_user(&self) -> Killed {
        let script = format!("{CULPRIT} as {NOBODY} sh -c 'kill -9 $0; true' $0");
        let mut victim = sleeper();
        let (pid, shell, _) = self.kill(unprivileged(&mut victim), &script);
        let killer = Killer {
            exe: program("sh"),
            argv: words(&["sh", "-c", "kill -9 $0; true", &pid.to_string()]),
            ancestors: vec![(shell, "sh")],
            uid: NOBODY,
            may_hide: false,
        };
        self.killed("sudo", pid, killer)
    }

    /// Killed for lack of memory in its cgroup.
    fn run_out_of_memory(&self) -> Option<Killed> {
        let cgroup = small_cgroup()?;
        let mut victim = Victim::start(CULPRIT, &["eat"]);
        cgroup.add(victim.pid());
        victim.wait();
        let name = cgroup.path().file_name().unwrap().to_str().unwrap();
        let is_known = !cgroup.path().join("memory.limit_in_bytes").exists();
        Some(Killed {
            way: "oom",
            pid: victim.pid(),
            argv: json!([CULPRIT, "eat"]),
            // Of version 1's hierarchies the record names none.
            cgroup: if is_known {
                format!("/{name}")
            } else {
                "/".to_owned()
            },
            killer: None,
        })
    }

    /// A container that its runtime kills.
    fn kill_by_runtime(&self) -> Result<Killed, &'static str> {
        let crun = tool("crun", "crun").ok_or(NOT_HERE)?;
        let cgroups = cgroup_mount().ok_or("no cgroup2 is mounted")?;
        let container = Container::start(self.folder.path(), &crun, &cgroups)?;
        let kill = container.crun(&["kill", "victim", "KILL"]);
        let (shell, said) = self.session(&format!("{} 2>&1", kill.script), &[]);
        eventually("the container's end", || {
            (!Path::new(&format!("/proc/{}", container.pid)).exists()).then_some(())
        });
        assert_eq!(said, [] as [String; 0]);
        let killer = Killer {
            exe: fs::canonicalize(crun.get_program()).unwrap(),
            argv: kill.argv,
            ancestors: vec![(shell, "sh")],
            uid: 0,
            may_hide: true,
        };
        Ok(Killed {
            argv: json!(["/usr/bin/sleep", "4242"]),
            cgroup: format!("/docker/{CONTAINER}"),
            ..self.killed("container", container.pid, killer)
        })
    }

    /// All of them, one after the other.
    fn kill_in_all_ways(&self, test: &str) -> Vec<Killed> {
        let mut killed = vec![
            self.kill_by_hand(),
            self.run_out_of_time(),
            self.kill_by_cron(),
            self.kill_as_another_user(),
        ];
        match self.run_out_of_memory() {
            Some(of_memory) => killed.push(of_memory),
            None => skip(
                &format!("{test}: oom"),
                "no cgroup whose memory can be limited",
            ),
        }
        match self.kill_by_runtime() {
            Ok(container) => killed.push(container),
            Err(reason) => skip(&format!("{test}: container"), reason),
        }
        if !self.has_login {
            skip(&format!("{test}: login"), "no login uid can be set here");
        }
        killed
    }
}

/// A container of crun's, with the host's programs.
struct Container {
    folder: PathBuf,
    crun: PathBuf,
    libraries: Option<OsString>,
    cgroup: PathBuf,
    pid: u32,
}

/// How a shell runs crun, and what its arguments are then.
struct Crun {
    script: String,
    argv: Vec<String>,
}

/// Where the only cgroups are of version 2, which is all that crun takes here.
const RUN: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";

impl Container {
    fn start(folder: &Path, crun: &Command, cgroups: &Path) -> Result<Self, &'static str> {
        let mut variables = crun.get_envs();
        let libraries = variables.find_map(|(name, value)| {
            let value = value.filter(|_| name == "LD_LIBRARY_PATH")?;
            Some(value.to_owned())
        });
        let mut container = Self {
            folder: folder.join("container"),
            crun: fs::canonicalize(crun.get_program()).unwrap(),
            libraries,
            cgroup: cgroups
                .join(format!("respawn-test-killers-{}", std::process::id()))
                .join("docker")
                .join(CONTAINER),
            pid: 0,
        };
        fs::create_dir_all(&container.cgroup).map_err(|_| "no cgroup can be made")?;
        fs::create_dir_all(container.folder.join("rootfs")).unwrap();
        fs::write(container.folder.join("config.json"), bundle().to_string()).unwrap();
        let folder = container.folder.display().to_string();
        let pid_file = format!("{folder}/pid");
        let run = [
            "run",
            "--detach",
            "--bundle",
            &folder,
            "--pid-file",
            &pid_file,
            "victim",
        ];
        let enter = format!("echo $$ > {}/cgroup.procs", container.cgroup.display());
        let script = format!("{enter}; exec {}", container.crun(&run).script);
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).stdin(Stdio::null());
        let log = fs::File::create(container.folder.join("log")).unwrap();
        shell.stdout(log.try_clone().unwrap()).stderr(log);
        let status = shell.status().unwrap();
        let log = || fs::read_to_string(container.folder.join("log"));
        assert!(status.success(), "{:?}", log());
        let pid = fs::read_to_string(pid_file).unwrap();
        container.pid = pid.trim().parse().unwrap();
        Ok(container)
    }

    fn crun(&self, words: &[&str]) -> Crun {
        let mut argv = vec![self.crun.display().to_string(), "--root".to_owned()];
        argv.push(format!("{}/state", self.folder.display()));
        argv.push("--cgroup-manager=disabled".to_owned());
        argv.extend(words.iter().map(|&word| word.to_owned()));
        let libraries = self.libraries.as_ref().map_or_else(String::new, |path| {
            format!("env LD_LIBRARY_PATH={} ", path.to_string_lossy())
        });
        let script = format!(
            "{libraries}unshare --mount sh -c '{RUN}' sh {}",
            argv.join(" ")
        );
        Crun { script, argv }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let delete = self.crun(&["delete", "--force", "victim"]).script;
        let mut shell = Command::new("sh");
        let _ = shell.args(["-c", &delete]).stderr(Stdio::null()).status();
        for folder in self.cgroup.ancestors().take(3) {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A container that sleeps, with the programs of the host.
fn bundle() -> Value {
    let there = ["/bin", "/lib", "/lib64", "/usr"];
    let there = there.iter().filter(|path| Path::new(path).is_dir());
    let mut mounts = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs" }),
    ];
    mounts
        .extend(there.map(
            |path| json!({ "destination": path, "source": path, "options": ["rbind", "ro"] }),
        ));
    let namespaces = ["mount", "ipc", "uts", "pid"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/usr/bin/sleep", "4242"],
            "env": ["PATH=/usr/bin"],
            "cwd": "/",
        },
        "root": { "path": "rootfs" },
        "mounts": mounts,
        "linux": { "namespaces": namespaces },
    })
}

/// What `why` says of a pid, in JSON and in words.
fn why(place: &RecorderDirs, pid: u32) -> (Value, String) {
    let name = pid.to_string();
    let said = |more: &[&str]| {
        let words = [&["why", &name], more].concat();
        let output = place.command(&words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json: Value = serde_json::from_str(said(&["--json"]).trim()).unwrap();
    (json["exited"].clone(), said(&[]))
}

/// As `why` shows arguments.
fn command_line(argv: &[String]) -> String {
    let shown = |word: &String| match word.contains([' ', '"']) {
        true => format!("{word:?}"),
        false => word.clone(),
    };
    argv.iter().map(shown).collect::<Vec<_>>().join(" ")
}

impl Killed {
    fn check(&self, place: &RecorderDirs, scene: &Scene) {
        let death = place.death_of(self.pid);
        let (told, words) = why(place, self.pid);
        let all = format!("{}: {told}\n{words}", self.way);
        assert_eq!(told["cursor"], death["cursor"], "{all}");
        // A kernel that has let go of the memory by then knows neither.
        if told["exe"].is_string() {
            assert_eq!(told["argv"], self.argv, "{all}");
        }
        let cgroup = told["cgroup"].as_str().unwrap();
        assert!(cgroup.ends_with(&self.cgroup), "{all}");
        let sender = &told["cause"]["sender"];
        let Some(killer) = &self.killer else {
            assert_eq!(told["cause"]["kind"], "oom_killed", "{all}");
            assert_eq!(told["ancestors"][0]["pid"], std::process::id(), "{all}");
            assert!(
                words.contains("killed for lack of memory in its cgroup"),
                "{all}"
            );
            return;
        };
        assert_eq!(told["cause"]["signal"], "SIGKILL", "{all}");
        let is_hidden = killer.may_hide && sender["exe"].is_null();
        let exe = killer.exe.to_str().unwrap();
        assert!(is_hidden || sender["exe"] == exe, "{all}");
        assert_eq!(sender["argv"], json!(killer.argv), "{all}");
        assert_eq!(sender["uid"], killer.uid, "{all}");
        assert_eq!(sender["cgroup"], scene.shown, "{all}");
        let login = scene.has_login.then_some(LOGIN);
        assert_eq!(sender["login_uid"], json!(login), "{all}");
        let ancestors = sender["ancestors"].as_array().unwrap();
        let expected = killer.ancestors.iter();
        let expected = expected.map(|(pid, comm)| json!({ "pid": pid, "comm": comm }));
        let expected: Vec<Value> = expected.collect();
        assert_eq!(ancestors[..expected.len()], expected, "{all}");
        killer.check_words(&words, scene);
    }
}

impl Killer {
    fn check_words(&self, words: &str, scene: &Scene) {
        let login = match scene.has_login {
            true => format!(", login user {LOGIN}"),
            false => String::new(),
        };
        let line = words
            .lines()
            .find(|line| line.starts_with("  sender"))
            .unwrap();
        let (exe, name) = (self.exe.to_str().unwrap(), self.exe.file_name().unwrap());
        let name = format!("  {}, pid ", name.to_str().unwrap());
        let is_hidden = self.may_hide && line.contains(&name);
        assert!(is_hidden || line.contains(exe), "{words}");
        assert!(line.contains(&format!(", uid {}", self.uid)), "{words}");
        assert!(line.contains(&login), "{words}");
        let from = self.ancestors.iter();
        let from: Vec<String> = from
            .map(|(pid, comm)| format!("{comm} (pid {pid})"))
            .collect();
        for expected in [
            format!("it ran: {}", command_line(&self.argv)),
            format!("started by {}", from.join(" < ")),
            format!("  in {}", scene.shown),
        ] {
            assert!(words.contains(&expected), "{expected}\n{words}");
        }
    }
}

fn check_all(place: &RecorderDirs, scene: &Scene, killed: &[Killed]) {
    let mut ways = HashMap::new();
    for one in killed {
        one.check(place, scene);
        assert_eq!(place.deaths_of(one.pid).len(), 1, "{}", one.way);
        *ways.entry(one.way).or_insert(0) += 1;
    }
    assert!(
        ways.len() >= 4 && ways.values().all(|count| *count == 1),
        "{ways:?}"
    );
}

#[test]
fn why_names_each_killer_that_has_ended_since() {
    let test = "why_names_each_killer_that_has_ended_since";
    needs_root!(test);
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    let scene = Scene::new();
    let killed = scene.kill_in_all_ways(test);
    check_all(&place, &scene, &killed);
}

#[test]
fn why_names_each_killer_also_if_no_recorder_lived() {
    let test = "why_names_each_killer_also_if_no_recorder_lived";
    needs_root!(test);
    let place = RecorderDirs::new();
    place.start(&[]).kill();
    let scene = Scene::new();
    let killed = scene.kill_in_all_ways(test);
    for one in &killed {
        assert_eq!(place.deaths_of(one.pid), [] as [Value; 0], "{}", one.way);
    }
    let _recorder = place.start(&[]);
    check_all(&place, &scene, &killed);
}

/// As many as are kept, and what only a login at a terminal has.
#[test]
fn four_ancestors_the_session_and_the_terminal_of_a_killer_are_known() {
    let test = "four_ancestors_the_session_and_the_terminal_of_a_killer_are_known";
    needs_root!(test);
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    let scene = Scene::new();
    let nested = scene.folder.path().join("nested");
    let text = "echo $$
                if [ $1 -gt 0 ]; then sh $0 $(($1 - 1)) $2; else kill -9 $2; fi
                true";
    fs::write(&nested, text).unwrap();
    let pty = nix::pty::openpty(None, None).unwrap();
    let terminal = fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&pty.slave)
    ));
    let terminal = terminal.unwrap();
    let script = format!(
        "echo $(cat /proc/self/sessionid); setsid --ctty --wait sh {} 5 $0 < {}",
        nested.display(),
        terminal.display()
    );
    let (pid, _, said) = scene.kill(&mut sleeper(), &script);
    let death = place.death_of(pid);
    let sender = &death["cause"]["sender"];
    let number = |text: &String| text.parse::<u32>().unwrap();
    let pids: Vec<u32> = said[1..].iter().map(number).collect();
    let ancestors: Vec<Value> = (1..5)
        .map(|level| json!({ "pid": pids[5 - level], "comm": "sh" }))
        .collect();
    assert_eq!(sender["pid"], pids[5], "{death}");
    assert_eq!(sender["ancestors"], json!(ancestors), "{death}");
    let name = terminal.strip_prefix("/dev").unwrap();
    assert_eq!(sender["tty"], name.to_str().unwrap(), "{death}");
    let (_, words) = why(&place, pid);
    assert!(
        words.contains(&format!(", terminal {}", name.display())),
        "{words}"
    );
    if !scene.has_login {
        return skip(test, "no login uid can be set here");
    }
    let session = number(&said[0]);
    assert_eq!(sender["login_session"], session, "{death}");
    let login = format!("login user {LOGIN} in session {session}");
    assert!(words.contains(&login), "{words}");
}

#[test]
fn a_core_is_recorded_with_its_place() {
    let test = "a_core_is_recorded_with_its_place";
    needs_root!(test);
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--core=unlimited", CULPRIT, "fault", "abort"]);
    let mut victim = Victim::from_command(command.current_dir(folder.path()));
    victim.wait();
    let death = place.death_of(victim.pid());
    assert_eq!(death["cause"]["signal"], "SIGABRT", "{death}");
    if death["cause"]["core_dumped"] == false {
        return skip(test, "no core is written here");
    }
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    assert_eq!(death["core"]["pattern"], pattern.trim_end(), "{death}");
    let (_, words) = why(&place, victim.pid());
    assert!(words.contains("core dumped"), "{words}");
    let (piped, file) = (
        death["core"]["piped_to"].as_str(),
        death["core"]["file"].as_str(),
    );
    match (piped, file) {
        (Some(program), _) => assert!(pattern.starts_with(&format!("|{program}")), "{death}"),
        (None, Some(file)) => {
            assert!(folder.path().join(file).exists(), "{death}");
            assert!(words.contains(&format!("dumped to {file}")), "{words}");
        }
        (None, None) => skip(test, "core_pattern asks for what only the kernel knows"),
    }
}

/// Those that systemd or a container's runtime would ask about: their exits are kept, others are not.
#[test]
fn failed_exits_are_kept_of_first_processes_and_their_children_alone() {
    let test = "failed_exits_are_kept_of_first_processes_and_their_children_alone";
    needs_root!(test);
    let place = RecorderDirs::new();
    let _recorder = place.start(&[]);
    // An orphan ends once it is PID 1's, and PID 1 once nobody else is left.
    let orphan = "while read pid comm state parent rest < /proc/$$/stat; [ $parent != 1 ]; do sleep 0.01; done
                  exit 93";
    let script = "sh -c 'sh -c \"exit 91\"; true'; sh -c 'exit 92'
                  sh -c 'sh -c \"$ORPHAN\" & exit 0'
                  while kill -0 -1 2> /dev/null; do sleep 0.01; done; exit 95";
    let mut namespace = in_pid_namespace(script);
    let status = namespace.env("ORPHAN", orphan).status().unwrap();
    assert_eq!(status.code(), Some(95));
    // What comes later is recorded later.
    let mut last = Victim::from_command(&mut sleeper());
    last.signal(Signal::SIGKILL);
    last.wait();
    place.death_of(last.pid());
    let lines = place.lines();
    let kept = |code: u32| {
        let of = lines.iter().filter(|line| line["cause"]["code"] == code);
        of.count()
    };
    assert_eq!([91, 92, 93, 95].map(kept), [0, 1, 1, 1], "{lines:?}");
}
