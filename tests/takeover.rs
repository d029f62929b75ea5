//! `respawn install --takeover`: on a host of Debian's with sysvinit, what packages and admins ask an init
//! script reaches the agent, and a package's upgrade leaves it so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use crate::debian_host::Host;
use crate::init_root::{Namespace, Plan, package};
use serde_json::{Value, json};
use support::{debian, eventually_or, needs_root, skip};

/// The exit status of a command line.
fn status(host: &Host, script: &str) -> i32 {
    let output = host.script("-c", script);
    eprintln!(
        "{script}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.status.code().unwrap()
}

/// How many of the program there are, whoever has started them.
fn count(host: &Host, name: &str) -> usize {
    host.shell(&format!("pgrep -cx {name} || :"))
        .trim()
        .parse()
        .unwrap()
}

#[test]
fn init_scripts_and_upgrades_reach_the_agent() {
    let test = "init_scripts_and_upgrades_reach_the_agent";
    needs_root!(test);
    let Some(root) = debian::root(test) else {
        return;
    };
    let host = Host::boot(&root, Vec::new());
    let own = host.shell("cat /etc/init.d/cron");
    refused_without_a_service_or_a_script(&host);
    host.import(["cron", "nginx"].into_iter());
    let nothing = host.shell("respawn install --takeover cron --dry-run");
    assert!(
        nothing.contains("dpkg-divert") && nothing.contains("+service='cron'"),
        "{nothing}"
    );
    assert_eq!(host.shell("cat /etc/init.d/cron"), own);
    let told = host.shell("respawn install --takeover cron --json");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["init"], Value::Null);
    assert_eq!(told["changes"][0]["path"], "/etc/init.d/cron");
    // Twice is once.
    let told = host.shell("respawn install --takeover cron --json");
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["changes"], &told["asked"]), (&json!([]), &json!([])));
    host.shell("respawn install --takeover nginx");
    assert_eq!(host.shell("cat /etc/respawn/takeover/cron"), own);
    actions_have_their_statuses(&host);
    what_logrotate_asks_arrives(&host);
    an_upgrade_leaves_it_so(&host);
    let told = host.shell("respawn uninstall");
    assert!(
        told.contains("`respawn uninstall --takeover cron` puts"),
        "{told}"
    );
    // Without an agent nothing can be done, and nobody knows how it is.
    assert_eq!(status(&host, "service cron restart"), 1);
    assert_eq!(status(&host, "service cron status"), 4);
    host.shell("respawn uninstall --takeover cron; respawn uninstall --takeover nginx");
    assert_eq!(host.shell("cat /etc/init.d/cron"), own);
    assert_eq!(host.shell("stat -c %a /etc/init.d/cron"), "755\n");
    assert!(!host.namespace.path("/etc/respawn/takeover").exists());
    assert_eq!(host.shell("dpkg-divert --list '/etc/init.d/*'"), "");
    // Pages and examples are left out of that root.
    let changed = host.shell("dpkg --verify cron | grep -v '^missing' || :");
    assert_eq!(changed, "");
    let nothing = host.shell("respawn uninstall --takeover cron");
    assert!(nothing.contains("nothing to remove"), "{nothing}");
}

/// A script of OpenRC's, with what others may need of it.
const OF_OPENRC: &str = "\
#!/sbin/openrc-run
command=/bin/sleep
command_args=\"4242\"
command_background=yes
pidfile=/run/one.pid

depend() {
	provide first
	use logger
}
";

/// Where there is no dpkg, the script is moved.
#[test]
fn openrc_reaches_the_agent() {
    let test = "openrc_reaches_the_agent";
    needs_root!(test);
    let Some(openrc) = package("openrc") else {
        return skip(
            test,
            "no openrc in target/test-packages: run `cargo xtask setup`",
        );
    };
    let plan = Plan {
        packages: vec![openrc],
        init: vec!["/sbin/openrc-init"],
        installed: Some("openrc"),
        etc: vec![
            ("insserv.conf", String::new()),
            ("insserv.conf.d/.keep", String::new()),
            ("init.d/one", OF_OPENRC.to_owned()),
        ],
    };
    let namespace = Namespace::boot(&plan);
    namespace.services();
    let run = |words: &[&str]| namespace.run(words).status.code().unwrap();
    let read = |path| fs::read_to_string(namespace.path(path)).unwrap();
    assert_eq!(run(&["respawn", "install", "--takeover", "one"]), 0);
    assert_eq!(run(&["respawn", "install", "--takeover", "one"]), 0);
    assert_eq!(read("/etc/respawn/takeover/one"), OF_OPENRC);
    let instance = || {
        let services = namespace.services();
        services.into_iter().find(|it| it.name == "one").unwrap()
    };
    let old = instance();
    assert_eq!(run(&["rc-service", "one", "status"]), 0);
    assert_eq!(run(&["rc-service", "one", "start"]), 0);
    assert_eq!(instance(), old);
    assert_eq!(run(&["rc-service", "one", "restart"]), 0);
    assert_ne!(instance(), old);
    assert_eq!(run(&["rc-service", "one", "stop"]), 0);
    assert!(namespace.instances("one").is_empty());
    assert_eq!(run(&["rc-service", "one", "status"]), 3);
    assert!(read("/etc/init.d/one").contains("provide first\n"));
    assert_eq!(run(&["respawn", "uninstall", "--takeover", "one"]), 0);
    assert_eq!(read("/etc/init.d/one"), OF_OPENRC);
    assert!(!namespace.path("/etc/respawn/takeover").exists());
}

fn refused_without_a_service_or_a_script(host: &Host) {
    for (arguments, why) in [
        ("cron", "respawn has no service cron"),
        ("cron=gone", "respawn has no service gone"),
        ("x/y", "expected the name of a script"),
    ] {
        let output = host.script("-c", &format!("respawn install --takeover {arguments}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
    let app = "command = [\"/bin/sleep\", \"infinity\"]\n";
    fs::create_dir_all(host.namespace.path("/etc/respawn/services")).unwrap();
    fs::write(host.namespace.path("/etc/respawn/services/app.toml"), app).unwrap();
    let output = host.script("-c", "respawn install --takeover app");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/etc/init.d/app is not there"), "{said}");
}

fn actions_have_their_statuses(host: &Host) {
    assert_eq!(status(host, "service cron status"), 0);
    let old = host.main("cron");
    assert_eq!(status(host, "service cron start"), 0);
    assert_eq!(host.main("cron"), old);
    assert_eq!(status(host, "service cron restart"), 0);
    assert_ne!(host.main("cron"), old);
    // It has no reload of its own, and nginx has.
    assert_eq!(status(host, "service cron reload"), 3);
    let old = host.main("cron");
    assert_eq!(status(host, "service cron force-reload"), 0);
    assert_ne!(host.main("cron"), old);
    let old = host.main("nginx");
    assert_eq!(status(host, "service nginx reload"), 0);
    assert_eq!(status(host, "service nginx force-reload"), 0);
    assert_eq!(host.main("nginx"), old);
    host.shell("echo nonsense > /etc/nginx/conf.d/bad.conf");
    assert_eq!(status(host, "service nginx reload"), 1);
    assert_eq!(status(host, "service nginx force-reload"), 1);
    assert_eq!(host.main("nginx"), old);
    host.shell("rm /etc/nginx/conf.d/bad.conf");
    assert_eq!(status(host, "service cron stop"), 0);
    assert_eq!(status(host, "service cron stop"), 0);
    assert_eq!(status(host, "service cron status"), 3);
    assert_eq!(status(host, "service cron try-restart"), 0);
    assert_eq!(host.status("cron").unwrap()["state"], "stopped");
    // As at boot: init's own scripts leave it to the agent.
    host.shell("rm /etc/rc[23].d/*; ln -s ../init.d/cron /etc/rc2.d/S01cron");
    assert_eq!(status(host, "PREVLEVEL=N RUNLEVEL=2 /lib/init/rc 2"), 0);
    assert_eq!(host.status("cron").unwrap()["state"], "stopped");
    // And in another runlevel later they do not.
    assert_eq!(status(host, "PREVLEVEL=3 RUNLEVEL=2 /lib/init/rc 2"), 0);
    assert!(host.is_up("cron"));
    host.respawn("stop cron");
    assert_eq!(status(host, "invoke-rc.d cron start"), 0);
    assert_eq!(count(host, "cron"), 1);
    // What ours does not know is the package's.
    assert_ne!(status(host, "service cron nonsense"), 0);
}

fn what_logrotate_asks_arrives(host: &Host) {
    let old = host.main("nginx");
    host.shell("curl -sf http://127.0.0.1/ > /dev/null; mv /var/log/nginx/access.log /var/log/nginx/access.log.1");
    host.shell("invoke-rc.d nginx rotate");
    eventually_or(
        "nginx has opened its log again",
        || {
            host.namespace
                .path("/var/log/nginx/access.log")
                .exists()
                .then_some(())
        },
        || host.describe(),
    );
    assert_eq!(host.main("nginx"), old);
}

/// The same version again; its scripts restart the daemon.
fn an_upgrade_leaves_it_so(host: &Host) {
    let before = host.main("cron");
    let ours = host.shell("cat /etc/init.d/cron");
    // A new script in the package, as in an upgrade.
    host.shell(
        "cd /tmp; dpkg-deb --raw-extract /var/cache/packages/cron_*.deb cron
         echo '# of the next version' >> cron/etc/init.d/cron
         sed -i 's/^Version: .*/&.1/' cron/DEBIAN/control
         dpkg-deb --build cron next.deb; dpkg --install next.deb",
    );
    assert_eq!(host.shell("cat /etc/init.d/cron"), ours);
    assert!(
        host.shell("cat /etc/respawn/takeover/cron")
            .contains("# of the next version")
    );
    assert_ne!(host.main("cron"), before);
    assert_eq!(count(host, "cron"), 1);
    // And back again.
    host.shell("dpkg --install /var/cache/packages/cron_*.deb");
    assert_eq!(host.shell("cat /etc/init.d/cron"), ours);
    assert_eq!(status(host, "service cron status"), 0);
    assert_eq!(count(host, "cron"), 1);
}
