//! Unit files as systemd reads them: sections, keys that may come again, lines that go on. Knows no key.
//!
//! `config_parse` in <https://github.com/systemd/systemd/blob/v257/src/shared/conf-parser.c>

use std::path::{Path, PathBuf};

/// One assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) file: PathBuf,
    /// From 1, where it begins.
    pub(super) line: usize,
}

impl Assignment {
    /// For the comment beside what came of it.
    pub(super) fn origin(&self) -> String {
        let name = self.file.file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        format!("{name}:{}: {}={}", self.line, self.key, self.value)
    }
}

/// A line that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) line: usize,
    pub(super) text: String,
}

/// All assignments of a file, in their order.
pub(super) fn parse(file: &Path, text: &str) -> (Vec<Assignment>, Vec<BadLine>) {
    let (mut found, mut bad) = (Vec::new(), Vec::new());
    let mut section = String::new();
    for (line, logical) in logical_lines(text) {
        let logical = logical.trim();
        if let Some(name) = logical.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = logical.split_once('=') {
            found.push(Assignment {
                section: section.clone(),
                key: key.trim_end().to_owned(),
                value: value.trim().to_owned(),
                file: file.to_owned(),
                line,
            });
        } else {
            bad.push(BadLine {
                line,
                text: logical.to_owned(),
            });
        }
    }
    (found, bad)
}

/// Lines without comments, those that end in a backslash joined by a space.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        // Within lines that go on, too.
        if bare.starts_with(['#', ';']) || (open.is_none() && bare.is_empty()) {
            continue;
        }
        let (part, goes_on) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        let (_, joined) = open.get_or_insert_with(|| (index + 1, String::new()));
        joined.push_str(part);
        match goes_on {
            true => joined.push(' '),
            false => lines.extend(open.take()),
        }
    }
    lines.extend(open);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_read_as_in_systemd() {
        let text = "# head\n[Unit]\nAfter = a \\\n# within\n  b\n\n[Service]\nExecStart=\n; x\n\
                    ExecStart=/bin/x \\\n  -a=b \\\nrest\nbad\nA=\\";
        let (found, bad) = parse(Path::new("/x/web.service"), text);
        let found: Vec<_> = found
            .iter()
            .map(|it| (&*it.section, &*it.key, &*it.value, it.line))
            .collect();
        let expected = [
            ("Unit", "After", "a    b", 3),
            ("Service", "ExecStart", "", 8),
            ("Service", "ExecStart", "/bin/x    -a=b  rest", 10),
            ("Service", "A", "", 14),
        ];
        assert_eq!(found, expected);
        let text = "bad".to_owned();
        assert_eq!(bad, [BadLine { line: 13, text }]);
    }
}
