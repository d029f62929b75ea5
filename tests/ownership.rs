//! An agent works only where nobody else can have a say, and harms nothing that is not its own.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use support::rig::{AgentProcess, Rig};
use support::{copy_program, eventually, needs_root, readable_by_all, respawn, skip};

const NOBODY: u32 = 65534;

/// Starts an agent that is to refuse, and returns what it said.
fn refused(rig: &Rig) -> String {
    let before = rig.log().len();
    let mut agent = rig.agent_command().spawn().unwrap();
    let status = eventually("the agent ends", || {
        let status = agent.try_wait().unwrap();
        // One that does not refuse must not stay.
        let socket = rig.runtime_dir().join("control.sock");
        if status.is_none() && UnixStream::connect(socket).is_ok() {
            agent.kill().unwrap();
        }
        status
    });
    let said = rig.log()[before..].to_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

/// A service that leaves a trace when it starts.
fn tracer(rig: &Rig, name: &str, trace: &Path) {
    let script = format!("echo >> '{}'; exec sleep 100000", trace.display());
    let command = format!("[\"/bin/sh\", \"-c\", {script:?}]");
    rig.service(name, &command, "");
}

fn give_away(path: &Path) {
    for entry in fs::read_dir(path).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            give_away(&entry.path());
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
}

#[test]
fn a_forged_last_good_config_runs_nobodys_command() {
    needs_root!("a forged last good config");
    let rig = Rig::new();
    let trace = rig.path().join("trace");
    tracer(&rig, "web", &trace);
    let mut agent = rig.agent();
    eventually("it has started", || trace.exists().then_some(()));
    assert!(rig.run(&["shutdown"]).status.success());
    agent.ended();
    fs::remove_file(&trace).unwrap();
    // Whoever it belongs to has put a last good config there, and waits for a bad config.
    let broken = rig.path().join("config/agent.toml");
    fs::write(&broken, "nonsense = 1\n").unwrap();
    give_away(&rig.runtime_dir());
    let said = refused(&rig);
    assert!(said.contains("belongs to uid 65534"), "{said}");
    assert!(said.contains("could run commands as root"), "{said}");
    assert!(!trace.exists());
    // The directory is root's, and what is in it is not.
    chown(rig.runtime_dir(), Some(0), Some(0)).unwrap();
    let said = refused(&rig);
    assert!(said.contains("belongs to uid 65534"), "{said}");
    assert!(!trace.exists());
}

#[test]
fn a_runtime_directory_that_others_may_replace_is_refused() {
    needs_root!("a runtime directory that others may replace");
    let rig = Rig::new();
    rig.sleeper("web");
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // Its parent: not sticky, writable by all.
    set(rig.path(), 0o777);
    let said = refused(&rig);
    assert!(said.contains("everyone may write to"), "{said}");
    assert!(!rig.runtime_dir().exists());
    set(rig.path(), 0o755);
    // Through a link that somebody else has put into a sticky directory.
    let real = rig.path().join("real");
    fs::create_dir(&real).unwrap();
    set(rig.path(), 0o1777);
    symlink(&real, rig.runtime_dir()).unwrap();
    std::os::unix::fs::lchown(rig.runtime_dir(), Some(NOBODY), None).unwrap();
    let said = refused(&rig);
    assert!(said.contains("belongs to uid 65534"), "{said}");
    // Root's own link is followed.
    std::os::unix::fs::lchown(rig.runtime_dir(), Some(0), None).unwrap();
    let mut ledger = rig.ledger();
    let _agent = rig.agent();
    ledger.current("web");
}

#[test]
fn files_of_somebody_elses_in_the_state_directory_are_kept() {
    needs_root!("files of somebody else's in the state directory");
    let rig = Rig::new();
    rig.sleeper("web");
    let theirs = rig.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let files = ["notes.txt", "users.json", "half.new", "x"];
    for name in files {
        fs::write(theirs.join(name), "{\"theirs\": true}\n").unwrap();
    }
    let assert_kept = |place: &Path| {
        for name in files {
            let text = fs::read_to_string(place.join(name)).unwrap();
            assert_eq!(text, "{\"theirs\": true}\n", "{name}");
        }
    };
    fs::create_dir(rig.runtime_dir()).unwrap();
    let state = rig.state_dir();
    symlink(&theirs, &state).unwrap();
    let said = refused(&rig);
    assert!(said.contains("exists and is not a directory"), "{said}");
    assert_kept(&theirs);
    fs::remove_file(&state).unwrap();
    fs::rename(&theirs, &state).unwrap();
    let said = refused(&rig);
    assert!(said.contains("not respawn's"), "{said}");
    assert_kept(&state);
}

#[test]
fn an_agent_with_another_config_is_no_spare() {
    let rig = Rig::new();
    rig.sleeper("web");
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    let web = ledger.current("web");
    // The same directory by another name is no other config.
    let link = rig.path().join("link");
    symlink(rig.path().join("config"), &link).unwrap();
    let before = rig.log().len();
    let mut command = rig.agent_command();
    let mut spare = AgentProcess::from_command(command.arg("--config").arg(&link));
    let says = format!("spare of pid {}: ", agent.pid());
    eventually("the spare waits", || {
        rig.log()[before..].contains(&says).then_some(())
    });
    // Another one, which has no service of that name.
    let other = rig.path().join("other");
    fs::create_dir_all(other.join("services")).unwrap();
    let before = rig.log().len();
    let mut command = rig.agent_command();
    let mut second = AgentProcess::from_command(command.arg("--config").arg(&other));
    let status = second.ended();
    let said = rig.log()[before..].to_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    for words in [
        format!("the agent with pid {} works in ", agent.pid()),
        rig.path().join("config").display().to_string(),
        other.display().to_string(),
        rig.runtime_dir().display().to_string(),
        "give it the same --config".to_owned(),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
    let before = ledger.agents.len();
    agent.kill();
    assert_eq!(ledger.next_agent(before), spare.pid());
    assert_eq!(ledger.current("web"), web);
    assert!(rig.run(&["shutdown"]).status.success());
    spare.ended();
    // An agent that works no more decides nothing for the next one.
    let before = ledger.agents.len();
    let mut command = rig.agent_command();
    let mut next = AgentProcess::from_command(command.arg("--config").arg(&other));
    ledger.next_agent(before);
    assert!(rig.run(&["shutdown"]).status.success());
    next.ended();
}

#[test]
fn a_services_user_has_root_write_to_no_file_of_roots() {
    needs_root!("a service's user has root write");
    let rig = Rig::new();
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set(rig.path(), 0o755);
    let secret = rig.path().join("secret");
    fs::write(&secret, "root's\n").unwrap();
    set(&secret, 0o600);
    let logs = rig.path().join("logs");
    fs::create_dir(&logs).unwrap();
    chown(&logs, Some(NOBODY), Some(NOBODY)).unwrap();
    symlink(&secret, logs.join("link")).unwrap();
    fs::hard_link(&secret, logs.join("hard")).unwrap();
    symlink(rig.path(), logs.join("way")).unwrap();
    // Root's own link stays a link.
    symlink(&logs, rig.path().join("own")).unwrap();
    let service = |name: &str, user: &str, path: &str| {
        let path = rig.path().join(path);
        let keys = format!("{user}restart = \"no\"\nstdout = {path:?}");
        let command = "[\"/bin/sh\", \"-c\", \"echo written; exec sleep 100000\"]";
        rig.service(name, command, &keys);
    };
    let nobody = "user = \"65534\"\n";
    for (name, user) in [("nobody", nobody), ("root", "")] {
        service(&format!("{name}-link"), user, "logs/link");
        service(&format!("{name}-hard"), user, "logs/hard");
        service(&format!("{name}-way"), user, "logs/way/secret");
    }
    service("good", nobody, "own/good");
    let environment = rig.path().join("logs/link");
    let keys = format!("{nobody}restart = \"no\"\nenvironment_file = {environment:?}");
    rig.service("reader", r#"["/usr/bin/sleep", "100000"]"#, &keys);
    let mut ledger = rig.ledger();
    let _agent = rig.agent();
    ledger.current("good");
    let good = logs.join("good");
    eventually("it has written", || {
        (fs::read_to_string(&good).ok()? == "written\n").then_some(())
    });
    assert_eq!(fs::metadata(&good).unwrap().uid(), NOBODY);
    for name in [
        "nobody-link",
        "nobody-hard",
        "nobody-way",
        "root-link",
        "root-hard",
        "root-way",
        "reader",
    ] {
        let words = match name.ends_with("hard") {
            true => "it has a second name",
            false => "a symbolic link on its way",
        };
        ledger.wait(&format!("{name} does not start"), |ledger| {
            let of_it = |event: &&Value| event["service"] == name;
            let mut told = ledger.others.iter().filter(of_it);
            told.any(|event| event.to_string().contains(words))
                .then_some(())
        });
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "root's\n");
}

/// The warnings of `check`, each with its place below the test's directory.
fn warnings(rig: &Rig) -> Vec<(String, String)> {
    let output = rig.run(&["check", "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["ok"], true, "{said}");
    let warnings = said["warnings"].as_array().unwrap().iter();
    let text = |warning: &Value, key: &str| warning[key].as_str().unwrap().to_owned();
    let dir = rig.path().display().to_string();
    let place = |warning| text(warning, "file").replace(&dir, "DIR");
    let warning = |warning| {
        (
            place(warning),
            text(warning, "message").replace(&dir, "DIR"),
        )
    };
    warnings.map(warning).collect()
}

/// A config with all that may belong to somebody else.
fn config_with_everything() -> Rig {
    let rig = Rig::new();
    let path = |name: &str| rig.path().join(name);
    for name in ["bin", "hooks", "default", "far", "theirs", "tools"] {
        fs::create_dir(path(name)).unwrap();
    }
    for name in ["reload", "ready", "check", "condition"] {
        copy_program("/bin/true", path(&format!("tools/{name}")));
    }
    for name in ["bin/prog", "hooks/hook", "theirs/prog"] {
        copy_program("/usr/bin/sleep", path(name));
    }
    for name in ["default/web", "theirs/env"] {
        fs::write(path(name), "KEY=value\n").unwrap();
    }
    let command = |name: &str| format!("[{:?}, \"100000\"]", path(name));
    let file = |name: &str| format!("environment_file = {:?}", path(name));
    rig.service("web", &command("bin/prog"), &file("default/web"));
    let [reload, ready, check, condition] =
        ["reload", "ready", "check", "condition"].map(|name| command(&format!("tools/{name}")));
    let keys = format!(
        "reload = {reload}\nready = {{ command = {ready} }}\ncheck = {{ command = {check} }}\n\
         conditions = {{ command = {condition} }}"
    );
    rig.service("asked", &command("bin/prog"), &keys);
    rig.service("web2", &command("bin/prog"), "");
    rig.service("far", &command("bin/prog"), "");
    let far = path("config/services/far.toml");
    fs::rename(&far, path("far/real.toml")).unwrap();
    symlink("../../far/real.toml", far).unwrap();
    // What a user's own service runs and reads is that user's.
    let keys = format!("user = \"65534\"\n{}", file("theirs/env"));
    rig.service("theirs", &command("theirs/prog"), &keys);
    give_away(&path("theirs"));
    let hook = format!("on_exit = [{:?}]\n", path("hooks/hook"));
    fs::write(path("config/agent.toml"), hook).unwrap();
    fs::set_permissions(rig.path(), fs::Permissions::from_mode(0o755)).unwrap();
    rig
}

#[test]
fn a_config_that_others_may_change_is_warned_of() {
    needs_root!("a config that others may change");
    let rig = config_with_everything();
    let path = |name: &str| rig.path().join(name);
    assert_eq!(warnings(&rig), []);
    // Who owns it: as nobody's, and as something that a group or all may write to.
    let places = [
        ("config", "the config directory"),
        ("config/agent.toml", "the agent's file"),
        ("config/services", "the directory of the service files"),
        ("config/services/web.toml", "a service file"),
        ("far", "DIR/config/services/far.toml, a service file"),
        (
            "far/real.toml",
            "DIR/config/services/far.toml, a service file",
        ),
        ("default", "DIR/default/web, the environment file of web"),
        ("default/web", "the environment file of web"),
        ("bin", "DIR/bin/prog, the program of "),
        ("bin/prog", "the program of "),
        ("hooks", "DIR/hooks/hook, the program of on_exit"),
        ("hooks/hook", "the program of on_exit"),
        ("tools", "DIR/tools/"),
        ("tools/reload", "the program of asked's reload"),
        ("tools/ready", "the program of asked's ready"),
        ("tools/check", "the program of asked's check"),
        ("tools/condition", "a program of asked's conditions"),
    ];
    for (name, what) in places {
        let path = path(name);
        let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
        let assert_told = |who: &str, remedy: &str| {
            let mode = fs::metadata(&path).unwrap().mode() & 0o7777;
            let told = warnings(&rig);
            let [(place, message)] = told.as_slice() else {
                panic!("{name}: {told:?}");
            };
            assert_eq!(*place, format!("DIR/{name}"));
            for words in [
                &format!("{who} (mode {mode:04o}), and could run commands as root"),
                what,
                "expected only root",
                remedy,
            ] {
                assert!(message.contains(words), "{name}: {words}: {message}");
            }
        };
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(NOBODY), None).unwrap();
        assert_told("belongs to uid 65534", "chown");
        chown(&path, Some(0), Some(NOBODY)).unwrap();
        set(mode | 0o020);
        assert_told("group 65534 may write to it", "chmod g-w");
        // Root's own group is root.
        chown(&path, None, Some(0)).unwrap();
        assert_eq!(warnings(&rig), [], "{name}");
        set(mode | 0o002);
        assert_told("everyone may write to it", "chmod o-w");
        set(mode);
    }
    assert_eq!(warnings(&rig), []);
    // In a sticky directory nobody else can replace root's file, ...
    let sticky = |name: &str| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o1777)).unwrap();
    };
    sticky("bin");
    sticky("far");
    assert_eq!(warnings(&rig), []);
    // ... but they can add one that is read.
    sticky("config/services");
    assert_eq!(warnings(&rig).len(), 1);
}

/// What an interpreter runs is as much a program as the interpreter.
#[test]
fn a_script_that_others_may_change_is_warned_of() {
    needs_root!("a script that others may change");
    let rig = Rig::new();
    let path = |name: &str| rig.path().join(name);
    for name in ["tools", "scripts"] {
        fs::create_dir(path(name)).unwrap();
    }
    let perl = path("tools/perl5");
    copy_program("/bin/sh", &perl);
    let scripts = ["web", "step", "hook", "reload", "theirs", "script", "data"];
    for name in scripts {
        let text = format!("#!{} -w\n", perl.display());
        fs::write(path(&format!("scripts/{name}")), text).unwrap();
        let set = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path(&format!("scripts/{name}")), set).unwrap();
    }
    let script = |name: &str| path(&format!("scripts/{name}"));
    let shell = |name: &str| {
        format!(
            "[\"/bin/sh\", \"-eu\", {:?}, {:?}]",
            script(name),
            script("data")
        )
    };
    let keys = format!(
        "before_start = [{}]\non_exit = {}\nreload = {}",
        shell("step"),
        shell("hook"),
        shell("reload")
    );
    rig.service("web", &shell("web"), &keys);
    rig.service("script", &format!("[{:?}]", script("script")), "");
    rig.service("theirs", &shell("theirs"), "user = \"65534\"");
    assert_eq!(warnings(&rig), []);
    let give = |place: &Path, uid| chown(place, Some(uid), None).unwrap();
    for (name, what) in [
        ("web", "a script that the program of web runs"),
        ("step", "a script that a program of web's before_start runs"),
        ("hook", "a script that the program of on_exit runs"),
        ("reload", "a script that the program of web's reload runs"),
        ("script", "the program of script"),
    ] {
        give(&script(name), NOBODY);
        let told = warnings(&rig);
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        assert_eq!(told[0].0, format!("DIR/scripts/{name}"));
        assert!(told[0].1.contains(what), "{told:?}");
        give(&script(name), 0);
    }
    // Neither is run as root.
    give(&script("data"), NOBODY);
    give(&script("theirs"), NOBODY);
    assert_eq!(warnings(&rig), []);
    give(&perl, NOBODY);
    let told = warnings(&rig);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]
            .1
            .contains("the interpreter of the program of script"),
        "{told:?}"
    );
}

#[test]
fn a_config_that_others_may_change_is_warned_of_at_start() {
    needs_root!("a config that others may change");
    let rig = config_with_everything();
    let program = rig.path().join("bin/prog");
    let mut ledger = rig.ledger();
    chown(&program, Some(NOBODY), None).unwrap();
    let words = format!("{}: belongs to uid 65534", program.display());
    // A file that cannot be used does not hide it.
    for broken in [false, true] {
        if broken {
            fs::write(rig.path().join("config/services/bad.toml"), "command = 1\n").unwrap();
        }
        let before = rig.log().len();
        let mut agent = rig.agent();
        ledger.current("web");
        let said = rig.log()[before..].to_owned();
        assert_eq!(said.matches(&words).count(), 1, "{said}");
        assert!(rig.run(&["shutdown"]).status.success());
        agent.ended();
        let gone = rig.runtime_dir().join("state/last-good-config");
        let _ = fs::remove_file(gone);
    }
}

#[test]
fn an_agent_of_another_user_trusts_that_user_and_root() {
    needs_root!("an agent of another user");
    let mut rig = config_with_everything();
    let Some((_folder, copy)) = readable_by_all(&respawn()) else {
        return skip(
            "an_agent_of_another_user",
            "no place that any user may run a program from",
        );
    };
    let service = rig.path().join("config/services/theirs.toml");
    fs::remove_file(service).unwrap();
    rig.run_by(&copy, NOBODY);
    assert_eq!(warnings(&rig), []);
    let program = rig.path().join("bin/prog");
    chown(&program, Some(NOBODY), None).unwrap();
    assert_eq!(warnings(&rig), []);
    chown(&program, Some(NOBODY - 1), None).unwrap();
    let told = warnings(&rig);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]
            .1
            .contains("commands as uid 65534: it is the program of "),
        "{told:?}"
    );
    assert!(
        told[0].1.contains("expected only root and uid 65534"),
        "{told:?}"
    );
}
