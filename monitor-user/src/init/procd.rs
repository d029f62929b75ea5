//! procd (OpenWrt): a script in `/etc/init.d`, whose instances PID 1 itself keeps: agent and spare in
//! one script, the recorder in another.
//!
//! Not its inittab: that is read at boot only, so that nobody can ask procd to look again; an
//! entry is started again only after half a second, with `/dev/<id>` as its terminal, in lines of
//! at most 127 characters and commands of at most 7 words (`inittab.c`: `LINE_LEN`, `MAX_ARGS`).
//!
//! `procd_set_param respawn THRESHOLD TIMEOUT RETRY` (`service/instance.c`): a RETRY of 0 sets no
//! limit (by default the sixth death within an hour each is the last), a TIMEOUT of 0 no delay.
//! Stopping an instance signals its process alone.

use anyhow::Result;

use super::plan::{Ask, Plan, header};
use super::{InitEntry, InitSystem, Program, Site};

/// After most services, whose files and networks ours may want.
const START: u8 = 95;

pub(super) struct Procd;

/// The paths of a script, and of the link that has it started at boot.
struct Paths {
    name: &'static str,
    script: String,
    link: String,
    target: String,
}

impl Paths {
    fn of(program: Program) -> Self {
        let name = program.names().next().unwrap_or_default();
        Self {
            name,
            script: format!("/etc/init.d/{name}"),
            link: format!("/etc/rc.d/S{START}{name}"),
            target: format!("../init.d/{name}"),
        }
    }
}

impl InitSystem for Procd {
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan> {
        site.root
            .first_dir(&["/etc/rc.d"], "directory of what is started at boot")?;
        let mut plan = Plan::default();
        let paths = Paths::of(entry.program());
        plan.write(&site.root, &paths.script, &script(entry), 0o755)?;
        // What `/etc/init.d/respawn enable` makes.
        plan.link(&site.root, &paths.link, &paths.target)?;
        if site.is_running {
            plan.after = vec![Ask::run(&[&paths.script, "start"])];
        }
        plan.look_at = vec![
            format!("ubus call service list '{{\"name\":\"{}\"}}'", paths.name),
            "logread -e respawn".to_owned(),
        ];
        Ok(plan)
    }

    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan> {
        let mut plan = Plan::default();
        let paths = Paths::of(program);
        plan.unlink(&site.root, &paths.link, &paths.target);
        if plan.remove(&site.root, &paths.script)? && site.is_running {
            plan.before = vec![Ask::attempt(&[&paths.script, "stop"])];
        }
        Ok(plan)
    }
}

fn script(entry: &InitEntry) -> String {
    let instance = |name: &str| {
        format!(
            "\tprocd_open_instance {name}
	procd_set_param command {}
	procd_set_param respawn 3600 0 0
	procd_set_param stderr 1
	procd_close_instance
",
            entry.command()
        )
    };
    let instances: &[&str] = match entry.program() {
        Program::Agent => &["agent", "spare"],
        Program::Recorder => &["recorder"],
    };
    let instances: String = instances.iter().copied().map(instance).collect();
    format!(
        "\
#!/bin/sh /etc/rc.common
# {header}
START={START}
USE_PROCD=1

start_service() {{
{instances}}}
",
        header = header(entry.program())
    )
}
