//! Users and groups of a config, by name or number. What the host knows of them: `crate::accounts`.

use crate::accounts::{LookupError, NO_ID, User};
use crate::model::Identity;

use super::cursor::{Item, quoted};
use super::problem::Ends;

/// A user that a service runs as.
#[derive(Debug, Clone)]
pub(super) struct Account {
    uid: u32,
    /// `None`: a number that the user database does not have.
    entry: Option<User>,
}

impl Account {
    /// Its number, and that of its primary group, if it is known.
    pub(super) fn ids(&self) -> (u32, Option<u32>) {
        (self.uid, self.entry.as_ref().map(|user| user.gid))
    }

    /// The variables that a login of this user would have.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let Some(user) = &self.entry else {
            return Vec::new();
        };
        [
            ("HOME", &user.home),
            ("USER", &user.name),
            ("LOGNAME", &user.name),
            ("SHELL", &user.shell),
        ]
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .into()
    }
}

/// A user's name or number. A number need not be in the user database.
pub(super) fn user(item: &Item<'_>) -> Option<Account> {
    match name_or_number(item, "a user's name or number")? {
        Named::Number(uid) => Some(Account {
            uid,
            entry: looked_up(item, item.context.host.accounts.user_of(uid))?,
        }),
        Named::Name(name) => {
            let entry = looked_up(item, item.context.host.accounts.user_named(name))?;
            if entry.is_none() {
                let message = format!("no user is named {}", quoted(name));
                item.problem_until(Ends::WithTheHost, message);
            }
            entry.map(|user| Account {
                uid: user.uid,
                entry: Some(user),
            })
        }
    }
}

/// A group's name or number. A number need not be in the group database.
pub(super) fn group(item: &Item<'_>) -> Option<u32> {
    match name_or_number(item, "a group's name or number")? {
        Named::Number(gid) => Some(gid),
        Named::Name(name) => {
            let entry = looked_up(item, item.context.host.accounts.group_named(name))?;
            if entry.is_none() {
                let message = format!("no group is named {}", quoted(name));
                item.problem_until(Ends::WithTheHost, message);
            }
            entry.map(|group| group.gid)
        }
    }
}

enum Named<'a> {
    Name(&'a str),
    Number(u32),
}

/// A string of digits is a number too, as no account is named so.
fn name_or_number<'a>(item: &Item<'a>, what: &str) -> Option<Named<'a>> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = match item.as_str() {
        Some(text) if digits(text) => text.parse().ok(),
        Some("") => {
            item.expected(what, None);
            return None;
        }
        Some(_) => return item.string(what).map(Named::Name),
        None => match item.as_integer() {
            Some((number, _)) => u32::try_from(number).ok(),
            None => {
                item.expected(what, None);
                return None;
            }
        },
    };
    let number = number.filter(|number| *number != NO_ID);
    if number.is_none() {
        item.expected(&format!("{what} from 0 to {}", NO_ID - 1), None);
    }
    number.map(Named::Number)
}

/// A database that cannot be asked is a problem of its own: "no such user" would mislead.
fn looked_up<T>(item: &Item<'_>, answer: Result<T, LookupError>) -> Option<T> {
    answer
        .map_err(|error| {
            let message = format!("cannot be looked up: {error}");
            item.problem_until(Ends::WithTheHost, message);
        })
        .ok()
}

/// What `user` and `group` together come to; `None` if the agent's own identity is kept.
///
/// Without `group`: the user's primary group. Without `user`: the agent's user. The
/// supplementary groups are those of the user, as after a login.
pub(super) fn identity(
    user: Option<(&Account, &Item<'_>)>,
    group: Option<(u32, &Item<'_>)>,
    agent_uid: u32,
) -> Option<Identity> {
    let (account, item) = match (user, group) {
        (None, None) => return None,
        (Some((account, item)), _) => (account.clone(), item),
        (None, Some((_, item))) => {
            let entry = looked_up(item, item.context.host.accounts.user_of(agent_uid))?;
            let uid = agent_uid;
            (Account { uid, entry }, item)
        }
    };
    let primary = account.entry.as_ref().map(|user| user.gid);
    let Some(gid) = group.map(|(gid, _)| gid).or(primary) else {
        let uid = account.uid;
        let message = format!(
            "user {uid} has no primary group, for it is not in the user database; add group = …"
        );
        item.problem_until(Ends::WithTheHost, message);
        return None;
    };
    identity_of(&account, gid, item)
}

/// That of a user with its own group.
pub(super) fn identity_of_user(item: &Item<'_>) -> Option<Identity> {
    let account = user(item)?;
    identity(Some((&account, item)), None, account.uid)
}

fn identity_of(account: &Account, gid: u32, item: &Item<'_>) -> Option<Identity> {
    let groups = match &account.entry {
        Some(user) => looked_up(item, item.context.host.accounts.groups_of(&user.name, gid))?,
        None => vec![gid],
    };
    Some(Identity {
        uid: account.uid,
        gid,
        groups,
    })
}
