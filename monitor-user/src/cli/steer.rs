//! `respawn start`, `stop`, `restart`, `signal` and `shutdown`: have the agent do something to
//! services, and tell where it failed.

use std::io::{self, Write};
use std::process::ExitCode;

use clap_complete::engine::ArgValueCompleter;
use serde_json::json;

use super::ask::{self, Refusal, end};
use super::output::eprint_line;
use super::services::{self, Services};
use super::{Global, complete};
use crate::control::{Command, Response, ServiceResult};
use crate::model::{Signal, UnknownSignal};

/// Start services
///
/// The agent starts them and keeps them running. Waits until each has run for its `start_check` (1 s by
/// default), and exits with 0 only if all have; otherwise it shows how the others ended. A running
/// service is left alone; the restart delay and start limit of a failed one are reset. Ctrl-C only ends
/// the waiting.
#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    #[command(flatten)]
    services: Services,
    #[command(flatten)]
    how: How,
}

/// Restart services
///
/// Stops each running service and starts it again; a stopped one is started. Waits until each has run for
/// its `start_check` (1 s by default), and exits with 0 only if all have; otherwise it shows how the
/// others ended. Ctrl-C only ends the waiting.
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    services: Services,
    #[command(flatten)]
    how: How,
}

/// Stop services
///
/// Sends the stop signal (SIGTERM by default) to all processes of each service, and SIGKILL to what is
/// left after its `stop_timeout` (10 s by default); `stop_mode` can limit both to the main process. Waits
/// until no process is left, and exits with 0 only then. The services stay stopped until someone starts
/// them, also if the agent is restarted; after a reboot, the config decides. Ctrl-C only ends the
/// waiting.
///
/// There are three ways to stop everything: `stop --all` stops all services and leaves the agent running;
/// `shutdown` stops all services and then the agents; SIGTERM ends an agent and leaves the services
/// running for the next agent to adopt.
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    services: Services,
    #[command(flatten)]
    how: How,
}

/// Send a signal to services
///
/// Sends it to the main process of each service, and does not wait. If the signal ends the service, that
/// is not a failure: the service is restarted without delay, unless it has `restart = "no"`.
#[derive(Debug, clap::Args)]
pub(crate) struct SignalArguments {
    /// A signal's name or number, such as SIGHUP, hup, 1, -9 or SIGRTMIN+3
    #[arg(
        value_name = "SIG",
        value_parser = signal_of,
        allow_hyphen_values = true,
        add = ArgValueCompleter::new(complete::signals)
    )]
    signal: Signal,
    #[command(flatten)]
    services: Services,
    /// Accepted as by `stop`, without effect
    #[arg(long = "no-wait", hide = true)]
    _no_wait: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Stop all services, and then the agents
///
/// Waits until no process of any service is left, and ends the agent and its spare. If init then restarts
/// the agent, it starts those services that were running before. Ctrl-C only ends the waiting.
///
/// There are three ways to stop everything: `stop --all` stops all services and leaves the agent running;
/// `shutdown` stops all services and then the agents; SIGTERM ends an agent and leaves the services
/// running for the next agent to adopt.
#[derive(Debug, clap::Args)]
pub(crate) struct Shutdown {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Do not wait until it is done
    #[arg(long)]
    no_wait: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Reads a signal as it is given here, and as it is given to kill(1): with a hyphen before it.
fn signal_of(text: &str) -> Result<Signal, UnknownSignal> {
    text.strip_prefix('-').unwrap_or(text).parse()
}

/// `respawn start`
pub(crate) fn start(global: &Global, arguments: &Start) -> anyhow::Result<ExitCode> {
    let no_wait = arguments.how.no_wait;
    let command = |services| Command::Start {
        services,
        no_wait,
        again: false,
    };
    for_each(global, &arguments.services, &arguments.how, command)
}

/// `respawn restart`
pub(crate) fn restart(global: &Global, arguments: &Restart) -> anyhow::Result<ExitCode> {
    let no_wait = arguments.how.no_wait;
    let command = |services| Command::Restart { services, no_wait };
    for_each(global, &arguments.services, &arguments.how, command)
}

/// `respawn stop`
pub(crate) fn stop(global: &Global, arguments: &Stop) -> anyhow::Result<ExitCode> {
    let no_wait = arguments.how.no_wait;
    if arguments.services.all {
        // One that is added meanwhile is stopped as well.
        let command = Command::Stop {
            services: Vec::new(),
            all: true,
            no_wait,
        };
        return run(global, &command, arguments.how.json);
    }
    let command = |services| Command::Stop {
        services,
        all: false,
        no_wait,
    };
    for_each(global, &arguments.services, &arguments.how, command)
}

/// `respawn signal`
pub(crate) fn signal(global: &Global, arguments: &SignalArguments) -> anyhow::Result<ExitCode> {
    let services = match arguments.services.names(global) {
        Ok(services) => services,
        Err(refusal) => return refusal.tell(arguments.json),
    };
    let mut results = Vec::new();
    for service in services {
        let signal = arguments.signal;
        match done(global, &Command::Signal { service, signal }) {
            Ok(result) => results.extend(result),
            // What is done is done: an agent that is gone gets no further signal.
            Err(refusal) if results.is_empty() => return refusal.tell(arguments.json),
            Err(refusal) => {
                tell(&results, arguments.json)?;
                return refusal.tell(false);
            }
        }
    }
    tell(&results, arguments.json)
}

/// `respawn shutdown`
pub(crate) fn shutdown(global: &Global, arguments: &Shutdown) -> anyhow::Result<ExitCode> {
    run(global, &Command::Shutdown, arguments.json)
}

/// `respawn reload SERVICE…`
pub(super) fn reload_services(
    global: &Global,
    services: &[String],
    json: bool,
) -> anyhow::Result<ExitCode> {
    match services::resolve(global, services) {
        Ok(services) => run(global, &Command::ReloadServices { services }, json),
        Err(refusal) => refusal.tell(json),
    }
}

/// Has it done for each of these services.
fn for_each(
    global: &Global,
    services: &Services,
    how: &How,
    command: impl Fn(Vec<String>) -> Command,
) -> anyhow::Result<ExitCode> {
    match services.names(global) {
        // Of none that there are, nothing is asked.
        Ok(names) if names.is_empty() => tell(&[], how.json),
        Ok(names) => run(global, &command(names), how.json),
        Err(refusal) => refusal.tell(how.json),
    }
}

/// Has it done, and tells what came of it.
fn run(global: &Global, command: &Command, json: bool) -> anyhow::Result<ExitCode> {
    match done(global, command) {
        Ok(results) => tell(&results, json),
        Err(refusal) => refusal.tell(json),
    }
}

fn done(global: &Global, command: &Command) -> Result<Vec<ServiceResult>, Refusal> {
    match ask::ask(global, command)? {
        Response::Done { results } => Ok(results),
        _ => Err(Refusal::beside_the_point()),
    }
}

/// Says nothing to a person when all went well.
fn tell(results: &[ServiceResult], json: bool) -> anyhow::Result<ExitCode> {
    let failures = failures(results);
    for result in results {
        if let Some(note) = &result.note {
            eprint_line(&format!("{}: {note}", result.service));
        }
    }
    for failure in &failures {
        eprint_line(failure);
    }
    let mut written = Ok(());
    if json {
        written = write_json(results, &mut io::stdout());
    }
    let exit_code = match failures.as_slice() {
        [] => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    };
    end(written, exit_code)
}

/// A line for each service that it could not be done for.
fn failures(results: &[ServiceResult]) -> Vec<String> {
    let failed = results.iter().filter(|result| !result.ok);
    let lines = failed.map(|result| {
        let error = result
            .error
            .as_deref()
            .unwrap_or("failed, for an unknown reason");
        format!("{}: {error}", result.service)
    });
    lines.collect()
}

fn write_json(results: &[ServiceResult], out: &mut impl Write) -> io::Result<()> {
    let ok = results.iter().all(|result| result.ok);
    let object = json!({ "ok": ok, "results": results });
    ask::write_json(&object, out)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn result(service: &str, error: Option<&str>) -> ServiceResult {
        ServiceResult {
            service: service.to_owned(),
            ok: error.is_none(),
            error: error.map(str::to_owned),
            note: None,
        }
    }

    #[test]
    fn each_failure_is_a_line() {
        let results = [
            result("web", None),
            result("db", Some("cannot run /x: Permission denied (exec)")),
            result("old", Some("no service has this name")),
        ];
        assert_eq!(
            failures(&results),
            [
                "db: cannot run /x: Permission denied (exec)",
                "old: no service has this name"
            ]
        );
        let mut bytes = Vec::new();
        write_json(&results[..1], &mut bytes).unwrap();
        assert_eq!(
            String::from_utf8(bytes).unwrap(),
            "{\"ok\":true,\"results\":[{\"error\":null,\"ok\":true,\"service\":\"web\"}]}\n"
        );
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "start",
            "restart",
            "stop",
            "stop --all web",
            "signal TERM",
            "signal SIGFOO web",
            "signal 0 web",
            "signal TERM",
            "signal TERM --all web",
            "start --all web",
            "start web[",
            "shutdown web",
        ] {
            let words = ["respawn"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(words).err();
            assert_eq!(error.map(|error| error.exit_code()), Some(2), "{line}");
        }
        for line in [
            "status",
            "status web --json",
            "start web db --no-wait",
            "stop --all",
            "stop web --json",
            "signal hup web",
            "signal 9 web",
            "signal RTMIN+1 web",
            "signal TERM web --no-wait",
            "signal TERM web db",
            "signal -9 web",
            "signal -TERM web --json",
            "signal --json -9 web",
            "signal -SIGRTMIN+1 --all",
            "signal -- -9 web",
            "start --all",
            "restart --all --no-wait",
            "start web* d[ab]",
            "reload",
            "shutdown --json",
        ] {
            let words = ["respawn"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
