//! `respawn metrics`: numbers of services and deaths, for a monitoring system.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::Global;
use super::ask::end;
use super::deaths::RecorderDir;
use super::output::{Interrupts, eprint_line};
use crate::metrics::serve::{self, Address, Listener};
use crate::metrics::{Collector, Format, Places, State};

/// The counters' file in a recorder's directory.
const STATE: &str = "metrics.json";

/// Export metrics of services and deaths for a monitoring system
///
/// Prints OpenMetrics text, or serves it over HTTP at /metrics for Prometheus and others: the state of
/// each service, how often it was restarted and who caused that, how long restarts took, and how many
/// processes of the host have died, by systemd unit and cause. Reads the agent's socket and journal, and
/// what `respawn recorder` has recorded. None of them is required: `respawn_up{source="…"}` shows which
/// are available.
///
/// Served counters never go back: they are stored in a file (--state) and continue after a restart.
/// Printed once without --state, the counters count what is stored at the moment.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Serve the metrics at an address: a port on loopback ("9550"), "127.0.0.1:9550", or the path of a
    /// Unix socket
    ///
    /// An address that other hosts can reach must be written in full, such as "192.0.2.1:9550" or
    /// "0.0.0.0:9550". There is no encryption and no password: whoever reaches it can read the names of
    /// services and units.
    #[arg(long, value_name = "ADDR", value_parser = Address::parse)]
    listen: Option<Address>,
    /// The file that keeps the counters; "none" counts from this start on
    ///
    /// By default metrics.json in the recorder's directory with --listen, and none without.
    #[arg(
        long,
        value_name = "FILE",
        env = "RESPAWN_METRICS_STATE",
        hide_env_values = true
    )]
    state: Option<PathBuf>,
    /// The form of what is printed; over HTTP the client chooses
    #[arg(
        long,
        value_enum,
        default_value = "openmetrics",
        conflicts_with = "listen"
    )]
    format: Format,
    #[command(flatten)]
    place: RecorderDir,
}

/// Prints once; with `--listen` runs until SIGTERM or SIGINT.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    let Some(address) = &arguments.listen else {
        let text = collector(global, arguments)?.scrape(arguments.format)?;
        return end(io::stdout().write_all(text.as_bytes()), ExitCode::SUCCESS);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(listen(global, arguments, address));
    // A look for an agent that does not answer may still wait in its thread.
    runtime.shutdown_background();
    result
}

async fn listen(global: &Global, arguments: &Arguments, address: &Address) -> Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    if address.is_open() {
        eprint_line(
            "warning: others than this host can reach this address: who can may read the names of \
             services and units",
        );
    }
    // Before anybody can ask: the first look at all that is kept may take a while.
    let mut collector = collector(global, arguments)?;
    collector.read_on();
    let listener = Listener::bind(address).await?;
    eprint_line(&format!("serving metrics on {}", listener.place()));
    tokio::select! {
        () = serve::serve(listener, collector) => {}
        () = interrupts.next() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn collector(global: &Global, arguments: &Arguments) -> Result<Collector> {
    let places = Places {
        runtime_dir: global.runtime_dir.clone(),
        recorder_dir: arguments.place.dir.clone(),
    };
    let is_served = arguments.listen.is_some();
    let file = match &arguments.state {
        Some(file) if file.as_os_str() == "none" => None,
        Some(file) => Some(file.clone()),
        None => is_served.then(|| arguments.place.dir.join(STATE)),
    };
    let from_now = is_served && file.is_none();
    let state = match file {
        Some(file) => State::in_file(&file).context("cannot keep the counters of the metrics")?,
        None => State::in_memory(),
    };
    Ok(Collector::new(places, state, from_now))
}
