//! What a service's file says of its surroundings is so, as the kernel shows it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use support::dead_mount::DeadMount;
use support::{
    Agent, Setup, arguments, environment, eventually, needs_root, proc_status, shell, signal_to,
    skip, sleeping,
};

/// An agent with these variables in its own environment.
fn with_environment(variables: &[(&str, &str)]) -> Setup {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Setup {
        environment: variables.iter().map(owned).collect(),
        ..Setup::default()
    }
}

#[test]
fn environment_files_are_read_in_order_at_every_start() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    fs::write(&one, "A=one\nB=one\nC=one\n").unwrap();
    let keys = format!(
        "environment_file = [{one:?}, \"-{}\"]\nenvironment.C = \"table\"",
        two.display()
    );
    let agent = Agent::start(&[("web", &sleeping(&keys))]);
    let values = |pid| {
        let environment = environment(pid);
        ["A", "B", "C"].map(|key| environment[key].clone())
    };
    assert_eq!(values(agent.assert_single("web")), ["one", "one", "table"]);
    fs::write(&two, "B=two\nC=two\n").unwrap();
    agent.must("restart", "web");
    assert_eq!(values(agent.assert_single("web")), ["one", "two", "table"]);
    fs::remove_file(&one).unwrap();
    let refused = agent.run(&["restart", "web"]);
    assert!(!refused.status.success());
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("cannot read its environment_file"), "{told}");
}

/// All that waits for an answer waits for ever: if the agent's loop did, nothing here would go on.
#[test]
fn an_environment_file_on_a_dead_mount_holds_up_no_other_service() {
    let test = "an_environment_file_on_a_dead_mount_holds_up_no_other_service";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    fs::write(&file, "WORD=back\n").unwrap();
    let Some(dead) = DeadMount::over(dir.path()) else {
        return skip(test, "no file system of FUSE can be mounted");
    };
    let keys = format!("environment_file = {file:?}\nrestart_delay = \"100ms\"");
    let web = format!("command = [\"sleep\", \"${{WORD}}\", \"1000\"]\n{keys}");
    let mut agent = Agent::start(&[("web", &web), ("other", &sleeping(""))]);
    for _ in 0..3 {
        let other = agent.running("other");
        signal_to(other, Signal::SIGKILL);
        agent.replaced("other", other);
    }
    assert_eq!(agent.status("web")["state"], "starting");
    agent.must("restart", "other");
    // What comes to be on the mount later does not hold up a reload.
    agent.write_service("late", &sleeping(&keys));
    assert!(agent.run(&["check"]).status.success());
    let reload = agent.command(&["reload"]).spawn();
    agent.wait_state("late", "starting");
    agent.must("stop", "late");
    let _ = reload.unwrap().wait();
    agent.kill();
    agent.start_again();
    let other = agent.running("other");
    signal_to(other, Signal::SIGKILL);
    agent.replaced("other", other);
    agent.must("stop", "web");
    // The server is back.
    drop(dead);
    fs::write(&file, "WORD=1000\n").unwrap();
    agent.must("start", "web");
    let web = agent.assert_single("web");
    assert_eq!(arguments(web), ["sleep", "1000", "1000"]);
    assert_eq!(environment(web)["WORD"], "1000");
}

/// Who looks at one of these places waits for ever.
#[test]
fn a_config_that_leads_to_a_dead_mount_is_checked() {
    let test = "a_config_that_leads_to_a_dead_mount_is_checked";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let Some(_dead) = DeadMount::over(dir.path()) else {
        return skip(test, "no file system of FUSE can be mounted");
    };
    let agent = Agent::start(&[("other", &sleeping(""))]);
    let place = |name: &str| dir.path().join(name);
    let (app, log) = (place("app"), place("log"));
    let keys = format!(
        "user = \"65534\"\nworking_directory = {:?}\nstdout = {log:?}\nstderr = {log:?}\n\
         environment_file = {:?}\nbefore_start = [[{app:?}]]\non_exit = [{app:?}]",
        dir.path(),
        place("env"),
    );
    agent.write_service("web", &format!("command = [{app:?}]\n{keys}"));
    agent.write_service(
        "root",
        &format!("command = [{app:?}]\nlog = {{ path = {log:?} }}"),
    );
    let socket = sleeping(&format!(
        "restart_delay = \"100s\"\nlisten = [{{ unix = {:?} }}]",
        place("socket")
    ));
    agent.write_service("socket", &socket);
    let check = agent.run(&["check"]);
    assert!(check.status.success(), "{check:?}");
    // The agent itself binds it.
    let refused = Agent::start(&[("socket", &socket)]).wait_state("socket", "backoff");
    assert!(
        refused
            .to_string()
            .contains("a mount whose server may be gone"),
        "{refused}"
    );
}

/// Programs are looked up in each directory of `PATH` before the one that has them.
#[test]
fn a_directory_of_path_on_a_dead_mount_is_left_out() {
    let test = "a_directory_of_path_on_a_dead_mount_is_left_out";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let [dead, links] = ["dead", "links"].map(|name| dir.path().join(name));
    fs::create_dir(&dead).unwrap();
    fs::create_dir(&links).unwrap();
    let Some(_dead) = DeadMount::over(&dead) else {
        return skip(test, "no file system of FUSE can be mounted");
    };
    // Nor does a link lead there.
    symlink(dead.join("sleep"), links.join("sleep")).unwrap();
    let path = format!("{}:{}:/usr/bin:/bin", dead.display(), links.display());
    let setup = with_environment(&[("PATH", &path)]);
    let hook = "on_exit = [\"true\"]\nbefore_start = [[\"true\"]]";
    let agent = Agent::with(&setup, &[("web", &sleeping(hook))]);
    agent.assert_single("web");
    let told = format!(
        "{} in PATH was left out: it does not answer",
        dead.display()
    );
    assert!(agent.log().contains(&told), "{}", agent.log());
    agent.write_service("late", &sleeping(""));
    let reload = agent
        .command(&["reload"])
        .env("PATH", &path)
        .output()
        .unwrap();
    assert!(reload.status.success(), "{reload:?}");
    agent.assert_single("late");
    agent.write_service("none", "command = [\"no-such-program\"]");
    let check = agent
        .command(&["check"])
        .env("PATH", &path)
        .output()
        .unwrap();
    let said = String::from_utf8(check.stderr).unwrap();
    let left_out = format!("left out: {}: it does not answer", dead.display());
    let link = links.join("sleep").display().to_string();
    assert!(
        agent
            .log()
            .contains(&format!("{link} in PATH was left out"))
    );
    assert!(said.contains(&left_out), "{said}");
}

/// There, too, where somebody may have to answer, as far as the table of mounts says.
#[test]
fn a_program_where_somebody_may_not_answer_is_found_if_somebody_does() {
    let test = "a_program_where_somebody_may_not_answer_is_found_if_somebody_does";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let Some(_dead) = DeadMount::over(dir.path()) else {
        return skip(test, "no file system of FUSE can be mounted");
    };
    let none: Option<&str> = None;
    let flags = MsFlags::empty();
    mount(Some("none"), dir.path(), Some("tmpfs"), flags, none).unwrap();
    let program = dir.path().join("a-program-of-its-own");
    fs::copy("/bin/sleep", &program).unwrap();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let own = "command = [\"a-program-of-its-own\", \"1000\"]";
    let setup = with_environment(&[("PATH", &path)]);
    let agent = Agent::with(&setup, &[("own", own), ("other", &sleeping(""))]);
    let pid = agent.assert_single("own");
    assert_eq!(fs::read_link(format!("/proc/{pid}/exe")).unwrap(), program);
    agent.assert_single("other");
    assert!(!agent.log().contains("left out"), "{}", agent.log());
    drop(agent);
    umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
}

/// A start waits for its output file, its directory or its program; while it does, the agent says so, and if its
/// loop waited, it could not.
#[test]
fn a_start_on_a_dead_mount_holds_up_no_other_service() {
    let test = "a_start_on_a_dead_mount_holds_up_no_other_service";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    fs::copy("/bin/sleep", dir.path().join("sleep")).unwrap();
    let Some(dead) = DeadMount::over(dir.path()) else {
        return skip(test, "no file system of FUSE can be mounted");
    };
    let place = |name: &str| dir.path().join(name);
    let delay = "restart_delay = \"100s\"\nlast_output = \"1KiB\"";
    let output = sleeping(&format!("stdout = {:?}\n{delay}", place("log")));
    let directory = sleeping(&format!("working_directory = {:?}\n{delay}", dir.path()));
    let program = format!("command = [{:?}, \"1000\"]\n{delay}", place("sleep"));
    let hanging = [
        ("output", &*output, "log"),
        ("directory", &*directory, ""),
        ("program", &*program, "sleep"),
    ];
    let other = sleeping("restart_delay = \"0s\"");
    let mut services: Vec<(&str, &str)> = vec![("other", &other)];
    services.extend(hanging.map(|(name, text, _)| (name, text)));
    let mut agent = Agent::start(&services);
    let other = agent.running("other");
    for (name, ..) in hanging {
        assert_eq!(agent.status(name)["state"], "starting", "{name}");
    }
    signal_to(other, Signal::SIGKILL);
    agent.replaced("other", other);
    for (name, _, file) in hanging {
        agent.wait_state(name, "backoff");
        let events = agent.events_of(name);
        let failed = events.iter().find(|it| it["event"] == "backoff");
        let message = failed.unwrap()["message"].as_str().unwrap().to_owned();
        let place = place(file).display().to_string();
        let is_named = message.contains(place.trim_end_matches('/'));
        assert!(is_named && message.contains("timed out"), "{message}");
        assert_eq!(agent.live(name), [0; 0], "{name}");
    }
    // The agent dies while they start once more, and the server is back.
    let starts = hanging.map(|(name, ..)| agent.command(&["start", name]).spawn().unwrap());
    for (name, ..) in hanging {
        agent.wait_state(name, "starting");
    }
    agent.kill();
    for mut start in starts {
        let _ = start.wait();
    }
    drop(dead);
    agent.start_again();
    for (name, ..) in hanging {
        agent.must("start", name);
        agent.assert_single(name);
    }
}

/// Nothing else ends a start that hangs for ten seconds, and nobody waits so long who wants the service down, or
/// started again.
#[test]
fn a_start_that_hangs_is_ended_by_a_stop_a_restart_and_a_shutdown() {
    let test = "a_start_that_hangs_is_ended_by_a_stop_a_restart_and_a_shutdown";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    fs::create_dir(&place).unwrap();
    let Some(_dead) = DeadMount::over(&place) else {
        return skip(test, "no file system of FUSE can be mounted");
    };
    let program = format!(
        "command = [{:?}, \"1000\"]\nrestart_delay = \"100s\"",
        place.join("sleep")
    );
    let output = sleeping(&format!("stdout = {:?}", place.join("log")));
    let mut agent = Agent::start(&[("program", &program), ("output", &output)]);
    let soon = |agent: &Agent, arguments: &[&str]| {
        let asked = support::now();
        let done = agent.run(arguments);
        assert!(done.status.success(), "{done:?}");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(5), "{arguments:?}: {took:?}");
    };
    let names = ["program", "output"];
    for name in names {
        assert_eq!(agent.status(name)["state"], "starting", "{name}");
        soon(&agent, &["stop", name]);
        assert_eq!(agent.status(name)["state"], "stopped");
        assert_eq!(agent.live(name), [0; 0], "{name}");
    }
    // All is well there again, for whoever looks from now on.
    let starts = names.map(|name| agent.command(&["start", name]).spawn().unwrap());
    for name in names {
        agent.wait_state(name, "starting");
    }
    let none: Option<&str> = None;
    let flags = MsFlags::empty();
    mount(Some("none"), dir.path(), Some("tmpfs"), flags, none).unwrap();
    fs::create_dir(&place).unwrap();
    fs::copy("/bin/sleep", place.join("sleep")).unwrap();
    for name in names {
        soon(&agent, &["restart", name]);
        agent.assert_single(name);
    }
    for mut start in starts {
        assert!(start.wait().unwrap().success());
    }
    let dead_again = DeadMount::here(&place).unwrap();
    agent.must("stop", "program");
    let start = agent.command(&["start", "program"]).spawn();
    agent.wait_state("program", "starting");
    soon(&agent, &["shutdown"]);
    let _ = start.unwrap().wait();
    assert!(agent.wait().success());
    drop(dead_again);
    umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
}

/// Whether the agent has a child that has not become its program yet.
fn has_a_hanging_child(agent: &Agent) -> bool {
    let pid = agent.pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let memory = |pid: u32| fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let own = memory(pid);
    let mut children = children.split_whitespace().map(|it| it.parse().unwrap());
    children.any(|child| memory(child) == own)
}

/// Kills a service, and waits until the agent has started it again.
fn kill_and_await(agent: &Agent, name: &str) {
    let pid = agent.running(name);
    signal_to(pid, Signal::SIGKILL);
    agent.replaced(name, pid);
}

fn assert_gave_up(client: Child, place: &Path) {
    let output = client.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    let names_it = said.contains(&place.display().to_string());
    let is_late = said.contains("timed out") || said.contains("did not end in time");
    assert!(names_it && is_late, "{said}");
}

/// Each waits in its start, as a service does. While one of them does, another service is restarted, before it is
/// known what has become of it.
#[test]
fn a_hook_and_a_reload_command_on_a_dead_mount_hold_up_no_service() {
    let test = "a_hook_and_a_reload_command_on_a_dead_mount_hold_up_no_service";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("true");
    fs::copy("/bin/true", &program).unwrap();
    let Some(dead) = DeadMount::over(dir.path()) else {
        return skip(test, "no file system of FUSE can be mounted");
    };
    let at_once = "restart_delay = \"0s\"";
    let keys = format!(
        "on_exit = [{program:?}]\nreload = {{ run = [{program:?}], timeout = \"5s\" }}\n{at_once}"
    );
    let agent = Agent::start(&[("hooked", &sleeping(&keys)), ("other", &sleeping(at_once))]);
    let hangs = || eventually("it hangs", || has_a_hanging_child(&agent).then_some(()));
    let told = || {
        let log = agent.log();
        let line = log.lines().find(|line| line.contains("hook=\"on_exit\""));
        line.map(str::to_owned)
    };
    kill_and_await(&agent, "hooked");
    hangs();
    kill_and_await(&agent, "other");
    assert_eq!(told(), None);
    let mut reload = agent.command(&["reload", "hooked"]);
    let mut reload = reload.stderr(Stdio::piped()).spawn().unwrap();
    eventually("it is asked for", || {
        let events = agent.events();
        let mut commands = events.iter().map(|event| &event["command"]);
        commands.any(|it| it == "reload").then_some(())
    });
    kill_and_await(&agent, "other");
    assert!(reload.try_wait().unwrap().is_none());
    assert_eq!(told(), None);
    assert_gave_up(reload, dir.path());
    let line = eventually("the hook is given up", told);
    assert!(line.contains(&program.display().to_string()), "{line}");
    assert!(line.contains("timed out"), "{line}");
    // The server is back while one is on its way.
    kill_and_await(&agent, "hooked");
    hangs();
    drop(dead);
    agent.must("reload", "hooked");
}

#[test]
fn a_step_on_a_dead_mount_holds_up_no_service_and_ends_with_the_start() {
    let test = "a_step_on_a_dead_mount_holds_up_no_service_and_ends_with_the_start";
    needs_root!(test);
    let dir = tempfile::tempdir().unwrap();
    let Some(dead) = DeadMount::over(dir.path()) else {
        return skip(test, "no file system of FUSE can be mounted");
    };
    let stepped = sleeping(&format!(
        "before_start = [[\"true\"]]\nstdout = {:?}\nrestart_delay = \"100s\"\nautostart = false",
        dir.path().join("log")
    ));
    let other = sleeping("restart_delay = \"0s\"");
    let agent = Agent::start(&[("stepped", &stepped), ("other", &other)]);
    let start = || {
        let mut start = agent.command(&["start", "stepped"]);
        let mut start = start.stderr(Stdio::piped()).spawn().unwrap();
        agent.wait_state("stepped", "starting");
        kill_and_await(&agent, "other");
        assert!(start.try_wait().unwrap().is_none());
        assert_eq!(agent.count("stepped", "backoff"), 0);
        start
    };
    let begun = start();
    agent.must("stop", "stepped");
    assert!(!begun.wait_with_output().unwrap().status.success());
    assert_eq!(agent.count("stepped", "backoff"), 0);
    assert!(!has_a_hanging_child(&agent));
    assert_gave_up(start(), dir.path());
    drop(dead);
    agent.must("start", "stepped");
    agent.assert_single("stepped");
}

#[test]
fn variables_of_the_agent_are_passed_on_by_name() {
    let setup = with_environment(&[
        ("TZ", "UTC"),
        ("APP_PORT", "80"),
        ("APP_NAME", "x"),
        ("OTHER", "not"),
        ("NOTIFY_SOCKET", ""),
    ]);
    let keys = "pass_environment = [\"TZ\", \"APP_*\"]\nenvironment.APP_NAME = \"own\"";
    let all = sleeping("pass_environment = [\"*\"]");
    let agent = Agent::with(&setup, &[("web", &sleeping(keys)), ("all", &all)]);
    let found = environment(agent.assert_single("web"));
    let value = |key: &str| found.get(key).map(String::as_str);
    assert_eq!(value("TZ"), Some("UTC"));
    assert_eq!(value("APP_PORT"), Some("80"));
    assert_eq!(value("APP_NAME"), Some("own"));
    assert_eq!(value("OTHER"), None);
    let found = environment(agent.assert_single("all"));
    assert_eq!(found["OTHER"], "not");
    assert!(!found.contains_key("NOTIFY_SOCKET"));
}

#[test]
fn a_commands_variables_are_replaced_within_their_word() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("environment"), dir.path().join("out"));
    fs::write(&file, "NAME=one two\n").unwrap();
    let keys = format!("environment_file = {file:?}\nenvironment.SECONDS_ = \"1000\"");
    let web = format!(
        "command = [\"tail\", \"-s\", \"${{SECONDS_}}\", \"-f\", \"/dev/null\", \"--pid=${{NONE:-1}}\", \
         \"/dev/null${{NONE-}}\"]\n{keys}"
    );
    let script = format!(
        "echo \"${{NAME}} ${{NONE-}}\" \"$@\" > {}; exec sleep 1000",
        out.display()
    );
    let script = shell(&script, &keys).replace("]\n", ", \"x\", \"${NAME}\", \"$${NAME}\"]\n");
    let agent = Agent::start(&[("web", &web), ("script", &script)]);
    let expected = [
        "tail",
        "-s",
        "1000",
        "-f",
        "/dev/null",
        "--pid=1",
        "/dev/null",
    ];
    assert_eq!(arguments(agent.assert_single("web")), expected);
    agent.running("script");
    let written = eventually("what it writes", || {
        fs::read_to_string(&out)
            .ok()
            .filter(|text| text.ends_with('\n'))
    });
    assert_eq!(written, "one two  one two ${NAME}\n");
}

#[test]
fn a_variable_that_is_not_set_fails_the_start_and_is_named() {
    let web = "command = [\"sleep\", \"${SECONDS_}\"]\nenvironment_file = \"/dev/null\"";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("environment");
    fs::write(&file, "").unwrap();
    let web = web.replace("/dev/null", file.to_str().unwrap());
    let agent = Agent::start(&[("web", &web)]);
    let status = agent.wait_state("web", "backoff");
    let error = status["error"].as_str().unwrap_or_default();
    assert!(error.contains("${SECONDS_} is not set"), "{status}");
    fs::write(&file, "SECONDS_=1000\n").unwrap();
    let pid = agent.running("web");
    assert_eq!(arguments(pid), ["sleep", "1000"]);
}

const NOBODY: u32 = 65534;
const AS_NOBODY: &str = "user = 65534\ngroup = 65534";

/// `Cap…` of `/proc/PID/status`.
fn capabilities(pid: u32, set: &str) -> u64 {
    u64::from_str_radix(&proc_status(pid, set), 16).unwrap()
}

#[test]
fn capabilities_are_those_and_no_others() {
    needs_root!("capabilities_are_those_and_no_others");
    // CAP_CHOWN and CAP_NET_BIND_SERVICE
    let set = 1 | 1 << 10;
    let two = "capabilities = [\"CAP_NET_BIND_SERVICE\", \"CAP_CHOWN\"]";
    let agent = Agent::start(&[
        ("root", &sleeping(two)),
        ("nobody", &sleeping(&format!("{two}\n{AS_NOBODY}"))),
        (
            "none",
            &sleeping(&format!("capabilities = []\n{AS_NOBODY}")),
        ),
        ("plain", &sleeping(AS_NOBODY)),
    ]);
    for (service, expected, ambient) in [("root", set, 0), ("nobody", set, set), ("none", 0, 0)] {
        let pid = agent.assert_single(service);
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(capabilities(pid, name), expected, "{service} {name}");
        }
        assert_eq!(capabilities(pid, "CapAmb"), ambient, "{service}");
    }
    let plain = agent.assert_single("plain");
    assert_eq!(capabilities(plain, "CapPrm"), 0);
    assert_ne!(capabilities(plain, "CapBnd"), 0);
    assert_eq!(
        proc_status(agent.assert_single("nobody"), "Uid")
            .split('\t')
            .next(),
        Some("65534")
    );
}

#[test]
fn no_new_privileges_are_gained() {
    let agent = Agent::start(&[
        ("web", &sleeping("no_new_privileges = true")),
        ("plain", &sleeping("")),
    ]);
    assert_eq!(proc_status(agent.assert_single("web"), "NoNewPrivs"), "1");
    let own = proc_status(std::process::id(), "NoNewPrivs");
    assert_eq!(proc_status(agent.assert_single("plain"), "NoNewPrivs"), own);
}

fn score(pid: u32) -> i32 {
    let text = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    text.trim().parse().unwrap()
}

/// The service's children, too, whenever it begins them; never the agent, whose memory it shares for
/// a moment.
#[test]
fn the_out_of_memory_score_is_the_services_alone() {
    needs_root!("the_out_of_memory_score_is_the_services_alone");
    let dir = tempfile::tempdir().unwrap();
    let child = dir.path().join("child");
    let script = format!(
        "sleep 1000 & echo $! > {}; exec sleep 1000",
        child.display()
    );
    let own = score(std::process::id());
    let wanted = if own == 500 { 600 } else { 500 };
    let keys = format!("oom_score_adj = {wanted}\nrestart_delay = \"0s\"");
    // CAP_SYS_RESOURCE
    let may_lower = capabilities(std::process::id(), "CapEff") >> 24 & 1 != 0;
    let low = if may_lower { -700 } else { own + 100 };
    let agent = Agent::start(&[
        ("web", &shell(&script, &keys)),
        ("low", &sleeping(&format!("oom_score_adj = {low}"))),
        ("plain", &sleeping("")),
    ]);
    for _ in 0..5 {
        for service in ["web", "low", "plain"] {
            agent.must("restart", service);
        }
        assert_eq!(score(agent.running("web")), wanted);
        assert_eq!(score(agent.assert_single("low")), low);
        assert_eq!(score(agent.assert_single("plain")), own);
        assert_eq!(score(agent.pid()), own);
    }
    let child = eventually("its child", || {
        fs::read_to_string(&child).ok()?.trim().parse().ok()
    });
    eventually("the child's score", || {
        (score(child) == wanted).then_some(())
    });
}

#[test]
fn a_service_runs_on_its_processors() {
    let allowed = proc_status(std::process::id(), "Cpus_allowed_list");
    let first = allowed.split(['-', ',']).next().unwrap().to_owned();
    let agent = Agent::start(&[("web", &sleeping(&format!("cpu_affinity = [{first}]")))]);
    let pid = agent.assert_single("web");
    assert_eq!(proc_status(pid, "Cpus_allowed_list"), first);
    assert_eq!(proc_status(agent.pid(), "Cpus_allowed_list"), allowed);
    // No host of the tests has as many.
    agent.write_service("web", &sleeping("cpu_affinity = [8191]"));
    let refused = agent.run(&["reload"]);
    let told = String::from_utf8_lossy(&refused.stdout).into_owned()
        + &String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("cannot set cpu_affinity"), "{told}");
}

#[test]
fn what_the_kernel_does_not_allow_fails_the_start_and_is_named() {
    needs_root!("what_the_kernel_does_not_allow_fails_the_start_and_is_named");
    // An agent that may set no capability, and lower no score.
    let setup = Setup {
        wrapper: [
            "setpriv",
            "--bounding-set",
            "-setpcap,-sys_resource",
            "--inh-caps",
            "-all",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Setup::default()
    };
    let agent = Agent::with(
        &setup,
        &[
            ("few", &sleeping("capabilities = [\"CAP_CHOWN\"]")),
            ("low", &sleeping("oom_score_adj = -1000")),
        ],
    );
    for (service, why) in [
        ("few", "cannot limit it to the capabilities [CAP_CHOWN]"),
        ("low", "cannot set oom_score_adj to -1000"),
    ] {
        let status = agent.wait_state(service, "backoff");
        let error = status["error"].as_str().unwrap_or_default();
        assert!(error.contains(why), "{status}");
        assert_eq!(agent.live(service), Vec::<u32>::new());
    }
}

#[test]
fn what_is_optional_is_left_out_where_it_is_not_allowed() {
    needs_root!("what_is_optional_is_left_out_where_it_is_not_allowed");
    let wrapper = [
        "setpriv",
        "--bounding-set",
        "-sys_resource",
        "--inh-caps",
        "-all",
    ];
    let setup = Setup {
        wrapper: wrapper.map(str::to_owned).to_vec(),
        ..Setup::default()
    };
    let keys = "oom_score_adj = -1000\nsandbox = { optional = true }\n\
                capabilities = [\"CAP_CHOWN\", \"CAP_SYS_RESOURCE\"]\nbefore_start = [[\"/bin/true\"]]";
    let agent = Agent::with(&setup, &[("web", &sleeping(keys))]);
    let pid = agent.running("web");
    assert_eq!(score(pid), score(std::process::id()));
    for set in ["CapEff", "CapBnd"] {
        assert_eq!(capabilities(pid, set), 1, "{set}");
    }
}

/// An agent in a mount namespace of its own, in which the places of directories are empty.
fn with_own_places() -> Setup {
    let script = "for place in /run /var/lib /var/log /var/cache; do \
                  mount -t tmpfs -o mode=755 places $place || exit 1; done; exec \"$@\"";
    Setup {
        wrapper: ["unshare", "--mount", "sh", "-c", script, "sh"]
            .map(str::to_owned)
            .to_vec(),
        ..Setup::default()
    }
}

/// A path as the agent sees it.
fn seen_by(agent: &Agent, path: &str) -> PathBuf {
    Path::new(&format!("/proc/{}/root", agent.pid())).join(path.trim_start_matches('/'))
}

#[test]
fn directories_are_made_and_are_the_services_users() {
    needs_root!("directories_are_made_and_are_the_services_users");
    let keys = format!(
        "{AS_NOBODY}\nstdout = \"/var/log/web/out\"\nworking_directory = \"/var/lib/web/deep\"\n\
         directories = {{ runtime = [\"web\"], state = [\"web/deep\"], logs = [\"web\"], \
         cache = [\"web\", \"x\"], mode = \"0750\" }}"
    );
    let agent = Agent::with(&with_own_places(), &[("web", &sleeping(&keys))]);
    let pid = agent.assert_single("web");
    let found = |path: &str| {
        let found = fs::metadata(seen_by(&agent, path)).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o7777)
    };
    for path in [
        "/run/web",
        "/var/lib/web/deep",
        "/var/log/web",
        "/var/cache/web",
        "/var/cache/x",
    ] {
        assert_eq!(found(path), (NOBODY, NOBODY, 0o750), "{path}");
    }
    assert_eq!(found("/var/lib/web"), (0, 0, 0o755));
    assert_eq!(found("/var/log/web/out"), (NOBODY, NOBODY, 0o640));
    let environment = environment(pid);
    assert_eq!(
        environment["CACHE_DIRECTORY"],
        "/var/cache/web:/var/cache/x"
    );
    assert_eq!(environment["RUNTIME_DIRECTORY"], "/run/web");
    // What is gone or somebody else's is as it should be at the next start; what is in it stays.
    fs::remove_dir(seen_by(&agent, "/var/cache/x")).unwrap();
    let log = seen_by(&agent, "/var/log/web");
    chown(&log, Some(1), Some(1)).unwrap();
    fs::set_permissions(&log, fs::Permissions::from_mode(0o700)).unwrap();
    agent.must("restart", "web");
    for path in ["/var/cache/x", "/var/log/web"] {
        assert_eq!(found(path), (NOBODY, NOBODY, 0o750), "{path}");
    }
    assert!(log.join("out").exists());
}

#[test]
fn directories_are_made_through_no_link() {
    needs_root!("directories_are_made_through_no_link");
    let idle = format!("autostart = false\n{AS_NOBODY}");
    let state = |names: &str| sleeping(&format!("{idle}\ndirectories = {{ state = [{names}] }}"));
    let agent = Agent::with(
        &with_own_places(),
        &[
            ("link", &state("\"link\"")),
            ("way", &state("\"link/x\"")),
            ("file", &state("\"file\"")),
            ("within", &state("\"theirs/x\"")),
            ("own", &state("\"theirs/own\"")),
        ],
    );
    let at = |path: &str| seen_by(&agent, "/var/lib").join(path);
    fs::create_dir(at("secret")).unwrap();
    symlink("secret", at("link")).unwrap();
    fs::write(at("file"), "").unwrap();
    // Somebody else's directory, in which something of yet another's lies.
    for (path, uid) in [
        ("theirs", 12_345),
        ("theirs/x", 12_346),
        ("theirs/own", NOBODY),
    ] {
        fs::create_dir(at(path)).unwrap();
        chown(at(path), Some(uid), Some(uid)).unwrap();
    }
    for (service, path) in [
        ("link", "/var/lib/link"),
        ("way", "/var/lib/link/x"),
        ("file", "/var/lib/file"),
        ("within", "/var/lib/theirs/x"),
    ] {
        let refused = agent.run(&["start", service]);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert!(
            told.contains(&format!("cannot make the directory {path}")),
            "{told}"
        );
    }
    let secret = fs::metadata(at("secret")).unwrap();
    assert_eq!((secret.uid(), secret.nlink()), (0, 2));
    assert_eq!(fs::metadata(at("theirs/x")).unwrap().uid(), 12_346);
    agent.must("start", "own");
}

const CGROUP_KEYS: [(&str, &str, &str); 5] = [
    ("memory_max = \"512MiB\"", "memory.max", "536870912"),
    ("memory_high = \"400MiB\"", "memory.high", "419430400"),
    ("cpu_max = \"150%\"", "cpu.max", "150000 100000"),
    ("pids_max = 512", "pids.max", "512"),
    ("io_weight = 50", "io.weight", "default 50"),
];

/// Where a controller is missing, the service runs without the limit, and the log says so.
#[test]
fn limits_of_the_cgroup_are_set_or_said_not_to_be() {
    needs_root!("limits_of_the_cgroup_are_set_or_said_not_to_be");
    let keys = CGROUP_KEYS.map(|(key, ..)| key).join("\n");
    let agent = Agent::start(&[("web", &sleeping(&keys)), ("plain", &sleeping(""))]);
    if agent.log().contains("without cgroups") {
        return skip("limits of the cgroup", "no cgroup v2 that can be written");
    }
    let pid = agent.assert_single("web");
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let cgroup = cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap();
    let cgroup = support::cgroup_mount().unwrap().join(cgroup);
    for (key, file, expected) in CGROUP_KEYS {
        let key = key.split(' ').next().unwrap();
        match fs::read_to_string(cgroup.join(file)) {
            Ok(text) => assert_eq!(text.lines().next(), Some(expected), "{file}"),
            Err(_) => {
                let log = agent.log();
                assert!(
                    log.contains(&format!("{key} has no effect: the cgroup controller")),
                    "{log}"
                );
            }
        }
    }
    let hint = agent.status("web")["hint"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert_eq!(
        agent.log().contains("pids_max has no effect"),
        hint.contains("pids_max has no effect"),
        "{hint}"
    );
    // An agent that finds controllers enabled goes on in the same place.
    assert!(
        String::from_utf8(agent.run(&["show", "web"]).stdout)
            .unwrap()
            .contains("pids_max = 512")
    );
    agent.assert_single("plain");
}

/// The directories from the mount's to the agent's, with a controller enabled in each as long as this
/// lives.
struct Enabled {
    ways: Vec<PathBuf>,
    controller: String,
}

impl Enabled {
    fn in_all_above(cgroup: &Path) -> Option<Self> {
        let mount = support::cgroup_mount()?;
        let available = fs::read_to_string(mount.join("cgroup.controllers")).ok()?;
        let controller = available.split_whitespace().next()?.to_owned();
        let above = cgroup.ancestors().skip(1);
        let mut ways: Vec<_> = above.take_while(|it| it.starts_with(&mount)).collect();
        ways.reverse();
        let has = |way: &&Path| {
            let text = fs::read_to_string(way.join("cgroup.subtree_control")).unwrap();
            text.split_whitespace().any(|it| it == controller)
        };
        let ways = ways.into_iter().filter(|way| !has(way)).map(Path::to_owned);
        let enabled = Self {
            ways: ways.collect(),
            controller: controller.clone(),
        };
        for way in &enabled.ways {
            fs::write(way.join("cgroup.subtree_control"), format!("+{controller}")).ok()?;
        }
        Some(enabled)
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        for way in self.ways.iter().rev() {
            let control = way.join("cgroup.subtree_control");
            // Busy as long as it is on its way out below.
            for _ in 0..100 {
                if fs::write(&control, format!("-{}", self.controller)).is_ok() {
                    break;
                }
                support::rest();
            }
        }
    }
}

/// The kernel lets no process into a directory in which controllers are enabled for those below.
#[test]
fn an_agent_goes_on_where_controllers_are_enabled() {
    needs_root!("an_agent_goes_on_where_controllers_are_enabled");
    let mut agent = Agent::start(&[("web", &sleeping(""))]);
    if agent.log().contains("without cgroups") {
        return skip("controllers", "no cgroup v2 that can be written");
    }
    let pid = agent.assert_single("web");
    let of = |pid: u32| {
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::/"));
        support::cgroup_mount().unwrap().join(cgroup.unwrap())
    };
    let cgroup = of(pid);
    let Some(_enabled) = Enabled::in_all_above(&cgroup) else {
        return skip("controllers", "no controller in cgroup v2");
    };
    agent.kill();
    agent.start_again();
    assert!(!agent.log().contains("without cgroups"), "{}", agent.log());
    assert_eq!(agent.assert_single("web"), pid);
    agent.must("restart", "web");
    let new = agent.assert_single("web");
    assert_eq!(of(new).parent(), cgroup.parent());
}

#[test]
fn a_change_of_the_surroundings_restarts_the_service() {
    let agent = Agent::start(&[("web", &sleeping("")), ("other", &sleeping(""))]);
    let (web, other) = (agent.assert_single("web"), agent.assert_single("other"));
    agent.write_service("web", &sleeping("no_new_privileges = true"));
    assert!(agent.run(&["reload"]).status.success());
    let new = agent.replaced("web", web);
    assert_eq!(proc_status(new, "NoNewPrivs"), "1");
    assert_eq!(agent.assert_single("other"), other);
}
