//! The licences of all that is linked into the binary, in one text: most of them ask for that.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

use super::crates::{Crate, Id};

/// How files with a licence's text begin.
const BEGINNINGS: [&str; 5] = ["licen", "copying", "copyright", "notice", "unlicen"];

const HEAD: &str = "\
respawn is linked with the software below. Equal texts are shown once.

The GNU C Library, statically linked into the binaries of a release, is under the GNU Lesser
General Public License, version 2.1 or later: https://www.gnu.org/licenses/old-licenses/lgpl-2.1.html.
Its source is that of the version that the SBOM names. respawn's own
source, with which it can be linked again with another version, is this release's.

Rust's standard library, copyright the Rust Project contributors, is under MIT or Apache-2.0.
";

/// Collects the texts.
///
/// # Errors
/// When a crate's folder cannot be read.
pub(super) fn of(crates: &BTreeMap<Id, Crate>) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ((name, version), it) in crates {
        if it.checksum.is_none() {
            continue;
        }
        let title = format!("{name} {version} ({})", it.licence);
        let found = licences(&it.folder)
            .with_context(|| format!("look for licences in {}", it.folder.display()))?;
        let found = match found.is_empty() {
            true => vec!["(no text of the licence is in the crate)".to_owned()],
            false => found,
        };
        for text in found {
            let titles = texts.entry(text).or_default();
            titles.push(title.clone());
        }
    }
    let mut sections: Vec<(Vec<String>, String)> = texts
        .into_iter()
        .map(|(text, titles)| (titles, text))
        .collect();
    sections.sort();
    let sections = sections
        .iter()
        .map(|(titles, text)| format!("\n{}\n\n{}\n", titles.join("\n"), text.trim_end()));
    Ok(format!("{HEAD}{}", sections.collect::<String>()))
}

fn licences(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        if path.is_file()
            && BEGINNINGS
                .iter()
                .any(|beginning| name.starts_with(beginning))
        {
            texts.push(String::from_utf8_lossy(&fs::read(&path)?).into_owned());
        }
    }
    texts.sort();
    Ok(texts)
}
