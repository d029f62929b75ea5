//! The options that choose among deaths, and what they mean. `deaths::Filter` applies them.

use anyhow::{Result, anyhow, bail};
use glob::Pattern;

use crate::accounts::Accounts;
use crate::deaths::Filter;
use crate::model::Signal;

/// Options of every command that shows deaths of the host.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters (a repeated one matches any of its values)")]
pub(super) struct Filters {
    /// Leave out exits with status 0
    #[arg(long)]
    failed: bool,
    /// Only deaths by this signal, such as KILL, SIGTERM or 9
    #[arg(long, value_name = "SIG", add = clap_complete::engine::ArgValueCompleter::new(super::complete::signals))]
    signal: Vec<Signal>,
    /// Only exits with this status
    #[arg(long, value_name = "N")]
    exit_code: Vec<u8>,
    /// Only processes of this user: a name or a number
    #[arg(long, value_name = "USER")]
    uid: Vec<String>,
    /// Only processes of this systemd unit, or of those that match, such as 'nginx*'
    ///
    /// "nginx" means nginx.service too. The name of an escaped unit is given as systemd shows it.
    #[arg(long, value_name = "GLOB", value_parser = pattern, add = clap_complete::engine::ArgValueCompleter::new(super::complete::units))]
    unit: Vec<Pattern>,
    /// Only processes of this container: its ID, at least the first 4 characters of it, or its name
    /// where the runtime uses that in cgroups (LXC, systemd-nspawn)
    #[arg(long, value_name = "ID")]
    container: Vec<String>,
    /// Only processes of this cgroup and of those below it
    #[arg(long, value_name = "PATH", value_parser = cgroup)]
    cgroup: Vec<String>,
    /// Only processes that ran this program: a path, or a name without a directory
    #[arg(long, value_name = "GLOB", value_parser = pattern)]
    exe: Vec<Pattern>,
    /// Only this process and its descendants, as far as their ancestors are known (four at most)
    #[arg(long, value_name = "PID")]
    tree: Vec<u32>,
}

impl Filters {
    /// What the options mean on this host.
    ///
    /// # Errors
    /// A user that does not exist.
    pub(super) fn filter(&self) -> Result<Filter> {
        let accounts = Accounts::of_this_host();
        let uids = self.uid.iter().map(|user| uid(user, &accounts));
        Ok(Filter {
            failed: self.failed,
            signals: self.signal.clone(),
            exit_codes: self.exit_code.clone(),
            uids: uids.collect::<Result<_>>()?,
            units: self.unit.clone(),
            containers: self.container.clone(),
            cgroups: self.cgroup.clone(),
            exes: self.exe.clone(),
            trees: self.tree.clone(),
            ..Filter::default()
        })
    }
}

fn uid(user: &str, accounts: &Accounts) -> Result<u32> {
    if let Ok(uid) = user.parse() {
        return Ok(uid);
    }
    match accounts.user_named(user) {
        Ok(Some(user)) => Ok(user.uid),
        Ok(None) => bail!("--uid {user}: there is no such user"),
        Err(error) => Err(anyhow!("--uid {user}: {error}")),
    }
}

/// A name, or a pattern with `*`, `?` and `[…]`.
pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("expected a name or a pattern such as 'nginx*'".to_owned());
    }
    Pattern::new(text).map_err(|error| format!("at character {}: {}", error.pos + 1, error.msg))
}

/// A path in the hierarchy, also if it is given where that is mounted.
fn cgroup(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("/sys/fs/cgroup").unwrap_or(text);
    let path = match path {
        "" => "/",
        path => path,
    };
    match text.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Err("expected a path such as /system.slice/nginx.service".to_owned()),
    }
}
