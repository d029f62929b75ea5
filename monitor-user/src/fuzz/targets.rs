//! What is read, and what holds of everything that was.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::run_changed;
use crate::accounts::Accounts;
use crate::config::read_environment_file;
use crate::control::{Command, Response};
use crate::deaths::{Filter, Kept};
use crate::import::{Format, Host, Text};
use crate::init::Program;
use crate::init::inittab::{Block, Dialect, Inittab};
use crate::journal::Reader;
use crate::model::{Cause, Circumstances, Event, Owner, What};
use crate::{agent, cli, config, deaths, decode, import, report};

/// Text for a person has nothing in it that a terminal would obey.
fn assert_printable(text: &str) {
    let plain = anstream::adapter::strip_str(text).to_string();
    assert!(!plain.chars().any(char::is_control), "{plain:?}");
}

/// An event is the same after it was written and read again; what could not be read, for a key that
/// was there twice, may be readable then.
fn assert_reads_back(event: &Event) {
    let text = serde_json::to_string(event).unwrap();
    let again: Event = text.parse().unwrap();
    if !matches!(event.what, What::Unknown { .. }) {
        assert_eq!(again, *event, "{text}");
    }
    assert_eq!(again.what.kind(), event.what.kind(), "{text}");
}

#[test]
fn ring() {
    run_changed("ring", &[], |bytes| {
        let longer = [bytes, &[0; 8]].concat();
        for (version, bytes) in [(6, bytes), (7, longer.as_slice()), (5, bytes)] {
            let Some(exit) = decode::exit_of_version(version, bytes) else {
                continue;
            };
            assert!(version >= decode::READABLE_FROM);
            let told = serde_json::to_string(&exit.cause).unwrap();
            let again: Cause = serde_json::from_str(&told).unwrap();
            assert_eq!(again, exit.cause, "{told}");
            serde_json::to_string(&Circumstances::of(&exit)).unwrap();
            let _ = decode::blame(&exit.cause, exit.last_signal.as_ref());
            assert!(exit.birth.is_none() || exit.tree.is_none());
            let mut own = exit.clone();
            own.cgroup_is_its_own();
        }
        let _ = decode::exit(bytes);
    });
}

#[test]
fn protocol() {
    let words = &[
        "\"version\":1",
        "\"command\":",
        "\"services\":[",
        "\"all\":true",
        "null",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "\\u0000",
        "\\ud800",
        "18446744073709551616",
        "-1",
        "1e999",
        "\"stop\"",
        "\"signal\"",
    ];
    run_changed("protocol", words, |bytes| {
        if let Ok(command) = Command::from_line(bytes) {
            let line = command.to_line();
            assert_eq!(Command::from_line(&line), Ok(command));
        }
        if let Ok(response) = Response::from_line(bytes) {
            let line = response.to_line();
            assert!(line.ends_with(b"\n"));
            assert!(Response::from_line(&line).is_ok(), "{line:?}");
        }
    });
}

#[test]
fn journal() {
    let words = &[
        "\n",
        "{\"event\":",
        "\"seq\":",
        "\"time\":",
        "\"cause\":",
        "\"sender\":",
        "null",
        "\u{1b}[2J",
        "\u{202e}",
        "\\u0007",
        "18446744073709551615",
        "-1",
        "\"exited\"",
        "\"child_exited\"",
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = crate::journal::paths(dir.path())[0].clone();
    run_changed("journal", words, |bytes| {
        fs::write(&path, bytes).unwrap();
        let mut reader = Reader::open(dir.path()).unwrap();
        let mut lines = 0;
        while let Some(line) = reader.next().unwrap() {
            lines += 1;
            assert_reads_back(&line.event);
            assert_printable(&report::happening(&line.event));
            let _ = (line.time(), line.service());
        }
        let all = bytes.split(|byte| *byte == b'\n').count();
        assert!(lines <= all, "{lines} lines of {all}");
    });
}

#[test]
fn deaths() {
    let words = &[
        "\n",
        "{\"event\":\"exited\",\"pid\":7,\"cause\":",
        "\"argv\":[",
        "\"ancestors\":[{\"pid\":1,\"comm\":",
        "\"sender\":",
        "\"last_signal\":",
        "null",
        "\u{1b}[2J",
        "\\u0007",
        "4294967296",
        "-1",
        "\"deaths_lost\"",
        "\"journald_missed\"",
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deaths");
    let times = report::Times::in_full(jiff::tz::TimeZone::UTC);
    let accounts = Accounts::of_this_host();
    run_changed("deaths", words, |bytes| {
        fs::write(&path, bytes).unwrap();
        let mut reader = Reader::of_deaths(dir.path()).unwrap();
        while let Some(line) = reader.next().unwrap() {
            assert_printable(&report::happening(&line.event));
            let Some(kept) = Kept::of(&line) else {
                continue;
            };
            assert_printable(&deaths::line(
                &kept.exit,
                &kept.profile,
                line.time(),
                &times,
                &accounts,
            ));
            let _ = Filter::default().wants(&kept.facts());
        }
        let told = cli::why_words(dir.path(), "nginx", &accounts).unwrap();
        told.iter().for_each(|line| assert_printable(line));
    });
}

#[test]
fn state() {
    let words = &[
        "\"boot_id\":",
        "\"instance\":",
        "\"pid\":",
        "null",
        "18446744073709551616",
        "-1",
        "1e999",
        "{",
        "}",
        "\"memory\":",
        "\"leaving\":[",
        "\"starts_ago\":[",
    ];
    let dir = tempfile::tempdir().unwrap();
    let boot_id = crate::os::proc::boot_id().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    set_private(&state);
    run_changed("state", words, |bytes| {
        // What another boot has left is not looked at.
        let text = String::from_utf8_lossy(bytes).replace("BOOT", &boot_id);
        for name in ["web.json", "web.birth", "last-good-config"] {
            fs::write(state.join(name), &text).unwrap();
        }
        // A directory with nothing of an agent's in it is refused.
        if let Err(error) = agent::read_state(dir.path()) {
            assert!(error.to_string().contains("is not respawn's"), "{error:#}");
        }
    });
}

fn set_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn environment() {
    let words = &[
        "=", "\"", "'", "\\", "#", ";", "\n", "\r\n", "$", "export ", "PATH=", "\0", "\u{feff}",
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("environment");
    run_changed("environment", words, |bytes| {
        fs::write(&path, bytes).unwrap();
        match read_environment_file(&path) {
            Ok(variables) => {
                for (key, value) in variables {
                    assert!(!key.is_empty() && !key.contains(['=', '\0']), "{key:?}");
                    assert!(!value.contains('\0'), "{value:?}");
                }
            }
            Err(problem) => assert!(!problem.contains('\n'), "{problem:?}"),
        }
    });
}

#[test]
fn inittab() {
    let words = &[
        ":",
        "::",
        "respawn",
        "once",
        "wait",
        "askfirst",
        "sysinit",
        "\n",
        "\r\n",
        "#",
        "id:2345:",
        "# respawn: begin (written by respawn install)\n",
        "# respawn: end (written by respawn install)\n",
    ];
    run_changed("inittab", words, |bytes| {
        let block = ["rs1:2345:respawn:/usr/bin/respawn agent".to_owned()];
        for dialect in [Dialect::Sysvinit, Dialect::Busybox] {
            let Ok(inittab) = Inittab::parse(bytes, dialect, Program::Agent) else {
                continue;
            };
            let ids = inittab.ids(2, &[]);
            assert!(ids.len() <= 2);
            let with = inittab.with_block(&block);
            let found = Block::find(&with, Program::Agent).unwrap();
            assert_eq!(found.commands().len(), 1);
            // What was there before is there after.
            if !inittab.is_installed() {
                assert_eq!(
                    found.taken_out(),
                    bytes,
                    "{:?}",
                    String::from_utf8_lossy(bytes)
                );
            }
        }
        let _ = crate::init::inittab::ids_in(bytes);
    });
}

/// Of units, and of what else `import` reads.
const UNIT_WORDS: &[&str] = &[
    "[Unit]\n",
    "[Service]\n",
    "[Socket]\n",
    "[Install]\n",
    "[program:",
    "]\n",
    "ExecStart=",
    "ExecReload=",
    "ExecStartPre=-",
    "Type=forking\n",
    "Type=oneshot\n",
    "PIDFile=",
    "User=",
    "Environment=",
    "EnvironmentFile=",
    "After=",
    "Requires=",
    "Restart=",
    "KillMode=",
    "TimeoutStopSec=",
    "infinity",
    "ListenStream=",
    "ProtectSystem=",
    "command=",
    "%(ENV_X)s",
    "%i",
    "%%",
    "${",
    "\\\n",
    "\"",
    "'",
    ";",
    "\r\n",
    ":respawn:",
    "#!/bin/sh\nexec ",
    "#!/bin/execlineb -P\n",
    "chpst -u ",
    "s6-softlimit -o ",
    "s6-envdir ",
    "2>&1\n",
    "export A=",
    "\u{202e}",
];

/// What `import` reads, each kind in its turn; what it writes is what `check` takes.
#[test]
fn units() {
    let kinds = [
        ("x.service", Format::Systemd),
        ("x@a.service", Format::Systemd),
        ("supervisord.conf", Format::Supervisord),
        ("inittab", Format::Inittab),
        ("x/run", Format::Runit),
        ("x/run", Format::S6),
    ];
    let host = Host::default();
    let mut kinds = kinds.iter().cycle();
    run_changed("units", UNIT_WORDS, |bytes| {
        let (name, format) = kinds.next().unwrap();
        let whole = String::from_utf8_lossy(bytes).into_owned();
        let (unit, rest) = whole.split_once("[Socket]").unwrap_or((&whole, ""));
        let text = |name: &str, text: String| Text {
            path: Path::new("/from").join(name),
            name: name.to_owned(),
            text,
            is_secret: false,
            added: Vec::new(),
            variables: BTreeSet::new(),
            sockets: Vec::new(),
            tmpfiles: Vec::new(),
        };
        let mut read = text(name, unit.to_owned());
        if !rest.is_empty() {
            read.sockets
                .push(text("x.socket", format!("[Socket]{rest}")));
        }
        for service in import::convert(&[read], Some(*format), &host).services {
            let path = format!("{}.toml", service.name);
            let toml = service.to_toml();
            let told = config::check_text(Path::new(&path), toml.clone(), &host.surroundings);
            assert!(
                service.refused.is_some() || told.0.is_empty(),
                "{:?}\n{toml}",
                told.0
            );
        }
    });
}

#[test]
fn cgroup() {
    let words = &[
        "/", ".slice", ".scope", ".service", "user@", "machine-", "\\x2d", "\\x", ":", "kubepods",
        "pod", "libpod-", "crio-", "docker", "lxc", "respawn", "openrc.", "_", "-", "\u{fc}",
    ];
    run_changed("cgroup", words, |bytes| {
        let owner = Owner::of_cgroup(&String::from_utf8_lossy(bytes));
        assert!(owner.runtime.is_none() || owner.container.is_some());
        assert!(owner.qos.is_none() || owner.pod.is_some());
        assert!(owner.user_unit.is_none() || owner.unit.is_some());
        let line = serde_json::to_string(&owner).unwrap();
        assert_eq!(serde_json::from_str::<Owner>(&line).unwrap(), owner);
    });
}
