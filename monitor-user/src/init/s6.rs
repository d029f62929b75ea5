//! s6: service directories in the directory that s6-svscan looks at.
//!
//! What it does, from s6-supervise(8), s6-svscan(8) and measured with 2.11: `run` starts again a
//! second after its last start at the latest, for ever; it runs in a session of its own, and
//! stopping it signals that process alone; `s6-svscanctl -a` has the directory looked at.
//!
//! The directory is often in `/run`: s6-linux-init then copies it from its `run-image` at boot, so
//! that the entry goes to both.

use anyhow::Result;

use super::plan::{Ask, Change, Plan};
use super::{InitEntry, InitSystem, Program, Site};

/// Where s6-svscan usually looks.
const SCANNED: [&str; 3] = ["/run/service", "/service", "/etc/s6/service"];
/// What s6-linux-init copies to `/run` at boot.
const RUN_IMAGE: &str = "/etc/s6-linux-init/current/run-image";

pub(super) struct S6;

impl S6 {
    /// Where the entry goes: what is looked at now, and what will be after a boot.
    fn directories(site: &Site) -> Vec<String> {
        let image = format!("{RUN_IMAGE}/service");
        let now = site.scan_dir.as_deref().or_else(|| {
            let mut known = SCANNED.into_iter();
            known.find(|path| site.root.is_dir(path))
        });
        let image = site.root.is_dir(&image).then_some(image);
        image.into_iter().chain(now.map(str::to_owned)).collect()
    }
}

impl InitSystem for S6 {
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan> {
        let mut plan = Plan::default();
        let directories = Self::directories(site);
        if directories.is_empty() {
            site.root.first_dir(&SCANNED, "directory for s6-svscan")?;
        }
        for directory in &directories {
            for name in entry.program().names() {
                let run = format!("{directory}/{name}/run");
                plan.write(&site.root, &run, &entry.run_script(), 0o755)?;
            }
        }
        if let Some(now) = directories.last() {
            if directories.len() == 1 && now.starts_with("/run/") {
                plan.notes.push(format!(
                    "{now} is made anew at each boot, and {RUN_IMAGE} is not there to make it from: \
                     have your boot scripts call `respawn install --init s6{}`",
                    match entry.program() {
                        Program::Agent => "",
                        Program::Recorder => " --recorder",
                    }
                ));
            }
            if site.is_running {
                plan.after = vec![Ask::run(&["s6-svscanctl", "-a", now])];
            }
            let status = entry.program().names();
            let status: Vec<_> = status
                .map(|name| format!("s6-svstat {now}/{name}"))
                .collect();
            plan.look_at = vec![status.join("; "), "s6-svscan's log".to_owned()];
        }
        Ok(plan)
    }

    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan> {
        let mut plan = Plan::default();
        let directories = Self::directories(site);
        // The spare first: it would take over.
        for name in program.names().rev() {
            for directory in &directories {
                let service = format!("{directory}/{name}");
                if !plan.remove(&site.root, &format!("{service}/run"))? {
                    continue;
                }
                if site.is_running && site.root.is_dir(&format!("{service}/supervise")) {
                    // Down for good, and s6-supervise with it.
                    plan.before
                        .push(Ask::attempt(&["s6-svc", "-wD", "-dx", &service]));
                }
                plan.changes.push(Change::RemoveDir {
                    path: service.into(),
                });
            }
        }
        if site.is_running
            && !plan.changes.is_empty()
            && let Some(now) = directories.last()
        {
            plan.after = vec![Ask::run(&["s6-svscanctl", "-an", now])];
        }
        Ok(plan)
    }
}
