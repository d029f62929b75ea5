//! inittabs, sysvinit's (`id:runlevels:action:process`) and busybox's (`tty::action:process`).
//!
//! What init itself has to do at boot and shutdown, and what needs a terminal, is left to init.

use serde_json::json;

use super::Severity::{Approximated, Harmless, Lost};
use super::{Host, Imported, Service, Text, values};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sysvinit,
    Busybox,
}

/// What makes both inits run a line by a shell.
const META: &str = "~`!$^&*()=|\\{}[];\"'<>?";

struct InittabLine<'a> {
    number: usize,
    text: &'a str,
    id: &'a str,
    runlevels: &'a str,
    action: &'a str,
    process: &'a str,
}

pub(super) fn convert(text: &Text, _host: &Host, imported: &mut Imported) {
    let mut lines = Vec::new();
    for (index, line) in text.text.lines().enumerate() {
        let line = line.trim_end();
        if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let mut fields = line.trim_start().splitn(4, ':');
        let (Some(id), Some(runlevels), Some(action), Some(process)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            let message = "it has not four fields, and is left out";
            imported.find(Lost, None, (&text.path, Some(index + 1)), line, message);
            continue;
        };
        lines.push(InittabLine {
            number: index + 1,
            text: line,
            id,
            runlevels,
            action: action.trim(),
            process: process.trim(),
        });
    }
    let dialect = dialect(&lines);
    let default = lines.iter().find(|line| line.action == "initdefault");
    let default = default.and_then(|line| line.runlevels.chars().next());
    for line in &lines {
        Conversion {
            text,
            dialect,
            default,
            line,
        }
        .run(imported);
    }
}

/// busybox has no runlevels and no `initdefault`.
fn dialect(lines: &[InittabLine<'_>]) -> Dialect {
    let is_sysvinit = |line: &InittabLine<'_>| {
        let actions = [
            "initdefault",
            "bootwait",
            "boot",
            "off",
            "ondemand",
            "powerfail",
            "powerwait",
        ];
        !line.runlevels.is_empty() || actions.contains(&line.action)
    };
    match lines.iter().any(is_sysvinit) {
        true => Dialect::Sysvinit,
        false => Dialect::Busybox,
    }
}

struct Conversion<'a> {
    text: &'a Text,
    dialect: Dialect,
    default: Option<char>,
    line: &'a InittabLine<'a>,
}

impl Conversion<'_> {
    fn run(&self, imported: &mut Imported) {
        let InittabLine {
            number,
            text,
            action,
            ..
        } = self.line;
        let place = (self.text.path.as_path(), Some(*number));
        let mut find = |severity, message: &str| {
            imported.find(severity, None, place, text, message);
        };
        match *action {
            "respawn" if self.is_ours() => {
                return find(Harmless, "it keeps respawn itself, and stays with init");
            }
            "respawn" | "askfirst" | "wait" | "once" if self.is_getty() => {
                return find(Harmless, "it is for a terminal, and stays with init");
            }
            "askfirst" => return find(Approximated, "it asks at a terminal, and stays with init"),
            "respawn" | "once" => {}
            "wait" if !self.is_of_boot() => {}
            "wait" | "sysinit" | "bootwait" | "boot" | "initdefault" | "ctrlaltdel"
            | "shutdown" | "restart" | "kbrequest" | "powerfail" | "powerwait" | "powerfailnow"
            | "powerokwait" => {
                return find(
                    Harmless,
                    "it is a part of boot and shutdown, and stays with init",
                );
            }
            "off" => return find(Harmless, "it is switched off"),
            "ondemand" => return find(Approximated, "there are no runlevels on demand"),
            _ => return find(Lost, "this action is not known"),
        }
        self.service(imported);
    }

    fn is_ours(&self) -> bool {
        let mut words = self.line.process.split_ascii_whitespace();
        let program = words.next().unwrap_or_default();
        program.rsplit('/').next() == Some("respawn") && self.line.process.contains(" agent")
            || self.line.process.contains("respawn recorder")
            || self.line.process.contains("respawn agent")
    }

    fn is_getty(&self) -> bool {
        let program = self.line.process.split_ascii_whitespace().next();
        let program = program
            .unwrap_or_default()
            .trim_start_matches(['-', '+', '@']);
        let name = program.rsplit('/').next().unwrap_or_default();
        let shells = ["sh", "ash", "bash", "login", "sulogin"];
        name.ends_with("getty") || (shells.contains(&name) && !self.line.process.contains(" -c"))
    }

    /// Of single-user mode alone, `/etc/init.d/rc 2` and the like.
    fn is_of_boot(&self) -> bool {
        let runlevels = self.line.runlevels;
        if !runlevels.is_empty() && runlevels.chars().all(|level| "sS06".contains(level)) {
            return true;
        }
        let mut words = self.line.process.split_ascii_whitespace();
        let program = words.next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        ["rc", "rcS", "rc.sysinit", "openrc"].contains(&name) || program.starts_with("/etc/rc")
    }

    fn service(&self, imported: &mut Imported) {
        let InittabLine {
            number,
            text,
            process,
            ..
        } = self.line;
        let process = process.trim_start_matches(['+', '@']);
        let is_login = process.starts_with('-');
        let process = process.trim_start_matches('-').trim_start();
        let name = self.name(process, imported);
        let place = (self.text.path.as_path(), Some(*number));
        if process.is_empty() {
            let message = "there is no command to run";
            imported.find(Lost, Some(&name), place, text, message);
            return;
        }
        if is_login {
            let message = "it is not a login shell: its name has no '-'";
            imported.find(Approximated, Some(&name), place, text, message);
        }
        let file = self.text.path.file_name().unwrap_or_default();
        let origin = [format!("{}:{number}: {text}", file.to_string_lossy())];
        let mut service = Service::new(&name, &self.text.path);
        let path = self.text.path.display();
        service
            .head
            .push(format!("{name}, imported by respawn from {path}"));
        let words = match process.contains(|c| META.contains(c)) {
            true => json!(["/bin/sh", "-c", format!("exec {process}")]),
            false => json!(process.split_ascii_whitespace().collect::<Vec<_>>()),
        };
        service.set("command", words, &origin);
        self.settle(&mut service, imported);
        imported.services.push(service);
    }

    /// After its program, with the line's id or number where that is taken.
    fn name(&self, process: &str, imported: &Imported) -> String {
        let mut words = process.split_ascii_whitespace();
        let program = words.find(|word| *word != "exec" && !word.contains('='));
        let program = program.unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default();
        let suffix = match self.line.id {
            "" => self.line.number.to_string(),
            id => id.to_owned(),
        };
        let name = match program {
            // Of many scripts nobody knows which is which by that.
            "sh" | "bash" | "ash" | "dash" => format!("script-{suffix}"),
            program => program.to_owned(),
        };
        let name = values::service_name(&name);
        match imported.services.iter().any(|it| it.name == name) {
            true => values::service_name(&format!("{name}-{suffix}")),
            false => name,
        }
    }

    /// What follows from the action, the runlevels and the terminal.
    fn settle(&self, service: &mut Service, imported: &mut Imported) {
        let line = self.line;
        let place = (self.text.path.as_path(), Some(line.number));
        let name = service.name.clone();
        let mut find = |severity, message: &str| {
            imported.find(severity, Some(&name), place, line.text, message);
        };
        match line.action {
            "wait" => {
                service.set("type", "oneshot", &[]);
                find(Approximated, "others wait for it only with after = [...]");
            }
            "once" => service.set("restart", "no", &[]),
            _ => {}
        }
        if self.dialect == Dialect::Busybox && !line.id.is_empty() {
            find(Lost, "its input is /dev/null, and it has no terminal");
        }
        if let Some(default) = self.default
            && !line.runlevels.is_empty()
            && !line.runlevels.contains(default)
        {
            service.set("autostart", false, &[]);
            let message = "it is not of the default runlevel: start it yourself";
            find(Approximated, message);
        }
    }
}
