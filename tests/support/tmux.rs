//! A real terminal: a tmux server of the test's own, with one pane.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::{DEADLINE, now, skip};

/// Whether the test may go on: there is a tmux.
pub fn is_here(test: &str) -> bool {
    let version = Command::new("tmux").arg("-V").output();
    let is_here = version.is_ok_and(|output| output.status.success());
    if !is_here {
        skip(test, "needs tmux");
    }
    is_here
}

/// A terminal with a program in it; all of it goes with the value.
pub struct Tmux {
    dir: TempDir,
}

impl Tmux {
    /// Runs a shell script in a terminal of that size.
    pub fn start(columns: u16, rows: u16, script: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tmux = Self { dir };
        let path = tmux.dir.path().join("script");
        fs::write(&path, script).expect("a script");
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let size = ["-x", &columns, "-y", &rows];
        let path = path.to_str().expect("a path");
        let mut words = vec!["-f", "/dev/null", "-u", "new-session", "-d"];
        words.extend(size);
        words.extend(["sh", path]);
        tmux.run(&words);
        tmux
    }

    /// Where the script may leave files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a tmux command, and returns what it says.
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.command(words).output().expect("tmux");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {words:?}: {said}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Presses keys, by tmux's names for them.
    pub fn press(&self, keys: &[&str]) {
        let mut words = vec!["send-keys"];
        words.extend(keys);
        self.run(&words);
    }

    /// Makes the terminal larger or smaller.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        self.run(&["resize-window", "-x", &columns, "-y", &rows]);
    }

    /// What is on the screen, without what is blank at the lines' ends.
    pub fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// The same with the escape sequences for its colours and attributes.
    pub fn styled(&self) -> String {
        self.run(&["capture-pane", "-p", "-e"])
    }

    /// A variable of tmux's, such as `alternate_on`.
    pub fn variable(&self, name: &str) -> String {
        let format = format!("#{{{name}}}");
        self.run(&["display-message", "-p", &format])
            .trim()
            .to_owned()
    }

    /// Waits until the screen shows something; returns the screen.
    pub fn until(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let start = now();
        loop {
            let screen = self.screen();
            if is_it(&screen) {
                return screen;
            }
            assert!(
                start.elapsed() < DEADLINE,
                "not within {DEADLINE:?}: {what}; on the screen:\n{screen}"
            );
            // Each look is a process.
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until these words are on the screen.
    pub fn shows(&self, words: &str) -> String {
        self.until(words, |screen| screen.contains(words))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command
            .args(["-L", "respawn-test"])
            .args(words)
            // A server of its own, whoever else has one.
            .env("TMUX_TMPDIR", self.dir.path())
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        if thread::panicking() {
            let screen = self.command(&["capture-pane", "-p"]).output();
            let screen = screen.map(|output| output.stdout).unwrap_or_default();
            eprintln!("on the screen:\n{}", String::from_utf8_lossy(&screen));
        }
        let _ = self.command(&["kill-server"]).output();
    }
}
