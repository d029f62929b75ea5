//! `respawn import`: files of other supervisors in, services that run out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::{Agent, Setup, respawn};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/import")
        .join(name)
}

/// Imports to the config directory of an agent in this one.
fn import(dir: &Path, arguments: &[&str], paths: &[PathBuf]) -> Output {
    let mut command = respawn();
    command.arg("import").args(arguments).args(paths);
    command
        .arg("--config")
        .arg(dir.join("config"))
        .output()
        .unwrap()
}

fn check(dir: &Path) -> String {
    let mut command = respawn();
    let checked = command
        .arg("check")
        .arg("--config")
        .arg(dir.join("config"))
        .output()
        .unwrap();
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    String::from_utf8(checked.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir.join("config/services")) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// Starts an agent on what was imported, with the mark of the test in it.
fn run(dir: tempfile::TempDir, setup: &Setup) -> Agent {
    let read = |file: &String| {
        let text = fs::read_to_string(dir.path().join("config/services").join(file));
        (file.trim_end_matches(".toml").to_owned(), text.unwrap())
    };
    let services: Vec<_> = files(dir.path()).iter().map(read).collect();
    let services: Vec<_> = services
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    Agent::within(dir, setup, &services)
}

fn write(path: &Path, text: &str) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    path.to_owned()
}

#[test]
fn units_are_imported_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let units = dir.path().join("units");
    let touched = dir.path().join("touched");
    let options = write(&dir.path().join("options"), "OPTIONS=\"1000 1001\"\n");
    let db = format!(
        "[Service]\nEnvironmentFile={}\nExecStart=/bin/sleep $OPTIONS\nRestart=always\n",
        options.display()
    );
    write(&units.join("db.service"), &db);
    let web = "[Unit]\nDescription=The web\nRequires=db.service\n               [Service]\nExecStart=/bin/sleep \\\n  1002\nEnvironment=\"A=one two\"\nUMask=0027\n               LimitNOFILE=100\nNoNewPrivileges=yes\nPrivateTmp=yes\nProtectClock=yes\n[Install]\nWantedBy=multi-user.target\n";
    write(&units.join("web.service"), web);
    write(
        &units.join("web.service.d/more.conf"),
        "[Service]\nEnvironment=B=2\n",
    );
    write(
        &units.join("job@.service"),
        "[Service]\nExecStart=/bin/sleep %i\n",
    );
    // Nothing of this runs.
    let evil = format!(
        "[Service]\nExecStart=/bin/sh -c 'touch {0}; exec sleep 1003 $(touch {0})'\n",
        touched.display()
    );
    write(&units.join("evil.service"), &evil);
    let imported = import(
        dir.path(),
        &[],
        &[units.clone(), units.join("job@1004.service")],
    );
    let told = stderr(&imported);
    assert!(imported.status.success(), "{told}");
    assert!(
        told.contains("hardening: ") && told.contains("ProtectClock=yes"),
        "{told}"
    );
    assert!(
        told.ends_with("harmless\n") && told.contains("4 services; settings: 0 lost"),
        "{told}"
    );
    assert!(!touched.exists());
    let expected = ["db.toml", "evil.toml", "job@1004.toml", "web.toml"];
    assert_eq!(files(dir.path()), expected);
    check(dir.path());
    let written = fs::read_to_string(dir.path().join("config/services/web.toml")).unwrap();
    assert!(
        written.contains("# web.service:5: ExecStart=/bin/sleep"),
        "{written}"
    );
    assert!(
        written.contains("sandbox = { optional = true, private_tmp = true }"),
        "{written}"
    );
    let agent = run(dir, &Setup::default());
    let arguments = |service: &str| support::arguments(agent.assert_single(service));
    agent.running("db");
    support::eventually("the shell has become sleep", || {
        (arguments("db") == ["/bin/sleep", "1000", "1001"]).then_some(())
    });
    assert_eq!(arguments("web"), ["/bin/sleep", "1002"]);
    assert_eq!(arguments("job@1004"), ["/bin/sleep", "1004"]);
    let environment = support::environment(agent.assert_single("web"));
    assert_eq!((&*environment["A"], &*environment["B"]), ("one two", "2"));
}

#[test]
fn a_supervisord_conf_is_imported_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("loud.log");
    let text = fs::read_to_string(fixture("supervisord.conf")).unwrap();
    let text = text.replace("/tmp/respawn-import-loud.log", log.to_str().unwrap());
    let conf = write(&dir.path().join("supervisord.conf"), &text);
    let imported = import(dir.path(), &[], &[conf]);
    let told = stderr(&imported);
    // An event listener is lost.
    assert_eq!(imported.status.code(), Some(1), "{told}");
    assert!(told.contains("12 services; settings: 1 lost"), "{told}");
    check(dir.path());
    let setup = Setup {
        environment: vec![("WEB_SECONDS".to_owned(), "1008".to_owned())],
        ..Setup::default()
    };
    let agent = run(dir, &setup);
    for service in [
        "db",
        "queue",
        "web",
        "worker_00",
        "worker_01",
        "worker_02",
        "picky",
        "quiet",
        "loud",
        "console",
    ] {
        agent.running(service);
    }
    agent.wait_state("once", "stopped");
    assert_eq!(agent.status("idle")["state"], "stopped");
    let arguments = support::arguments(agent.assert_single("web"));
    assert_eq!(arguments, ["/bin/sleep", "1008"]);
}

/// Scripts for programs, and where they leave what they have seen.
struct Scripts<'d>(&'d Path);

impl Scripts<'_> {
    /// A program's section. In the script, `$F` is its file.
    fn program(&self, name: &str, script: &str, keys: &str) -> String {
        let path = self.0.join(format!("{name}.sh"));
        let own = self.0.join(name);
        write(&path, &format!("F={}\n{script}\n", own.display()));
        format!(
            "[program:{name}]\ncommand=/bin/sh {}\n{keys}\n\n",
            path.display()
        )
    }

    fn seen(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    fn sees(&self, name: &str, what: &str) {
        support::eventually(&format!("{name} has seen {what:?}"), || {
            self.seen(name).contains(what).then_some(())
        });
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a program a promise")]
fn programs_of_supervisord_behave_as_told_there() {
    support::needs_root!("programs of supervisord with a user");
    let (dir, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::set_permissions(own.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let scripts = Scripts(own.path());
    let place = own.path().display();
    // Its child says what it gets.
    let family = "(trap 'echo term >> $F; exit' TERM; echo $(exec sh -c 'echo $PPID') > $F; while :; do sleep 0.05; done) &\n\
                  trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let conf: String = [
        scripts.program("db", "exec sleep 1000", "priority=1\nautorestart=true"),
        scripts.program(
            "queue",
            "trap 'echo quit >> $F; exit 0' QUIT; echo up > $F; while :; do sleep 0.05; done",
            "priority=5\nstopsignal=QUIT\nstopwaitsecs=60",
        ),
        scripts.program(
            "stubborn",
            "trap '' TERM; echo up > $F; while :; do sleep 0.05; done",
            "stopwaitsecs=1",
        ),
        scripts.program(
            "web",
            "pwd > $F; umask >> $F; echo \"$A $B\" >> $F; id -u >> $F; exec sleep 1000",
            &format!("directory={place}\numask=027\nuser=nobody\nenvironment=A=\"one, two\",B='%(program_name)s'"),
        ),
        scripts.program("group", family, "stopasgroup=true\nkillasgroup=true"),
        scripts.program("single", family, ""),
        scripts.program("picky", "echo x >> $F; exit 2", "exitcodes=0,2\nstartsecs=0"),
        scripts.program("wrong", "echo x >> $F; exit 3", "exitcodes=0,2\nstartsecs=0"),
        scripts.program("once", "exec sleep 1000", "autorestart=false"),
        scripts.program(
            "loud",
            "while :; do printf '%01000d\\n' 7; echo err >&2; sleep 0.01; done",
            &format!("stdout_logfile={place}/loud.log\nstdout_logfile_maxbytes=8KB\nstdout_logfile_backups=2\nredirect_stderr=true"),
        ),
    ]
    .concat();
    let conf = write(&dir.path().join("supervisord.conf"), &conf);
    let imported = import(dir.path(), &[], &[conf]);
    let told = stderr(&imported);
    assert!(imported.status.success(), "{told}");
    assert!(told.contains("it is rotated at 64 KiB"), "{told}");
    check(dir.path());
    let agent = run(dir, &Setup::default());

    // priority: by the order in which they were started.
    for service in [
        "db", "queue", "stubborn", "web", "group", "single", "once", "loud",
    ] {
        agent.running(service);
    }
    let events = agent.events().into_iter();
    let started = events.filter(|event| event["event"] == "started");
    let started: Vec<_> = started
        .map(|event| event["service"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(started[..2], ["db", "queue"], "{started:?}");

    // stopsignal, stopwaitsecs.
    scripts.sees("queue", "up");
    agent.must("stop", "queue");
    assert_eq!(scripts.seen("queue"), "up\nquit\n");
    assert_eq!(agent.status("queue")["last_exit"]["code"], 0);
    scripts.sees("stubborn", "up");
    agent.must("stop", "stubborn");
    assert_eq!(agent.status("stubborn")["last_exit"]["signal"], "SIGKILL");

    // directory, umask, user, environment.
    scripts.sees("web", "65534");
    let expected = format!("{place}\n0027\none, two web\n65534\n");
    assert_eq!(scripts.seen("web"), expected);

    // stopasgroup; without it a child is not told, and does not outlive its program.
    for (service, is_told) in [("group", true), ("single", false)] {
        scripts.sees(service, "\n");
        let child: u32 = scripts.seen(service).trim().parse().unwrap();
        agent.must("stop", service);
        support::eventually("its child is gone", || {
            (!support::is_alive(child)).then_some(())
        });
        assert_eq!(scripts.seen(service).contains("term"), is_told, "{service}");
    }

    // exitcodes, autorestart=unexpected.
    agent.wait_state("picky", "stopped");
    assert_eq!(scripts.seen("picky"), "x\n");
    scripts.sees("wrong", "x\nx\nx\n");

    // autorestart after a kill.
    let (db, once) = (agent.running("db"), agent.running("once"));
    for pid in [db, once] {
        support::signal_to(pid, nix::sys::signal::Signal::SIGKILL);
    }
    agent.replaced("db", db);
    support::eventually("it stays down", || {
        let status = agent.status("once");
        status["pid"].is_null().then_some(())
    });
    assert_eq!(agent.status("once")["restarts"], 0);

    // Log rotation, of both streams.
    let kept = || {
        let entries = fs::read_dir(own.path()).unwrap().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("loud.log")).count()
    };
    support::eventually("its log is rotated", || (kept() >= 3).then_some(()));
    let text = fs::read_to_string(own.path().join("loud.log")).unwrap();
    assert!(text.contains("0007\n") && text.contains("err\n"), "{text}");
    assert!(text.len() <= 65 << 10, "{}", text.len());
}

#[test]
fn inittabs_of_both_kinds_are_imported_and_run() {
    for (file, from, running) in [
        (
            "inittab.sysvinit",
            "inittab",
            ["sleep", "script-lo", "sleep-on"],
        ),
        (
            "inittab.busybox",
            "inittab",
            ["sleep", "sleep-3", "sleep-ttyS0"],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let imported = import(dir.path(), &["--from", from], &[fixture(file)]);
        assert_eq!(imported.status.code(), Some(1), "{}", stderr(&imported));
        assert!(stderr(&imported).contains("stays with init"));
        check(dir.path());
        let agent = run(dir, &Setup::default());
        for service in running {
            agent.running(service);
        }
    }
}

#[test]
fn nothing_is_overwritten_and_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let units = dir.path().join("units");
    for name in ["a", "b", "c"] {
        let unit = format!("{name}.service");
        write(&units.join(unit), "[Service]\nExecStart=/bin/sleep 1000\n");
    }
    let own = write(&dir.path().join("config/services/b.toml"), "# mine\n");
    let refused = import(dir.path(), &[], std::slice::from_ref(&units));
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("nothing was written") && stderr(&refused).contains("b.toml")
    );
    assert_eq!(files(dir.path()), ["b.toml"]);
    assert_eq!(fs::read_to_string(&own).unwrap(), "# mine\n");
    // A link to nowhere is a file, too.
    fs::remove_file(&own).unwrap();
    let nowhere = dir.path().join("nowhere");
    std::os::unix::fs::symlink(&nowhere, &own).unwrap();
    assert!(
        !import(dir.path(), &[], std::slice::from_ref(&units))
            .status
            .success()
    );
    assert!(!nowhere.exists());
    fs::remove_file(&own).unwrap();
    let shown = import(dir.path(), &["--dry-run"], std::slice::from_ref(&units));
    assert!(shown.status.success());
    assert!(
        String::from_utf8(shown.stdout)
            .unwrap()
            .contains("# services/b.toml")
    );
    assert_eq!(files(dir.path()), Vec::<String>::new());
    // What only its owner may read stays so.
    fs::set_permissions(units.join("a.service"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(import(dir.path(), &[], &[units]).status.success());
    assert_eq!(files(dir.path()), ["a.toml", "b.toml", "c.toml"]);
    let mode = |name: &str| {
        let path = dir.path().join("config/services").join(name);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode("a.toml") & 0o077, mode("b.toml") & 0o444), (0, 0o444));
}

#[test]
fn the_report_is_an_object_too() {
    let dir = tempfile::tempdir().unwrap();
    let paths = [fixture("ssh.service"), fixture("nginx.service")];
    let shown = import(dir.path(), &["--dry-run", "--json"], &paths);
    let object: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(object["services"][0]["name"], "ssh");
    assert_eq!(object["services"][0]["file"], Value::Null);
    assert!(
        object["services"][1]["toml"]
            .as_str()
            .unwrap()
            .contains("daemon off;")
    );
    let finding = &object["findings"][0];
    assert!(
        finding["severity"].is_string() && finding["message"].is_string(),
        "{finding}"
    );
    let lost = object["summary"]["lost"].as_u64().unwrap();
    assert_eq!(shown.status.code(), Some(i32::from(lost > 0)));
    assert_eq!(object["ok"], lost == 0);
}

#[test]
fn what_cannot_be_imported_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let timer = write(&dir.path().join("x.timer"), "[Timer]\n");
    let words = write(&dir.path().join("words"), "hello\n");
    for (path, why) in [
        (timer, "it is not known what this is"),
        (words, "--from systemd, inittab, supervisord, runit or s6"),
    ] {
        let refused = import(dir.path(), &[], &[path]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains(why), "{}", stderr(&refused));
    }
    let fifo = dir.path().join("fifo.service");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [
        fifo,
        dir.path().join("none.service"),
        dir.path().join("config"),
    ] {
        let refused = import(dir.path(), &[], std::slice::from_ref(&path));
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            stderr(&refused).contains(path.to_str().unwrap()),
            "{}",
            stderr(&refused)
        );
    }
    assert_eq!(files(dir.path()), Vec::<String>::new());
}

#[test]
fn a_template_becomes_a_template_whose_instances_run() {
    let dir = tempfile::tempdir().unwrap();
    let unit = write(
        &dir.path().join("nap@.service"),
        "[Service]\nExecStart=/bin/sleep 100%i\nEnvironment=NAME=%n\nRestart=no\n[Install]\nDefaultInstance=7\n",
    );
    let imported = import(dir.path(), &[], &[unit]);
    assert_eq!(imported.status.code(), Some(0), "{}", stderr(&imported));
    assert_eq!(files(dir.path()), ["nap@.toml"]);
    assert_eq!(check(dir.path()), "1 service ok: nap@7\n");
    let link = dir.path().join("config/services/nap@8.toml");
    std::os::unix::fs::symlink("nap@.toml", link).unwrap();
    let agent = run(dir, &Setup::default());
    for (service, word) in [("nap@7", "1007"), ("nap@8", "1008")] {
        let pid = agent.running(service);
        assert_eq!(support::arguments(pid), ["/bin/sleep", word]);
        let name = &support::environment(pid)["NAME"];
        assert_eq!(*name, format!("{service}.service"));
    }
}

#[test]
fn the_socket_unit_that_a_service_requires_is_read_along() {
    let dir = tempfile::tempdir().unwrap();
    let server = env!("CARGO_BIN_EXE_server");
    let service = write(
        &dir.path().join("units/web.service"),
        &format!("[Unit]\nRequires=web.socket\n[Service]\nExecStart={server}\n"),
    );
    let path = dir.path().join("web.sock");
    let unit = format!(
        "[Socket]\nListenStream={}\nSocketMode=0600\n",
        path.display()
    );
    let socket = write(&dir.path().join("units/web.socket"), &unit);
    let added = "[Socket]\nFileDescriptorName=http\n";
    write(&dir.path().join("units/web.socket.d/name.conf"), added);
    // One that nothing requires may be switched off.
    write(
        &dir.path().join("units/other.socket"),
        "[Socket]\nListenStream=1\n",
    );
    let other = write(
        &dir.path().join("units/other.service"),
        "[Service]\nExecStart=/bin/sleep 1000\n",
    );
    let output = import(dir.path(), &[], &[service, other, socket]);
    assert!(output.status.success(), "{}", stderr(&output));
    let agent = run(dir, &Setup::default());
    let pid = agent.running("web");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"x").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("{pid} {pid} 1 http 3\n"));
    assert_eq!(agent.status("other")["sockets"], serde_json::json!([]));
}

#[test]
fn run_directories_are_imported_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let services = dir.path().join("service");
    let script = |path: &str, text: &str| {
        let path = write(&services.join(path), text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let touched = dir.path().join("touched");
    // Nothing of it is executed.
    script(
        "plain/run",
        &format!(
            "#!/bin/sh\nexec 2>&1\ntouch {}\nexec chpst -e ./env -o 500 -C /tmp sleep 1001\n",
            touched.display()
        ),
    );
    write(&services.join("plain/env/A"), "one\n");
    script("plain/log/run", "#!/bin/sh\nexec svlogd -tt ./main\n");
    script(
        "script/run",
        "#!/bin/sh\nif [ -r ./conf ]; then . ./conf; fi\nexec sleep $SECONDS_TO_SLEEP\n",
    );
    write(&services.join("script/conf"), "SECONDS_TO_SLEEP=1002\n");
    write(&services.join("script/down"), "");
    script("script/finish", "#!/bin/sh\necho $1 $2 > finished\n");
    script(
        "ready/run",
        "#!/bin/sh\nexec sh -c 'echo >&3; exec sleep 1003'\n",
    );
    write(&services.join("ready/notification-fd"), "3\n");
    let imported = import(dir.path(), &[], std::slice::from_ref(&services));
    let told = stderr(&imported);
    assert!(imported.status.success(), "{told}");
    assert!(told.contains("3 services; settings: 0 lost"), "{told}");
    assert!(
        told.contains("script/run:2: script: if [ -r ./conf ]"),
        "{told}"
    );
    assert!(!touched.exists());
    assert_eq!(
        files(dir.path()),
        ["plain.toml", "ready.toml", "script.toml"]
    );
    check(dir.path());
    let agent = run(dir, &Setup::default());
    let pid = agent.running("plain");
    assert_eq!(support::arguments(pid), ["sleep", "1001"]);
    assert_eq!(support::environment(pid)["A"], "one");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    assert!(files.split_whitespace().nth(3) == Some("500"), "{files}");
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/tmp")
    );
    // The step before it has run now.
    assert!(touched.exists());
    agent.running("ready");
    assert_eq!(agent.status("script")["state"], "stopped");
    agent.must("start", "script");
    let pid = agent.running("script");
    support::eventually("the script has become sleep", || {
        (support::arguments(pid) == ["sleep", "1002"]).then_some(())
    });
    agent.must("stop", "script");
    let finished = fs::read_to_string(services.join("script/finished")).unwrap();
    assert_eq!(finished, "-1 SIGTERM\n");
}
