//! supervisord's ini: sections, `key = value` or `key: value`, values that go on in indented lines,
//! comments after white space and `;`. As Python's `configparser` reads it. Knows no key.

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) section: String,
    /// In small letters.
    pub(super) key: String,
    /// Its lines.
    pub(super) value: String,
    /// From 1, where it begins.
    pub(super) line: usize,
}

/// All of them, and the lines that are none.
pub(super) fn parse(text: &str) -> (Vec<Pair>, Vec<(usize, String)>) {
    let (mut pairs, mut bad): (Vec<Pair>, Vec<(usize, String)>) = (Vec::new(), Vec::new());
    let mut section = String::new();
    // Whether an indented line would go on with the last pair.
    let mut is_open = false;
    for (index, line) in text.lines().enumerate() {
        let bare = without_comment(line).trim();
        if line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        if bare.is_empty() {
            is_open = is_open && !line.trim().is_empty();
            continue;
        }
        if let Some(last) = pairs.last_mut().filter(|_| is_open)
            && line.starts_with([' ', '\t'])
        {
            last.value.push('\n');
            last.value.push_str(bare);
            continue;
        }
        is_open = false;
        if let Some(name) = bare.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            name.trim().clone_into(&mut section);
        } else if let Some(at) = bare.find(['=', ':']) {
            let (key, value) = bare.split_at(at);
            is_open = true;
            pairs.push(Pair {
                section: section.clone(),
                key: key.trim_end().to_ascii_lowercase(),
                value: value.get(1..).unwrap_or_default().trim().to_owned(),
                line: index + 1,
            });
        } else {
            bad.push((index + 1, bare.to_owned()));
        }
    }
    (pairs, bad)
}

/// Without what follows white space and `;`.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == ';' && before.is_whitespace() {
            return line.get(..at).unwrap_or(line);
        }
        before = c;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_read_as_in_supervisord() {
        let text = "; head\n[program:web]\ncommand = /bin/x -a;b ; comment\n\
                    Environment: A=\"1\",\n  B=2\n\n  C\n# x\n[group:g]\nprograms=a,b\nbad\n";
        let (pairs, bad) = parse(text);
        let pairs: Vec<_> = pairs
            .iter()
            .map(|it| (&*it.section, &*it.key, &*it.value, it.line))
            .collect();
        let expected = [
            ("program:web", "command", "/bin/x -a;b", 3),
            ("program:web", "environment", "A=\"1\",\nB=2", 4),
            ("group:g", "programs", "a,b", 10),
        ];
        assert_eq!(pairs, expected);
        assert_eq!(bad, [(7, "C".to_owned()), (11, "bad".to_owned())]);
    }
}
