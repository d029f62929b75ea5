//! runit: directories in `/etc/sv`, linked into the directory that runsvdir looks at.
//!
//! What it does, from runsv(8), runsvdir(8) and measured with 2.1.2: `run` starts again a second
//! after its last start at the latest (6 ms if it was up longer), for ever; runsvdir looks for new
//! links every 5 s; a runsv whose link is gone ends its `run` with SIGTERM, and nothing else.

use anyhow::Result;

use super::plan::{Ask, Change, Plan};
use super::{InitEntry, InitSystem, Program, Site};

const SERVICES: &str = "/etc/sv";
/// Debian's, Void's, that of runit's own documentation, and what Void's link leads to at boot.
const LINKS: [&str; 4] = [
    "/etc/service",
    "/var/service",
    "/service",
    "/etc/runit/runsvdir/default",
];

pub(super) struct Runit;

impl Runit {
    fn links<'a>(&self, site: &'a Site) -> Result<&'a str> {
        match &site.scan_dir {
            Some(path) => Ok(path),
            None => site.root.first_dir(&LINKS, "directory for runsvdir"),
        }
    }
}

impl InitSystem for Runit {
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan> {
        let links = self.links(site)?;
        let mut plan = Plan::default();
        for name in entry.program().names() {
            let directory = format!("{SERVICES}/{name}");
            let run = format!("{directory}/run");
            plan.write(&site.root, &run, &entry.run_script(), 0o755)?;
            // Last, so that runsv finds it whole.
            plan.link(&site.root, &format!("{links}/{name}"), &directory)?;
        }
        let paths = entry.program().names();
        let paths: Vec<_> = paths.map(|name| format!("{links}/{name}")).collect();
        plan.look_at = vec![
            format!("sv status {}", paths.join(" ")),
            "runsvdir's log: what `ps` shows beside it".to_owned(),
        ];
        Ok(plan)
    }

    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan> {
        let mut plan = Plan::default();
        let scanned = site.scan_dir.as_deref();
        // The spare first: it would take over.
        for name in program.names().rev() {
            let directory = format!("{SERVICES}/{name}");
            for links in scanned
                .into_iter()
                .chain(LINKS.into_iter().filter(|links| Some(*links) != scanned))
            {
                plan.unlink(&site.root, &format!("{links}/{name}"), &directory);
            }
            if plan.remove(&site.root, &format!("{directory}/run"))? {
                if site.is_running {
                    // Ends runsv too, which otherwise goes on in a directory that is gone.
                    plan.before.push(Ask::attempt(&["sv", "exit", &directory]));
                }
                plan.changes.push(Change::RemoveDir {
                    path: directory.into(),
                });
            }
        }
        Ok(plan)
    }
}
