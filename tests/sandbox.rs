//! Services with a view of the host of their own: `sandbox`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use support::{Agent, eventually, needs_root, respawn, shell, skip, sleeping, unprivileged};

/// What a script says in a sandbox: its output, without the last line that says that it has ended.
fn said(agent: &Agent, out: &Path, service: &str) -> String {
    agent.must("start", service);
    let text = eventually("it has said all", || {
        let text = fs::read_to_string(out).ok()?;
        text.strip_suffix("end\n").map(str::to_owned)
    });
    agent.must("stop", service);
    text
}

/// A service that runs a script, writes what it says to a file, and stays.
fn saying(script: &str, out: &Path, sandbox: &str) -> String {
    shell(
        &format!("{{ {script}\n}} 2>&1; echo end; exec sleep 1000"),
        &format!(
            "autostart = false\nstdout = {}\nsandbox = {sandbox}",
            json!(out)
        ),
    )
}

#[test]
fn what_is_read_only_cannot_be_written_and_the_rest_can() {
    needs_root!("what_is_read_only_cannot_be_written_and_the_rest_can");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["open", "closed", "closed/open"] {
        fs::create_dir(at(name)).unwrap();
    }
    let out = at("out");
    let tries: String = ["/etc", "/usr", "/var/tmp", "/run", "/dev/shm"]
        .map(str::to_owned)
        .into_iter()
        .chain(["open", "closed", "closed/open"].map(|name| at(name).display().to_string()))
        .map(|path| {
            format!(
                "touch {path}/respawn-test 2> /dev/null && rm {path}/respawn-test && echo {path}; "
            )
        })
        .collect();
    let (open, closed) = (at("open"), at("closed"));
    let inner = at("closed/open");
    let all = saying(
        &tries,
        &out,
        &format!(
            "{{ read_only = [\"/\"], writable = [{}, {}] }}",
            json!(open),
            json!(inner)
        ),
    );
    let one = saying(
        &tries,
        &out,
        &format!("{{ read_only = [{}] }}", json!(closed)),
    );
    let agent = Agent::start(&[("all", &all), ("one", &one)]);
    let lines = |paths: &[&str]| {
        paths
            .iter()
            .map(|path| format!("{path}\n"))
            .collect::<String>()
    };
    let [open, inner] = [&open, &inner].map(|path| path.to_str().unwrap());
    assert_eq!(said(&agent, &out, "all"), lines(&["/dev/shm", open, inner]));
    fs::remove_file(&out).unwrap();
    let expected = lines(&["/etc", "/usr", "/var/tmp", "/run", "/dev/shm", open]);
    assert_eq!(said(&agent, &out, "one"), expected);
    // The host is as it was.
    fs::write(at("closed/x"), "").unwrap();
}

#[test]
fn temporary_files_devices_and_homes_are_its_own() {
    needs_root!("temporary_files_devices_and_homes_are_its_own");
    let dir = tempfile::Builder::new().tempdir_in("/var").unwrap();
    let out = dir.path().join("out");
    let of_host = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let script = format!(
        "ls -A /tmp /var/tmp | grep -v '^$'; touch /tmp/of-service; ls /tmp/of-service; [ -e {} ] && echo seen; \
         ls -A /root /home; ls /dev; echo x > /dev/null; head -c 1 /dev/zero | wc -c; \
         touch /dev/shm/x && echo shm; mknod /tmp/disk b 7 0 && cat /tmp/disk",
        of_host.path().display()
    );
    let text = saying(
        &script,
        &out,
        "{ private_tmp = true, private_devices = true, protect_home = true }",
    );
    let agent = Agent::start(&[("web", &text)]);
    let told = said(&agent, &out, "web");
    let lines: Vec<&str> = told.lines().collect();
    let is_there = |line: &str| lines.contains(&line);
    for line in [
        "/tmp:",
        "/var/tmp:",
        "/tmp/of-service",
        "/root:",
        "/home:",
        "null",
        "pts",
        "shm",
        "1",
    ] {
        assert!(is_there(line), "{line}: {told}");
    }
    for line in ["seen", "kmsg", "mem", "of-service"] {
        assert!(!is_there(line), "{line}: {told}");
    }
    assert!(told.contains("/tmp/disk: Permission denied"), "{told}");
    assert!(!Path::new("/tmp/of-service").exists());
    // Nothing of it outlives the service: the next one begins with an empty directory.
    fs::remove_file(&out).unwrap();
    assert_eq!(said(&agent, &out, "web"), told);
}

#[test]
fn what_is_covered_leaves_the_rest_read_only() {
    needs_root!("what_is_covered_leaves_the_rest_read_only");
    let dir = tempfile::Builder::new().tempdir_in("/var").unwrap();
    let below_tmp = tempfile::tempdir_in("/tmp").unwrap();
    let out = dir.path().join("out");
    let script = "touch /etc/respawn-test && rm /etc/respawn-test; touch /tmp/x && echo tmp";
    let of = |optional: bool| {
        let sandbox = format!(
            "{{ read_only = [\"/\", \"/tmp\"], writable = [{}, \"-/root\"], private_tmp = true, \
             protect_home = true, optional = {optional} }}",
            json!(below_tmp.path())
        );
        saying(script, &out, &sandbox)
    };
    let agent = Agent::start(&[("may", &of(true)), ("must", &of(false))]);
    for service in ["may", "must"] {
        let told = said(&agent, &out, service);
        assert!(told.contains("Read-only file system"), "{service}: {told}");
        assert!(told.ends_with("tmp\n"), "{service}: {told}");
        fs::remove_file(&out).unwrap();
    }
}

#[test]
fn a_user_can_have_terminals_and_a_program_that_is_hidden_is_named() {
    needs_root!("a_user_can_have_terminals_and_a_program_that_is_hidden_is_named");
    let dir = tempfile::Builder::new().tempdir_in("/var").unwrap();
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    let out = dir.path().join("out");
    let script = "exec 3<> /dev/ptmx && echo terminal";
    let pty = saying(script, &out, "{ private_devices = true }") + "\nuser = \"nobody\"";
    let program = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    fs::write(program.path(), "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(
        program.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let hidden = format!(
        "command = [{}]\nautostart = false\nrestart = \"no\"\nsandbox = {{ private_tmp = true }}",
        json!(program.path())
    );
    let agent = Agent::start(&[("pty", &pty), ("hidden", &hidden)]);
    assert_eq!(said(&agent, &out, "pty"), "terminal\n");
    let output = agent.run(&["start", "hidden"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("its sandbox hides what is there"), "{told}");
}

#[test]
fn without_a_network_it_reaches_itself_alone() {
    needs_root!("without_a_network_it_reaches_itself_alone");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "cat /proc/net/dev | tail -n +3 | cut -d: -f1; \
         (exec 3<>/dev/tcp/127.0.0.1/{port}) 2> /dev/null && echo reached; \
         cat /sys/class/net/lo/flags"
    );
    let text = saying(
        &format!("bash -c {}", json!(script)),
        &out,
        "{ network = false }",
    );
    let agent = Agent::start(&[("web", &text)]);
    let told = said(&agent, &out, "web");
    assert!(!told.contains("reached"), "{told}");
    assert_eq!(told.lines().next().map(str::trim), Some("lo"), "{told}");
    assert!(!told.contains("eth"), "{told}");
}

#[test]
fn its_own_directories_and_log_stay_writable() {
    needs_root!("its_own_directories_and_log_stay_writable");
    let dir = tempfile::tempdir().unwrap();
    let name = format!("respawn-test-{}", std::process::id());
    let log = dir.path().join("log");
    let script = format!(
        "touch /run/{name}/x /var/lib/{name}/x; ls /run/{name} /var/lib/{name}; exec sleep 1000"
    );
    let text = shell(
        &script,
        &format!(
            "directories = {{ runtime = [\"{name}\"], state = [\"{name}\"] }}\n\
             log = {{ path = {} }}\nuser = \"nobody\"\nsandbox = {{ read_only = [\"/\"], private_tmp = true }}",
            json!(log)
        ),
    );
    let agent = Agent::start(&[("web", &text)]);
    agent.running("web");
    let text = eventually("it has said all", || {
        let text = fs::read_to_string(&log).ok()?;
        (text.matches("x\n").count() == 2).then_some(text)
    });
    assert!(!text.contains("Read-only"), "{text}");
    agent.must("stop", "web");
    for parent in ["/run", "/var/lib"] {
        fs::remove_dir_all(Path::new(parent).join(&name)).unwrap();
    }
}

#[test]
fn what_is_not_allowed_is_a_start_that_fails_and_names_it() {
    needs_root!("what_is_not_allowed_is_a_start_that_fails_and_names_it");
    let of = |sandbox: &str| {
        sleeping(&format!(
            "autostart = false\nrestart = \"no\"\nsandbox = {sandbox}"
        ))
    };
    let agent = Agent::start(&[
        (
            "gone",
            &of("{ read_only = [\"/\"], writable = [\"/nonexistent\"] }"),
        ),
        ("tmp", &of("{ private_tmp = true }")),
    ]);
    let output = agent.run(&["start", "gone"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "cannot find /nonexistent: No such file or directory (os error 2) (sandbox)";
    assert!(said.contains(expected), "{said}");
    agent.must("start", "tmp");
    // The sandbox changed on disk is another way to run: a reload restarts it.
    let pid = agent.running("tmp");
    agent.write_service("tmp", &of("{ private_tmp = true, protect_home = true }"));
    assert!(agent.run(&["reload"]).status.success());
    agent.replaced("tmp", pid);
}

/// An agent of an unprivileged user.
struct Unprivileged {
    dir: tempfile::TempDir,
    agent: support::Victim,
    _copy: tempfile::TempDir,
}

impl Unprivileged {
    fn start(services: &[(&str, &str)]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config/services");
        fs::create_dir_all(&config).unwrap();
        for (name, text) in services {
            fs::write(config.join(format!("{name}.toml")), text).unwrap();
        }
        let (copy, program) = support::readable_by_all(&respawn())?;
        let mut command = std::process::Command::new(program);
        nix::unistd::chown(dir.path(), Some(nix::unistd::Uid::from_raw(65534)), None).unwrap();
        command
            .arg("agent")
            .env("RESPAWN_CONFIG", dir.path().join("config"))
            .env("RESPAWN_RUNTIME_DIR", dir.path().join("run"))
            .env("RESPAWN_PIN_DIR", dir.path().join("pins"))
            .stderr(fs::File::create(dir.path().join("log")).unwrap());
        let agent = support::Victim::from_command(unprivileged(&mut command));
        Some(Self {
            dir,
            agent,
            _copy: copy,
        })
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = respawn();
        command.args(arguments);
        command.env("RESPAWN_RUNTIME_DIR", self.dir.path().join("run"));
        command
    }

    fn status(&self, service: &str) -> Option<serde_json::Value> {
        let output = self.command(&["status", "--json", service]).output();
        let value: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).ok()?;
        Some(value[0].clone())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn shut_down(mut self) {
        assert!(self.command(&["shutdown"]).status().unwrap().success());
        self.agent.wait();
    }
}

#[test]
fn without_the_right_it_fails_unless_it_is_optional() {
    needs_root!("without_the_right_it_fails_unless_it_is_optional");
    let must = sleeping("restart = \"no\"\nsandbox = { private_tmp = true }");
    let may = sleeping("sandbox = { private_tmp = true, optional = true }");
    let Some(agent) = Unprivileged::start(&[("must", &must), ("may", &may)]) else {
        return;
    };
    eventually("one runs, and one has failed", || {
        let (may, must) = (agent.status("may")?, agent.status("must")?);
        (may["state"] == "running" && must["state"] == "failed").then(|| {
            let error = must["error"].as_str().unwrap();
            assert!(
                error.contains("cannot make namespaces for it: Operation not permitted"),
                "{error}"
            );
        })
    });
    let log = agent.log();
    assert!(log.contains("sandbox has no effect"), "{log}");
    agent.shut_down();
}

/// Directories in which everybody may write, "open" and "closed", and services of an unprivileged agent that try to.
struct Tries(tempfile::TempDir);

impl Tries {
    /// What a service says that may write to "open" and not to "closed".
    const EXPECTED: [&str; 7] = [
        "/dev/shm",
        "open",
        "truncated open",
        "moved open",
        "NoNewPrivs:\t1",
        "socket",
        "clean",
    ];

    /// `None`: this kernel cannot do it, which `test` is told.
    fn new(test: &str) -> Option<Self> {
        let doctor = respawn().args(["doctor", "--json"]).output().unwrap();
        let doctor: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let mut checks = doctor["checks"].as_array().unwrap().iter();
        let landlock = checks.find(|it| it["name"] == "landlock").unwrap();
        if landlock["verdict"] != "works" {
            skip(test, &landlock["detail"].to_string());
            return None;
        }
        let tries = Self(tempfile::tempdir().unwrap());
        tries.make("", "open");
        tries.make("open", "file");
        tries.make("", "closed");
        tries.make("closed", "file");
        Some(tries)
    }

    fn make(&self, dir: &str, name: &str) {
        let path = self.0.path().join(dir).join(name);
        match name {
            "file" => fs::write(&path, "text").unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        for (path, mode) in [(self.0.path(), 0o777), (&path, 0o777)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// A service that tries all, with these keys of `sandbox` beside the read-only root.
    fn service(&self, name: &str, others: &str) -> String {
        let script = format!(
            "cd {}; for p in /tmp /var/tmp /dev/shm open closed; do \
             touch $p/respawn-test && rm $p/respawn-test && echo $p; done; \
             for p in open closed; do truncate -s 1 $p/file && echo truncated $p; \
             mv $p/file $p/moved && mv $p/moved $p/file && echo moved $p; done; \
             grep NoNewPrivs /proc/self/status; \
             [ -S /proc/self/fd/3 ] && echo socket; [ -e /proc/self/fd/901 ] || echo clean",
            self.0.path().display()
        );
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        shell(
            &format!("{{ {script}\n}} 2>/dev/null; echo end; exec sleep 1000"),
            &format!(
                "stdout = {}\nlisten = [{{ tcp = \"{}\" }}]\nrestart = \"no\"\n\
                 sandbox = {{ read_only = [\"/\"], writable = [{}]{others} }}",
                json!(self.0.path().join("open").join(name)),
                free.local_addr().unwrap(),
                json!(self.0.path().join("open")),
            ),
        )
    }

    fn assert_said(&self, name: &str) {
        let text = eventually("it has said all", || {
            let text = fs::read_to_string(self.0.path().join("open").join(name)).ok()?;
            text.strip_suffix("end\n").map(str::to_owned)
        });
        assert_eq!(text.lines().collect::<Vec<_>>(), Self::EXPECTED);
    }
}

/// Landlock leaves it read-only for an agent that may make no mounts.
#[test]
fn a_read_only_root_needs_no_right() {
    needs_root!("a_read_only_root_needs_no_right");
    let Some(tries) = Tries::new("a_read_only_root_needs_no_right") else {
        return;
    };
    let Some(agent) = Unprivileged::start(&[("web", &tries.service("web", ""))]) else {
        return;
    };
    tries.assert_said("web");
    agent.shut_down();
}

#[test]
fn beside_a_read_only_root_the_rest_fails_or_is_left_out() {
    needs_root!("beside_a_read_only_root_the_rest_fails_or_is_left_out");
    let Some(tries) = Tries::new("beside_a_read_only_root_the_rest_fails_or_is_left_out") else {
        return;
    };
    let must = tries.service("must", ", private_tmp = true");
    let may = tries.service("may", ", private_tmp = true, optional = true");
    let Some(agent) = Unprivileged::start(&[("must", &must), ("may", &may)]) else {
        return;
    };
    tries.assert_said("may");
    eventually("the other one has failed", || {
        (agent.status("must")?["state"] == "failed").then_some(())
    });
    let log = agent.log();
    let words = "of sandbox, only read_only has an effect";
    assert!(log.contains(words), "{log}");
    agent.shut_down();
}
