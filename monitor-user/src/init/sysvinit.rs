//! sysvinit: `respawn` lines in `/etc/inittab`.
//!
//! What it takes, from inittab(5) and `src/init.c` of 3.06:
//! - an id has 1 to 4 characters and is used once, in the files of `/etc/inittab.d` too; a command
//!   has at most 127 characters;
//! - a command starts again as soon as init has reaped it (2 ms, measured), but the tenth start
//!   within 120 s of the first puts its line aside for 300 s (`MAXSPAWN`, `TESTTIME`,
//!   `SLEEPTIME`); SIGHUP counts afresh: see `rearm`;
//! - a line that is removed, or not of the new runlevel, has its process's whole group killed
//!   (SIGTERM, 3 s later SIGKILL): services have sessions of their own and stay. A SIGHUP that
//!   comes until they are gone is forgotten, so it is sent again;
//! - a changed command counts from its next start on.

use anyhow::{Context, Result, bail};

use super::inittab::{Block, Dialect, Inittab, SYSVINIT_PROCESS, ids_in};
use super::plan::{Ask, Change, Plan};
use super::{InitEntry, InitSystem, Program, Root, Site};

pub(super) const INITTAB: &str = "/etc/inittab";
const MORE_LINES: &str = "/etc/inittab.d";
/// Those of normal work; agents end before `rc 0` and `rc 6` end what is left.
const RUNLEVELS: &str = "2345";

pub(super) struct Sysvinit;

impl InitSystem for Sysvinit {
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan> {
        let command = entry.command();
        InitEntry::check_length(&command, SYSVINIT_PROCESS, "sysvinit")?;
        let Some(text) = site.root.read(INITTAB)? else {
            bail!(
                "{} is not there, and sysvinit does not boot without it; is this --init sysvinit?",
                site.root.shown(INITTAB)
            );
        };
        let inittab = parse(&site.root, &text, Dialect::Sysvinit, entry.program())?;
        let count = entry.program().kept().len();
        let ids = inittab.ids(count, &ids_elsewhere(&site.root)?);
        let lines: Vec<String> = ids
            .iter()
            .map(|id| format!("{id}:{RUNLEVELS}:respawn:{command}"))
            .collect();
        if lines.len() != count {
            bail!("{}: no id is free", site.root.shown(INITTAB));
        }
        let mut plan = install_in_inittab(site, &text, &inittab, &lines)?;
        plan.look_at = [
            "what init says on the console, and /var/log/syslog".to_owned(),
            format!("`{command}` by hand, for what it says"),
        ]
        .into();
        Ok(plan)
    }

    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan> {
        uninstall_from_inittab(site, Dialect::Sysvinit, program)
    }
}

/// Reads it, and names the file in what is wrong with it.
pub(super) fn parse<'a>(
    root: &Root,
    text: &'a [u8],
    dialect: Dialect,
    program: Program,
) -> Result<Inittab<'a>> {
    Inittab::parse(text, dialect, program).with_context(|| root.shown(INITTAB))
}

const BACKUP: &str = "/etc/inittab.respawn-backup";

/// Has these lines be our block. A copy of the file as it was before the first install is kept; one
/// that is there stays.
pub(super) fn install_in_inittab(
    site: &Site,
    text: &[u8],
    inittab: &Inittab<'_>,
    lines: &[String],
) -> Result<Plan> {
    let mut plan = Plan::default();
    if !inittab.is_installed() && site.root.read(BACKUP)?.is_none() {
        plan.changes.push(Change::Backup {
            path: BACKUP.into(),
            of: INITTAB.into(),
            content: text.to_vec(),
        });
    }
    plan.edit(
        INITTAB,
        Some(text.to_vec()),
        inittab.with_block(lines),
        0o644,
    );
    // Also when nothing changes: the lines may have been put aside.
    plan.after.extend(site.is_running.then_some(Ask::Hangup));
    Ok(plan)
}

/// Removes our block, and the backup once it says nothing more than the file. Lines that are not
/// ours are of no interest here.
pub(super) fn uninstall_from_inittab(
    site: &Site,
    dialect: Dialect,
    program: Program,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let Some(text) = site.root.read(INITTAB)? else {
        return Ok(plan);
    };
    let find = |text, program| Block::find(text, program).with_context(|| site.root.shown(INITTAB));
    let block = find(&text, program)?;
    if block.dialect() != Some(dialect) {
        return Ok(plan);
    }
    let without = block.taken_out();
    let other = match program {
        Program::Agent => Program::Recorder,
        Program::Recorder => Program::Agent,
    };
    let other = find(&without, other)?;
    // The other program's entry still needs it.
    if other.dialect().is_none()
        && let Some(backup) = site.root.read(BACKUP)?
    {
        if backup == without {
            plan.changes.push(Change::RemoveBackup {
                path: BACKUP.into(),
            });
        } else {
            plan.notes.push(format!(
                "{} stays: the file has changed since, beside our lines",
                site.root.shown(BACKUP)
            ));
        }
    }
    plan.edit(INITTAB, Some(text.clone()), without, 0o644);
    plan.after.extend(site.is_running.then_some(Ask::Hangup));
    Ok(plan)
}

fn ids_elsewhere(root: &Root) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for name in root.names(MORE_LINES) {
        if name.ends_with(".tab")
            && let Some(text) = root.read(&format!("{MORE_LINES}/{name}"))?
        {
            ids.extend(ids_in(&text));
        }
    }
    Ok(ids)
}
