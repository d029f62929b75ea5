//! The lines of a journal on standard output: the past, the last ones of it, and what comes. Which are
//! shown, and in which words, is the commands'.

use std::collections::VecDeque;

use anyhow::Result;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::output::{Flushed, Interrupts, Output, eprint_line};
use crate::clock;
use crate::journal::{self, Changes, Cursor, Found, JournalLine, NoCursor, Reader, Resumed};
use crate::model::{Event, What};

/// Which lines a command shows, and how.
pub(super) trait Selection {
    /// Whether that line is shown. Asked once for each, in their order.
    fn wants(&mut self, line: &JournalLine) -> bool;

    /// Whether it is shown that so many lines before that one are gone.
    fn wants_missed(&mut self, count: u64, before: &JournalLine) -> bool;

    /// The line for a person.
    fn words(&mut self, line: &JournalLine, is_terminal: bool) -> String;

    /// A line for a person over the first one, if any.
    fn header(&self, _is_terminal: bool) -> Option<String> {
        None
    }

    /// All of the past is shown.
    fn at_end(&mut self) {}
}

/// How much of it, and in which form.
pub(super) struct Extent {
    pub(super) json: bool,
    /// Only so many of the past.
    pub(super) last: Option<usize>,
}

/// What is shown so far.
pub(super) struct View<S> {
    pub(super) selection: S,
    output: Output,
    json: bool,
    /// The last ones so far, if only these are to be shown of the past.
    last: Option<Last>,
    has_header: bool,
}

/// So many lines, the oldest first.
struct Last {
    count: usize,
    lines: VecDeque<JournalLine>,
}

impl<S: Selection> View<S> {
    /// To be made within the runtime.
    pub(super) fn new(selection: S, extent: &Extent) -> Self {
        Self {
            selection,
            output: Output::new(),
            json: extent.json,
            last: extent.last.map(|count| Last {
                count,
                lines: VecDeque::new(),
            }),
            has_header: false,
        }
    }

    /// Shows what there is, and with `changes` what comes, until a signal, a closed standard output or
    /// the end of the directory, which `gone` says.
    pub(super) async fn show_all(
        &mut self,
        reader: &mut Reader,
        changes: Option<&Changes>,
        gone: &str,
        interrupts: &mut Interrupts,
    ) -> Result<()> {
        loop {
            let more = self.take(reader)?;
            if !more {
                self.show_last();
            }
            if self.output.flush(interrupts).await? != Flushed::Done {
                return Ok(());
            }
            if more {
                continue;
            }
            self.selection.at_end();
            let Some(changes) = changes else {
                return Ok(());
            };
            tokio::select! {
                () = interrupts.next() => return Ok(()),
                () = self.output.closed() => return Ok(()),
                lives_on = changes.next() => if !lives_on? {
                    eprint_line(gone);
                    return Ok(());
                }
            }
        }
    }

    /// Takes what there is, until it is time to write. `true`: there is more.
    fn take(&mut self, reader: &mut Reader) -> Result<bool> {
        while !self.output.is_full() {
            let Some(line) = reader.next()? else {
                return Ok(false);
            };
            match reader.take_missed() {
                0 => {}
                count if self.selection.wants_missed(count, &line) => {
                    self.show(missed(count, &line));
                }
                _ => {}
            }
            if self.selection.wants(&line) {
                self.show(line);
            }
        }
        Ok(true)
    }

    /// Shows the last ones of the past. What comes is shown as it comes.
    fn show_last(&mut self) {
        let last = self.last.take();
        for line in last.into_iter().flat_map(|last| last.lines) {
            self.show(line);
        }
    }

    fn show(&mut self, line: JournalLine) {
        if let Some(last) = &mut self.last {
            last.lines.push_back(line);
            if last.lines.len() > last.count {
                last.lines.pop_front();
            }
            return;
        }
        if self.json {
            self.output.json_line(&line.text);
            return;
        }
        let is_terminal = self.output.is_terminal();
        if !std::mem::replace(&mut self.has_header, true)
            && let Some(header) = self.selection.header(is_terminal)
        {
            self.output.line(&header);
        }
        let words = self.selection.words(&line, is_terminal);
        self.output.line(&words);
    }
}

/// Says that lines before that one cannot be shown: they are gone. With the cursor of their place, after
/// which nothing is missing.
fn missed(count: u64, before: &JournalLine) -> JournalLine {
    let event = Event {
        stamp: None,
        time: before.event.time,
        service: None,
        what: What::EventsMissed { count },
    };
    // With its keys in the order of the alphabet: no journal has this event.
    let mut value = serde_json::to_value(&event).unwrap_or_default();
    let stamp = before.event.stamp.as_ref();
    let cursor = before.cursor().map(Cursor::gap_before);
    value["host"] = stamp.and_then(|it| it.source.host.clone()).into();
    value["boot_id"] = stamp.and_then(|it| it.source.boot_id.clone()).into();
    value["cursor"] = cursor.map(|cursor| cursor.to_string()).into();
    let text = value.to_string();
    JournalLine { text, event }
}

/// A journal from the line on that follows on the one with that cursor. `passed` sees those before.
pub(super) fn after(
    cursor: Cursor,
    open: impl Fn() -> Result<Reader>,
    passed: impl FnMut(&JournalLine),
) -> Result<Reader> {
    let Resumed { reader, found } = journal::resume(open, cursor, passed)?;
    let rest = match found {
        Found::Line => None,
        Found::Older => Some("showing all later ones that are"),
        Found::Nothing => Some("showing all that are"),
    };
    if let Some(rest) = rest
        && !reader.is_missing()
    {
        eprint_line(&format!(
            "no line with the cursor \"{cursor}\" is kept any more: {rest}"
        ));
    }
    Ok(reader)
}

/// The place of a line, for `--after`.
pub(super) fn cursor(text: &str) -> Result<Cursor, String> {
    let expected =
        "expected the value of \"cursor\" in a line of --json, such as 17-0a1b2c3d-4e5f60";
    text.parse().map_err(|NoCursor| expected.to_owned())
}

/// Says how many lines could not be read.
pub(super) fn tell_damaged(reader: &Reader, of: &str) {
    match reader.damaged() {
        0 => {}
        1 => eprint_line(&format!("1 damaged line of {of} was skipped")),
        count => eprint_line(&format!("{count} damaged lines of {of} were skipped")),
    }
}

/// A length of time, for `--since`.
pub(super) fn past(text: &str) -> Result<Span, String> {
    match text.parse::<Span>() {
        Ok(span) if !span.is_negative() => Ok(span),
        Ok(span) if text.trim_end().ends_with("ago") => Ok(span.abs()),
        _ => Err("expected a length of time such as \"10m\", \"1h30m\" or \"2 days\"".to_owned()),
    }
}

/// The moment so long ago.
pub(super) fn since(span: Span, zone: &TimeZone) -> Timestamp {
    let now = clock::now().to_zoned_datetime(zone.clone());
    now.checked_sub(span)
        .map_or(Timestamp::MIN, |since| since.timestamp())
}

/// Whether the line is of that moment or later.
pub(super) fn is_recent(line: &JournalLine, since: Option<Timestamp>) -> bool {
    let is_recent = |since| line.time().is_some_and(|time| time >= since);
    since.is_none_or(is_recent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_friendly_and_lie_in_the_past() {
        for text in [
            "10m",
            "1h30m",
            "2 days",
            "1d 2h",
            "PT5M",
            "0s",
            "10 minutes ago",
        ] {
            assert!(past(text).is_ok_and(|span| !span.is_negative()), "{text}");
        }
        for text in [
            "",
            "10",
            "-10m",
            "m",
            "10 parsecs",
            "yesterday",
            "99999999999999999999s",
        ] {
            assert!(past(text).unwrap_err().contains("10m"), "{text}");
        }
    }
}
