//! `respawn agent`: keeps the configured services running.

use std::process::ExitCode;

use anyhow::Result;

use super::{ConfigDir, Global};
use crate::agent;

/// Run the agent in the foreground, as init wants it
///
/// Keeps the configured services running. A second agent on the same runtime directory waits as
/// the spare, and takes over when the first one dies.
///
/// SIGTERM and SIGINT end the agent and leave its services running; the next agent takes them
/// over. `respawn stop --all` stops the services, `respawn shutdown` the services and then the
/// agent. SIGHUP reads the config again. As PID 1 of a container, SIGTERM stops the services in
/// order and then ends the agent, and the end of a service that is `essential` ends it, too.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigDir,
    /// Size of the ring between kernel and agent, in bytes, to test it
    #[arg(
        long,
        value_name = "BYTES",
        env = "RESPAWN_RING_BYTES",
        hide = true,
        hide_env_values = true,
        value_parser = super::watch::ring_bytes
    )]
    ring_bytes: Option<u32>,
    /// End with a service that is `essential`, and stop all services on SIGTERM
    ///
    /// For containers with another init: the agent behaves as if it were PID 1. When an essential service
    /// has ended for good, the agent stops the others and exits with its status.
    #[arg(long)]
    exit_with_essential: bool,
    #[command(flatten)]
    limit: super::watch::Limit,
}

/// Runs until a signal or a shutdown ends it.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<ExitCode> {
    agent::run(&agent::Options {
        config: arguments.config.config,
        runtime_dir: global.runtime_dir.clone(),
        pin_dir: global.pin_dir.clone(),
        btf: global.btf.clone(),
        object: global.bpf_object.clone(),
        ring_bytes: arguments.ring_bytes,
        most_watched: arguments.limit.most_watched,
        exit_with_essential: arguments.exit_with_essential,
    })
}
