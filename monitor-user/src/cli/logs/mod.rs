//! `respawn logs`: what services have written, from live and rotated files, and what comes. Reads the
//! files itself; the agent, or without one the config, says where they are.

mod files;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap_complete::engine::ArgValueCompleter;
use jiff::Span;
use jiff::tz::TimeZone;
use nix::sys::inotify::AddWatchFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::files::{Files, LogLine, Text};
use super::ask::Refusal;
use super::output::{Flushed, Interrupts, Output, eprint_line};
use super::{ConfigDir, Global, complete, lines, services, show};
use crate::config::Description;
use crate::os::inotify::Watch;
use crate::text::printable;

/// Show the output of services
///
/// Shows the output of services with `log`, and of those whose `stdout` is a file, including rotated
/// files, oldest line first. The lines of several services are merged by their timestamps and begin with
/// the service's name. The lines of a file without timestamps keep their order. Needs no agent.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A service's name, or a pattern such as 'web*'
    #[arg(
        required = true,
        value_name = "SERVICE",
        value_parser = services::name_or_pattern,
        add = ArgValueCompleter::new(complete::services)
    )]
    services: Vec<String>,
    /// Continue with new lines as they come, through rotation, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only lines within this time before now, such as "10m", "1h30m" or "2 days"
    ///
    /// A file without timestamps is shown as a whole.
    #[arg(long, value_name = "DURATION", value_parser = lines::past)]
    since: Option<Span>,
    /// Only the last N lines; --follow also shows new ones
    #[arg(long, short = 'n', value_name = "N")]
    lines: Option<usize>,
    /// Print one JSON object a line, with service, time and message
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigDir,
}

/// A line for a program.
#[derive(Serialize)]
struct Object<'a> {
    service: &'a str,
    /// When the logger read it; null without timestamps.
    time: Option<&'a str>,
    message: &'a str,
}

/// Runs to the end of the files; with `--follow` until a signal or a closed standard output.
///
/// # Errors
/// A file cannot be read, or standard output not be written.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let (found, unknown) = match find(global, arguments) {
        Ok(found) => found,
        Err(refusal) => return refusal.tell(false),
    };
    let mut exit_code = services::tell_unknown(&unknown, ExitCode::SUCCESS);
    let mut texts = Vec::new();
    for (service, files) in found {
        match files {
            Some(files) => {
                let path = files.path.display().to_string();
                let text = Text::open(files).with_context(|| format!("cannot read {path}"))?;
                texts.push((service, text));
            }
            None => {
                eprint_line(&format!(
                    "{service}: its output goes to no file; `log` with a `path` has it in one"
                ));
                exit_code = ExitCode::FAILURE;
            }
        }
    }
    if texts.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shown = runtime.block_on(show_all(texts, arguments));
    // A write to a reader that does not read may still hang in its thread.
    runtime.shutdown_background();
    shown.map(|()| exit_code)
}

type Found = Vec<(String, Option<Files>)>;

/// Where the output of the services is, and the names that none has.
fn find(global: &Global, arguments: &Arguments) -> Result<(Found, Vec<String>), Refusal> {
    let (described, unknown) = show::describe(global, &arguments.config, &arguments.services)?;
    let found = described
        .into_iter()
        .map(|(service, description)| (service, files_of(&description)));
    Ok((found.collect(), unknown))
}

/// What a description says of `log`.
#[derive(Deserialize)]
struct Described {
    /// `None`: it goes to no file.
    path: Option<PathBuf>,
}

fn files_of(description: &Description) -> Option<Files> {
    let mut settings = description.settings.iter();
    let mut value = |key: &str| Some(settings.find(|setting| setting.key == key)?.value.clone());
    let (stdout, log) = (value("stdout"), value("log"));
    if let Some(Ok(Described { path: Some(path) })) = log.map(serde_json::from_value) {
        return Some(Files {
            path,
            is_rotated: true,
        });
    }
    match stdout {
        Some(Value::String(path)) if path.starts_with('/') => Some(Files {
            path: path.into(),
            is_rotated: false,
        }),
        _ => None,
    }
}

async fn show_all(texts: Vec<(String, Text)>, arguments: &Arguments) -> Result<()> {
    let mut interrupts = Interrupts::listen()?;
    // Before they are read, so that nothing falls between the past and what comes.
    let watch = match arguments.follow {
        true => Some(watch(&texts)?),
        false => None,
    };
    let mut view = View::new(texts, arguments)?;
    loop {
        let more = view.take()?;
        if view.output.flush(&mut interrupts).await? != Flushed::Done {
            return Ok(());
        }
        if more {
            continue;
        }
        let Some(watch) = &watch else {
            return Ok(());
        };
        tokio::select! {
            () = interrupts.next() => return Ok(()),
            () = view.output.closed() => return Ok(()),
            changed = watch.next() => drop(changed?),
        }
    }
}

fn watch(texts: &[(String, Text)]) -> Result<Watch> {
    let watch = Watch::new().context("cannot wait for changes: inotify")?;
    let what = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    for (_, text) in texts {
        let dir = text.directory();
        let context = || format!("cannot watch {}", dir.display());
        watch.add(dir, what).with_context(context)?;
    }
    Ok(watch)
}

/// What is shown so far.
struct View {
    output: Output,
    json: bool,
    has_names: bool,
    follow: bool,
    texts: Vec<(String, Text)>,
    /// Only lines from then on, as a stamp.
    since: Option<String>,
    /// The last ones so far, if only these are to be shown of the past, and how many.
    last: Option<(usize, VecDeque<(usize, LogLine)>)>,
}

impl View {
    fn new(mut texts: Vec<(String, Text)>, arguments: &Arguments) -> Result<Self> {
        if let (Some(count), None) = (arguments.lines, &arguments.since) {
            for (_, text) in &mut texts {
                text.skip_to_last(count)?;
            }
        }
        let since = arguments.since.map(|span| {
            let since = lines::since(span, &TimeZone::system());
            format!("{since:.6}")
        });
        Ok(Self {
            output: Output::new(),
            json: arguments.json,
            has_names: texts.len() > 1,
            follow: arguments.follow,
            texts,
            since,
            last: arguments.lines.map(|count| (count, VecDeque::new())),
        })
    }

    /// Takes what there is, until it is time to write. `true`: there is more.
    fn take(&mut self) -> Result<bool> {
        while !self.output.is_full() {
            let Some(next) = self.next()? else {
                self.end_of_past()?;
                return Ok(false);
            };
            if let Some((_, text)) = self.texts.get_mut(next)
                && let Some(line) = text.take()
            {
                self.see(next, line)?;
            }
        }
        Ok(true)
    }

    /// Whose line comes next: the earliest; one without a timestamp follows on the one before it.
    fn next(&mut self) -> Result<Option<usize>> {
        let mut first: Option<(usize, String)> = None;
        for (index, (service, text)) in self.texts.iter_mut().enumerate() {
            let last = text.last.clone();
            let context = || format!("cannot read the output of {service}");
            let Some(line) = text.peek().with_context(context)? else {
                continue;
            };
            let stamp = line.stamp.clone().unwrap_or(last);
            if first.as_ref().is_none_or(|(_, earliest)| stamp < *earliest) {
                first = Some((index, stamp));
            }
        }
        Ok(first.map(|(index, _)| index))
    }

    /// All of the past is read.
    fn end_of_past(&mut self) -> Result<()> {
        if !self.follow {
            for index in 0..self.texts.len() {
                let rest = self
                    .texts
                    .get_mut(index)
                    .and_then(|(_, text)| text.take_rest());
                if let Some(line) = rest {
                    self.see(index, line)?;
                }
            }
        }
        let last = self.last.take();
        for (index, line) in last.into_iter().flat_map(|(_, lines)| lines) {
            self.show(index, &line)?;
        }
        Ok(())
    }

    fn see(&mut self, index: usize, line: LogLine) -> Result<()> {
        if let (Some(since), Some((_, text))) = (&self.since, self.texts.get(index))
            && !text.last.is_empty()
            && text.last.as_str() < since.as_str()
        {
            return Ok(());
        }
        let Some((count, lines)) = &mut self.last else {
            return self.show(index, &line);
        };
        lines.push_back((index, line));
        if lines.len() > *count {
            lines.pop_front();
        }
        Ok(())
    }

    fn show(&mut self, index: usize, line: &LogLine) -> Result<()> {
        let service = self.texts.get(index).map_or("", |(service, _)| service);
        let message = String::from_utf8_lossy(&line.text);
        let time = line.stamp.as_deref();
        if self.json {
            let message = &message;
            return self.output.json(&Object {
                service,
                time,
                message,
            });
        }
        let message = match self.output.is_terminal() {
            true => printable(&message),
            false => message.into_owned(),
        };
        let name = match self.has_names {
            true => format!("{service}: "),
            false => String::new(),
        };
        let stamp = time.map_or_else(String::new, |time| format!("{time} "));
        self.output.verbatim(&format!("{stamp}{name}{message}"));
        Ok(())
    }
}
