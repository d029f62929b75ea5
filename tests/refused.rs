//! A kernel that refuses a program: it costs only what the program gives, the kernel is asked once
//! in a boot, and everybody is told what it said.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use object::{Object, ObjectSection, ObjectSymbol};
use serde_json::Value;
use support::needs_root;
use support::rig::{Ledger, Rig};
use tempfile::NamedTempFile;

static COMMITTED: &[u8] = include_bytes!("../monitor-ebpf/prebuilt/respawn.bpf.o");

/// `r0 = r5`, of a register that nothing was written to.
const REFUSED: [u8; 8] = [0xbf, 0x50, 0, 0, 0, 0, 0, 0];
/// The first byte of a call.
const CALL: u8 = 0x85;
/// What every kernel says of it.
const REASON: &str = "R5 !read_ok";
const AGAIN: &str = "earlier in this boot, and is not asked again";

/// The kernel object, with programs whose name begins so that no kernel takes.
fn object_with_refused(beginning: &str) -> NamedTempFile {
    let mut bytes = COMMITTED.to_vec();
    let file = object::File::parse(COMMITTED).unwrap();
    let mut changed = 0;
    for symbol in file.symbols() {
        let Some(section) = symbol.section_index() else {
            continue;
        };
        let is_program = symbol.is_global() && symbol.kind() == object::SymbolKind::Text;
        if is_program && symbol.name().unwrap().starts_with(beginning) {
            let section = file.section_by_index(section).unwrap();
            let (offset, _) = section.file_range().unwrap();
            let mut at = usize::try_from(offset + symbol.address()).unwrap();
            // A call of another function is changed once more when it is loaded.
            while bytes[at] == CALL {
                at += 8;
            }
            bytes[at..at + 8].copy_from_slice(&REFUSED);
            changed += 1;
        }
    }
    assert!(changed > 0, "no program is called {beginning}…");
    let mut object = NamedTempFile::new().unwrap();
    object.write_all(&bytes).unwrap();
    object
}

fn rig_with(object: &NamedTempFile) -> Rig {
    let mut rig = Rig::new();
    rig.set("RESPAWN_BPF_OBJECT", object.path().to_str().unwrap());
    rig.sleeper("web");
    rig
}

/// Kills the service, and waits until it is back; what the journal says of its end.
fn killed(rig: &Rig, ledger: &mut Ledger) -> Value {
    let old = ledger.current("web");
    kill(Pid::from_raw(old.0.cast_signed()), Signal::SIGKILL).unwrap();
    let new = ledger.wait("the service is back", |ledger| {
        ledger.has_current("web").filter(|new| *new != old)
    });
    rig.assert_single("web", new);
    ledger.told("web", old).exits[0]["cause"].clone()
}

/// The programs that the kernel was asked to load and refused, by the log.
fn asked_for(log: &str) -> Vec<&str> {
    let refusals = log.split("the kernel refused the program ").skip(1);
    let asked = refusals.filter_map(|told| told.split_once(": "));
    let names = asked.map(|(name, _)| name);
    names.filter(|name| !name.contains(' ')).collect()
}

fn check(output: &Output, name: &str) -> Value {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap().clone()
}

/// What has been found out about the kernel.
fn known(rig: &Rig) -> std::path::PathBuf {
    rig.runtime_dir().join("kernel.json")
}

/// Removes all pins, so that the next agent loads its programs.
fn unpin(rig: &Rig) {
    let _ = fs::remove_dir_all(rig.pin_dir());
}

#[test]
fn without_the_signal_program_only_senders_are_missing() {
    needs_root!("without_the_signal_program_only_senders_are_missing");
    let object = object_with_refused("signal");
    let rig = rig_with(&object);
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    let cause = killed(&rig, &mut ledger);
    assert_eq!(
        (&cause["signal"], &cause["sender"]),
        (&"SIGKILL".into(), &Value::Null)
    );
    let log = rig.log();
    let told = "the kernel refused the program signal: ";
    assert!(log.contains(told) && log.contains(REASON), "{log}");
    assert!(log.contains("who sent a signal will be unknown"), "{log}");
    assert!(
        !log.contains("without eBPF") && !log.contains("nothing is pinned"),
        "{log}"
    );
    // The other programs are there.
    assert!(rig.pin("birth").exists() && !rig.pin("signal").exists());

    let doctor = rig.run(&["doctor", "--json"]);
    let senders = check(&doctor, "senders");
    let detail = senders["detail"].as_str().unwrap();
    assert_eq!(senders["verdict"], "missing");
    assert!(
        detail.contains(AGAIN) && detail.contains(REASON),
        "{detail}"
    );
    assert_eq!(check(&doctor, "exit_program")["verdict"], "works");
    assert_eq!(check(&doctor, "birth_program")["verdict"], "works");

    // The next one that has to load them does not ask again.
    agent.kill();
    unpin(&rig);
    assert!(!log.contains(AGAIN), "{log}");
    let _agent = rig.agent();
    ledger.next_agent(1);
    support::eventually("the next agent's words", || {
        rig.log().contains(AGAIN).then_some(())
    });
    killed(&rig, &mut ledger);
}

#[test]
fn without_the_exit_program_pidfds_show_deaths() {
    needs_root!("without_the_exit_program_pidfds_show_deaths");
    let object = object_with_refused("exit_");
    let rig = rig_with(&object);
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    let cause = killed(&rig, &mut ledger);
    assert_eq!(cause["signal"], "SIGKILL");
    let log = rig.log();
    assert!(
        log.contains("without eBPF") && log.contains(REASON),
        "{log}"
    );
    // Once by the kernel, for pins, and where there are two programs once for each; and not again for
    // the agent's own lifetime.
    let mut asked = asked_for(&log);
    asked.sort_unstable();
    assert!((1..=2).contains(&asked.len()), "{asked:?}: {log}");
    assert!(
        asked.is_sorted_by(|one, next| one < next),
        "{asked:?}: {log}"
    );
    assert_eq!(log.matches(AGAIN).count(), 1, "{log}");

    for command in [&["watch", "--all"][..], &["watch", "--name", "x"]] {
        let output = rig.run(command);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.contains(REASON), "{stderr}");
        assert!(!stderr.contains("run as root"), "{stderr}");
    }
    let exit = check(&rig.run(&["doctor", "--json"]), "exit_program");
    assert_eq!(exit["verdict"], "missing");
    assert!(exit["detail"].as_str().unwrap().contains(REASON), "{exit}");
    assert!(!exit["advice"].as_str().unwrap().contains("root"), "{exit}");

    // Another build is asked anew: nothing is wrong with the committed one.
    agent.kill();
    let mut rig = rig;
    rig.unset("RESPAWN_BPF_OBJECT");
    let _agent = rig.agent();
    ledger.next_agent(1);
    let cause = killed(&rig, &mut ledger);
    assert_eq!(cause["sender"]["pid"], std::process::id(), "{cause}");
}

#[test]
fn what_others_could_have_written_is_not_believed() {
    needs_root!("what_others_could_have_written_is_not_believed");
    let object = object_with_refused("signal");
    let rig = rig_with(&object);
    let mut ledger = rig.ledger();
    let mut agent = rig.agent();
    ledger.current("web");
    agent.kill();
    let whole = fs::read_to_string(known(&rig)).unwrap();
    assert!(whole.contains(REASON), "{whole}");
    let poisoned = whole.replace("signal on tracepoint", "birth on tracepoint");
    let damaged = whole.split_at(whole.len() / 2).0.to_owned();
    for (number, (text, mode)) in [(&poisoned, 0o666), (&damaged, 0o600)]
        .into_iter()
        .enumerate()
    {
        unpin(&rig);
        fs::write(known(&rig), text).unwrap();
        fs::set_permissions(known(&rig), fs::Permissions::from_mode(mode)).unwrap();
        let mut agent = rig.agent();
        ledger.next_agent(number + 1);
        killed(&rig, &mut ledger);
        agent.kill();
        let log = rig.log();
        assert!(!log.contains(AGAIN), "{log}");
        assert!(!log.contains("nothing is pinned"), "{log}");
        // It has found out again, and keeps that.
        assert_eq!(fs::read_to_string(known(&rig)).unwrap(), whole);
    }
}
