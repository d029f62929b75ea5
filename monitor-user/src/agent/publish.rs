//! Who is told of what happens: the journal, hooks and notices, each with the same event.

use std::path::Path;

use super::{Agent, hooks};
use crate::aftermath::{self, OutputStart};
use crate::clock;
use crate::journal::JournalLine;
use crate::model::{Event, Log, Notice, Output, ServiceName, Spec};
use crate::os::mounts;
use crate::text;

impl Agent {
    pub(super) fn publish(&mut self, mut notice: Notice) {
        tracing::debug!("{notice:?}");
        if let Notice::WentToBackground {
            service, advice, ..
        } = &notice
        {
            tracing::warn!(%service, "{advice}");
        }
        if let Notice::Exited {
            service,
            instance,
            circumstances,
            ..
        } = &mut notice
        {
            let start = self.instances.output_start(instance).unwrap_or_default();
            if let Some(output) = self.last_output(service, start) {
                circumstances.get_or_insert_default().last_output = Some(output);
            }
            self.outputs.end_line(service);
        }
        let spec = notice.service().and_then(|it| self.supervisor.spec(it));
        let spec = spec.cloned();
        self.tell_all(notice, spec.as_deref());
    }

    /// Whether nothing of it is lost if other services, or the next instance, start before it is published.
    pub(super) fn may_be_told_later(&self, notice: &Notice) -> bool {
        // The next instance may write behind the end of this one's output.
        match notice {
            Notice::Exited { service, .. } => self.kept_output(service).is_none(),
            _ => true,
        }
    }

    /// The end of a service's output, if its config asks for that and it goes to a file.
    pub(super) fn last_output(&self, service: &ServiceName, since: OutputStart) -> Option<String> {
        let (path, bytes) = self.kept_output(service)?;
        let spec = self.supervisor.spec(service)?;
        let owner = spec.exec.identity.as_ref();
        let read = match spec.log {
            Some(_) => {
                let progress = self.outputs.progress(service)?;
                aftermath::tail_of_log(path, bytes, since, &progress, owner)
            }
            None => aftermath::tail(path, bytes, since.length, owner),
        };
        read.map_err(|error| tracing::warn!(%service, "cannot read {}: {error}", path.display()))
            .ok()
    }

    /// How long the file is now whose end is to be kept; one that is not there yet is empty.
    pub(super) fn output_length(&self, service: &ServiceName) -> Option<OutputStart> {
        let (path, _) = self.kept_output(service)?;
        let progress = self.outputs.progress(service).unwrap_or_default();
        let length = progress.length;
        Some(OutputStart {
            length: length.unwrap_or_else(|| path.metadata().map_or(0, |metadata| metadata.len())),
            pending: progress.pending.len(),
        })
    }

    /// The file, and how much of it is to be kept. None where whoever looks may wait for somebody who never
    /// answers.
    fn kept_output(&self, service: &ServiceName) -> Option<(&Path, u64)> {
        let spec = self.supervisor.spec(service)?;
        let path = match &spec.exec.stdout {
            Output::File(path) => path,
            Output::Log => spec.log.as_ref().and_then(Log::path)?,
            Output::Null | Output::Inherit => return None,
        };
        let bytes = spec.policy.last_output.min(self.journal.most_output());
        (bytes > 0 && !mounts::may_hang(path)).then_some((path, bytes))
    }

    /// Tells the journal and all others, the hooks of this spec among them.
    pub(super) fn tell_all(&mut self, notice: Notice, spec: Option<&Spec>) {
        let hook = spec.and_then(|spec| hooks::called_by(&notice, &spec.hooks));
        let hook = hook.zip(notice.service().cloned());
        let line = self.record(Event::from_notice(notice, clock::now()));
        if let Some((hook, service)) = hook {
            self.hooks.call(&service, hook, line, Self::now());
        }
    }

    /// Tells the journal, and who else is told of every event; returns the journal's line.
    pub(super) fn record(&mut self, mut event: Event) -> JournalLine {
        let text = match self.journal.append(&mut event) {
            Ok(()) => {
                self.journal_failed = false;
                self.journal.last_line().to_owned()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.journal_failed, true) {
                    tracing::error!("the journal cannot be written: {error}");
                }
                text::json(&event).unwrap_or_default()
            }
        };
        self.notices.tell(&event);
        JournalLine { text, event }
    }
}
