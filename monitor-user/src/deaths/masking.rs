//! Arguments that may hold a secret: what is kept of a command line is read by others than those who
//! typed it.
//!
//! Covers the usual forms of options, `NAME=VALUE` and addresses. Short options such as `-p` are not
//! known for what they are, as each program means something else by them.

/// In place of what is hidden.
const MASK: &str = "***";

/// Names whose values are secrets.
const WHOLE: [&str; 4] = ["pass", "pwd", "authorization", "bearer"];

/// Parts of such names.
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

/// Hides the values that go with such a name, and passwords in addresses. An argument of several
/// words, such as a script, is looked at word by word.
pub(super) fn mask(arguments: &mut [String]) {
    let mut is_value = false;
    // The first one is the program.
    for argument in arguments.iter_mut().skip(1) {
        let mut masked = String::with_capacity(argument.len());
        for piece in argument.split_inclusive(is_gap) {
            let word = piece.trim_end_matches(is_gap);
            masked += &mask_word(word, &mut is_value);
            masked += &piece[word.len()..];
        }
        *argument = masked;
    }
}

fn is_gap(c: char) -> bool {
    c.is_whitespace() || "'\";&|".contains(c)
}

/// `is_value`: the word before says that this one is a secret, or this one says so of the next.
fn mask_word(word: &str, is_value: &mut bool) -> String {
    if word.is_empty() {
        return String::new();
    }
    if std::mem::take(is_value) && !word.starts_with('-') {
        // "Authorization: Bearer SECRET"
        *is_value = is_scheme(word);
        return if *is_value { word } else { MASK }.to_owned();
    }
    if let Some((name, _)) = word.split_once('=') {
        if is_secret(name) {
            return format!("{name}={MASK}");
        }
    } else if (word.starts_with('-') || word.ends_with(':')) && is_secret(word) {
        *is_value = true;
        return word.to_owned();
    }
    mask_address(word)
}

/// How a header says who asks.
fn is_scheme(word: &str) -> bool {
    ["basic", "bearer", "digest"].contains(&word.to_ascii_lowercase().as_str())
}

fn is_secret(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let letters: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let is_whole = words.any(|word| WHOLE.iter().any(|name| word.eq_ignore_ascii_case(name)));
    // A file is where a secret is, not the secret.
    let is_place = ["file", "path", "dir"]
        .iter()
        .any(|end| letters.ends_with(end));
    !is_place && (is_whole || SECRETS.iter().any(|secret| letters.contains(secret)))
}

/// "postgres://user:password@host" without the password.
fn mask_address(word: &str) -> String {
    let masked = || {
        let start = word.find("://")? + 3;
        let rest = &word[start..];
        let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
        let (login, _) = authority.rsplit_once('@')?;
        let (user, password) = login.split_once(':')?;
        let from = start + user.len() + 1;
        let after = &word[from + password.len()..];
        Some(format!("{}{MASK}{after}", &word[..from]))
    };
    masked().unwrap_or_else(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_nothing_else() {
        for (arguments, expected) in [
            (
                &["mysql", "--password=a", "-u", "root"][..],
                "mysql --password=*** -u root",
            ),
            (
                &["app", "--api-key", "a", "--port", "80"],
                "app --api-key *** --port 80",
            ),
            (
                &["app", "--pass=a", "--pass", "b"],
                "app --pass=*** --pass ***",
            ),
            (&["app", "--token", "--verbose"], "app --token --verbose"),
            (
                &["env", "DB_PASSWORD=x", "MYSQL_PWD=y", "A=b"],
                "env DB_PASSWORD=*** MYSQL_PWD=*** A=b",
            ),
            (
                &["app", "--password-file=/etc/a"],
                "app --password-file=/etc/a",
            ),
            (
                &["curl", "https://me:s3c:ret@host:8/a@b"],
                "curl https://me:***@host:8/a@b",
            ),
            (
                &["curl", "https://host:80/a:b@c"],
                "curl https://host:80/a:b@c",
            ),
            (
                &["curl", "-H", "Authorization: Bearer a"],
                "curl -H Authorization: Bearer ***",
            ),
            (
                &["sh", "-c", "PGPASSWORD=a psql & kill -9 7"],
                "sh -c PGPASSWORD=*** psql & kill -9 7",
            ),
            (
                &["sh", "-c", "app --token 'a'; ls"],
                "sh -c app --token '***'; ls",
            ),
            (&["passwd", "root"], "passwd root"),
            (
                &["tool", "bypass=1", "--compass", "n"],
                "tool bypass=1 --compass n",
            ),
            (&["sleep", "", "1000"], "sleep  1000"),
        ] {
            let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            mask(&mut arguments);
            assert_eq!(arguments.join(" "), expected);
        }
        mask(&mut []);
    }
}
