//! `standby = true`: a service goes on as the process that was loaded for it, and as nothing else than what a
//! start would run at that moment.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sockets;
use nix::sys::signal::Signal;
use serde_json::Value;
use support::dead_mount::{DeadMount, own_namespace};
use support::rig::switches;
use support::{
    Agent, Setup, copy_program, eventually, is_alive, needs_root, pid_of, proc_status, rest, shell,
    signal_to, skip, sleeping, start_time_ns,
};

/// What stands by for a service, once it is loaded.
fn standby(agent: &Agent, service: &str) -> u32 {
    eventually("its next instance stands by", || {
        let standby = &agent.status(service)["standby"];
        (standby["state"] == "ready").then(|| pid_of(standby))
    })
}

/// Why there is none.
fn why_none(agent: &Agent, service: &str) -> String {
    eventually("it is said why there is no standby", || {
        let standby = &agent.status(service)["standby"];
        Some(standby["why"].as_str()?.to_owned())
    })
}

/// Kills a service, and waits until it runs as another process.
fn kill(agent: &Agent, service: &str) -> u32 {
    let old = pid_of(&agent.status(service));
    signal_to(old, Signal::SIGKILL);
    agent.replaced(service, old)
}

/// A program that tells what it is: the first argument names the file, to which a line is added.
struct Program {
    dir: tempfile::TempDir,
}

const MAIN: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
extern const char *version(void);
int main(int argc, char **argv) {
    FILE *file = fopen(argv[1], "a");
    char *word = getenv("WORD");
    fprintf(file, "%s %d %d %s nnp=%d\n", version(), (int)geteuid(), (int)getpid(),
        word ? word : "-", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    fclose(file);
    for (;;) pause();
}
"#;

impl Program {
    /// For a test that compiles it; `None`, and said so: there is no compiler.
    fn compiled(test: &str) -> Option<Self> {
        let compiler = Command::new("cc").arg("--version").output();
        if !compiler.is_ok_and(|output| output.status.success()) {
            skip(test, "there is no C compiler");
            return None;
        }
        Some(Self::new())
    }

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let it = Self { dir };
        fs::write(it.path("main.c"), MAIN).unwrap();
        fs::write(it.path("out"), "").unwrap();
        fs::set_permissions(it.path("out"), fs::Permissions::from_mode(0o666)).unwrap();
        it
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn compile(&self, arguments: &[&str]) {
        let mut command = Command::new("cc");
        command.current_dir(self.dir.path()).args(arguments);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn source(&self, version: &str) -> String {
        let name = format!("{version}.c");
        let text = format!("const char *version(void) {{ return \"{version}\"; }}\n");
        fs::write(self.path(&name), text).unwrap();
        name
    }

    /// Makes the program, by way of another name, as an upgrade does.
    fn make(&self, version: &str, how: &[&str]) {
        let source = self.source(version);
        self.compile(&[&["main.c", &source, "-o", "new"], how].concat());
        fs::rename(self.path("new"), self.path("program")).unwrap();
    }

    /// Makes the library, in the same way.
    fn make_library(&self, version: &str) {
        let source = self.source(version);
        self.compile(&["-shared", "-fPIC", &source, "-o", "new.so"]);
        fs::rename(self.path("new.so"), self.path("libversion.so")).unwrap();
    }

    fn service(&self, keys: &str) -> String {
        let (program, out) = (self.path("program"), self.path("out"));
        format!("command = [{program:?}, {out:?}]\nstandby = true\n{keys}\n")
    }

    /// What an instance says of itself: version, user, its own pid, `WORD`, no_new_privs.
    fn says(&self, pid: u32) -> Vec<String> {
        eventually("the instance says what it is", || {
            let text = fs::read_to_string(self.path("out")).unwrap();
            let lines = text.lines().filter(|_| text.ends_with('\n'));
            let mut lines = lines.map(|line| line.split(' ').map(str::to_owned).collect());
            lines.find(|words: &Vec<String>| words[2] == pid.to_string())
        })
    }

    fn version(&self, pid: u32) -> String {
        self.says(pid).swap_remove(0)
    }

    /// Whether anything has run its main function as this process.
    fn has_said(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.path("out")).unwrap();
        text.lines()
            .any(|line| line.split(' ').nth(2) == Some(&pid.to_string()))
    }
}

#[test]
fn a_killed_service_goes_on_as_its_standby() {
    let Some(program) = Program::compiled("a_killed_service_goes_on_as_its_standby") else {
        return;
    };
    program.make("one", &[]);
    let agent = Agent::start(&[("web", &program.service(""))]);
    let first = agent.running("web");
    program.says(first);
    let mut next = standby(&agent, "web");
    for round in 1..4 {
        assert_eq!(proc_status(next, "State"), "t (tracing stop)");
        assert!(!program.has_said(next));
        let arguments = |pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert_eq!(arguments(next), arguments(pid_of(&agent.status("web"))));
        assert_eq!(kill(&agent, "web"), next);
        assert_eq!(program.version(next), "one");
        assert_eq!(agent.status("web")["restarts"], round);
        agent.assert_single("web");
        let after = standby(&agent, "web");
        assert_ne!(after, next);
        next = after;
    }
    assert_eq!(agent.count("web", "started"), 4);
    assert_eq!(agent.count("web", "exited"), 3);
    let known = |event: &Value| ["started", "exited"].contains(&event["event"].as_str().unwrap());
    assert!(agent.events_of("web").iter().all(known));
}

#[test]
fn it_runs_from_its_release_on_for_all_agents() {
    let mut agent = Agent::start(&[("web", &sleeping("standby = true"))]);
    let next = standby(&agent, "web");
    rest();
    rest();
    assert_eq!(kill(&agent, "web"), next);
    let released = |agent: &Agent| {
        let status = agent.status("web");
        assert_eq!(status["start_time_ns"], start_time_ns(next));
        let released = status["released_ns"].as_u64().unwrap();
        let since = released - start_time_ns(next);
        assert!(since > 100_000_000, "{status}");
        released
    };
    let of_first = released(&agent);
    agent.kill();
    agent.start_again();
    assert_eq!(agent.running("web"), next);
    assert_eq!(released(&agent), of_first);
    standby(&agent, "web");
    kill(&agent, "web");
    let events = agent.events_of("web");
    let mut exits = events.iter().filter(|event| event["event"] == "exited");
    let exit = exits.find(|exit| exit["pid"] == next).unwrap();
    let (at, uptime) = (exit["since_boot_ns"].as_u64(), exit["uptime_ns"].as_u64());
    let began = at.unwrap() - uptime.unwrap();
    assert!(began.abs_diff(of_first) < 50_000_000, "{exit}, {of_first}");
}

#[test]
fn it_is_what_a_start_would_run() {
    let Some(program) = Program::compiled("it_is_what_a_start_would_run") else {
        return;
    };
    program.make_library("lib1");
    let here = program.dir.path().to_str().unwrap();
    let linked = format!("-Wl,-rpath,{here}");
    program.compile(&["main.c", "-o", "program", "-L.", "-lversion", &linked]);
    let agent = Agent::start(&[("web", &program.service(""))]);
    program.says(agent.running("web"));
    for (version, settles) in [("lib2", false), ("lib3", true)] {
        let old = standby(&agent, "web");
        program.make_library(version);
        if settles {
            // The agent sees the change, and has another one loaded.
            eventually("another one stands by", || {
                (standby(&agent, "web") != old).then_some(())
            });
            let next = standby(&agent, "web");
            assert_eq!(kill(&agent, "web"), next);
            assert_eq!(program.version(next), version);
        } else {
            assert_eq!(program.version(kill(&agent, "web")), version);
        }
    }
    for version in ["two", "three"] {
        let next = standby(&agent, "web");
        program.make(version, &[]);
        let new = kill(&agent, "web");
        assert_ne!(new, next);
        assert_eq!(program.version(new), version);
    }
    // Written in place, as far as the kernel lets anybody write to what runs.
    standby(&agent, "web");
    let to = program.path("program");
    fs::remove_file(&to).unwrap();
    program.make("four", &["-static"]);
    assert_eq!(program.version(kill(&agent, "web")), "four");
    let next = standby(&agent, "web");
    assert_eq!(kill(&agent, "web"), next);
    assert_eq!(program.version(next), "four");
}

#[test]
fn a_link_to_another_program_is_followed() {
    let Some(program) = Program::compiled("a_link_to_another_program_is_followed") else {
        return;
    };
    let path = program.path("program");
    let point_to = |version: &str| {
        let link = program.path("link");
        std::os::unix::fs::symlink(program.path(version).join("app"), &link).unwrap();
        fs::rename(link, &path).unwrap();
    };
    for version in ["one", "two"] {
        program.make(version, &[]);
        fs::create_dir(program.path(version)).unwrap();
        fs::rename(&path, program.path(version).join("app")).unwrap();
    }
    point_to("one");
    let agent = Agent::start(&[("web", &program.service(""))]);
    assert_eq!(program.version(agent.running("web")), "one");
    for version in ["two", "one"] {
        standby(&agent, "web");
        point_to(version);
        assert_eq!(program.version(kill(&agent, "web")), version);
    }
    // What it leads to is gone, and its directory with it.
    standby(&agent, "web");
    fs::remove_dir_all(program.path("one")).unwrap();
    let old = pid_of(&agent.status("web"));
    signal_to(old, Signal::SIGKILL);
    eventually("its start fails", || {
        agent.status("web")["error"].as_str().map(drop)
    });
    point_to("two");
    assert_eq!(program.version(agent.replaced("web", old)), "two");
}

#[test]
fn a_program_that_cannot_be_run_any_more_is_not_run() {
    let Some(program) = Program::compiled("a_program_that_cannot_be_run_any_more_is_not_run")
    else {
        return;
    };
    program.make("one", &[]);
    let agent = Agent::start(&[("web", &program.service("restart_delay = \"10ms\""))]);
    agent.running("web");
    let next = standby(&agent, "web");
    let path = program.path("program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    signal_to(pid_of(&agent.status("web")), Signal::SIGKILL);
    eventually("its start fails", || {
        let error = agent.status("web")["error"].as_str()?.to_owned();
        error.contains("Permission denied").then_some(())
    });
    eventually("what stood by is gone", || (!is_alive(next)).then_some(()));
    assert!(!program.has_said(next));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    program.says(agent.running("web"));
    standby(&agent, "web");
}

#[test]
fn scripts_stand_by_at_their_interpreters_entry() {
    let program = Program::new();
    let shell = program.path("sh");
    copy_program("/bin/sh", &shell);
    let script = program.path("program");
    let text = |version: &str| {
        format!(
            "#!{}\necho \"{version} 0 $$ - -\" >> \"$1\"\nexec sleep 1000\n",
            shell.display()
        )
    };
    fs::write(&script, text("one")).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let agent = Agent::start(&[("web", &program.service(""))]);
    program.says(agent.running("web"));
    let next = standby(&agent, "web");
    assert_eq!(kill(&agent, "web"), next);
    assert_eq!(program.version(next), "one");
    // The script's text is another one, in the same file.
    standby(&agent, "web");
    fs::write(&script, text("two")).unwrap();
    assert_eq!(program.version(kill(&agent, "web")), "two");
    // Its interpreter is another one.
    let next = standby(&agent, "web");
    copy_program("/bin/bash", program.path("new"));
    fs::rename(program.path("new"), &shell).unwrap();
    let new = kill(&agent, "web");
    assert_ne!(new, next);
    assert_eq!(program.version(new), "two");
}

#[test]
fn what_befalls_a_standby_is_not_the_services() {
    let agent = Agent::start(&[("web", &sleeping("standby = true"))]);
    let web = agent.running("web");
    let mut last = 0;
    for signal in [
        Signal::SIGKILL,
        Signal::SIGTERM,
        Signal::SIGSTOP,
        Signal::SIGSEGV,
        Signal::SIGCONT,
    ] {
        let next = standby(&agent, "web");
        assert_ne!(next, last);
        signal_to(next, signal);
        if signal == Signal::SIGKILL {
            eventually("another one stands by", || {
                (standby(&agent, "web") != next).then_some(())
            });
            assert_eq!(agent.running("web"), web);
            assert_eq!(agent.events_of("web").len(), 1);
            last = next;
            continue;
        }
        let new = kill(&agent, "web");
        // Only what does nothing to a program that has not begun may wait for it.
        assert_eq!(new == next, signal == Signal::SIGCONT, "{signal}");
        rest();
        assert_eq!(agent.assert_single("web"), new);
        last = next;
    }
    assert_eq!(agent.count("web", "started"), 5);
    assert_eq!(agent.count("web", "exited"), 4);
    assert_eq!(agent.count("web", "child_exited"), 0);
}

#[test]
fn it_ends_with_its_agent() {
    let mut agent = Agent::start(&[("web", &sleeping("standby = true"))]);
    let web = agent.running("web");
    for _ in 0..3 {
        let next = standby(&agent, "web");
        agent.kill();
        eventually("what stood by has ended", || {
            (!is_alive(next)).then_some(())
        });
        agent.start_again();
        assert_eq!(agent.assert_single("web"), web);
    }
    standby(&agent, "web");
    assert_eq!(agent.count("web", "started"), 1);
    assert_eq!(agent.count("web", "exited"), 0);
}

#[test]
fn it_is_there_only_while_the_service_is_to_run() {
    let service = sleeping("standby = true");
    let agent = Agent::start(&[("web", &service)]);
    let next = standby(&agent, "web");
    agent.must("stop", "web");
    assert!(!is_alive(next));
    assert_eq!(agent.status("web")["standby"]["state"], "none");
    assert!(agent.live("web").is_empty());
    agent.must("start", "web");
    let next = standby(&agent, "web");
    agent.must("restart", "web");
    assert_eq!(agent.running("web"), next);
    let next = standby(&agent, "web");
    // Another one, and then none.
    agent.write_service("web", &service.replace("1000", "1001"));
    assert!(agent.run(&["reload"]).status.success());
    let new = agent.running("web");
    assert_ne!(new, next);
    let arguments = fs::read_to_string(format!("/proc/{new}/cmdline")).unwrap();
    assert_eq!(arguments, "sleep\x001001\0");
    let next = standby(&agent, "web");
    agent.write_service("web", &sleeping("").replace("1000", "1001"));
    assert!(agent.run(&["reload"]).status.success());
    eventually("what stood by has ended", || {
        (!is_alive(next)).then_some(())
    });
    assert_eq!(agent.status("web")["standby"], Value::Null);
    assert_eq!(agent.running("web"), new);
    agent.write_service("web", &sleeping("standby = true").replace("1000", "1001"));
    assert!(agent.run(&["reload"]).status.success());
    let next = standby(&agent, "web");
    assert!(agent.run(&["shutdown"]).status.success());
    assert!(!is_alive(next) && agent.live_all().is_empty());
}

#[test]
fn its_environment_is_that_of_the_moment() {
    let Some(program) = Program::compiled("its_environment_is_that_of_the_moment") else {
        return;
    };
    program.make("one", &[]);
    let file = program.path("variables");
    fs::write(&file, "WORD=first\n").unwrap();
    let keys = format!("environment_file = {file:?}");
    let agent = Agent::start(&[("web", &program.service(&keys))]);
    assert_eq!(program.says(agent.running("web"))[3], "first");
    let next = standby(&agent, "web");
    assert_eq!(kill(&agent, "web"), next);
    let next = standby(&agent, "web");
    fs::write(&file, "WORD=second\n").unwrap();
    let new = kill(&agent, "web");
    assert_ne!(new, next);
    assert_eq!(program.says(new)[3], "second");
    let next = standby(&agent, "web");
    assert_eq!(kill(&agent, "web"), next);
    assert_eq!(program.says(next)[3], "second");
}

#[test]
fn its_rights_are_those_of_any_instance() {
    needs_root!("rights of standbys");
    let Some(program) = Program::compiled("its_rights_are_those_of_any_instance") else {
        return;
    };
    program.make("plain", &[]);
    let path = program.path("program");
    for (keys, mode, expected) in [
        ("user = 65534", 0o755, ["65534", "nnp=0"]),
        (
            "user = 65534\nno_new_privileges = true",
            0o755,
            ["65534", "nnp=1"],
        ),
        ("user = 65534", 0o4755, ["0", "nnp=0"]),
        (
            "user = 65534\nno_new_privileges = true",
            0o4755,
            ["65534", "nnp=1"],
        ),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let agent = Agent::start(&[("web", &program.service(keys))]);
        let of = |pid| {
            let says = program.says(pid);
            [says[1].clone(), says[4].clone()]
        };
        assert_eq!(of(agent.running("web")), expected);
        let next = standby(&agent, "web");
        assert_eq!(kill(&agent, "web"), next);
        assert_eq!(of(next), expected);
    }
}

#[test]
fn rights_that_a_traced_process_would_lose_are_not_lost() {
    needs_root!("rights of programs, for an agent without CAP_SYS_PTRACE");
    let Some(program) = Program::compiled("rights_that_a_traced_process_would_lose_are_not_lost")
    else {
        return;
    };
    program.make("plain", &[]);
    let path = program.path("program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    let wrapper = [
        "setpriv",
        "--bounding-set",
        "-sys_ptrace",
        "--inh-caps",
        "-all",
    ];
    let setup = Setup {
        wrapper: wrapper.map(str::to_owned).to_vec(),
        ..Setup::default()
    };
    let agent = Agent::with(&setup, &[("web", &program.service("user = 65534"))]);
    assert_eq!(program.says(agent.running("web"))[1], "0");
    let why = why_none(&agent, "web");
    assert!(why.contains("set-uid"), "{why}");
    assert_eq!(program.says(kill(&agent, "web"))[1], "0");
    // Without such rights it has one.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    agent.must("stop", "web");
    agent.must("start", "web");
    let next = standby(&agent, "web");
    assert_eq!(kill(&agent, "web"), next);
    assert_eq!(program.says(next)[1], "65534");
}

#[test]
fn sockets_say_that_they_are_its_own() {
    let address = sockets::free();
    let server = env!("CARGO_BIN_EXE_server");
    let service = format!(
        "command = [{server:?}, \"serve\"]\nlisten = [{{ tcp = \"{address}\" }}]\nstandby = true\n"
    );
    let agent = Agent::start(&[("web", &service)]);
    for _ in 0..3 {
        let next = standby(&agent, "web");
        assert_eq!(kill(&agent, "web"), next);
        let said = eventually("an answer", || sockets::ask(address));
        // Who it is, and for whom the sockets are.
        assert_eq!(
            said[..3],
            [next.to_string(), next.to_string(), "1".to_owned()]
        );
    }
}

#[test]
fn a_rolling_restart_goes_on_with_it() {
    let address = sockets::free();
    let culprit = env!("CARGO_BIN_EXE_culprit");
    let agent = Agent::start(&[(
        "web",
        &shell(
            &format!("{culprit} say READY=1; exec sleep 1000"),
            &format!(
                "listen = [{{ tcp = \"{address}\" }}]\nready = {{ notify = true }}\nrestart_mode = \"rolling\"\nstandby = true"
            ),
        ),
    )]);
    let mut old = agent.running("web");
    for _ in 0..3 {
        let next = standby(&agent, "web");
        agent.must("restart", "web");
        assert_eq!(agent.running("web"), next);
        eventually("the old one is gone", || (!is_alive(old)).then_some(()));
        old = next;
    }
    assert_eq!(agent.count("web", "replaced"), 3);
    let next = standby(&agent, "web");
    assert_eq!(kill(&agent, "web"), next);
    agent.assert_single("web");
}

#[test]
fn libraries_that_start_something_are_not_stood_by_with() {
    for (what, start) in [
        ("processes", "if (fork() == 0) for (;;) pause();"),
        (
            "threads",
            "pthread_t t; pthread_create(&t, 0, (void *(*)(void *))pause, 0);",
        ),
    ] {
        let Some(program) =
            Program::compiled("libraries_that_start_something_are_not_stood_by_with")
        else {
            return;
        };
        let source = format!(
            "#include <pthread.h>\n#include <unistd.h>\n__attribute__((constructor)) static void begin(void) {{ {start} }}\n"
        );
        fs::write(program.path("begin.c"), source).unwrap();
        program.compile(&[
            "-shared",
            "-fPIC",
            "-pthread",
            "begin.c",
            "-o",
            "libbegin.so",
        ]);
        let here = format!("-Wl,-rpath,{}", program.dir.path().display());
        program.make("one", &["-Wl,--no-as-needed", "-L.", "-lbegin", &here]);
        let agent = Agent::start(&[("web", &program.service("stop_mode = \"group\""))]);
        program.says(agent.running("web"));
        let why = why_none(&agent, "web");
        assert!(why.contains("before its main function"), "{what}: {why}");
        let plain = String::from_utf8(agent.run(&["status"]).stdout).unwrap();
        assert!(plain.contains("no standby: "), "{plain}");
        program.says(kill(&agent, "web"));
        let count = |pid: &u32| proc_status(*pid, "TracerPid") != "0";
        eventually("nothing of it is left", || {
            (!agent.live("web").iter().any(count)).then_some(())
        });
    }
}

#[test]
fn a_log_has_what_each_of_them_writes() {
    let script = "echo \"I am $$\"; exec sleep 1000";
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let agent = Agent::start(&[
        (
            "plain",
            &shell(script, &format!("stdout = {log:?}\nstandby = true")),
        ),
        (
            "logged",
            &shell(
                script,
                &format!("log = {{ path = \"{}.2\" }}\nstandby = true", log.display()),
            ),
        ),
    ]);
    for (service, path) in [
        ("plain", log.clone()),
        ("logged", PathBuf::from(format!("{}.2", log.display()))),
    ] {
        let has = |path: &Path, pid: u32| {
            eventually("its line is in the log", || {
                let text = fs::read_to_string(path).ok()?;
                text.contains(&format!("I am {pid}\n")).then_some(())
            });
        };
        has(&path, agent.running(service));
        let next = standby(&agent, service);
        assert_eq!(kill(&agent, service), next);
        has(&path, next);
        if service == "plain" {
            // Rotated by somebody else.
            let next = standby(&agent, service);
            fs::rename(&path, dir.path().join("old")).unwrap();
            let new = kill(&agent, service);
            assert_ne!(new, next);
            has(&path, new);
        }
    }
}

#[test]
fn a_mount_that_dies_under_it_holds_up_no_other_service() {
    let test = "a_mount_that_dies_under_it_holds_up_no_other_service";
    needs_root!(test);
    let dirs: [tempfile::TempDir; 3] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let [logs, programs, entered] = dirs.each_ref().map(tempfile::TempDir::path);
    let program = programs.join("sleep");
    copy_program("/bin/sleep", &program);
    if own_namespace().is_none() {
        return skip(test, "no mount namespace can be had");
    }
    let keys = "standby = true\nrestart_delay = \"100s\"";
    let services = [
        (
            "log",
            sleeping(&format!("stdout = {:?}\n{keys}", logs.join("log"))),
        ),
        (
            "program",
            format!("command = [{program:?}, \"1000\"]\n{keys}"),
        ),
        (
            "entered",
            sleeping(&format!("working_directory = {entered:?}\n{keys}")),
        ),
        ("other", sleeping("standby = true")),
    ];
    let agent = Agent::start(&services.each_ref().map(|(name, text)| (*name, &**text)));
    for (service, _) in &services {
        standby(&agent, service);
    }
    let dead = [logs, programs, entered].map(DeadMount::here);
    if dead.iter().any(Option::is_none) {
        return skip(test, "no file system of FUSE can be mounted");
    }
    for service in ["log", "program", "entered"] {
        signal_to(pid_of(&agent.status(service)), Signal::SIGKILL);
        eventually("it starts as usual", || {
            (agent.status(service)["state"] == "starting").then_some(())
        });
    }
    let next = standby(&agent, "other");
    assert_eq!(kill(&agent, "other"), next);
    drop(dead);
}

#[test]
fn it_waits_at_no_cost() {
    let services: Vec<(String, String)> = (0..20)
        .map(|number| (format!("s{number}"), sleeping("standby = true")))
        .collect();
    let services: Vec<(&str, &str)> = services
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let agent = Agent::start(&services);
    for (service, _) in &services {
        standby(&agent, service);
        let bytes = agent.status(service)["standby"]["memory_bytes"]
            .as_u64()
            .unwrap();
        assert!((100_000..100_000_000).contains(&bytes), "{bytes}");
    }
    rest();
    rest();
    let before = switches(agent.pid());
    for _ in 0..20 {
        rest();
    }
    assert_eq!(switches(agent.pid()), before);
}

#[test]
fn what_cannot_have_one_is_refused_or_says_why() {
    let agent = Agent::start(&[
        (
            "fd",
            &shell(
                "echo >&3; exec sleep 1000",
                "standby = true\nready = { fd = 3 }",
            ),
        ),
        (
            "boxed",
            &sleeping("standby = true\nsandbox = { private_tmp = true, optional = true }"),
        ),
    ]);
    agent.running("fd");
    assert!(why_none(&agent, "fd").contains("descriptor"));
    agent.running("boxed");
    assert!(why_none(&agent, "boxed").contains("sandbox"));
    agent.write_service(
        "once",
        "command = [\"true\"]\ntype = \"oneshot\"\nstandby = true",
    );
    let output = agent.run(&["check"]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("standby") && said.contains("simple"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn where_no_process_may_be_traced_the_service_starts_as_usual() {
    needs_root!("standbys without ptrace");
    let setup = Setup {
        wrapper: vec![env!("CARGO_BIN_EXE_culprit").into(), "untraced".into()],
        ..Setup::default()
    };
    let agent = Agent::with(&setup, &[("web", &sleeping("standby = true"))]);
    let why = why_none(&agent, "web");
    assert!(why.contains("cannot be traced"), "{why}");
    kill(&agent, "web");
}
