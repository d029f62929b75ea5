//! The command line: one file a subcommand.

pub(crate) mod check;
