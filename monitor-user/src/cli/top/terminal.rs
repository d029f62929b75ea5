//! The terminal: made ready for the view, and left as it was, however the program ends.
//!
//! While the view has the terminal, what is said on standard error is kept aside, if that is a
//! terminal too, and said when the view is gone.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::panic;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::termios::{FlowArg, FlushArg, tcflow, tcflush};
use nix::unistd::{dup, dup2_stderr};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::crossterm::cursor::{Hide, MoveTo, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::layout::Rect;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::cli::output::LAST_WORDS;

/// How often what is on its way to the terminal is thrown away: it holds a part of a picture.
const TRIES: usize = 20;

/// Whether the view has the terminal, and what is aside meanwhile.
static HELD: Mutex<Option<SetAside>> = Mutex::new(None);

struct SetAside {
    /// The real standard error, and what is said in its place.
    stderr: Option<(OwnedFd, File)>,
}

/// The terminal is the view's until this value goes, or the main thread panics.
pub(super) struct Terminal(());

impl Terminal {
    /// Takes the terminal.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take() -> Result<Self> {
        enter()?;
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Another thread's panic does not end the view.
            if thread::current().name() == Some("main") {
                leave();
            }
            before(info);
        }));
        Ok(Self(()))
    }

    /// Gives the terminal back for as long as `meanwhile` takes.
    pub(super) fn lend(&self, meanwhile: impl FnOnce()) -> Result<()> {
        leave();
        meanwhile();
        enter()
    }

    /// Takes it again after the shell may have changed it.
    pub(super) fn retake(&self) -> Result<()> {
        self.lend(|| ())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        leave();
    }
}

fn held() -> MutexGuard<'static, Option<SetAside>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter() -> Result<()> {
    let mut held = held();
    enable_raw_mode().context("cannot set the terminal to raw mode")?;
    *held = Some(SetAside {
        stderr: put_stderr_aside(),
    });
    execute!(io::stdout(), EnterAlternateScreen, Hide).context("cannot write to the terminal")
}

/// Nothing of it can be mended if it fails.
fn leave() {
    let Some(held) = held().take() else { return };
    // Where there is no alternate screen, what follows begins below the view.
    let last_row = size().map_or(0, |(_, rows)| rows.saturating_sub(1));
    let _ = execute!(
        io::stdout(),
        MoveTo(0, last_row),
        LeaveAlternateScreen,
        Show
    );
    let _ = disable_raw_mode();
    if let Some((stderr, mut said)) = held.stderr {
        let _ = dup2_stderr(&stderr);
        let mut text = Vec::new();
        let _ = said.rewind().and_then(|()| said.read_to_end(&mut text));
        let _ = io::stderr().write_all(&text);
    }
}

fn put_stderr_aside() -> Option<(OwnedFd, File)> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let aside = memfd_create(c"respawn-stderr", MFdFlags::MFD_CLOEXEC).ok()?;
    let stderr = dup(io::stderr()).ok()?;
    dup2_stderr(&aside).ok()?;
    Some((stderr, File::from(aside)))
}

/// What is on the screen. Writes what has changed, and waits for no slow line: there is one write
/// at a time, in a thread.
pub(super) struct Screen {
    shown: Buffer,
    /// What is on the screen is not known.
    repaint: bool,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            shown: Buffer::default(),
            repaint: true,
            writing: None,
        }
    }

    /// Draws all of it the next time.
    pub(super) fn repaint(&mut self) {
        self.repaint = true;
    }

    /// Whether the last picture is still on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.writing.is_some()
    }

    /// Has what differs from the last picture written. Not to be called while it is busy.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        // A terminal that does not tell its size is taken for the usual one.
        let (columns, rows) = size()
            .ok()
            .filter(|size| *size != (0, 0))
            .unwrap_or((80, 24));
        let area = Rect::new(0, 0, columns, rows);
        let mut bytes = Vec::new();
        let mut backend = CrosstermBackend::new(&mut bytes);
        if std::mem::take(&mut self.repaint) || self.shown.area != area {
            backend.clear()?;
            self.shown = Buffer::empty(area);
        }
        let mut next = Buffer::empty(area);
        draw(&mut next);
        let changes = self.shown.diff(&next);
        if !changes.is_empty() {
            backend.draw(changes.into_iter())?;
        }
        self.shown = next;
        if !bytes.is_empty() {
            self.writing = Some(spawn_blocking(move || {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes)?;
                stdout.flush()
            }));
        }
        Ok(())
    }

    /// Waits until the last picture is written; for ever if there is none on its way.
    pub(super) async fn written(&mut self) -> Result<()> {
        let Some(writing) = &mut self.writing else {
            return std::future::pending().await;
        };
        let written = writing.await;
        self.writing = None;
        written?.context("cannot write to the terminal")
    }

    /// Waits for the last picture, so that it is not written after the terminal was given back.
    /// Where nobody takes it in time, it is thrown away.
    pub(super) async fn finish(&mut self) {
        let mut patience = LAST_WORDS;
        for _ in 0..TRIES {
            if !self.is_busy() || timeout(patience, self.written()).await.is_ok() {
                return;
            }
            let stdout = io::stdout();
            let _ = tcflush(&stdout, FlushArg::TCOFLUSH);
            // The kernel wakes the writer of what is left when output is resumed, not before.
            let _ = tcflow(&stdout, FlowArg::TCOOFF);
            let _ = tcflow(&stdout, FlowArg::TCOON);
            patience = LAST_WORDS / 10;
        }
    }
}
