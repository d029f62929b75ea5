//! systemd: units in `/etc/systemd/system`. It reads no inittab.
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
//!
//! The recorder's unit gives it no more than it uses (`tests/systemd.rs` runs it so):
//! - `CAP_BPF` and `CAP_PERFMON` load and attach the programs (capabilities(7)), `CAP_CHOWN` gives the
//!   files to `--group`;
//! - `LimitMEMLOCK=infinity`: before 5.11 the kernel counts maps as locked memory;
//! - `RestartSec=1s`: deaths wait in the kernel meanwhile, and one that cannot start does not spin;
//! - nothing that gives it a mount namespace (`ProtectSystem=` and the like): by that, `respawn unpin`
//!   recognises whose pins are whose.

use anyhow::Result;

use super::plan::{Ask, Plan, header};
use super::{InitEntry, InitSystem, Kept, Program, Site};

const UNITS: &str = "/etc/systemd/system";
const WANTS: &str = "/etc/systemd/system/multi-user.target.wants";

pub(super) struct Systemd;

impl InitSystem for Systemd {
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut units = Vec::new();
        for kept in entry.program().kept() {
            let name = kept.name;
            let path = format!("{UNITS}/{name}.service");
            let text = match entry.program() {
                Program::Agent => agent_unit(*kept, entry),
                Program::Recorder => recorder_unit(entry),
            };
            plan.write(&site.root, &path, &text, 0o644)?;
            // What `systemctl enable` makes; it needs no running systemd.
            plan.link(&site.root, &format!("{WANTS}/{name}.service"), &path)?;
            units.push(format!("{name}.service"));
        }
        if site.is_running {
            // Whether it comes up is looked at by the caller, who has less patience.
            let start = ["systemctl", "--no-block", "start"].into_iter();
            let start: Vec<_> = start.chain(units.iter().map(String::as_str)).collect();
            plan.after = vec![Ask::run(&["systemctl", "daemon-reload"]), Ask::run(&start)];
        }
        plan.look_at = vec![
            format!("systemctl status {}", units.join(" ")),
            format!("journalctl -u {}", units.join(" -u ")),
        ];
        Ok(plan)
    }

    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan> {
        let mut plan = Plan::default();
        for name in program.names() {
            let path = format!("{UNITS}/{name}.service");
            plan.unlink(&site.root, &format!("{WANTS}/{name}.service"), &path);
            plan.remove(&site.root, &path)?;
        }
        if site.is_running && !plan.changes.is_empty() {
            // The spare first: it would take over.
            let stops = program.names().rev();
            plan.before = stops
                .map(|name| Ask::attempt(&["systemctl", "stop", &format!("{name}.service")]))
                .collect();
            plan.after = vec![Ask::run(&["systemctl", "daemon-reload"])];
        }
        Ok(plan)
    }
}

fn agent_unit(kept: Kept, entry: &InitEntry) -> String {
    let mut others = Program::Agent.names().filter(|name| *name != kept.name);
    let (role, other) = (kept.role, others.next().unwrap_or_default());
    format!(
        "\
# {header}
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
        header = header(entry.program()),
        command = entry.command()
    )
}

fn recorder_unit(entry: &InitEntry) -> String {
    format!(
        "\
# {header}
[Unit]
Description=respawn recorder
StartLimitIntervalSec=0

[Service]
Type=notify
TimeoutStartSec=10min
WatchdogSec=30s
ExecStart={command}
Restart=always
RestartSec=1s
OOMPolicy=continue
LimitMEMLOCK=infinity
CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_CHOWN
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
",
        header = header(entry.program()),
        command = entry.command()
    )
}
