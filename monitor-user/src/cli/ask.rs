//! What the commands that ask the agent have in common: how no answer, or a refusal, is told.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use super::Global;
use super::output::eprint_line;
use crate::control::client::{self, AskError};
use crate::control::{Command, Response};
use crate::text;

/// The exit status when there is no agent to talk to.
const NO_AGENT: u8 = 3;

/// Nothing was done, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    message: String,
    exit_status: u8,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_status: 1,
        }
    }

    /// An answer that does not answer what was asked.
    pub(super) fn beside_the_point() -> Self {
        Self::new("the agent answered something else than it was asked")
    }

    /// What it says, in one line.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// Whether nobody was there to be asked.
    pub(super) fn is_without_agent(&self) -> bool {
        self.exit_status == NO_AGENT
    }

    /// The exit status that goes with it.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_status)
    }

    /// Tells it on standard error, and on standard output too if a program reads that.
    pub(super) fn tell(&self, json: bool) -> anyhow::Result<ExitCode> {
        eprint_line(&self.message);
        let mut told = Ok(());
        if json {
            told = write_json(
                &json!({ "ok": false, "error": self.message }),
                &mut io::stdout(),
            );
        }
        end(told, self.exit_code())
    }
}

/// Asks the agent, and waits for its answer.
pub(super) fn ask(global: &Global, command: &Command) -> Result<Response, Refusal> {
    match client::ask(&global.runtime_dir, command) {
        Ok(Response::Error { message }) => Err(Refusal::new(message)),
        Ok(response) => Ok(response),
        Err(error) => Err(Refusal {
            message: error.to_string(),
            exit_status: match error {
                AskError::NoAgent { .. } => NO_AGENT,
                _ => 1,
            },
        }),
    }
}

/// Writes one JSON object or array on a line.
pub(super) fn write_json(value: &impl Serialize, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", text::json(value)?)
}

/// The exit status of a command whose output is written; a reader that has gone had enough.
pub(super) fn end(written: io::Result<()>, exit_code: ExitCode) -> anyhow::Result<ExitCode> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to standard output"))
        }
        _ => Ok(exit_code),
    }
}
