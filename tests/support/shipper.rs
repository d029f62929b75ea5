//! Somebody who ships the lines of `events` or `deaths` elsewhere, and may be killed at any moment.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::eventually_or;

/// What a shipper keeps: the lines that came whole, in a file.
pub struct Shipped(PathBuf);

impl Shipped {
    /// Nothing yet.
    pub fn new(file: PathBuf) -> Self {
        Self(file)
    }

    /// All of them.
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().map(serde_json::from_str);
        lines.map(|line| line.expect("JSON")).collect()
    }

    /// Without a line that is being written, or was when the shipper was killed.
    fn text(&self) -> String {
        let bytes = fs::read(&self.0).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = &bytes[..end.map_or(0, |end| end + 1)];
        String::from_utf8(whole.to_vec()).expect("UTF-8")
    }

    /// Waits until the last line that is to be shipped is there; its number.
    pub fn wait_for_all(&self, last: impl Fn() -> Option<u64>) -> u64 {
        let is_all = || {
            let all = last()?;
            let lines = self.lines();
            (lines.last()?["seq"].as_u64() == Some(all)).then_some(all)
        };
        let describe = || format!("{:?}", self.lines().last());
        eventually_or("all is shipped", is_all, describe)
    }

    /// Waits until all is there, ends both shippers, and asserts that each line came once, as to the one that nobody
    /// disturbed. The lines.
    pub fn assert_same(
        &self,
        undisturbed: &Self,
        shippers: [Child; 2],
        last: impl Fn() -> Option<u64>,
    ) -> Vec<Value> {
        let all = self.wait_for_all(&last);
        assert_eq!(undisturbed.wait_for_all(&last), all);
        for mut child in shippers {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
        let lines = self.lines();
        let seqs = lines.iter().map(|line| line["seq"].as_u64());
        let seqs: Option<Vec<u64>> = seqs.collect();
        assert_eq!(seqs, Some((1..=all).collect()));
        assert_eq!(lines, undisturbed.lines());
        lines
    }

    /// Begins to ship what `command` follows, after the last whole line.
    pub fn start(&self, mut command: Command) -> Child {
        fs::write(&self.0, self.text()).expect("the file");
        let lines = self.lines();
        if let Some(cursor) = lines.last().and_then(|line| line["cursor"].as_str()) {
            command.args(["--after", cursor]);
        }
        let file = fs::OpenOptions::new().append(true).open(&self.0);
        command
            .stdout(file.expect("the file"))
            .stderr(Stdio::null());
        command.spawn().expect("the shipper")
    }
}
