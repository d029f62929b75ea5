//! One entry of journald: a death of a unit, as a message for people and as fields.
//!
//! Arguments of programs are never in it: others than root may read the journal.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::accounts::Accounts;
use crate::deaths;
use crate::model::{Cause, CoreDump, Event, Exit, How, OomScope, Profile, Sender, Signal, What};
use crate::report::{Age, asked};
use crate::text::printable;

/// Names this kind of entry for ever; the catalogue explains it.
const MESSAGE_ID: &str = "5d0e2a2f1f6c4f0e9a5b7c1d3e8f4a60";

/// A warning, as in syslog.
const PRIORITY: &str = "4";

/// What one field has at most, in bytes.
const LONGEST: usize = 4096;

/// A `KEY=value` a line: no value has a newline in it.
struct Fields(String);

impl Fields {
    fn add(&mut self, key: &str, value: impl Display) {
        let value = printable(&value.to_string());
        let value = &value[..value.floor_char_boundary(LONGEST)];
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{key}={value}");
    }

    fn add_known<T: Display>(&mut self, key: &str, value: Option<T>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }
}

/// `None`: the process was no unit's.
pub(super) fn of(exited: &Event, profile: &Profile, accounts: &Accounts) -> Option<String> {
    let What::Exited(exit) = &exited.what else {
        return None;
    };
    let unit = profile.owner.unit.as_deref()?;
    let mut fields = Fields(String::new());
    fields.add("MESSAGE", message(exit, accounts));
    fields.add("MESSAGE_ID", MESSAGE_ID);
    fields.add("PRIORITY", PRIORITY);
    fields.add("SYSLOG_IDENTIFIER", "respawn");
    fields.add("OBJECT_PID", exit.pid);
    fields.add("OBJECT_SYSTEMD_UNIT", unit);
    fields.add_known("OBJECT_SYSTEMD_USER_UNIT", profile.owner.user_unit.as_ref());
    let stamp = exited.stamp.as_ref();
    let cursor = stamp.and_then(|stamp| stamp.source.cursor.as_ref());
    fields.add_known("RESPAWN_CURSOR", cursor);
    dead(&mut fields, exit, profile);
    cause(&mut fields, exit);
    if let Some(sender) = exit.cause.sender() {
        who(&mut fields, "RESPAWN_SENDER", sender, accounts);
    }
    if let Some(last) = &exit.circumstances.last_signal {
        signal(&mut fields, "RESPAWN_ASKED_SIGNAL", last.signal);
        fields.add("RESPAWN_ASKED_BEFORE_NS", last.before_exit_ns);
        fields.add_known("RESPAWN_ASKED_HOW", last.how.and_then(word));
        if let Some(asker) = &last.sender {
            who(&mut fields, "RESPAWN_ASKER", asker, accounts);
        }
    }
    Some(fields.0)
}

/// "nginx killed by SIGKILL from bash (pid 3, uid 0, login user alice) after 3m12s, pid 7"
fn message(exit: &Exit, accounts: &Accounts) -> String {
    let brief = |sender: &Sender| deaths::brief(sender, accounts);
    let by = exit.cause.sender().map(brief);
    let by = by.as_ref().map(|words| words as &dyn Display);
    let lived = exit.uptime_ns.map(Duration::from_nanos);
    let lived = lived.map_or_else(String::new, |lived| format!(" after {}", Age(lived)));
    let asked = exit.circumstances.last_signal.as_ref().map(|last| {
        let asker = last.sender.as_ref().map(brief);
        asked(last, asker.as_ref().map(|words| words as &dyn Display))
    });
    format!(
        "{} {}{lived}, pid {}{}",
        exit.comm.as_deref().unwrap_or("?"),
        exit.cause.with_sender(by),
        exit.pid,
        asked.unwrap_or_default()
    )
}

fn dead(fields: &mut Fields, exit: &Exit, profile: &Profile) {
    let known = &exit.circumstances;
    fields.add_known("RESPAWN_COMM", exit.comm.as_ref());
    fields.add_known("RESPAWN_UID", known.uid);
    fields.add_known("RESPAWN_HOST_PID", known.host_pid);
    fields.add_known("RESPAWN_PARENT_PID", known.parent_pid);
    fields.add_known("RESPAWN_UPTIME_NS", exit.uptime_ns);
    of_profile(fields, "RESPAWN", profile);
}

fn cause(fields: &mut Fields, exit: &Exit) {
    fields.add("RESPAWN_CAUSE", &exit.cause);
    fields.add("RESPAWN_CAUSE_KIND", exit.cause.kind());
    fields.add_known("RESPAWN_EXIT_CODE", exit.cause.code());
    if let Some(it) = exit.cause.signal() {
        signal(fields, "RESPAWN_SIGNAL", it);
        fields.add("RESPAWN_CORE_DUMPED", u8::from(exit.cause.core_dumped()));
    }
    match &exit.cause {
        Cause::Signaled { origin, .. } => {
            fields.add_known("RESPAWN_HOW", origin.how.and_then(word))
        }
        Cause::OomKilled(kill) => fields.add("RESPAWN_OOM", oom(kill.scope)),
        Cause::Exited { .. } | Cause::Unknown => {}
    }
    if let Some(CoreDump { piped_to, file, .. }) = &exit.circumstances.core {
        fields.add_known("RESPAWN_CORE_PIPED_TO", piped_to.as_ref());
        fields.add_known("RESPAWN_CORE_FILE", file.as_ref());
    }
}

/// The name, and beside it the number.
fn signal(fields: &mut Fields, key: &str, signal: Signal) {
    fields.add(key, signal);
    fields.add(&format!("{key}_NUMBER"), signal.number());
}

fn oom(scope: Option<OomScope>) -> &'static str {
    match scope {
        Some(OomScope::Global) => "global",
        Some(OomScope::Cgroup) => "cgroup",
        None => "unknown",
    }
}

/// The word that JSON has for it.
fn word(how: How) -> Option<String> {
    let value = serde_json::to_value(how).ok()?;
    value.as_str().map(str::to_owned)
}

/// A sender of a signal.
fn who(fields: &mut Fields, prefix: &str, sender: &Sender, accounts: &Accounts) {
    let profile = sender.profile();
    fields.add(&format!("{prefix}_PID"), sender.pid);
    fields.add(&format!("{prefix}_COMM"), &sender.comm);
    fields.add(&format!("{prefix}_UID"), sender.uid);
    let user = deaths::login_in_file(profile, accounts);
    fields.add_known(&format!("{prefix}_LOGIN_USER"), user);
    of_profile(fields, prefix, profile);
}

fn of_profile(fields: &mut Fields, prefix: &str, profile: &Profile) {
    let owner = &profile.owner;
    let mut add = |name: &str, value: Option<&dyn Display>| {
        fields.add_known(&format!("{prefix}_{name}"), value);
    };
    let text = |value: &'_ Option<String>| value.clone();
    let ancestors = deaths::descent(&profile.ancestors);
    for (name, value) in [
        ("EXE", text(&profile.exe)),
        ("CGROUP", text(&profile.cgroup)),
        ("UNIT", text(&owner.unit)),
        ("USER_UNIT", text(&owner.user_unit)),
        ("SLICE", text(&owner.slice)),
        ("CONTAINER", text(&owner.container)),
        ("RUNTIME", text(&owner.runtime)),
        ("POD", text(&owner.pod)),
        ("QOS", text(&owner.qos)),
        ("SERVICE", text(&owner.service)),
        ("TTY", text(&profile.tty)),
        ("ANCESTORS", ancestors),
    ] {
        add(name, value.as_ref().map(|value| value as &dyn Display));
    }
    for (name, value) in [
        ("LOGIN_UID", profile.login_uid),
        ("LOGIN_SESSION", profile.login_session),
    ] {
        add(name, value.as_ref().map(|value| value as &dyn Display));
    }
}
