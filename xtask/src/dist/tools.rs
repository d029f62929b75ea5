//! Programs of every machine that the packaging calls, and templates.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::workspace::{output_of, run_to_end};

/// Compresses a file, which then ends with `.gz`. No name and no time go into it.
///
/// # Errors
/// When gzip fails.
pub(super) fn gzip(file: &Path) -> Result<()> {
    run_to_end(Command::new("gzip").args(["-9", "--no-name"]).arg(file))
}

/// An archive of what is in a folder, in the order of names, all of it root's.
///
/// # Errors
/// When tar fails.
pub(super) fn tar(folder: &Path, archive: &Path, epoch: u64) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--format=posix", "--sort=name"])
        .args(["--pax-option", "delete=atime,delete=ctime"])
        .args(["--owner=root:0", "--group=root:0"])
        .arg(format!("--mtime=@{epoch}"))
        .arg("--file")
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .arg(".");
    run_to_end(&mut tar)
}

/// A time as `date` prints it by this format, in UTC.
///
/// # Errors
/// When date fails.
pub(super) fn date(epoch: u64, format: &str) -> Result<String> {
    let mut date = Command::new("date");
    date.args(["--utc", &format!("--date=@{epoch}"), format])
        .env("LC_ALL", "C");
    Ok(String::from_utf8_lossy(&output_of(&mut date)?)
        .trim()
        .to_owned())
}

/// Replaces each `@name@`.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_templates_and_formats_times() {
        assert_eq!(fill("a @x@ @y@ @x@", &[("x", "1")]), "a 1 @y@ 1");
        assert_eq!(
            date(0, "+%Y-%m-%dT%H:%M:%SZ").unwrap(),
            "1970-01-01T00:00:00Z"
        );
    }
}
