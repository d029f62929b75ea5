//! `respawn check`: validates a config and says all that is wrong with it. Needs no agent.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use super::{ConfigDir, ask};
use crate::config::{self, Config, Invalid, Problem, SERVICES, Surroundings};
use crate::text::printable;

/// Validate the config, or one service file
///
/// Reports all problems at once, each with file, line and key, and warns about settings that are valid
/// but probably not what you want. Changes nothing and needs no agent. Exits with 1 if there is a
/// problem.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A config directory, a directory of service files, or a file, instead of the agent's own directory
    path: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigDir,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Validates `path`, a config directory or one file, or else the agent's `config_dir`.
///
/// The verdict on a good config goes to stdout, problems and warnings to stderr; with `json`,
/// one object with all of it goes to stdout. The exit status is 1 when the config is bad.
///
/// # Errors
/// Output that cannot be written.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments {
        path,
        config: ConfigDir { config: config_dir },
        json,
    } = arguments;
    let json = *json;
    let surroundings = Surroundings::of_this_process();
    let outcome = match path.as_deref() {
        Some(file) if !file.is_dir() => config::load_file(file, &surroundings),
        Some(dir) if config::has_service_files(dir) => config::load_services(dir, &surroundings),
        dir => config::load(dir.unwrap_or(config_dir), &surroundings),
    };
    let path = path.as_deref().unwrap_or(config_dir);
    if json {
        write_json(&outcome, &mut io::stdout().lock())?;
    } else {
        let (mut stdout, mut stderr) = (io::stdout().lock(), io::stderr().lock());
        write_text(&outcome, path, &mut stdout, &mut stderr)?;
    }
    Ok(match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

fn warnings(outcome: &Result<Config, Invalid>) -> &[Problem] {
    match outcome {
        Ok(config) => &config.warnings,
        Err(invalid) => &invalid.warnings,
    }
}

fn write_json(outcome: &Result<Config, Invalid>, out: &mut impl Write) -> io::Result<()> {
    let services: Vec<&str> = match outcome {
        Ok(config) => config.services.keys().map(AsRef::as_ref).collect(),
        Err(_) => Vec::new(),
    };
    let problems = outcome.as_ref().err().map(|invalid| &invalid.problems);
    let object = json!({
        "ok": outcome.is_ok(),
        "services": services,
        "problems": problems.map_or(&[][..], Vec::as_slice),
        "warnings": warnings(outcome),
    });
    ask::write_json(&object, out)
}

fn write_text(
    outcome: &Result<Config, Invalid>,
    path: &Path,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<()> {
    for warning in warnings(outcome) {
        writeln!(err, "warning: {warning}")?;
    }
    match outcome {
        Ok(config) => write_services(config, path, out),
        Err(invalid) => {
            writeln!(err, "{invalid}")?;
            match invalid.problems.len() {
                1 => writeln!(err, "1 problem"),
                count => writeln!(err, "{count} problems"),
            }
        }
    }
}

fn write_services(config: &Config, path: &Path, out: &mut impl Write) -> io::Result<()> {
    let names: Vec<&str> = config.services.keys().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [] if path.is_dir() => {
            let services = match config::has_service_files(path) {
                true => path.to_owned(),
                false => path.join(SERVICES),
            };
            let has_files = config::service_files(&services).is_ok_and(|files| !files.is_empty());
            let services = printable(&services.to_string_lossy());
            match has_files {
                true => writeln!(
                    out,
                    "0 services ok: the files in {services} describe none; a template needs `instances`, or \
                     links that name them"
                ),
                false => writeln!(out, "0 services ok: no *.toml file is in {services}"),
            }
        }
        [] => writeln!(out, "ok"),
        [name] => writeln!(out, "1 service ok: {name}"),
        names => writeln!(out, "{} services ok: {}", names.len(), names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// Both texts that `check` writes of a directory with these services, and its JSON.
    fn check(files: &[(&str, &str)]) -> (String, String, serde_json::Value) {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join(SERVICES)).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(SERVICES).join(name), text).unwrap();
        }
        let outcome = config::load(dir.path(), &Surroundings::of_this_process());
        let (mut out, mut err, mut json) = (Vec::new(), Vec::new(), Vec::new());
        write_text(&outcome, dir.path(), &mut out, &mut err).unwrap();
        write_json(&outcome, &mut json).unwrap();
        let text = |bytes| {
            let place = dir.path().to_str().unwrap();
            String::from_utf8(bytes).unwrap().replace(place, "DIR")
        };
        (text(out), text(err), serde_json::from_slice(&json).unwrap())
    }

    #[test]
    fn a_good_config_is_counted_and_named() {
        let good = "command = [\"/bin/sh\"]";
        let (out, err, json) = check(&[("web.toml", good), ("db.toml", good)]);
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("2 services ok: db, web\n", "")
        );
        let expected =
            json!({"ok": true, "services": ["db", "web"], "problems": [], "warnings": []});
        assert_eq!(json, expected);
        assert_eq!(check(&[("web.toml", good)]).0, "1 service ok: web\n");
        assert_eq!(
            check(&[]).0,
            "0 services ok: no *.toml file is in DIR/services\n"
        );
        assert_eq!(
            check(&[("web@.toml", good)]).0,
            "0 services ok: the files in DIR/services describe none; a template needs `instances`, or links \
             that name them\n"
        );
    }

    #[test]
    fn a_bad_config_is_told_of_in_full() {
        let (out, err, json) = check(&[
            ("web.toml", "command = [\"/bin/sh\"]\nnice = 99\n"),
            ("db.toml", "command = [\"/no/db\"]\nusr = 0\n"),
        ]);
        assert_eq!(out, "");
        assert_eq!(
            err,
            "warning: DIR/services/db.toml:1:12: command[0]: cannot find /no/db: No such file or \
             directory (os error 2), so that starting the service fails\n\
             DIR/services/db.toml:2:1: usr: unknown key; did you mean user?\n\
             DIR/services/web.toml:2:8: nice: expected an integer from -20 to 19, found the \
             integer 99\n\
             2 problems\n"
        );
        assert_eq!(
            (&json["ok"], &json["services"]),
            (&json!(false), &json!([]))
        );
        assert_eq!(json["problems"][1]["key"], "nice");
        assert_eq!(json["problems"][1]["line"], 2);
        assert_eq!(json["warnings"][0]["column"], 12);
    }
}
