//! Hooks: the commands that are run after events. The same keys in a service's file and in the
//! agent's, which stands in for what a service does not say.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Surroundings;
use super::cursor::{Item, Table};
use super::environment;
use super::expand;
use super::service::{command, interval, program};
use super::value::INFINITY;
use crate::model::{Hook, Hooks};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The keys of one file, on their way in.
#[derive(Debug, Clone, Default)]
pub(super) struct HooksDraft {
    pub(super) on_exit: Option<Vec<String>>,
    pub(super) on_restart: Option<Vec<String>>,
    pub(super) on_failed: Option<Vec<String>>,
    pub(super) timeout: Option<Duration>,
}

/// What one file says. Of a hook: nothing; that there is none; a program and its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    on_exit: Option<Vec<Hook>>,
    on_restart: Option<Vec<Hook>>,
    on_failed: Option<Vec<Hook>>,
    timeout: Option<Duration>,
}

/// argv, or an empty array for none.
pub(super) fn words(item: &Item<'_>) -> Option<Vec<String>> {
    match item.as_array().as_deref() {
        Some([]) => Some(Vec::new()),
        _ => {
            let words = command(item)?;
            expand::check_words(&words, item).then_some(words)
        }
    }
}

/// How long a hook may take.
pub(super) fn timeout(item: &Item<'_>) -> Option<Duration> {
    match item.as_str() {
        Some("infinity") => Some(INFINITY),
        _ => interval(item),
    }
}

impl HooksDraft {
    /// Looks the programs up: in the agent's `PATH`, as the agent runs them.
    pub(super) fn finish(self, table: &Table<'_>, surroundings: &Surroundings) -> Said {
        let search = environment::base(surroundings);
        let search = search.get("PATH").map_or("", String::as_str);
        let hook = |key: &str, words: Option<Vec<String>>| {
            let (words, item) = (words?, table.get(key)?);
            let Some(word) = words.first() else {
                return Some(Vec::new());
            };
            let program = program(word, &item, search, "running it fails")?;
            Some(vec![Hook {
                program,
                arguments: words,
                timeout: DEFAULT_TIMEOUT,
            }])
        };
        Said {
            on_exit: hook("on_exit", self.on_exit),
            on_restart: hook("on_restart", self.on_restart),
            on_failed: hook("on_failed", self.on_failed),
            timeout: self.timeout,
        }
    }
}

impl Said {
    /// The hooks of a service whose file says this, under an agent whose file says `general`.
    pub(super) fn or(self, general: &Self) -> Hooks {
        let timeout = self.timeout.or(general.timeout).unwrap_or(DEFAULT_TIMEOUT);
        let hook = |own: Option<Vec<Hook>>, general: &Option<Vec<Hook>>| {
            let hook = own.or_else(|| general.clone())?.pop()?;
            Some(Hook { timeout, ..hook })
        };
        Hooks {
            on_exit: hook(self.on_exit, &general.on_exit),
            on_restart: hook(self.on_restart, &general.on_restart),
            on_failed: hook(self.on_failed, &general.on_failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(on_exit: Option<&str>, on_failed: Option<&str>, timeout: Option<u64>) -> Said {
        // "" is an empty array.
        let hook = |program: &str| {
            let hook = Hook {
                program: program.into(),
                arguments: vec![program.to_owned()],
                timeout: DEFAULT_TIMEOUT,
            };
            if program.is_empty() {
                Vec::new()
            } else {
                vec![hook]
            }
        };
        Said {
            on_exit: on_exit.map(hook),
            on_restart: None,
            on_failed: on_failed.map(hook),
            timeout: timeout.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_services_own_hook_comes_before_the_agents() {
        let told = |own: Said, general: &Said| {
            let hooks = own.or(general);
            let words = |hook: Option<Hook>| {
                let hook = hook?;
                let program = hook.program.to_str()?.to_owned();
                Some((program, hook.timeout.as_secs()))
            };
            assert_eq!(hooks.on_restart, None);
            (words(hooks.on_exit), words(hooks.on_failed))
        };
        let hook = |program: &str, timeout| Some((program.to_owned(), timeout));
        let general = said(Some("/a"), Some("/b"), Some(3));
        for (own, expected) in [
            (said(None, None, None), (hook("/a", 3), hook("/b", 3))),
            (
                said(Some("/own"), None, None),
                (hook("/own", 3), hook("/b", 3)),
            ),
            (said(Some(""), None, Some(5)), (None, hook("/b", 5))),
        ] {
            assert_eq!(told(own, &general), expected);
        }
        let own = said(Some("/own"), Some(""), None);
        assert_eq!(told(own, &Said::default()), (hook("/own", 10), None));
        let nothing = Said::default();
        assert_eq!(nothing.or(&Said::default()), Hooks::default());
    }
}
