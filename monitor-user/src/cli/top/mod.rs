//! `respawn top`: the services and the host's exits, live, and the keyboard to steer them.
//!
//! Joins the parts in one loop and decides nothing: `feeds` bring facts, `model` says what follows
//! from them, `view` (with `services` and `pane`) draws it, `terminal` puts it on the screen. Nothing is asked of the agent
//! unless something has changed, and nothing is drawn unless it looks different.

mod canvas;
mod feeds;
mod history;
mod look;
mod model;
mod pane;
mod services;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::tz::TimeZone;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ratatui::crossterm::event::Event;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::mpsc;

use self::feeds::{AgentFeed, Brought, ExitFeed, JournalFeed, read_keyboard};
use self::look::Look;
use self::model::{Input, Model, Moment, Wish};
use self::terminal::{Screen, Terminal};
use self::view::View;
use super::Global;
use super::filters::Filters;
use super::output::Interrupts;
use super::output::eprint_line;
use super::watch::{RING_OF_ALL, wanted};
use crate::deaths::Filter;
use crate::{clock, probe};

/// The exit status of wrong usage.
const WRONG_USAGE: u8 = 2;

/// What comes within this time of the last picture, look or take is dealt with in one go.
const PACE: Duration = Duration::from_millis(100);

/// Between two pictures that only time makes different, and between two looks for an agent or a
/// journal that is not there.
const SECOND: Duration = Duration::from_secs(1);

/// Between two looks at an agent of which nothing is heard: a service that was stopped can leave
/// the config without an event.
const REFRESH: Duration = Duration::from_secs(10);

/// Show services and exits live, and control services from the keyboard
///
/// Shows state, pid, uptime, restarts, the restarts of the last hour and the last exit of each service,
/// and below them the exits of this host's processes as they happen, with the service, unit or container of
/// each, which needs root. Filters choose among those exits. Starts, stops and restarts the selected service,
/// and shows why it ended the last times; `?` shows the keys. If the agent ends, `top` waits for the next one.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Panic after the first picture, to test what becomes of the terminal
    #[arg(long, hide = true)]
    panic: bool,
    #[command(flatten)]
    filters: Filters,
}

/// Runs until `q`, Ctrl-C or a signal; with status 2 where there is no terminal to show it on.
///
/// # Errors
/// A terminal that cannot be read or written.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    if !io::stdout().is_terminal() {
        eprint_line(
            "top needs a terminal; use `respawn status`, `respawn events --follow` or `respawn watch`",
        );
        return Ok(ExitCode::from(WRONG_USAGE));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(top(global, arguments));
    // Questions to the agent may still wait for their answers in threads.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn top(global: &Global, arguments: &Arguments) -> Result<()> {
    let filter = arguments.filters.filter()?;
    let mut interrupts = Interrupts::listen()?;
    let mut resumed = signal(SignalKind::from_raw(Signal::SIGCONT as i32))?;
    let terminal = Terminal::take()?;
    let mut top = Top::new(global, filter);
    top.draw()?;
    if arguments.panic {
        top.screen.written().await?;
        panic_as_asked();
    }
    let ended = top.work(&terminal, &mut interrupts, &mut resumed).await;
    top.screen.finish().await;
    ended
}

#[expect(clippy::panic, reason = "this is what was asked for")]
fn panic_as_asked() -> ! {
    panic!("as asked for");
}

/// What ended the waiting.
enum Woken {
    Interrupted,
    Brought(Option<Brought>),
    Journal,
    Exits(Vec<Input>),
    /// The agent has gone.
    HungUp,
    Written(Result<()>),
    /// The shell has brought the program back.
    Resumed,
    Time,
}

/// The parts of the live view. All times are since boot.
struct Top {
    model: Model,
    look: Look,
    zone: TimeZone,
    screen: Screen,
    agent: AgentFeed,
    journal: JournalFeed,
    exits: ExitFeed,
    brought: mpsc::UnboundedReceiver<Brought>,
    /// Something is to be drawn.
    is_dirty: bool,
    /// The agent is to be asked, and waited for if it has just gone.
    wants_look: bool,
    drawn_at: Duration,
    looked_at: Duration,
    journal_at: Duration,
    exits_at: Duration,
}

impl Top {
    fn new(global: &Global, filter: Filter) -> Self {
        let (bring, brought) = mpsc::unbounded_channel();
        read_keyboard(bring.clone());
        let options = probe::Options {
            all: true,
            wanted: Some(Box::new(wanted::of(&filter))),
            ring_bytes: Some(RING_OF_ALL),
            btf: global.btf.clone(),
            object: global.bpf_object.clone(),
            known: probe::KnownIn::At(global.runtime_dir.clone()),
            ..probe::Options::default()
        };
        ExitFeed::open(options, filter, bring.clone());
        Self {
            model: Model::new(),
            look: Look::from_environment(),
            zone: TimeZone::system(),
            screen: Screen::new(),
            agent: AgentFeed::new(&global.runtime_dir, bring),
            journal: JournalFeed::new(&global.runtime_dir),
            exits: ExitFeed::none(),
            brought,
            is_dirty: true,
            wants_look: true,
            drawn_at: Duration::ZERO,
            looked_at: Duration::ZERO,
            journal_at: Duration::ZERO,
            exits_at: Duration::ZERO,
        }
    }

    async fn work(
        &mut self,
        terminal: &Terminal,
        interrupts: &mut Interrupts,
        resumed: &mut SignalStream,
    ) -> Result<()> {
        loop {
            let now = clock::since_boot();
            self.do_what_is_due(now)?;
            let woken = self.wait(now, interrupts, resumed).await;
            let wishes = match woken {
                Woken::Interrupted => return Ok(()),
                Woken::Brought(brought) => self.brought(brought)?,
                Woken::Journal => self.take_journal(),
                Woken::Exits(inputs) => self.take_exits(inputs),
                Woken::HungUp => vec![Wish::Look],
                Woken::Written(written) => {
                    written?;
                    Vec::new()
                }
                Woken::Resumed => {
                    self.screen.finish().await;
                    terminal.retake()?;
                    vec![Wish::Repaint]
                }
                Woken::Time => Vec::new(),
            };
            for wish in wishes {
                match wish {
                    Wish::Quit => return Ok(()),
                    Wish::Suspend => self.suspend(terminal).await?,
                    Wish::Look => self.wants_look = true,
                    Wish::Do(order) => self.agent.order(order),
                    Wish::Repaint => self.repaint(),
                }
            }
        }
    }

    /// Waits for the first thing that is to be dealt with.
    async fn wait(
        &mut self,
        now: Duration,
        interrupts: &mut Interrupts,
        resumed: &mut SignalStream,
    ) -> Woken {
        let is_journal_due = self.journal.is_behind() || now >= self.journal_at + PACE;
        let are_exits_due = now >= self.exits_at + PACE;
        let pause = self.next_deadline(now).saturating_sub(now);
        tokio::select! {
            () = interrupts.next() => Woken::Interrupted,
            brought = self.brought.recv() => Woken::Brought(brought),
            () = self.journal.ready(), if is_journal_due => Woken::Journal,
            inputs = self.exits.ready(), if are_exits_due => Woken::Exits(inputs),
            () = self.agent.hung_up() => Woken::HungUp,
            written = self.screen.written() => Woken::Written(written),
            _ = resumed.recv() => Woken::Resumed,
            () = tokio::time::sleep(pause) => Woken::Time,
        }
    }

    /// When there is something to do though nothing has come.
    fn next_deadline(&self, now: Duration) -> Duration {
        let is_ahead = |at: &Duration| *at > now;
        let soonest = [
            self.drawing_is_due(),
            self.look_is_due(),
            self.opening_is_due(),
            Some(self.journal_at + PACE).filter(is_ahead),
            Some(self.exits_at + PACE).filter(is_ahead),
        ];
        let soonest = soonest.into_iter().flatten().min();
        soonest.unwrap_or(now + REFRESH)
    }

    fn drawing_is_due(&self) -> Option<Duration> {
        match (self.screen.is_busy(), self.is_dirty, self.model.ages()) {
            (true, ..) => None,
            (false, true, _) => Some(self.drawn_at + PACE),
            (false, false, true) => Some(self.drawn_at + SECOND),
            (false, false, false) => None,
        }
    }

    fn look_is_due(&self) -> Option<Duration> {
        let after = match (self.wants_look, self.agent.is_held()) {
            (true, _) => PACE,
            (false, true) => REFRESH,
            (false, false) => SECOND,
        };
        (!self.agent.is_asked()).then_some(self.looked_at + after)
    }

    fn opening_is_due(&self) -> Option<Duration> {
        (!self.journal.is_open()).then_some(self.journal_at + SECOND)
    }

    fn do_what_is_due(&mut self, now: Duration) -> Result<()> {
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if is_due(self.look_is_due()) {
            self.looked_at = now;
            let patience = std::mem::take(&mut self.wants_look);
            self.agent.look(patience);
        }
        if is_due(self.opening_is_due()) {
            self.journal_at = now;
            let input = self.journal.open();
            self.take([input]);
        }
        if is_due(self.drawing_is_due()) {
            self.draw()?;
        }
        Ok(())
    }

    fn draw(&mut self) -> Result<()> {
        let now = moment();
        let view = View {
            model: &self.model,
            look: self.look,
            zone: &self.zone,
            now,
        };
        let drawn = self.screen.draw(|buffer| view.draw(buffer));
        self.is_dirty = false;
        self.drawn_at = now.since_boot;
        drawn.context("cannot draw")
    }

    fn take_journal(&mut self) -> Vec<Wish> {
        self.journal_at = clock::since_boot();
        let inputs = self.journal.take();
        self.take(inputs)
    }

    fn take_exits(&mut self, mut inputs: Vec<Input>) -> Vec<Wish> {
        self.exits_at = clock::since_boot();
        inputs.extend(self.exits.take());
        self.take(inputs)
    }

    fn brought(&mut self, brought: Option<Brought>) -> Result<Vec<Wish>> {
        Ok(match brought {
            Some(Brought::Look(input, connection)) => {
                self.agent.looked(connection);
                self.take([input])
            }
            Some(Brought::Done(input)) => self.take([input]),
            Some(Brought::Exits(exits)) => {
                let inputs = self.exits.opened(exits);
                self.take(inputs)
            }
            Some(Brought::Terminal(event)) => {
                // Who presses a key wants to see it.
                self.drawn_at = Duration::ZERO;
                self.is_dirty = true;
                match event {
                    Event::Key(key) => self.take([Input::Key(key)]),
                    _ => Vec::new(),
                }
            }
            Some(Brought::NoKeyboard(error)) => {
                return Err(error).context("cannot read from the terminal");
            }
            // The agent's feed can always bring something.
            None => Vec::new(),
        })
    }

    fn take(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Wish> {
        let now = moment();
        let mut wishes = Vec::new();
        for input in inputs {
            self.is_dirty = true;
            let wish = self.model.take(input, now);
            // Many lines of the journal are one reason to look.
            wishes.extend(wish.filter(|wish| wishes.last() != Some(wish)));
        }
        wishes
    }

    /// Gives the terminal to the shell until it brings this program back.
    async fn suspend(&mut self, terminal: &Terminal) -> Result<()> {
        self.screen.finish().await;
        // To all of the job, as the terminal would have sent it; this goes on when it is brought
        // back, or at once where there is no shell to do that.
        terminal.lend(|| {
            let _ = kill(Pid::from_raw(0), Signal::SIGTSTP);
        })?;
        self.repaint();
        Ok(())
    }

    fn repaint(&mut self) {
        self.screen.repaint();
        self.is_dirty = true;
        self.drawn_at = Duration::ZERO;
    }
}

fn moment() -> Moment {
    Moment {
        since_boot: clock::since_boot(),
        wall: clock::now(),
    }
}
