//! dinit: files in `/etc/dinit.d`, wanted by `boot`.
//!
//! What each line is for, from dinit-service(5):
//! - `restart = true`, `smooth-recovery = true`: the process is started again without the service
//!   stopping;
//! - `restart-limit-count = 0`: no limit; by default the fourth restart within 10 s is refused;
//! - `restart-delay = 0`: at once; by default 0.2 s after the last start;
//! - `options = signal-process-only`: stopping signals no process group.

use anyhow::{Result, bail};

use super::plan::{Ask, Plan, header};
use super::{InitEntry, InitSystem, Program, Site};

const SERVICES: &str = "/etc/dinit.d";
const BOOT: &str = "/etc/dinit.d/boot";
/// Where `dinitctl enable` puts its links, unless the boot service says otherwise.
const WANTED: &str = "boot.d";

pub(super) struct Dinit;

impl InitSystem for Dinit {
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan> {
        site.root
            .first_dir(&[SERVICES], "directory of dinit's services")?;
        let mut plan = Plan::default();
        let Some(wanted) = wanted(site)? else {
            bail!(
                "{} names no directory in {SERVICES} by `waits-for.d`, so that dinit would start nothing of ours at boot; \
                 add the line `waits-for.d = {WANTED}` to it, then install again",
                site.root.shown(BOOT)
            );
        };
        for name in entry.program().names() {
            plan.write(
                &site.root,
                &format!("{SERVICES}/{name}"),
                &service(entry),
                0o644,
            )?;
            let link = format!("{SERVICES}/{wanted}/{name}");
            plan.link(&site.root, &link, &format!("../{name}"))?;
            if site.is_running {
                plan.after.push(Ask::run(&["dinitctl", "start", name]));
            }
        }
        let status = entry.program().names();
        let status: Vec<_> = status
            .map(|name| format!("dinitctl status {name}"))
            .collect();
        plan.look_at = vec![status.join("; "), "/var/log/respawn.log".to_owned()];
        Ok(plan)
    }

    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan> {
        let mut plan = Plan::default();
        let wanted = wanted(site)?.unwrap_or_else(|| WANTED.to_owned());
        // The spare first: it would take over.
        for name in program.names().rev() {
            let link = format!("{SERVICES}/{wanted}/{name}");
            plan.unlink(&site.root, &link, &format!("../{name}"));
            if plan.remove(&site.root, &format!("{SERVICES}/{name}"))? && site.is_running {
                plan.before.push(Ask::attempt(&["dinitctl", "stop", name]));
                plan.after.push(Ask::attempt(&["dinitctl", "unload", name]));
            }
        }
        Ok(plan)
    }
}

/// The directory in which the boot service looks for what to wait for, if it is one of dinit's.
fn wanted(site: &Site) -> Result<Option<String>> {
    let boot = site.root.read(BOOT)?.unwrap_or_default();
    let boot = String::from_utf8_lossy(&boot);
    let mut settings = boot.lines().filter_map(|line| {
        let (key, path) = line.split_once(['=', ':'])?;
        // A later one adds to an earlier one; `+=` says so.
        (key.trim().trim_end_matches('+').trim_end() == "waits-for.d").then(|| path.trim())
    });
    Ok(settings.find_map(|path| {
        let inside = path.strip_prefix("/etc/dinit.d/").unwrap_or(path);
        let name = inside.trim_end_matches('/');
        (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
    }))
}

fn service(entry: &InitEntry) -> String {
    format!(
        "\
# {header}
type = process
command = {command}
restart = true
smooth-recovery = true
restart-delay = 0
restart-limit-count = 0
options = signal-process-only
logfile = /var/log/respawn.log
",
        header = header(entry.program()),
        command = entry.command()
    )
}
