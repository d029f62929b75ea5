//! Arguments that may hold a secret: what is kept of a command line is read by others than those who
//! typed it.
//!
//! Covers the usual forms of options, `NAME=VALUE` and addresses. Short options such as `-p` are not
//! known for what they are, as each program means something else by them.

/// In place of what is hidden.
const MASK: &str = "***";

/// Parts of names whose values are secrets.
const SECRETS: [&str; 8] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "credential",
    "privatekey",
];

/// Hides the values that go with such a name, and passwords in addresses.
pub(super) fn mask(arguments: &mut [String]) {
    let mut is_value = false;
    // The first one is the program.
    for argument in arguments.iter_mut().skip(1) {
        if std::mem::take(&mut is_value) && !argument.starts_with('-') {
            MASK.clone_into(argument);
            continue;
        }
        if let Some((name, _)) = argument.split_once('=') {
            if is_secret(name) {
                *argument = format!("{name}={MASK}");
                continue;
            }
        } else if argument.starts_with('-') && is_secret(argument) {
            is_value = true;
            continue;
        }
        mask_address(argument);
    }
}

fn is_secret(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let name: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    // A file is where a secret is, not the secret.
    let is_place = ["file", "path", "dir"]
        .iter()
        .any(|end| name.ends_with(end));
    !is_place && SECRETS.iter().any(|secret| name.contains(secret))
}

/// "postgres://user:password@host" without the password.
fn mask_address(argument: &mut String) {
    let Some(start) = argument.find("://").map(|at| at + 3) else {
        return;
    };
    let rest = &argument[start..];
    let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
    let Some((login, _)) = authority.rsplit_once('@') else {
        return;
    };
    let Some((user, password)) = login.split_once(':') else {
        return;
    };
    let from = start + user.len() + 1;
    let to = from + password.len();
    argument.replace_range(from..to, MASK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_nothing_else() {
        for (line, expected) in [
            (
                "mysql --password=hunter2 -u root",
                "mysql --password=*** -u root",
            ),
            ("app --api-key abc --port 80", "app --api-key *** --port 80"),
            ("app --token --verbose", "app --token --verbose"),
            ("env DB_PASSWORD=x A=b sh", "env DB_PASSWORD=*** A=b sh"),
            (
                "app --password-file=/etc/secret",
                "app --password-file=/etc/secret",
            ),
            (
                "curl https://me:s3c:ret@host:8/a@b",
                "curl https://me:***@host:8/a@b",
            ),
            ("curl https://host:80/a:b@c", "curl https://host:80/a:b@c"),
            ("passwd root", "passwd root"),
            ("sleep 1000", "sleep 1000"),
        ] {
            let mut arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            mask(&mut arguments);
            assert_eq!(arguments.join(" "), expected);
        }
        mask(&mut []);
    }
}
