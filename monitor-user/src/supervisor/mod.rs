//! The supervisor: decides when services start, stop and start again.
//!
//! Pure: no clock, no tokio, no aya, no syscalls. Inputs are facts ([`Event`]) with the time at
//! which they became known, outputs are verbs ([`Action`]).

mod action;
mod cause;
mod event;
mod signal;
mod spec;

pub use action::*;
pub use cause::*;
pub use event::*;
pub use signal::*;
pub use spec::*;
