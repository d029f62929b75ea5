//! busybox: `respawn` lines in `/etc/inittab`.
//!
//! What it takes, from `init/init.c` and measured with 1.35:
//! - `tty::action:command`; with an empty tty the command keeps PID 1's standard streams, the
//!   console;
//! - of two lines with the same tty and command it keeps **one** (`new_init_action` looks for an
//!   equal one, to find running processes again on a reload), so the spare's command is worded
//!   otherwise;
//! - `#` begins a comment anywhere in a line, older releases copy commands into 256 bytes;
//! - there is no limit: a command starts again a second after its end, for ever;
//! - SIGHUP reads the file again, within about 2 s;
//! - a removed line's process gets SIGTERM where that was built in (`FEATURE_KILL_REMOVED`), and
//!   is left alone otherwise, never to be started again;
//! - without the file, a default is used that one line in it would replace.

use anyhow::{Result, bail};

use super::inittab::{BUSYBOX_PROCESS, Dialect};
use super::plan::Plan;
use super::sysvinit::{INITTAB, install_in_inittab, parse, uninstall_from_inittab};
use super::{InitEntry, InitSystem, Program, Site};

pub(super) struct Busybox;

impl InitSystem for Busybox {
    fn install(&self, site: &Site, entry: &InitEntry) -> Result<Plan> {
        let mut commands = vec![entry.command()];
        if entry.program() == Program::Agent {
            commands.push(entry.command_in_other_words());
        }
        for command in &commands {
            InitEntry::check_length(command, BUSYBOX_PROCESS, "busybox")?;
        }
        let Some(text) = site.root.read(INITTAB)? else {
            bail!(
                "{} is not there: busybox then does what is built into it (run /etc/init.d/rcS, keep shells, \
                 unmount at the end), and would do none of it once there is a file; write one with \
                 what this system needs, then install again",
                site.root.shown(INITTAB)
            );
        };
        let inittab = parse(&site.root, &text, Dialect::Busybox, entry.program())?;
        let lines = commands
            .iter()
            .map(|command| format!("::respawn:{command}"))
            .collect::<Vec<_>>();
        let mut plan = install_in_inittab(site, &text, &inittab, &lines)?;
        plan.look_at = [
            "what is written to the console".to_owned(),
            format!("`{}` by hand, for what it says", commands[0]),
        ]
        .into();
        Ok(plan)
    }

    fn uninstall(&self, site: &Site, program: Program) -> Result<Plan> {
        let mut plan = uninstall_from_inittab(site, Dialect::Busybox, program)?;
        if !plan.changes.is_empty() && site.is_running {
            plan.notes.push(
                "some builds of busybox leave the process of a removed line alone: it may still run, and \
                 is not started again once it ends"
                    .to_owned(),
            );
        }
        Ok(plan)
    }
}
