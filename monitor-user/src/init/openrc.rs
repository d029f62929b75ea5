//! OpenRC: scripts in `/etc/init.d`, kept by supervise-daemon.
//!
//! What each variable is for, from supervise-daemon(8), openrc-run(8) and `sh/supervise-daemon.sh`:
//! - `respawn_max=0`: no limit; by default the eleventh start is the last;
//! - no `respawn_delay`: it starts again at once by default, and refuses to be told 0;
//! - `rc_cgroup_cleanup="no"`, whatever `/etc/rc.conf` says: stopping kills no descendants;
//! - `error_log`: supervise-daemon drops what is said otherwise;
//! - `after`, not `need`: Debian has no `localmount`, and a start would be refused for it.
//!
//! supervise-daemon is a process as others are: who kills it leaves its agent running, and nobody
//! to start that again. The spare has another supervise-daemon. Where PID 1 reads an inittab,
//! that is the better place.

use anyhow::Result;

use super::plan::{Ask, Plan, header};
use super::{InitEntry, InitSystem, Kept, Program, Site};

const SCRIPTS: &str = "/etc/init.d";
const RUNLEVEL: &str = "/etc/runlevels/default";

pub(super) struct Openrc;

impl InitSystem for Openrc {
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan> {
        site.root.first_dir(&[RUNLEVEL], "OpenRC runlevel")?;
        let mut plan = Plan::default();
        for kept in entry.program().kept() {
            let name = kept.name;
            let path = format!("{SCRIPTS}/{name}");
            plan.write(&site.root, &path, &script(*kept, entry), 0o755)?;
            // What `rc-update add` makes; it needs no running OpenRC.
            plan.link(&site.root, &format!("{RUNLEVEL}/{name}"), &path)?;
            if site.is_running {
                // Refused while a boot or a runlevel's change starts it: also good.
                plan.after
                    .push(Ask::attempt(&["rc-service", name, "start"]));
            }
        }
        let status = entry.program().names();
        let status: Vec<_> = status
            .map(|name| format!("rc-service {name} status"))
            .collect();
        plan.look_at = vec![status.join("; "), "/var/log/respawn.log".to_owned()];
        if site.is_running && entry.program() == Program::Agent {
            plan.notes.push(
                "supervise-daemon keeps the agents, and nobody keeps supervise-daemon; where PID 1 reads /etc/inittab, \
                 --init sysvinit or busybox holds better"
                    .to_owned(),
            );
        }
        Ok(plan)
    }

    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan> {
        let mut plan = Plan::default();
        // The spare first: it would take over.
        for name in program.names().rev() {
            let path = format!("{SCRIPTS}/{name}");
            plan.unlink(&site.root, &format!("{RUNLEVEL}/{name}"), &path);
            if plan.remove(&site.root, &path)? && site.is_running {
                plan.before
                    .push(Ask::attempt(&["rc-service", name, "stop"]));
            }
        }
        Ok(plan)
    }
}

fn script(kept: Kept, entry: &InitEntry) -> String {
    format!(
        "\
#!/sbin/openrc-run
# {header}
description=\"respawn {role}\"
supervisor=supervise-daemon
command=\"{binary}\"
command_args=\"{arguments}\"
pidfile=\"/run/${{RC_SVCNAME}}.pid\"
respawn_max=0
rc_cgroup_cleanup=\"no\"
error_log=\"/var/log/respawn.log\"

depend() {{
	after localmount bootmisc cgroups
}}
",
        header = header(entry.program()),
        role = kept.role,
        binary = entry.binary(),
        arguments = entry.arguments()
    )
}
