//! A death in plain words: one line, and the parts that others put together.

use std::fmt;
use std::time::Duration;

use anstyle::Style;
use jiff::Timestamp;

use crate::accounts::Accounts;
use crate::model::{Ancestor, Exit, Owner, Profile, Sender};
use crate::report::{Age, Times, asked, cause_style};
use crate::text::{padded, printable};

/// Of the column that names the owner.
const OWNER_WIDTH: usize = 24;

/// The columns' names over lines of [`line()`].
pub(crate) fn header(times: &Times) -> String {
    format!(
        "{}      PID  COMM              {}    LIVED  CAUSE",
        padded("TIME", times.width()),
        padded("UNIT OR CONTAINER", OWNER_WIDTH)
    )
}

/// A line for a person, aligned under [`header`], with colours.
pub(crate) fn line(
    exit: &Exit,
    profile: &Profile,
    time: Option<Timestamp>,
    times: &Times,
    accounts: &Accounts,
) -> String {
    let dim = Style::new().dimmed();
    let cause = cause_style(&exit.cause);
    let time = time.map_or_else(|| "?".to_owned(), |time| times.of(time));
    let lived = exit.uptime_ns.map_or_else(
        || "?".to_owned(),
        |ns| Age(Duration::from_nanos(ns)).to_string(),
    );
    format!(
        "{dim}{}{dim:#}  {:>7}  {}  {}  {lived:>7}  {cause}{}{cause:#}",
        padded(&time, times.width()),
        exit.pid,
        padded(&printable(exit.comm.as_deref().unwrap_or("?")), 16),
        padded(
            &printable(&owner(&profile.owner).unwrap_or_else(|| "-".to_owned())),
            OWNER_WIDTH
        ),
        printable(&why(exit, accounts))
    )
}

/// The cause, and who had asked for the end before, with what is known of the senders.
fn why(exit: &Exit, accounts: &Accounts) -> String {
    let by = exit.cause.sender().map(|by| sender(by, accounts));
    let by: Option<&dyn fmt::Display> = by.as_ref().map(|words| words as _);
    let mut why = exit.cause.with_sender(by).to_string();
    if let Some(last) = &exit.circumstances.last_signal {
        let asker = last.sender.as_ref().map(|asker| sender(asker, accounts));
        let asker: Option<&dyn fmt::Display> = asker.as_ref().map(|words| words as _);
        why += &asked(last, asker);
    }
    why
}

/// "/usr/bin/kill (pid 5, uid 0, login user alice) < bash (pid 3) < sshd (pid 2)"
fn sender(sender: &Sender, accounts: &Accounts) -> String {
    let profile = sender.profile();
    let name = profile.exe.as_deref().unwrap_or(&sender.comm);
    let who = named(name, sender, login(profile, accounts));
    let from = ancestry(sender);
    let from = from.map_or_else(String::new, |from| format!(" < {from}"));
    who + &from
}

/// "kill (pid 5, uid 0, login user alice)". Asks nobody but the host's file of users.
pub(crate) fn brief(sender: &Sender, accounts: &Accounts) -> String {
    let login = login_in_file(sender.profile(), accounts);
    named(&sender.comm, sender, login)
}

fn named(name: &str, sender: &Sender, login: Option<String>) -> String {
    let pid = match sender.pid {
        0 => format!("pid {} of the host", sender.host_pid),
        pid => format!("pid {pid}"),
    };
    let login = login.map_or_else(String::new, |user| format!(", login user {user}"));
    format!("{name} ({pid}, uid {}{login})", sender.uid)
}

/// The name of the user who had logged in, or the number of one that this host does not know.
pub(crate) fn login(profile: &Profile, accounts: &Accounts) -> Option<String> {
    let uid = profile.login_uid?;
    let user = accounts.user_of(uid).ok().flatten();
    Some(user.map_or_else(|| uid.to_string(), |user| user.name))
}

/// The same, by the host's file of users alone.
pub(crate) fn login_in_file(profile: &Profile, accounts: &Accounts) -> Option<String> {
    let uid = profile.login_uid?;
    Some(
        accounts
            .name_in_file(uid)
            .unwrap_or_else(|| uid.to_string()),
    )
}

/// "bash (pid 3) < sshd (pid 2)": its parent, that one's parent and so on.
pub(crate) fn ancestry(sender: &Sender) -> Option<String> {
    let ancestors = &sender.profile().ancestors;
    if ancestors.is_empty() {
        let parent = sender.parent.as_ref()?;
        return Some(format!("{} (pid {})", parent.comm, parent.pid));
    }
    descent(ancestors)
}

/// "bash (pid 3) < sshd (pid 2)"; `None`: nobody is known.
pub(crate) fn descent(ancestors: &[Ancestor]) -> Option<String> {
    let each = |Ancestor { pid, comm }: &Ancestor| format!("{comm} (pid {pid})");
    let all: Vec<String> = ancestors.iter().map(each).collect();
    (!all.is_empty()).then(|| all.join(" < "))
}

/// "nginx.service", "docker 4f797c539e6c", "nginx.service in lxc web".
pub(crate) fn owner(owner: &Owner) -> Option<String> {
    let unit = owner.user_unit.as_ref().or(owner.unit.as_ref());
    let own_unit = unit.filter(|unit| {
        let container = owner.container.as_ref();
        container.is_none_or(|id| !is_scope_of(unit, id))
    });
    match (owner.service.as_ref().or(own_unit), within(owner)) {
        (Some(name), Some(container)) => Some(format!("{name} in {container}")),
        (Some(name), None) => Some(name.clone()),
        (None, container) => container,
    }
}

/// "docker 4f797c539e6c", "lxc web": the container.
pub(crate) fn within(owner: &Owner) -> Option<String> {
    let id = owner.container.as_ref()?;
    let short = match id.len() {
        64 => id.get(..12).unwrap_or(id),
        _ => id,
    };
    let runtime = owner.runtime.as_deref().unwrap_or("container");
    Some(format!("{runtime} {short}"))
}

/// Whether the unit is there for the container alone.
fn is_scope_of(unit: &str, id: &str) -> bool {
    unit.contains(id) || unit.starts_with("machine-") || unit.starts_with("systemd-nspawn@")
}

/// The arguments as a shell would take most of them; "…" where some are missing.
pub(crate) fn command_line(profile: &Profile) -> Option<String> {
    let argv = profile.argv.as_ref().filter(|argv| !argv.is_empty())?;
    let quoted = |argument: &String| match argument.as_str() {
        "" => "\"\"".to_owned(),
        plain if !plain.contains([' ', '"']) => plain.to_owned(),
        other => format!("{other:?}"),
    };
    let all: Vec<String> = argv.iter().map(quoted).collect();
    let cut = if profile.argv_cut { " …" } else { "" };
    Some(all.join(" ") + cut)
}
