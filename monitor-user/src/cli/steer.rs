//! `respawn start`, `stop`, `restart`, `signal` and `shutdown`: have the agent do something to
//! services, and tell where it failed.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use super::Global;
use super::ask::{self, Refusal, end, once_each};
use super::output::eprint_line;
use crate::control::{Command, Response, ServiceResult};
use crate::supervisor::Signal;

/// Start services
///
/// Has the agent keep them running, and returns when each runs; 0 only if all do. One that runs
/// already is left alone; one that was given up gets a fresh start. Ctrl-C ends the waiting only.
#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    #[command(flatten)]
    services: Services,
    #[command(flatten)]
    how: How,
}

/// Restart services
///
/// Stops each that runs and starts it again, and returns when each runs; 0 only if all do. One
/// that is stopped is started. Ctrl-C ends the waiting only.
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    services: Services,
    #[command(flatten)]
    how: How,
}

/// Stop services
///
/// Sends each its stop signal (SIGTERM by default), and SIGKILL to all of it after its stop timeout
/// (10 s by default), and returns when nothing is left of any; 0 only if that is so. They stay stopped until someone starts them, whatever
/// happens to the agent; a reboot begins from the config. Ctrl-C ends the waiting only.
///
/// To stop everything there are three ways: `stop --all` stops all services and leaves the agent
/// running; `shutdown` stops all services and then the agents; SIGTERM ends an agent and leaves
/// the services running, for the next agent to adopt.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["services", "all"]))]
pub(crate) struct Stop {
    /// The services' names
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Stop every service; the agent keeps running
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    how: How,
}

/// Send a signal to a service
///
/// Sends it to the service's main process, and returns at once. A service that dies of it has not
/// failed: it is started again without delay, unless its restart policy is "no".
#[derive(Debug, clap::Args)]
pub(crate) struct SignalArguments {
    /// A signal's name or number, such as SIGHUP, hup, 1 or SIGRTMIN+3
    #[arg(value_name = "SIG")]
    signal: Signal,
    /// The service's name
    service: String,
    /// Taken as by `stop`; it changes nothing, as a signal is not waited for
    #[arg(long = "no-wait")]
    _no_wait: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Stop all services, and then the agents
///
/// Returns when nothing is left of any service. Ends the agent and its spare too; whether init
/// starts them again is init's to decide: then they start the services that were not stopped
/// before. Ctrl-C ends the waiting only.
///
/// To stop everything there are three ways: `stop --all` stops all services and leaves the agent
/// running; `shutdown` stops all services and then the agents; SIGTERM ends an agent and leaves
/// the services running, for the next agent to adopt.
#[derive(Debug, clap::Args)]
pub(crate) struct Shutdown {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Services {
    /// The services' names
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct How {
    /// Return as soon as it is under way
    #[arg(long)]
    no_wait: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `respawn start`
pub(crate) fn start(global: &Global, arguments: Start) -> anyhow::Result<ExitCode> {
    let command = Command::Start {
        services: once_each(arguments.services.services),
        no_wait: arguments.how.no_wait,
    };
    run(global, &command, arguments.how.json)
}

/// `respawn restart`
pub(crate) fn restart(global: &Global, arguments: Restart) -> anyhow::Result<ExitCode> {
    let command = Command::Restart {
        services: once_each(arguments.services.services),
        no_wait: arguments.how.no_wait,
    };
    run(global, &command, arguments.how.json)
}

/// `respawn stop`
pub(crate) fn stop(global: &Global, arguments: Stop) -> anyhow::Result<ExitCode> {
    let command = Command::Stop {
        services: once_each(arguments.services),
        all: arguments.all,
        no_wait: arguments.how.no_wait,
    };
    run(global, &command, arguments.how.json)
}

/// `respawn signal`
pub(crate) fn signal(global: &Global, arguments: SignalArguments) -> anyhow::Result<ExitCode> {
    let command = Command::Signal {
        service: arguments.service,
        signal: arguments.signal,
    };
    run(global, &command, arguments.json)
}

/// `respawn shutdown`
pub(crate) fn shutdown(global: &Global, arguments: &Shutdown) -> anyhow::Result<ExitCode> {
    run(global, &Command::Shutdown, arguments.json)
}

/// Has it done. Says nothing to a person when all went well.
fn run(global: &Global, command: &Command, json: bool) -> anyhow::Result<ExitCode> {
    let results = match ask::ask(global, command) {
        Ok(Response::Done { results }) => results,
        Ok(_) => return Refusal::beside_the_point().tell(json),
        Err(refusal) => return refusal.tell(json),
    };
    let failures = failures(&results);
    for failure in &failures {
        eprint_line(failure);
    }
    let mut written = Ok(());
    if json {
        written = write_json(&results, &mut io::stdout());
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
            "signal TERM web db",
            "shutdown web",
            "reload web",
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
            "reload",
            "shutdown --json",
        ] {
            let words = ["respawn"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
