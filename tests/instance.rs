//! What a service finds when it starts is what its file says, and nothing of the agent.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::sys::signal::Signal;
use support::{
    Agent, Setup, environment, eventually, needs_root, proc_status, shell, signal_to, sleeping,
};

fn open_files(pid: u32) -> Vec<(String, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).ok()?;
            Some((
                entry.file_name().into_string().unwrap(),
                target.into_os_string().into_string().unwrap(),
            ))
        })
        .collect();
    files.sort();
    files
}

/// Runs the agent from a process with odd habits.
fn odd(script: &str) -> Setup {
    Setup {
        wrapper: ["/bin/sh", "-c", &format!("{script}; exec \"$@\""), "sh"]
            .map(str::to_owned)
            .to_vec(),
        environment: vec![("SECRET".to_owned(), "of the agent".to_owned())],
        ..Setup::default()
    }
}

#[test]
fn signals_are_as_a_fresh_process_has_them() {
    let setup = odd("trap '' PIPE HUP USR1 CHLD QUIT INT");
    let agent = Agent::with(&setup, &[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    for mask in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
        assert_eq!(proc_status(pid, mask), "0000000000000000", "{mask}");
    }
    signal_to(pid, Signal::SIGPIPE);
    agent.replaced("web", pid);
    assert_eq!(agent.status("web")["last_exit"]["signal"], "SIGPIPE");
}

#[test]
fn it_has_a_session_of_its_own_and_only_its_three_streams() {
    let setup = odd("exec 7</dev/null 8>/dev/null");
    let agent = Agent::with(&setup, &[("web", &sleeping("stdout = \"null\""))]);
    let pid = agent.assert_single("web");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let (group, session, terminal) = (fields[2], fields[3], fields[4]);
    assert_eq!((group, session), (&*pid.to_string(), &*pid.to_string()));
    assert_eq!(terminal, "0");
    let null = |number: &str| (number.to_owned(), "/dev/null".to_owned());
    // The dynamic loader opens libraries, for a moment.
    support::eventually("no other file is open", || {
        (open_files(pid) == [null("0"), null("1"), null("2")]).then_some(())
    });
}

#[test]
fn its_environment_is_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("environment");
    fs::write(&file, "FROM_FILE=one\nBOTH=file\n").unwrap();
    let keys = format!(
        "environment_file = {file:?}\nenvironment.BOTH = \"table\"\nenvironment.EMPTY = \"\""
    );
    let agent = Agent::with(&odd(":"), &[("web", &sleeping(&keys))]);
    let mut found = environment(agent.assert_single("web"));
    assert!(found.remove("RESPAWN_TEST").is_some());
    assert!(found.remove("PATH").is_some());
    found.remove("LANG");
    let expected = [("BOTH", "table"), ("EMPTY", ""), ("FROM_FILE", "one")];
    let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(found, BTreeMap::from(expected));
}

#[test]
fn its_output_is_appended_to_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    fs::write(&out, "before\n").unwrap();
    let keys = format!("stdout = {out:?}\nstderr = {err:?}");
    let script = "echo out $$; echo err $$ >&2; exec sleep 1000";
    let mut agent = Agent::start(&[("web", &shell(script, &keys))]);
    let first = agent.running("web");
    let lines = |path, count: usize| {
        eventually("its lines", || {
            let text = fs::read_to_string(path).ok()?;
            (text.lines().count() == count).then_some(text)
        })
    };
    lines(&out, 2);
    lines(&err, 1);
    // The stream is the service's own: the death of the agent does not touch it.
    agent.kill();
    agent.start_again();
    signal_to(first, Signal::SIGKILL);
    let second = agent.replaced("web", first);
    assert_eq!(
        lines(&out, 3),
        format!("before\nout {first}\nout {second}\n")
    );
    assert_eq!(lines(&err, 2), format!("err {first}\nerr {second}\n"));
    let mode = fs::metadata(&err).unwrap().permissions().mode();
    assert_eq!(mode & 0o022, 0, "{mode:o}");
    // The shell moves its streams about while it writes.
    eventually("the shell has become what it runs", || {
        let comm = fs::read_to_string(format!("/proc/{second}/comm")).ok()?;
        (comm == "sleep\n").then_some(())
    });
    let files = open_files(second);
    assert_eq!(files[1].1, out.to_str().unwrap());
    assert_eq!(files[2].1, err.to_str().unwrap());
}

#[test]
fn user_directory_mask_niceness_and_limits_are_set() {
    needs_root!("user_directory_mask_niceness_and_limits_are_set");
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let keys = format!(
        "user = \"nobody\"\nworking_directory = {:?}\numask = \"0027\"\nnice = 5\n\
         limits = {{ nofile = 123, core = 0 }}",
        dir.path()
    );
    let script = ": >made; exec sleep 1000";
    let agent = Agent::with(&odd("umask 077"), &[("web", &shell(script, &keys))]);
    let pid = agent.running("web");
    let made = dir.path().join("made");
    support::eventually("its file", || made.exists().then_some(()));
    let metadata = fs::metadata(&made).unwrap();
    assert_eq!(metadata.mode() & 0o777, 0o640);
    assert_eq!(metadata.uid(), 65534);
    assert_eq!(proc_status(pid, "Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(proc_status(pid, "Gid"), "65534\t65534\t65534\t65534");
    assert!(["", "65534"].contains(&&*proc_status(pid, "Groups")));
    assert_eq!(proc_status(pid, "CapEff"), "0000000000000000");
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(cwd, dir.path());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[16], "5");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let numbers: Vec<&str> = files.unwrap().split_ascii_whitespace().skip(3).collect();
    assert_eq!(numbers, ["123", "123", "files"]);
    assert_eq!(environment(pid)["USER"], "nobody");
}

#[test]
fn a_limit_that_the_agent_raised_for_itself_is_not_passed_on() {
    let agent = Agent::with(&odd("ulimit -S -n 256"), &[("web", &sleeping(""))]);
    let pid = agent.assert_single("web");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = files.unwrap().split_ascii_whitespace().nth(3);
    assert_eq!(soft, Some("256"), "{limits}");
}

#[test]
fn a_service_of_a_user_can_open_its_log_again() {
    needs_root!("a_service_of_a_user_can_open_its_log_again");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("web.log");
    let old = dir.path().join("old.log");
    fs::write(&old, "").unwrap();
    let keys = |log: &std::path::Path| format!("user = \"nobody\"\nstdout = {log:?}");
    let script = "echo one; echo two >>/dev/stdout; echo three >>/dev/stderr; exec sleep 1000";
    let services = [
        ("web", shell(script, &keys(&log))),
        ("old", shell(script, &keys(&old))),
    ];
    let services = services
        .each_ref()
        .map(|(name, text)| (*name, text.as_str()));
    let agent = Agent::start(&services);
    support::eventually("all lines of its log", || {
        let text = fs::read_to_string(&log).ok()?;
        (text == "one\ntwo\nthree\n").then_some(())
    });
    let metadata = fs::metadata(&log).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o777),
        (65534, 65534, 0o640)
    );
    // One that was there is somebody's.
    agent.running("old");
    assert_eq!(fs::metadata(&old).unwrap().uid(), 0);
}
