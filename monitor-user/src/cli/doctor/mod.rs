//! `respawn doctor`: what works on this host, what does not, why, and what to do about it.
//!
//! Tries things rather than asking for versions, and changes nothing. Needs no agent and no rights.

mod checks;
mod trial;

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use self::checks::{CHECKS, Host};
use super::Global;
use super::unpin::Known;
use crate::text::{self, printable};

/// Show what works on this host, what does not, why, and how to fix it
///
/// Exits with 0 if the agent can do all of its work here, and with 1 if not; the last line says what is
/// missing then. It changes and mounts nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Be the process whose exit the self-test sees
    #[arg(long, hide = true)]
    test_child: bool,
    /// Be the process that mounts a bpf file system there, where nobody else sees it
    #[arg(long, hide = true, value_name = "DIR")]
    test_mount: Option<PathBuf>,
}

/// What a check has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Works,
    /// It works in part, or not as well as it could.
    Limited,
    /// It does not work.
    Missing,
    /// It cannot be found out.
    Unknown,
}

/// What would not work without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Need {
    /// Any agent at all.
    Agent,
    /// The kernel programs.
    Ebpf,
    /// A part of the agent's work, in words.
    #[serde(untagged)]
    Part(&'static str),
    /// Nothing, or nothing that is not said by another check.
    #[serde(untagged)]
    Nothing(()),
}

/// One line of the table in `checks`.
struct Check {
    name: &'static str,
    need: Need,
    look: fn(&Host<'_>) -> Finding,
}

/// What one check has come to.
#[derive(Debug, Clone, PartialEq)]
struct Finding {
    verdict: Verdict,
    /// What it is like, or why it is not as it should be, in a line.
    detail: String,
    /// What to do about it.
    advice: Option<String>,
    /// What it was found of, a line each.
    list: Vec<String>,
}

impl Finding {
    fn new(verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            detail: printable(&detail.into()),
            advice: None,
            list: Vec::new(),
        }
    }

    fn works(detail: impl Into<String>) -> Self {
        Self::new(Verdict::Works, detail)
    }

    fn limited(detail: impl Into<String>) -> Self {
        Self::new(Verdict::Limited, detail)
    }

    fn missing(detail: impl Into<String>) -> Self {
        Self::new(Verdict::Missing, detail)
    }

    fn unknown(detail: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, detail)
    }

    fn advise(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(printable(&advice.into())),
            ..self
        }
    }

    fn list(self, list: Vec<String>) -> Self {
        Self { list, ..self }
    }
}

/// All of it.
#[derive(Debug, Serialize)]
struct DoctorReport {
    kernel: String,
    /// An agent can run here.
    agent: bool,
    /// It sees exits by its kernel programs.
    ebpf: bool,
    /// It can do all of its work.
    full: bool,
    /// What it cannot do.
    lost: Vec<&'static str>,
    checks: Vec<CheckLine>,
    /// The sets of pins of all agents, as `unpin` shows them.
    pins: Vec<Value>,
}

#[derive(Debug, Serialize)]
struct CheckLine {
    name: &'static str,
    verdict: Verdict,
    needed_for: Need,
    detail: String,
    advice: Option<String>,
    /// For a person; a program has the facts.
    #[serde(skip)]
    list: Vec<String>,
}

impl CheckLine {
    fn is_lacking(&self) -> bool {
        !matches!(self.verdict, Verdict::Works | Verdict::Limited)
    }
}

/// What an agent without kernel programs does not do.
const WITHOUT_EBPF: [&str; 3] = [
    "who ended a service, if it was not itself",
    "the early event, and with it overlapping restarts",
    "the causes of exits while no agent is running",
];

/// Runs every check.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.test_child {
        return Ok(trial::be_the_child());
    }
    if let Some(target) = &arguments.test_mount {
        return trial::mount_unseen(target).map(|()| ExitCode::SUCCESS);
    }
    let report = DoctorReport::of(&Host::look(global)?);
    let text = if arguments.json {
        text::json(&report)? + "\n"
    } else {
        report.table()
    };
    match anstream::AutoStream::auto(io::stdout()).write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(if report.full {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl DoctorReport {
    fn of(host: &Host<'_>) -> Self {
        let checks = CHECKS.iter().map(|check| {
            let Finding {
                verdict,
                detail,
                advice,
                list,
            } = (check.look)(host);
            CheckLine {
                name: check.name,
                verdict,
                needed_for: check.need,
                detail,
                advice,
                list,
            }
        });
        let pins = host.pins().iter().map(Known::facts).collect();
        Self {
            pins,
            ..Self::from_checks(host.kernel().to_owned(), checks.collect())
        }
    }

    /// Draws the conclusions.
    fn from_checks(kernel: String, checks: Vec<CheckLine>) -> Self {
        let lacking = || checks.iter().filter(|line| line.is_lacking());
        let has = |need: Need| !lacking().any(|line| line.needed_for == need);
        let (agent, ebpf) = (has(Need::Agent), has(Need::Ebpf));
        let mut lost = Vec::new();
        if !ebpf {
            lost.extend(WITHOUT_EBPF);
        }
        for line in lacking() {
            if let Need::Part(part) = line.needed_for
                && !lost.contains(&part)
            {
                lost.push(part);
            }
        }
        Self {
            kernel,
            agent,
            ebpf,
            full: agent && lost.is_empty(),
            lost,
            checks,
            pins: Vec::new(),
        }
    }

    /// For a person, with colours.
    fn table(&self) -> String {
        let bold = Style::new().bold();
        let mut text = format!("{bold}{:<20} {:<8} WHY{bold:#}\n", "CHECK", "VERDICT");
        for line in &self.checks {
            let (style, verdict) = shown(line.verdict);
            // A String takes all that is written to it.
            let _ = writeln!(
                text,
                "{:<20} {style}{verdict:<8}{style:#} {}",
                line.name, line.detail
            );
            for item in &line.list {
                let _ = writeln!(text, "{:<20}     {item}", "");
            }
            if let Some(advice) = &line.advice {
                let _ = writeln!(text, "{:<20} do: {advice}", "");
            }
        }
        let _ = writeln!(text, "\n{bold}{}{bold:#}", self.conclusion());
        text
    }

    /// What follows from it all.
    fn conclusion(&self) -> String {
        if !self.agent {
            let needed = |line: &&CheckLine| line.needed_for == Need::Agent && line.is_lacking();
            let lacking = self.checks.iter().filter(needed);
            let names: Vec<&str> = lacking.map(|line| line.name).collect();
            return format!("no agent can run here: see {}", names.join(", "));
        }
        let with = if self.ebpf { "with" } else { "without" };
        match &self.lost[..] {
            [] => format!("respawn works here {with} eBPF"),
            lost => format!("respawn works here {with} eBPF; lost: {}", lost.join("; ")),
        }
    }
}

fn shown(verdict: Verdict) -> (Style, &'static str) {
    match verdict {
        Verdict::Works => (AnsiColor::Green.on_default(), "works"),
        Verdict::Limited => (AnsiColor::Yellow.on_default(), "limited"),
        Verdict::Missing => (AnsiColor::Red.on_default(), "missing"),
        Verdict::Unknown => (AnsiColor::Yellow.on_default(), "unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: [Verdict; 4]) -> DoctorReport {
        let needs = [
            Need::Agent,
            Need::Ebpf,
            Need::Part("a part"),
            Need::Nothing(()),
        ];
        let names = ["pidfd", "btf", "cgroup", "lsm"];
        let lines = names.into_iter().zip(needs).zip(verdicts);
        let lines = lines.map(|((name, needed_for), verdict)| CheckLine {
            name,
            verdict,
            needed_for,
            detail: format!("detail of {name}"),
            advice: (verdict != Verdict::Works).then(|| format!("mend {name}")),
            list: Vec::new(),
        });
        DoctorReport::from_checks("6.1".to_owned(), lines.collect())
    }

    #[test]
    fn the_conclusion_follows_from_what_is_needed() {
        use Verdict::{Limited, Missing, Unknown, Works};
        for (verdicts, conclusion, full) in [
            ([Works; 4], "respawn works here with eBPF", true),
            ([Limited; 4], "respawn works here with eBPF", true),
            (
                [Works, Works, Works, Missing],
                "respawn works here with eBPF",
                true,
            ),
            (
                [Works, Works, Missing, Works],
                "respawn works here with eBPF; lost: a part",
                false,
            ),
            (
                [Works, Unknown, Works, Works],
                "respawn works here without eBPF; lost: who ended a service, if it was not \
                 itself; the early event, and with it overlapping restarts; the causes of exits \
                 while no agent is running",
                false,
            ),
            (
                [Missing, Works, Works, Works],
                "no agent can run here: see pidfd",
                false,
            ),
        ] {
            let report = report(verdicts);
            assert_eq!(report.conclusion(), conclusion);
            assert_eq!(report.full, full, "{conclusion}");
        }
    }

    #[test]
    fn advice_stands_below_what_does_not_work() {
        let report = report([
            Verdict::Works,
            Verdict::Missing,
            Verdict::Works,
            Verdict::Unknown,
        ]);
        let table = anstream::adapter::strip_str(&report.table()).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "CHECK                VERDICT  WHY");
        assert_eq!(lines[1], "pidfd                works    detail of pidfd");
        assert_eq!(lines[2], "btf                  missing  detail of btf");
        assert_eq!(lines[3], "                     do: mend btf");
        assert_eq!(lines.len(), 9);
    }

    #[test]
    fn json_tells_what_each_check_is_needed_for() {
        let report = serde_json::to_value(report([Verdict::Works; 4])).unwrap();
        let needs: Vec<_> = (0..4)
            .map(|i| report["checks"][i]["needed_for"].clone())
            .collect();
        assert_eq!(
            serde_json::json!(needs),
            serde_json::json!(["agent", "ebpf", "a part", null])
        );
    }
}
