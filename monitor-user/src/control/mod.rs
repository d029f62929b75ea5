//! The control socket: how people and programs steer a running agent.
//!
//! Carries commands and their answers; what a command does is the supervisor's to decide.
//!
//! ```text
//! client ─▶ socket ─▶ one task a connection ─▶ bounded channel ─▶ the agent's loop
//!    ▲                       │  ▲                                       │
//!    └────── one line ───────┘  └─────────────── Response ──────────────┘
//! ```
//!
//! The loop only ever receives commands that are whole and valid, from those who may give them.
//! Whoever writes half a line, or does not read, holds up its own connection and nothing else.

pub(crate) mod client;
mod protocol;
pub(crate) mod rights;
mod server;

use std::path::{Path, PathBuf};

pub(crate) use protocol::{
    Command, Process, Response, ServiceResult, ServiceStatus, Shown, Socket, Standby, StandbyState,
};
pub(crate) use server::{Groups, Incoming, Peer, Server, listen_private};

/// The control socket of the agent with this runtime directory.
pub(crate) fn socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("control.sock")
}
