//! `respawn import`: service files from systemd's units, inittabs, supervisord's config, and run directories of
//! runit and s6.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{ConfigDir, ask};
use crate::config::{self, Surroundings};
use crate::import::{self, Finding, Format, Host, Imported, Severity};
use crate::text::printable;

/// Write service files from systemd units, an inittab, supervisord's config, or runit's and s6's directories
///
/// Reports each setting that is lost or approximated, and why. Overwrites nothing, and runs nothing of
/// what it reads. Exits with 1 if something important was lost.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Unit files (an instance of a template by its own name), inittabs, supervisord.conf, run directories, or
    /// directories of these
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What the files are for, if their names and contents do not say
    #[arg(long, value_name = "FORMAT")]
    from: Option<Format>,
    /// Print the service files, and write none
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    config: ConfigDir,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Service files go to the config directory, the report to stderr; with `--dry-run` the files go to
/// stdout, with `--json` all of it.
///
/// # Errors
/// A file that cannot be read or written, or is there already.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let config = &arguments.config.config;
    let surroundings = Surroundings::of_this_process();
    // One that has problems is the agent's and not ours; its names count all the same.
    let existing = match config::load(config, &surroundings) {
        Ok(config) => Some(config),
        Err(invalid) => invalid.usable.map(|config| *config),
    };
    let existing = existing.map_or_else(BTreeSet::new, |config| {
        let names = config.services.keys();
        names.map(ToString::to_string).collect()
    });
    let host = Host {
        name: fs::read_to_string("/proc/sys/kernel/hostname")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        existing,
        surroundings,
    };
    let mut texts = Vec::new();
    for path in &arguments.paths {
        texts.extend(import::read(path)?);
    }
    let imported = import::convert(&texts, arguments.from, &host);
    let written = match arguments.dry_run {
        true => Vec::new(),
        false => import::write(&imported.services, &host.existing, config)?,
    };
    if arguments.json {
        write_json(&imported, &written, &mut io::stdout().lock())?;
    } else {
        if arguments.dry_run {
            let files = imported.services.iter().map(|service| {
                let name = format!("{}/{}.toml", config::SERVICES, service.name);
                format!("# {}\n{}", printable(&name), service.to_toml())
            });
            let files: Vec<_> = files.collect();
            io::stdout().lock().write_all(files.join("\n").as_bytes())?;
        }
        write_report(&imported, &written, &mut io::stderr().lock())?;
    }
    Ok(match imported.count(Severity::Lost) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn write_json(imported: &Imported, written: &[PathBuf], out: &mut impl Write) -> io::Result<()> {
    let mut files = written.iter();
    let services = imported.services.iter().map(|service| {
        let is_good = service.refused.is_none();
        let file = if is_good { files.next() } else { None };
        json!({
            "name": service.name,
            "file": file.map(|path| path.to_string_lossy()),
            "refused": service.refused,
            "toml": service.to_toml(),
        })
    });
    let count = |severity: Severity| imported.count(severity);
    let object = json!({
        "ok": count(Severity::Lost) == 0,
        "services": services.collect::<Vec<_>>(),
        "findings": imported.findings,
        "summary": {
            "lost": count(Severity::Lost),
            "approximated": count(Severity::Approximated),
            "hardening": count(Severity::Hardening),
            "harmless": count(Severity::Harmless),
        },
    });
    ask::write_json(&object, out)
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Lost => "lost",
        Severity::Approximated => "approximated",
        Severity::Hardening => "hardening",
        Severity::Harmless => "harmless",
    }
}

/// "lost: /etc/x.service:12: web: ExecStartPre=/bin/x: there are no steps before the start"
fn line(finding: &Finding) -> String {
    let mut line = format!("{}: {}", word(finding.severity), finding.file);
    if let Some(number) = finding.line {
        line.push_str(&format!(":{number}"));
    }
    for part in [
        finding.service.as_deref().unwrap_or_default(),
        &finding.setting,
    ] {
        if !part.is_empty() {
            line.push_str(": ");
            line.push_str(part);
        }
    }
    format!("{}: {}", printable(&line), printable(&finding.message))
}

fn write_report(imported: &Imported, written: &[PathBuf], out: &mut impl Write) -> io::Result<()> {
    for finding in &imported.findings {
        writeln!(out, "{}", line(finding))?;
    }
    for path in written {
        writeln!(out, "wrote {}", printable(&path.to_string_lossy()))?;
    }
    let counts =
        Severity::ALL.map(|severity| format!("{} {}", imported.count(severity), word(severity)));
    let services = match imported.services.len() {
        1 => "1 service".to_owned(),
        several => format!("{several} services"),
    };
    writeln!(out, "{services}; settings: {}", counts.join(", "))
}
