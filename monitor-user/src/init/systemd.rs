//! systemd: two units in `/etc/systemd/system`. It reads no inittab.
//!
//! What each line is for, from systemd.unit(5), systemd.service(5) and systemd.resource-control(5):
//! - `StartLimitIntervalSec=0`: by default the sixth start within 10 s is the last one for good;
//! - `Restart=always`, `RestartSec=0`: 16–20 ms (measured) instead of 100 ms more;
//! - `Type=notify`: it has started when it says so, as the agent or as a spare that waits;
//!   `WatchdogSec=30s`: it says twice in that time that it gets on, or is ended and started again.
//!   Its spare has taken over long before that; this helps where none runs;
//! - `KillMode=process`: only the agent is signalled when its unit stops; services outlive it;
//! - `OOMPolicy=continue`: a service killed for want of memory ends no unit;
//! - `Delegate=yes`: below the unit's cgroup the agent may make its own, if it makes them there;
//! - `TasksMax=infinity`, for services that are in the unit's cgroup;
//! - no `PartOf=` between the two: systemd starts a unit again by a restart job, which would take
//!   the other one along.

use anyhow::Result;

use super::plan::{Ask, HEADER, Plan};
use super::{Entry, InitSystem, NAMES, Site};

const UNITS: &str = "/etc/systemd/system";
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

pub(super) struct Systemd;

impl InitSystem for Systemd {
    fn install(&self, site: &Site, entry: &Entry) -> Result<Plan> {
        let mut plan = Plan::default();
        for name in NAMES {
            let path = format!("{UNITS}/{name}.service");
            plan.write(&site.root, &path, &unit(name, entry), 0o644)?;
            // What `systemctl enable` makes; it needs no running systemd.
            plan.link(&site.root, &format!("{WANTS}/{name}.service"), &path)?;
        }
        if site.is_running {
            plan.after = vec![
                Ask::run(&["systemctl", "daemon-reload"]),
                Ask::run(&[
                    "systemctl",
                    // Whether it comes up is looked at by the caller, who has less patience.
                    "--no-block",
                    "start",
                    "respawn.service",
                    "respawn-spare.service",
                ]),
            ];
        }
        plan.look_at = [
            "systemctl status respawn.service respawn-spare.service".to_owned(),
            "journalctl -u respawn -u respawn-spare".to_owned(),
        ]
        .into();
        Ok(plan)
    }

    fn uninstall(&self, site: &Site) -> Result<Plan> {
        let mut plan = Plan::default();
        for name in NAMES {
            let path = format!("{UNITS}/{name}.service");
            plan.unlink(&site.root, &format!("{WANTS}/{name}.service"), &path);
            plan.remove(&site.root, &path)?;
        }
        if site.is_running && !plan.changes.is_empty() {
            // The spare first: it would take over.
            plan.before = vec![
                Ask::attempt(&["systemctl", "stop", "respawn-spare.service"]),
                Ask::attempt(&["systemctl", "stop", "respawn.service"]),
            ];
            plan.after = vec![Ask::run(&["systemctl", "daemon-reload"])];
        }
        Ok(plan)
    }
}

fn unit(name: &str, entry: &Entry) -> String {
    let (role, other) = if name == NAMES[0] {
        ("agent", NAMES[1])
    } else {
        ("spare agent", NAMES[0])
    };
    format!(
        "\
# {HEADER}
# Services outlive this unit, and {other}.service takes over from it: stop both to have no agent.
[Unit]
Description=respawn {role}
StartLimitIntervalSec=0

[Service]
Type=notify
TimeoutStartSec=10min
WatchdogSec=30s
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=0
KillMode=process
OOMPolicy=continue
Delegate=yes
TasksMax=infinity

[Install]
WantedBy=multi-user.target
",
        command = entry.command()
    )
}
