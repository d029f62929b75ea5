//! `respawn show`: one service in full, as the agent has it; without an agent, as its file has it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anstyle::Style;
use clap_complete::engine::ArgValueCompleter;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::ask::{self, Refusal, end, write_json};
use super::output::eprint_line;
use super::status::{last_exit, note, state_style};
use super::{ConfigDir, Global, complete, services};
use crate::accounts::{Accounts, Group, User};
use crate::clock;
use crate::config::{self, Config, Description, Setting, Surroundings};
use crate::control::{Command, Process, Response, Shown, Socket};
use crate::report::{Age, Times};
use crate::text::{self, printable};

/// Show everything about a service
///
/// Shows its state, its processes and its cgroup, and every setting in effect with the file and line that
/// it comes from. A setting that is in no file is marked as the default. If no agent is running, shows
/// what the files say, and exits with 3.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A service's name, or a pattern such as 'web*'
    #[arg(
        required = true,
        value_name = "SERVICE",
        value_parser = services::name_or_pattern,
        add = ArgValueCompleter::new(complete::services)
    )]
    services: Vec<String>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigDir,
}

/// What is shown of one service.
#[derive(Serialize)]
#[serde(untagged)]
enum View {
    /// As the agent has it.
    Live {
        agent: bool,
        #[serde(flatten)]
        shown: Box<Shown>,
    },
    /// As its file has it.
    File {
        agent: bool,
        service: String,
        #[serde(flatten)]
        description: Description,
    },
}

/// Shows the services on stdout; one that does not exist is told of on stderr, with exit status 1.
///
/// # Errors
/// Output that cannot be written.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (views, unknown, exit_code) = match of_agent(global, &arguments.services) {
        Ok((views, unknown)) => (views, unknown, ExitCode::SUCCESS),
        Err(refusal) if refusal.is_without_agent() => {
            eprint_line(&format!(
                "{}; this is what the files say",
                refusal.message()
            ));
            match of_files(&arguments.config.config, &arguments.services) {
                Ok((views, unknown)) => (views, unknown, refusal.exit_code()),
                Err(other) => return other.tell(false),
            }
        }
        Err(refusal) => return refusal.tell(false),
    };
    let written = if arguments.json {
        write_json(&views, &mut io::stdout())
    } else {
        let texts: Vec<String> = views.iter().map(|view| view.text(clock::now())).collect();
        anstream::stdout().write_all(texts.join("\n").as_bytes())
    };
    end(written, services::tell_unknown(&unknown, exit_code))
}

/// The services as the agent has them, and the names that it does not know.
fn of_agent(global: &Global, wanted: &[String]) -> Result<(Vec<View>, Vec<String>), Refusal> {
    let names = match wanted.iter().any(|wanted| services::is_pattern(wanted)) {
        true => services::matching(wanted, &services::names(global)?)?,
        false => services::once_each(wanted),
    };
    let (mut views, mut unknown) = (Vec::new(), Vec::new());
    // One at a time: all of thousands would keep the agent from its work.
    for service in names {
        let asked = Command::Show {
            service: service.clone(),
        };
        match ask::ask(global, &asked)? {
            Response::Shown {
                service: Some(shown),
            } => {
                let agent = true;
                views.push(View::Live { agent, shown });
            }
            Response::Shown { service: None } => unknown.push(service),
            _ => return Err(Refusal::beside_the_point()),
        }
    }
    Ok((views, unknown))
}

/// The same from the files, as an agent would read them.
fn of_files(dir: &Path, wanted: &[String]) -> Result<(Vec<View>, Vec<String>), Refusal> {
    let config = read(dir)?;
    let known: Vec<String> = config.services.keys().map(ToString::to_string).collect();
    let (mut views, mut unknown) = (Vec::new(), Vec::new());
    for service in services::matching(wanted, &known)? {
        match config.describe(&service, dir) {
            Some(description) => views.push(View::File {
                agent: false,
                service,
                description,
            }),
            None => unknown.push(service),
        }
    }
    Ok((views, unknown))
}

/// Services and what is known of them; the names that there are not.
pub(super) type Described = (Vec<(String, Description)>, Vec<String>);

/// What is known of services: by the agent, or without one by the files.
pub(super) fn describe(
    global: &Global,
    config: &ConfigDir,
    wanted: &[String],
) -> Result<Described, Refusal> {
    let (views, unknown) = match of_agent(global, wanted) {
        // Who may not command the agent, or has no answer from it, can read what the files say.
        Err(refusal) => match of_files(&config.config, wanted) {
            Err(_) if !refusal.is_without_agent() => return Err(refusal),
            found => found?,
        },
        found => found?,
    };
    let described = views.into_iter().map(|view| match view {
        View::Live { shown, .. } => (shown.status.service, shown.description),
        View::File {
            service,
            description,
            ..
        } => (service, description),
    });
    Ok((described.collect(), unknown))
}

/// What can be used of a config.
fn read(dir: &Path) -> Result<Config, Refusal> {
    let invalid = match config::load(dir, &Surroundings::of_this_process()) {
        Ok(config) => return Ok(config),
        Err(invalid) => invalid,
    };
    let message = invalid.to_string();
    match invalid.usable {
        Some(usable) => Ok(*usable),
        None => Err(Refusal::new(message)),
    }
}

impl View {
    fn text(&self, now: Timestamp) -> String {
        match self {
            Self::Live { shown, .. } => {
                let changed = if shown.file_differs {
                    ", which differs from what was loaded; `respawn reload` takes it up"
                } else {
                    ""
                };
                live(shown, now) + &described(&shown.description, changed)
            }
            Self::File {
                service,
                description,
                ..
            } => {
                let bold = Style::new().bold();
                let name = printable(service);
                format!("{bold}{name}{bold:#}\n") + &described(description, "")
            }
        }
    }
}

/// A line with a name and a value.
fn fact(text: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {name:<12}{}", printable(value));
}

/// What it does at the moment.
fn live(shown: &Shown, now: Timestamp) -> String {
    let (status, bold) = (&shown.status, Style::new().bold());
    let style = state_style(status.state);
    let times = Times::in_full(TimeZone::system());
    let ago = Duration::try_from(now.duration_since(shown.since)).unwrap_or_default();
    let mut text = format!(
        "{bold}{}{bold:#}: {style}{}{style:#} since {} ({} ago)\n",
        printable(&status.service),
        status.state,
        times.of(shown.since),
        Age(ago)
    );
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            self::fact(&mut text, name, &value);
        }
    };
    fact("main pid", status.pid.map(|pid| pid.to_string()));
    fact("restarts", Some(status.restarts.to_string()));
    fact("last exit", last_exit(status, now));
    fact("note", note(status));
    fact("hint", status.hint.clone().filter(|_| !shown.file_differs));
    fact("cgroup", shown.cgroup.clone());
    for (index, socket) in status.sockets.iter().enumerate() {
        let name = if index == 0 { "sockets" } else { "" };
        fact(name, Some(of_socket(socket)));
    }
    let stored = &status.stored;
    fact("stored", (!stored.is_empty()).then(|| stored.join(", ")));
    let left_out = (shown.left_out > 0).then(|| format!("{} more", shown.left_out));
    processes(&mut text, "processes", &shown.processes, &times);
    processes(&mut text, "left alone", &shown.left_alone, &times);
    if let Some(left_out) = left_out {
        self::fact(&mut text, "", &left_out);
    }
    text
}

/// "127.0.0.1:80 (tcp, http), held"
fn of_socket(socket: &Socket) -> String {
    let Socket {
        family,
        address,
        name,
        held,
    } = socket;
    let held = if *held { "held" } else { "not open" };
    format!("{address} ({family}, {name}), {held}")
}

fn processes(text: &mut String, name: &str, processes: &[Process], times: &Times) {
    for (index, process) in processes.iter().enumerate() {
        let Process { pid, comm, .. } = process;
        let started = times.of(process.start_time);
        let name = if index == 0 { name } else { "" };
        fact(text, name, &format!("{pid:>7}  since {started}  {comm}"));
    }
}

/// What its files say.
fn described(description: &Description, changed: &str) -> String {
    let mut text = String::new();
    if let Some(file) = &description.file {
        fact(&mut text, "file", &format!("{file}{changed}"));
    }
    for (index, drop_in) in description.drop_ins.iter().enumerate() {
        let name = if index == 0 { "drop-ins" } else { "" };
        fact(&mut text, name, drop_in);
    }
    if let Some(program) = &description.program {
        fact(&mut text, "program", program);
    }
    if let Some(why) = &description.unusable {
        fact(&mut text, "unusable", why);
    }
    let accounts = Accounts::of_this_host();
    for setting in &description.settings {
        let mut lines = setting.to_toml();
        if lines.is_empty() {
            let none = if setting.hidden { "hidden" } else { "not set" };
            let place = setting.file.as_deref().zip(setting.line);
            lines.push((format!("# {} is {none}", setting.key), place));
        }
        for (line, place) in lines {
            let line = text::padded(&printable(&line), WIDTH);
            let origin = origin(place, description.file.as_deref());
            let name = name(setting, &accounts);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "    {line}  # {origin}{name}");
        }
    }
    text
}

/// A user's or group's name, as ", www-data".
fn name(setting: &Setting, accounts: &Accounts) -> String {
    let number = setting.value.as_u64();
    let Some(number) = number.and_then(|number| u32::try_from(number).ok()) else {
        return String::new();
    };
    let user = |user: User| user.name;
    let group = |group: Group| group.name;
    let name = match setting.key.as_str() {
        "user" => accounts.user_of(number).map(|found| found.map(user)),
        "group" => accounts.group_of(number).map(|found| found.map(group)),
        _ => Ok(None),
    };
    match name {
        Ok(Some(name)) => format!(", {}", printable(&name)),
        // One without a name is shown as what it is.
        Ok(None) | Err(_) => String::new(),
    }
}

/// Of most settings, so that what they are from stands in a column.
const WIDTH: usize = 40;

/// "default", "line 3", "/etc/respawn/agent.toml:2"
fn origin(place: Option<(&str, usize)>, own_file: Option<&str>) -> String {
    match place {
        Some((file, line)) if Some(file) == own_file => format!("line {line}"),
        Some((file, line)) => printable(&format!("{file}:{line}")),
        None => "default".to_owned(),
    }
}
