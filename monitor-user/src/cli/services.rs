//! Which services a command is about: names, patterns, or all of them.
//!
//! A pattern cannot be a name, since a name has none of `*`, `?` and `[`. The agent knows names
//! alone, so that it is asked for them first where a pattern is given.

use std::process::ExitCode;

use clap_complete::engine::ArgValueCompleter;
use glob::Pattern;

use super::ask::{self, Refusal};
use super::output::eprint_line;
use super::{Global, complete};
use crate::control::{Command, Response, ServiceStatus};

/// Services by name or pattern, or all; at least one of the two.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["services", "all"]))]
pub(super) struct Services {
    /// A service's name, or a pattern such as 'web*'
    #[arg(
        value_name = "SERVICE",
        value_parser = name_or_pattern,
        add = ArgValueCompleter::new(complete::services)
    )]
    services: Vec<String>,
    /// Every service
    #[arg(long)]
    pub(super) all: bool,
}

impl Services {
    /// Their names, each once, in the order in which they are given.
    ///
    /// # Errors
    /// A pattern that matches no service; an agent that does not answer.
    pub(super) fn names(&self, global: &Global) -> Result<Vec<String>, Refusal> {
        if self.all {
            return names(global);
        }
        resolve(global, &self.services)
    }
}

/// The names of services that are given by names and patterns, each once.
///
/// # Errors
/// A pattern that matches no service; an agent that does not answer.
pub(super) fn resolve(global: &Global, services: &[String]) -> Result<Vec<String>, Refusal> {
    if services.iter().any(|service| is_pattern(service)) {
        return matching(services, &names(global)?);
    }
    Ok(once_each(services))
}

/// Tells on stderr of names that no service has; the exit status, which was another otherwise.
pub(super) fn tell_unknown<'a>(
    unknown: impl IntoIterator<Item = &'a String>,
    otherwise: ExitCode,
) -> ExitCode {
    let mut exit_code = otherwise;
    for name in unknown {
        eprint_line(&format!("{name}: no service has this name"));
        exit_code = ExitCode::FAILURE;
    }
    exit_code
}

/// The names of all that the agent knows.
pub(super) fn names(global: &Global) -> Result<Vec<String>, Refusal> {
    let statuses = statuses(global, Vec::new())?;
    Ok(statuses.into_iter().map(|status| status.service).collect())
}

/// The statuses of these services, or of all, as the agent tells them.
pub(super) fn statuses(
    global: &Global,
    services: Vec<String>,
) -> Result<Vec<ServiceStatus>, Refusal> {
    match ask::ask(global, &Command::Status { services })? {
        Response::Status { services } => Ok(services),
        _ => Err(Refusal::beside_the_point()),
    }
}

/// Accepts a name, and a pattern that can be read.
pub(super) fn name_or_pattern(text: &str) -> Result<String, String> {
    match is_pattern(text).then(|| Pattern::new(text)) {
        Some(Err(error)) => Err(format!("at character {}: {}", error.pos + 1, error.msg)),
        _ => Ok(text.to_owned()),
    }
}

pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether a name is that one, or matches that pattern.
pub(super) fn matches(wanted: &str, name: &str) -> bool {
    match is_pattern(wanted) {
        true => Pattern::new(wanted).is_ok_and(|pattern| pattern.matches(name)),
        false => wanted == name,
    }
}

/// The names that are given, and those of `known` that match a pattern.
///
/// # Errors
/// A pattern that matches none.
pub(super) fn matching(wanted: &[String], known: &[String]) -> Result<Vec<String>, Refusal> {
    let mut found = Vec::new();
    for wanted in wanted {
        if !is_pattern(wanted) {
            found.push(wanted.clone());
            continue;
        }
        let before = found.len();
        found.extend(known.iter().filter(|name| matches(wanted, name)).cloned());
        if found.len() == before {
            return Err(Refusal::new(format!(
                "no service matches {wanted:?}; `respawn status` lists them"
            )));
        }
    }
    Ok(once_each(&found))
}

/// A service that is named twice counts once.
pub(super) fn once_each(names: &[String]) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let unseen = names.iter().filter(|name| seen.insert(*name));
    unseen.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_pattern_stands_for_the_services_that_match() {
        let known = strings(&["db", "web-1", "web-2", "webmail"]);
        for (wanted, found) in [
            (&["web-*"][..], &["web-1", "web-2"][..]),
            (&["web-2", "web*"], &["web-2", "web-1", "webmail"]),
            (&["w?b-[!1]", "db"], &["web-2", "db"]),
            (&["*"], &["db", "web-1", "web-2", "webmail"]),
            (&["unknown", "db", "db"], &["unknown", "db"]),
        ] {
            assert_eq!(matching(&strings(wanted), &known), Ok(strings(found)));
        }
        let none = matching(&strings(&["db", "x*"]), &known);
        assert_eq!(
            none,
            Err(Refusal::new(
                "no service matches \"x*\"; `respawn status` lists them"
            ))
        );
    }

    #[test]
    fn a_pattern_that_cannot_be_read_says_where() {
        for good in ["web", "web*", "[a-c]?", ""] {
            assert!(name_or_pattern(good).is_ok(), "{good}");
        }
        for bad in ["web[", "a***"] {
            let error = name_or_pattern(bad).unwrap_err();
            assert!(error.starts_with("at character "), "{bad}: {error}");
        }
    }
}
