//! A package's init script that reaches respawn: `service X restart`, logrotate's scripts and a package's
//! own scripts run `/etc/init.d/X`, which would start a second daemon next to the service.
//!
//! ```text
//! /etc/init.d/X               the script of ours, which asks the agent
//! /etc/respawn/takeover/X     the package's own: what ours does not know goes to it
//! ```
//! Where there is dpkg, dpkg-divert moves it, and an upgrade of the package writes its script to
//! where it is now. Starts and stops nothing.

use anyhow::{Result, bail};

use super::plan::{Ask, Change, Plan};
use super::root::Root;

/// Where the scripts of packages are, and where those are that were taken over.
const SCRIPTS: &str = "/etc/init.d";
const ORIGINALS: &str = "/etc/respawn/takeover";

/// Lines of three: what is diverted, to where, by which package; `:` is this host's own.
const DIVERSIONS: &str = "/var/lib/dpkg/diversions";
const DIVERT: &str = "dpkg-divert";

/// Of what logrotate's scripts ask some packages' init scripts: the signal that it is.
const SIGNALS: &[(&str, &str, &str)] = &[
    ("nginx", "rotate", "USR1"),
    ("php", "reopen-logs", "USR1"),
    ("rsyslog", "rotate", "HUP"),
];

/// One script that is taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Takeover {
    /// Its name in `/etc/init.d`.
    script: String,
    /// The service, or a pattern of several.
    service: String,
}

/// What is there of a script.
struct Found {
    /// In its place.
    script: Option<String>,
    original: Option<String>,
    /// To where dpkg diverts it, and for whom.
    diverted: Option<(String, String)>,
    has_dpkg: bool,
}

impl Takeover {
    /// `SCRIPT`, or `SCRIPT=SERVICE`.
    ///
    /// # Errors
    /// Something that is no name.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (script, service) = text.split_once('=').unwrap_or((text, text));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        let is_of_service = |c: char| is_plain(c) || "@*?".contains(c);
        let is_script =
            !script.is_empty() && !script.starts_with('.') && script.chars().all(is_plain);
        if !is_script || service.is_empty() || !service.chars().all(is_of_service) {
            return Err(
                "expected the name of a script in /etc/init.d, or SCRIPT=SERVICE".to_owned(),
            );
        }
        Ok(Self {
            script: script.to_owned(),
            service: service.to_owned(),
        })
    }

    /// The service that it is for.
    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// The script, for people.
    pub(crate) fn path(&self) -> String {
        format!("{SCRIPTS}/{}", self.script)
    }

    fn original(&self) -> String {
        format!("{ORIGINALS}/{}", self.script)
    }

    /// What puts our script in the place of the package's. `respawn`: how the agent is asked, without quotes.
    ///
    /// # Errors
    /// There is no such script, or one that is neither ours nor the package's as it was.
    pub(crate) fn install(&self, root: &Root, respawn: &str) -> Result<Plan> {
        let found = self.look(root)?;
        let (path, original) = (self.path(), self.original());
        let mut plan = Plan::default();
        let (before, theirs) = match (&found.script, &found.original) {
            (Some(script), Some(theirs)) if self.is_ours(script) => (Some(script.clone()), theirs),
            // A takeover that got no further.
            (None, Some(theirs)) => (None, theirs),
            (Some(script), None) if !self.is_ours(script) => {
                self.set_aside(root, &found, &mut plan)?;
                (None, script)
            }
            (Some(_), Some(_)) => bail!(
                "{} was replaced after the takeover, by an upgrade perhaps: move it to {}, and run this again",
                root.shown(path),
                root.shown(original)
            ),
            (Some(_), None) => bail!(
                "{} was written by respawn, and the package's own script, {}, is gone: install the package again",
                root.shown(path),
                root.shown(original)
            ),
            (None, None) => bail!(
                "{} is not there: there is no init script to take over",
                root.shown(path)
            ),
        };
        let script = self.text(theirs, respawn);
        plan.edit(
            &path,
            before.map(String::into_bytes),
            script.into_bytes(),
            0o755,
        );
        Ok(plan)
    }

    /// What puts the package's script back. Empty: it was not taken over.
    ///
    /// # Errors
    /// Somebody else has put a script into its place.
    pub(crate) fn uninstall(&self, root: &Root) -> Result<Plan> {
        let found = self.look(root)?;
        let (path, original) = (self.path(), self.original());
        let mut plan = Plan::default();
        let is_ours = found.script.as_ref().is_some_and(|it| self.is_ours(it));
        let is_diverted = found
            .diverted
            .as_ref()
            .is_some_and(|(to, _)| *to == original);
        if !is_ours && found.original.is_none() && !is_diverted {
            return Ok(plan);
        }
        if !is_ours && found.script.is_some() {
            bail!(
                "{} was replaced after the takeover: move it out of the way, and run this again",
                root.shown(path)
            );
        }
        plan.remove(root, &path)?;
        if is_diverted {
            let words = divert(root, &["--rename", "--remove", &path]);
            plan.after.push(Ask::Run(words));
        } else if found.original.is_some() {
            plan.changes.push(Change::Move {
                path: original.into(),
                to: path.into(),
            });
        }
        let folder = root.shown(ORIGINALS);
        plan.after.push(Ask::attempt(&[
            "rmdir",
            "--ignore-fail-on-non-empty",
            &folder,
        ]));
        Ok(plan)
    }

    fn look(&self, root: &Root) -> Result<Found> {
        let text = |path: &str| -> Result<Option<String>> {
            let bytes = root.read(path)?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let diversions = text(DIVERSIONS)?.unwrap_or_default();
        Ok(Found {
            script: text(&self.path())?,
            original: text(&self.original())?,
            diverted: diverted(&diversions, &self.path()),
            has_dpkg: root.exists("/var/lib/dpkg/status"),
        })
    }

    /// Moves the package's script to where nothing but ours runs it.
    fn set_aside(&self, root: &Root, found: &Found, plan: &mut Plan) -> Result<()> {
        let (path, original) = (self.path(), self.original());
        match &found.diverted {
            Some((to, by)) if *to != original => bail!(
                "{} is diverted already, to {to} by {}: remove that diversion first",
                root.shown(path),
                if by == ":" { "this host's admin" } else { by }
            ),
            // dpkg knows it, and the script is back in its place.
            Some(_) => {}
            None if found.has_dpkg => {
                let folder = root.shown(ORIGINALS);
                plan.before.push(Ask::run(&["mkdir", "-p", &folder]));
                let words = ["--local", "--rename", "--divert", &original, "--add", &path];
                plan.before.push(Ask::Run(divert(root, &words)));
                return Ok(());
            }
            None => {}
        }
        plan.changes.push(Change::Move {
            path: path.into(),
            to: original.into(),
        });
        Ok(())
    }

    fn header(&self) -> String {
        format!(
            "This file was written by respawn install; `respawn uninstall --takeover {}` removes it.",
            self.script
        )
    }

    fn is_ours(&self, script: &str) -> bool {
        script.contains(&self.header())
    }

    /// `theirs`: what it stands for.
    fn text(&self, theirs: &str, respawn: &str) -> String {
        let first = theirs.lines().next().unwrap_or_default();
        match ["openrc-run", "runscript"]
            .iter()
            .any(|it| first.contains(it))
        {
            true => self.openrc(theirs, respawn, first),
            false => self.lsb(theirs, respawn),
        }
    }

    /// For sysvinit and its kin. The statuses are those of the Linux Standard Base, "Init Script Actions".
    fn lsb(&self, theirs: &str, respawn: &str) -> String {
        let known = SIGNALS.iter().filter(|(name, ..)| {
            // php8.2-fpm and the like.
            self.script == *name || (*name == "php" && self.script.starts_with("php"))
        });
        let signals: String = known
            .map(|(_, action, signal)| {
                format!("{action})\n\task signal {signal} \"$service\"\n\t;;\n")
            })
            .collect();
        format!(
            "\
#!/bin/sh
# {header}
# The package's own script is {original}.
{info}
service='{service}'

# Its status 3 means that no agent answers.
ask() {{
	{respawn} \"$@\"
	status=$?
	[ $status -ne 3 ] || status=1
	exit $status
}}

is_up() {{
	{respawn} is-up --quiet \"$service\"
}}

has_reload() {{
	{respawn} show --json \"$service\" | grep -q '\"key\":\"reload\",\"value\":[^n]'
}}

case \"$1\" in
start)
	# init's own scripts at boot: the agent starts what is to be started then.
	[ \"$PREVLEVEL\" != N ] || exit 0
	ask start \"$service\"
	;;
stop | restart)
	ask \"$1\" \"$service\"
	;;
try-restart | condrestart)
	is_up || exit 0
	ask restart \"$service\"
	;;
reload)
	has_reload || exit 3
	ask reload \"$service\"
	;;
force-reload | reload-or-restart)
	if has_reload; then ask reload \"$service\"; fi
	ask restart \"$service\"
	;;
status)
	{respawn} status \"$service\" || exit 4
	is_up || exit 3
	;;
{signals}*)
	exec {original} \"$@\"
	;;
esac
",
            header = self.header(),
            original = self.original(),
            info = info(theirs),
            service = self.service,
        )
    }

    /// OpenRC reads what it depends on from the script itself.
    fn openrc(&self, theirs: &str, respawn: &str, first: &str) -> String {
        format!(
            "\
{first}
# {header}
# The package's own script is {original}.
description=\"{script}, kept by respawn\"
extra_started_commands=\"reload\"
service='{service}'

depend() {{
{depend}	after respawn respawn-spare
}}

start() {{
	ebegin \"Starting $service\"
	# The agents may be on their way.
	tries=0
	until {respawn} is-up --quiet \"$service\" || [ $? -ne 3 ] || [ $tries -ge 10 ]; do
		tries=$((tries + 1))
		sleep 1
	done
	{respawn} start \"$service\"
	eend $?
}}

stop() {{
	ebegin \"Stopping $service\"
	{respawn} stop \"$service\"
	eend $?
}}

reload() {{
	ebegin \"Reloading $service\"
	{respawn} reload \"$service\"
	eend $?
}}

status() {{
	{respawn} status \"$service\"
	{respawn} is-up --quiet \"$service\" || return 3
}}
",
            header = self.header(),
            original = self.original(),
            script = self.script,
            service = self.service,
            depend = depend(theirs),
        )
    }
}

/// The scripts that are taken over.
pub(crate) fn all(root: &Root) -> Vec<String> {
    root.names(ORIGINALS)
}

/// The words of a call of dpkg-divert in this root.
fn divert(root: &Root, words: &[&str]) -> Vec<String> {
    let mut all = vec![DIVERT.to_owned()];
    if !root.is_live() {
        all.extend(["--root".to_owned(), root.path().display().to_string()]);
    }
    all.extend(words.iter().map(ToString::to_string));
    all
}

/// To where a file is diverted, and by whom.
fn diverted(diversions: &str, path: &str) -> Option<(String, String)> {
    let lines: Vec<&str> = diversions.lines().collect();
    let found = lines.chunks_exact(3).find(|lines| lines[0] == path)?;
    Some((found[1].to_owned(), found[2].to_owned()))
}

/// What insserv and update-rc.d read of a script, as it stands there.
fn info(script: &str) -> String {
    let begins = |line: &&str| !line.starts_with("### BEGIN INIT INFO");
    let lines: Vec<&str> = script.lines().skip_while(begins).collect();
    let end = lines
        .iter()
        .position(|line| line.starts_with("### END INIT INFO"));
    end.map_or_else(String::new, |end| {
        lines
            .iter()
            .take(end + 1)
            .map(|line| format!("{line}\n"))
            .collect()
    })
}

/// The lines in the body of `depend()`.
fn depend(script: &str) -> String {
    let begins = |line: &&str| !line.replace(' ', "").starts_with("depend()");
    let body = script.lines().skip_while(begins).skip(1);
    let body = body.take_while(|line| !line.starts_with('}'));
    body.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    const LSB: &str =
        "#!/bin/sh\n\n### BEGIN INIT INFO\n# Provides: web\n### END INIT INFO\n\necho \"web $1\"\n";

    fn root(dpkg: bool) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/init.d")).unwrap();
        fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
        fs::write(dir.path().join("etc/init.d/web"), LSB).unwrap();
        if dpkg {
            fs::write(dir.path().join("var/lib/dpkg/status"), "").unwrap();
        }
        let root = Root::at(dir.path());
        (dir, root)
    }

    fn takeover() -> Takeover {
        Takeover::parse("web=web@*").unwrap()
    }

    fn read(root: &Root, path: &str) -> Option<String> {
        let bytes = root.read(path).unwrap();
        bytes.map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn names_that_would_need_quotes_are_refused() {
        for bad in ["", "a/b", ".a", "a b", "a=", "a=b'", "../a", "a=$b"] {
            assert!(Takeover::parse(bad).is_err(), "{bad}");
        }
        let both = Takeover::parse("ssh").unwrap();
        assert_eq!(
            (both.path(), both.service()),
            ("/etc/init.d/ssh".to_owned(), "ssh")
        );
    }

    #[test]
    fn without_dpkg_it_is_moved_and_comes_back() {
        let (_dir, root) = root(false);
        for _ in 0..2 {
            let plan = takeover().install(&root, "/bin/echo").unwrap();
            plan.apply(&root).unwrap();
            let ours = read(&root, "/etc/init.d/web").unwrap();
            assert!(
                ours.contains("# Provides: web\n### END INIT INFO\n"),
                "{ours}"
            );
            assert_eq!(read(&root, "/etc/respawn/takeover/web").unwrap(), LSB);
        }
        assert_eq!(
            takeover().install(&root, "/bin/echo").unwrap(),
            Plan::default()
        );
        let plan = takeover().uninstall(&root).unwrap();
        plan.apply(&root).unwrap();
        assert_eq!(read(&root, "/etc/init.d/web").unwrap(), LSB);
        assert_eq!(read(&root, "/etc/respawn/takeover/web"), None);
        assert_eq!(takeover().uninstall(&root).unwrap(), Plan::default());
    }

    #[test]
    fn one_that_got_no_further_goes_on() {
        let (dir, root) = root(false);
        let originals = dir.path().join("etc/respawn/takeover");
        fs::create_dir_all(&originals).unwrap();
        fs::rename(dir.path().join("etc/init.d/web"), originals.join("web")).unwrap();
        takeover()
            .install(&root, "/bin/echo")
            .unwrap()
            .apply(&root)
            .unwrap();
        assert!(read(&root, "/etc/init.d/web").is_some());
        // And back from there.
        fs::remove_file(dir.path().join("etc/init.d/web")).unwrap();
        takeover().uninstall(&root).unwrap().apply(&root).unwrap();
        assert_eq!(read(&root, "/etc/init.d/web").unwrap(), LSB);
    }

    #[test]
    fn what_somebody_else_has_done_is_refused() {
        let (dir, root) = root(true);
        let plan = takeover().install(&root, "/bin/echo").unwrap();
        let asked: Vec<_> = plan.before.iter().map(ToString::to_string).collect();
        let of_root = root.path().display();
        let divert = format!(
            "dpkg-divert --root {of_root} --local --rename --divert /etc/respawn/takeover/web --add /etc/init.d/web"
        );
        assert_eq!(asked[1], divert);
        let diversions = dir.path().join("var/lib/dpkg/diversions");
        fs::write(&diversions, "/etc/init.d/web\n/etc/init.d/web.theirs\n:\n").unwrap();
        let error = takeover().install(&root, "x").unwrap_err().to_string();
        assert!(
            error.contains("diverted already, to /etc/init.d/web.theirs by this host's admin"),
            "{error}"
        );
        fs::remove_file(diversions).unwrap();
        // An upgrade without a diversion.
        fs::create_dir_all(dir.path().join("etc/respawn/takeover")).unwrap();
        fs::write(dir.path().join("etc/respawn/takeover/web"), LSB).unwrap();
        for plan in [takeover().install(&root, "x"), takeover().uninstall(&root)] {
            let error = plan.unwrap_err().to_string();
            assert!(error.contains("was replaced after the takeover"), "{error}");
        }
        fs::remove_file(dir.path().join("etc/init.d/web")).unwrap();
        fs::remove_file(dir.path().join("etc/respawn/takeover/web")).unwrap();
        let error = takeover().install(&root, "x").unwrap_err().to_string();
        assert!(
            error.contains("there is no init script to take over"),
            "{error}"
        );
    }

    /// Runs the script with a respawn that writes what it is asked, and exits so.
    #[test]
    fn statuses_are_those_of_the_lsb() {
        let (dir, root) = root(false);
        let fake = dir.path().join("respawn");
        let run = |answers: &str, arguments: &[&str]| {
            fs::write(
                &fake,
                format!("echo \"$@\" >> {0}.asked\n{answers}\n", fake.display()),
            )
            .unwrap();
            let _ = fs::remove_file(dir.path().join("respawn.asked"));
            let respawn = format!("sh {}", fake.display());
            let script = takeover().lsb(LSB, &respawn);
            let script = script.replace(
                "/etc/respawn",
                &format!("{}/etc/respawn", dir.path().display()),
            );
            let mut command = Command::new("sh");
            command
                .args(["-c", &script, "web"])
                .args(arguments)
                .env_remove("PREVLEVEL");
            let status = command.output().unwrap().status.code().unwrap();
            let asked = fs::read_to_string(dir.path().join("respawn.asked")).unwrap_or_default();
            (status, asked.lines().last().unwrap_or_default().to_owned())
        };
        takeover()
            .install(&root, "x")
            .unwrap()
            .apply(&root)
            .unwrap();
        let has_reload = "case $1 in show) echo '{\"key\":\"reload\",\"value\":\"SIGHUP\"}';; esac";
        let notifies = &has_reload.replace("\"SIGHUP\"", "{\"notify\":true}");
        let no_reload = &has_reload.replace("\"SIGHUP\"", "null");
        for (answers, action, expected) in [
            ("exit 0", "start", (0, "start web@*")),
            ("exit 1", "stop", (1, "stop web@*")),
            // No agent.
            ("exit 3", "restart", (1, "restart web@*")),
            ("exit 3", "status", (4, "status web@*")),
            ("[ $1 = status ]", "status", (3, "is-up --quiet web@*")),
            ("exit 0", "status", (0, "is-up --quiet web@*")),
            ("exit 1", "try-restart", (0, "is-up --quiet web@*")),
            ("exit 0", "try-restart", (0, "restart web@*")),
            ("exit 0", "reload", (3, "show --json web@*")),
            ("exit 0", "force-reload", (0, "restart web@*")),
            (has_reload, "reload", (0, "reload web@*")),
            (has_reload, "force-reload", (0, "reload web@*")),
            (notifies, "reload", (0, "reload web@*")),
            (no_reload, "reload", (3, "show --json web@*")),
        ] {
            let (status, asked) = run(answers, &[action]);
            assert_eq!((status, &*asked), expected, "{answers}: {action}");
        }
    }

    #[test]
    fn openrc_keeps_what_others_need_of_it() {
        let theirs = "#!/sbin/openrc-run\ncommand=/x\ndepend() {\n\tneed net\n\tprovide dns\n}\nstart_pre() {\n\t:\n}\n";
        let script = takeover().text(theirs, "/bin/respawn");
        assert!(
            script.starts_with("#!/sbin/openrc-run\n# This file was written by respawn install;")
        );
        let depend = "depend() {\n\tneed net\n\tprovide dns\n\tafter respawn respawn-spare\n}\n";
        assert!(script.contains(depend), "{script}");
        assert!(!script.contains("start_pre") && !script.contains("command="));
    }
}
