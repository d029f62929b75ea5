//! `autostart.toml`: which services start with the agent, whatever `autostart` in their files says. Written
//! by `respawn enable` and `respawn disable`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use super::cursor::{Context, Item, Table, quoted};
use super::host::Host;
use super::problem::Diagnostics;
use super::source::{Source, Sources};
use super::{Loader, document};

/// Its name, in a config directory.
pub(super) const FILE: &str = "autostart.toml";

const HEAD: &str = "# Written by `respawn enable` and `respawn disable`.\n";

/// Has the services of a config directory start with the agent or not, as its file says.
pub(super) fn apply(loader: &mut Loader<'_>, dir: &Path) {
    let path = dir.join(FILE);
    if !super::is_there(&path) {
        return;
    }
    let what = "the file of what starts with the agent";
    loader.ownership.look(&path, what, &loader.report);
    let host = Rc::clone(&loader.host);
    let (services, enabled) = (&mut loader.services, &mut loader.enabled);
    let (places, unusable) = (&loader.places, &loader.unusable);
    read(&path, &loader.report, &host, |name, item, starts| {
        if let Some(spec) = services.get_mut(name) {
            Arc::make_mut(spec).relations.autostart = starts;
            enabled.insert(name.into(), item.key_line());
        } else if !places.contains_key(name) && !unusable.contains_key(name) {
            item.warn("no service has this name");
        }
    });
}

/// Takes each service that the file names. What is wrong with it is reported.
fn read(
    path: &Path,
    report: &Diagnostics,
    host: &Host,
    mut take: impl FnMut(&str, &Item<'_>, bool),
) {
    let Some(source) = Source::read(path, report) else {
        return;
    };
    let Some(document) = document::parse(&source, report) else {
        return;
    };
    let source = Sources::of(source.clone());
    let context = Context {
        source: &source,
        report,
        host,
    };
    for (name, item) in Table::root(context, &document).items() {
        if let Some(starts) = item.boolean() {
            take(name, &item, starts);
        }
    }
}

/// Writes down that these services start with the agent, or do not. All or none of it is written.
///
/// # Errors
/// The file cannot be read as what it is, or not be written.
pub(crate) fn set(dir: &Path, names: &[String], starts: bool) -> Result<PathBuf> {
    let path = dir.join(FILE);
    let mut all = known(&path)?;
    all.extend(names.iter().map(|name| (name.clone(), starts)));
    let lines = all
        .iter()
        .map(|(name, starts)| format!("{} = {starts}\n", quoted(name)));
    let text = HEAD.to_owned() + &lines.collect::<String>();
    let context = || format!("cannot write {}", path.display());
    write(&path, &text).with_context(context)?;
    Ok(path)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("toml.new");
    let written = fs::File::create(&draft).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    });
    if written.is_err() {
        // What failed is told.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn known(path: &Path) -> Result<BTreeMap<String, bool>> {
    let mut known = BTreeMap::new();
    if !super::is_there(path) {
        return Ok(known);
    }
    let report = Diagnostics::default();
    read(path, &report, &Host::this(), |name, _, starts| {
        known.insert(name.to_owned(), starts);
    });
    match report.finish().0.first() {
        None => Ok(known),
        Some(problem) => bail!("{problem}"),
    }
}
