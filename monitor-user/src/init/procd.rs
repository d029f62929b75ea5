//! procd (OpenWrt): one script in `/etc/init.d` with two instances, which PID 1 itself keeps.
//!
//! Not its inittab: that is read at boot only, so that nobody can ask procd to look again; an
//! entry is started again only after half a second, with `/dev/<id>` as its terminal, in lines of
//! at most 127 characters and commands of at most 7 words (`inittab.c`: `LINE_LEN`, `MAX_ARGS`).
//!
//! `procd_set_param respawn THRESHOLD TIMEOUT RETRY` (`service/instance.c`): a RETRY of 0 sets no
//! limit (by default the sixth death within an hour each is the last), a TIMEOUT of 0 no delay.
//! Stopping an instance signals its process alone.

use anyhow::Result;

use super::plan::{Ask, HEADER, Plan};
use super::{Entry, InitSystem, Site};

const SCRIPT: &str = "/etc/init.d/respawn";
/// After most services, whose files and networks ours may want.
const LINK: &str = "/etc/rc.d/S95respawn";
const TARGET: &str = "../init.d/respawn";

pub(super) struct Procd;

impl InitSystem for Procd {
    fn install(&self, site: &Site, entry: &Entry) -> Result<Plan> {
        site.root
            .first_dir(&["/etc/rc.d"], "directory of what is started at boot")?;
        let mut plan = Plan::default();
        plan.write(&site.root, SCRIPT, &script(entry), 0o755)?;
        // What `/etc/init.d/respawn enable` makes.
        plan.link(&site.root, LINK, TARGET)?;
        if site.is_running {
            plan.after = vec![Ask::run(&[SCRIPT, "start"])];
        }
        plan.look_at = [
            "ubus call service list '{\"name\":\"respawn\"}'".to_owned(),
            "logread -e respawn".to_owned(),
        ]
        .into();
        Ok(plan)
    }

    fn uninstall(&self, site: &Site) -> Result<Plan> {
        let mut plan = Plan::default();
        plan.unlink(&site.root, LINK, TARGET);
        if plan.remove(&site.root, SCRIPT)? && site.is_running {
            plan.before = vec![Ask::attempt(&[SCRIPT, "stop"])];
        }
        Ok(plan)
    }
}

fn script(entry: &Entry) -> String {
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
    format!(
        "\
#!/bin/sh /etc/rc.common
# {HEADER}
START=95
USE_PROCD=1

start_service() {{
{}{}}}
",
        instance("agent"),
        instance("spare")
    )
}
