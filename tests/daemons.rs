//! Daemons of Debian's packages, each imported from its own unit: they serve, and go on to, whatever is
//! killed, stopped and reloaded. Under sysvinit in a root of their own, which `support::debian` makes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crate::debian_host::Host;
use crate::init_root::kill_9;
use support::{debian, eventually, eventually_or, needs_root, now, rig, skip};

/// A daemon, and how its clients see it. What stands here is run by a shell inside.
struct Daemon {
    service: String,
    /// Makes its config for the test.
    prepare: &'static str,
    /// Succeeds if it serves.
    ask: &'static str,
    /// What the reload of its unit does.
    reload: Reload,
}

enum Reload {
    /// Its unit has none.
    None,
    /// After this change,
    Changes {
        change: &'static str,
        /// this succeeds.
        ask: &'static str,
        /// And with nonsense in this file it is refused, and serves on as before.
        refused: Option<&'static str>,
    },
}

/// What Debian calls them in this release.
struct Names {
    php: String,
    cluster: String,
}

impl Names {
    fn of(root: &Path) -> Self {
        let names = |path: &str| {
            let entries = std::fs::read_dir(root.join(path)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        };
        let is_php = |name: &String| name.starts_with("php") && name.ends_with("-fpm.service");
        let php = names("usr/lib/systemd/system").find(is_php).unwrap();
        let version = names("etc/postgresql").next().unwrap();
        Self {
            php: php.trim_end_matches(".service").to_owned(),
            cluster: format!("postgresql@{version}-main"),
        }
    }
}

/// Keys for a session of root's, without questions.
const SSH: &str = "\
mkdir -p -m 700 /root/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
printf 'StrictHostKeyChecking no\\nUserKnownHostsFile /dev/null\\nLogLevel ERROR\\nBatchMode yes\\n' > /root/.ssh/config";

#[rustfmt::skip]
fn daemons(names: &Names) -> Vec<Daemon> {
    let daemon = |service: &str, prepare, ask, reload| Daemon {
        service: service.to_owned(), prepare, ask, reload,
    };
    let changes = |change, ask, refused| Reload::Changes { change, ask, refused };
    vec![
        // The kernel's log is the host's.
        daemon("rsyslog", "sed -i 's/^module(load=\"imklog\")/#&/' /etc/rsyslog.conf",
            "logger -t daemons \"line $$\"; for i in $(seq 50); do grep -q \"line $$\" /var/log/syslog && exit; sleep 0.1; done; exit 1",
            Reload::None),
        daemon("nginx", "", "curl -sf http://127.0.0.1/ | grep -q 'Welcome to nginx'",
            changes("echo 'server { listen 8001; return 200 reloaded; }' > /etc/nginx/conf.d/more.conf",
                "curl -sf http://127.0.0.1:8001/ | grep -q reloaded", None)),
        daemon("haproxy", "printf 'listen main\\n bind 127.0.0.1:8080\\n server nginx 127.0.0.1:80\\n' >> /etc/haproxy/haproxy.cfg",
            "curl -sf http://127.0.0.1:8080/ | grep -q 'Welcome to nginx' && test -S /run/haproxy/admin.sock",
            changes("printf 'listen more\\n bind 127.0.0.1:8081\\n server nginx 127.0.0.1:80\\n' >> /etc/haproxy/haproxy.cfg",
                "curl -sf http://127.0.0.1:8081/ | grep -q 'Welcome to nginx'", Some("/etc/haproxy/haproxy.cfg"))),
        daemon(&names.php, "echo '<?php echo \"answer \", getenv(\"ANSWER\");' > /srv/index.php",
            "SCRIPT_FILENAME=/srv/index.php REQUEST_METHOD=GET cgi-fcgi -bind -connect /run/php/php[0-9]*-fpm.sock | grep -q answer",
            changes("echo 'env[ANSWER] = reloaded' | tee -a /etc/php/*/fpm/pool.d/www.conf",
                "SCRIPT_FILENAME=/srv/index.php REQUEST_METHOD=GET cgi-fcgi -bind -connect /run/php/php[0-9]*-fpm.sock | grep -q reloaded", None)),
        daemon("redis-server", "", "test \"$(redis-cli ping)\" = PONG", Reload::None),
        daemon(&names.cluster, "", "test \"$(runuser -u postgres -- psql -Atc 'select 6*7')\" = 42",
            changes("cd /etc/postgresql/*/main/conf.d; echo \"work_mem = '5MB'\" > more.conf",
                "test \"$(runuser -u postgres -- psql -Atc 'show work_mem')\" = 5MB", None)),
        daemon("mosquitto", "",
            "mosquitto_pub -r -t t -m \"message $$\" && test \"$(mosquitto_sub -C 1 -W 5 -t t)\" = \"message $$\"",
            changes("echo 'log_type all' > /etc/mosquitto/conf.d/more.conf",
                "grep -q 'Reloading config' /var/log/mosquitto/mosquitto.log", None)),
        daemon("dnsmasq", "echo nameserver 127.0.0.1 > /etc/resolv.conf
            printf 'no-resolv\\nbind-interfaces\\nlisten-address=127.0.0.1\\naddn-hosts=/etc/more\\naddress=/test.example/10.1.2.3\\n' > /etc/dnsmasq.d/test
            : > /etc/more",
            "getent hosts test.example | grep -q 10.1.2.3",
            changes("echo 10.9.8.7 more.example > /etc/more", "getent hosts more.example | grep -q 10.9.8.7", None)),
        daemon("ssh", SSH, "test \"$(ssh root@127.0.0.1 echo session)\" = session",
            changes("printf 'Port 22\\nPort 2222\\n' >> /etc/ssh/sshd_config", "test \"$(ssh -p 2222 root@127.0.0.1 echo session)\" = session",
                Some("/etc/ssh/sshd_config"))),
        // Its command runs as root and changes to its user itself. The clock is the host's: it has none here.
        daemon("chrony", "echo 'DAEMON_OPTS=-x' > /etc/default/chrony",
            "chronyc -n tracking | grep -q 'Reference ID' && ps -C chronyd -o user= | grep -q '^_chrony'", Reload::None),
        // Its jobs are another test's: they come once a minute.
        daemon("cron", "", "kill -0 \"$(cat /run/crond.pid)\"", Reload::None),
    ]
}

/// A booted host with an agent and its spare, and these daemons imported.
fn boot(root: &Path, daemons: &[Daemon], etc: Vec<(&'static str, String)>) -> Host {
    let host = Host::boot(root, etc);
    for daemon in daemons {
        host.shell(daemon.prepare);
    }
    host.import(daemons.iter().map(|daemon| daemon.service.as_str()));
    host
}

/// Waits until its clients are served.
fn await_served(host: &Host, daemon: &Daemon) {
    let service = &daemon.service;
    eventually_or(
        &format!("{service} serves"),
        || (host.is_up(service) && host.succeeds(daemon.ask)).then_some(()),
        || {
            let asked = host.script("-xc", daemon.ask);
            format!("{asked:?}\n{}", host.describe())
        },
    );
}

#[test]
fn daemons_of_debian_serve_as_imported() {
    let test = "daemons_of_debian_serve_as_imported";
    needs_root!(test);
    let Some(root) = debian::root(test) else {
        return;
    };
    let began = now();
    let mut daemons = daemons(&Names::of(&root));
    if !may_set_the_clock() {
        skip(
            "daemons_of_debian_serve_as_imported: chrony",
            "its unit needs CAP_SYS_TIME",
        );
        daemons.retain(|daemon| daemon.service != "chrony");
    }
    let host = boot(&root, &daemons, Vec::new());
    for daemon in &daemons {
        await_served(&host, daemon);
    }
    // haproxy's unit comes after rsyslog's, which says when it is ready.
    let seq = |service: &str, kind: &str| host.events(service, &[kind])[0]["seq"].as_u64().unwrap();
    assert!(seq("rsyslog", "ready") < seq("haproxy", "started"));
    for daemon in &daemons {
        let began = now();
        kill_main(&host, daemon);
        stop_and_start(&host, daemon);
        reload(&host, daemon);
        rig::report(&format!("{}: {:.1?}", daemon.service, began.elapsed()));
    }
    kill_all_mains_and_agents(&host, &daemons);
    host.respawn("stop --all");
    for daemon in &daemons {
        assert_eq!(host.status(&daemon.service).unwrap()["state"], "stopped");
        assert!(
            !host.succeeds(daemon.ask),
            "{} serves still",
            daemon.service
        );
    }
    rig::report(&format!("{test}: {:.1?}", began.elapsed()));
}

/// Whether services here may have CAP_SYS_TIME.
fn may_set_the_clock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = u64::from_str_radix(bounding.unwrap().trim(), 16).unwrap();
    bounding >> 25 & 1 != 0
}

/// Once, with the agent; and once with agent and spare killed a moment before.
fn kill_main(host: &Host, daemon: &Daemon) {
    for with_agents in [false, true] {
        let old = host.main(&daemon.service);
        let agents = host.namespace.agents();
        if with_agents {
            agents.iter().for_each(|pid| kill_9(*pid));
        }
        host.shell(&format!("kill -9 {}", old.0));
        if with_agents {
            host.await_agents(&agents);
        }
        eventually_or(
            &format!("another instance of {}", daemon.service),
            || (host.main(&daemon.service) != old).then_some(()),
            || host.describe(),
        );
        await_served(host, daemon);
        let exits = host.events(&daemon.service, &["exited"]);
        let of_old = exits
            .iter()
            .filter(|exit| exit["pid"] == old.0 && exit["start_time_ns"] == old.1);
        let of_old: Vec<_> = of_old.collect();
        assert_eq!(of_old.len(), 1, "{exits:?}");
        assert_eq!(of_old[0]["cause"]["signal"], "SIGKILL", "{exits:?}");
    }
}

fn stop_and_start(host: &Host, daemon: &Daemon) {
    let service = &daemon.service;
    host.respawn(&format!("stop {service}"));
    assert_eq!(host.status(service).unwrap()["state"], "stopped");
    assert!(!host.succeeds(daemon.ask), "{service} serves still");
    // What is stopped stays so under the next agent.
    host.kill_agents();
    assert_eq!(host.status(service).unwrap()["state"], "stopped");
    host.respawn(&format!("start {service}"));
    await_served(host, daemon);
}

fn reload(host: &Host, daemon: &Daemon) {
    let service = &daemon.service;
    let before = host.main(service);
    let Reload::Changes {
        change,
        ask,
        refused,
    } = &daemon.reload
    else {
        assert!(!host.succeeds(&format!("respawn reload {service}")));
        return assert_eq!(host.main(service), before);
    };
    host.shell(change);
    host.respawn(&format!("reload {service}"));
    eventually_or(
        &format!("{service} with its new config"),
        || host.succeeds(ask).then_some(()),
        || host.describe(),
    );
    if let Some(file) = refused {
        host.shell(&format!("cp {file} /tmp/good; echo nonsense >> {file}"));
        assert!(
            !host.succeeds(&format!("respawn reload {service}")),
            "{service}"
        );
        assert!(host.succeeds(ask), "{service}");
        host.shell(&format!("cp /tmp/good {file}"));
    }
    assert_eq!(host.main(service), before, "{service}");
    await_served(host, daemon);
}

/// As when the out-of-memory killer goes through a host.
fn kill_all_mains_and_agents(host: &Host, daemons: &[Daemon]) {
    let mains: Vec<_> = daemons.iter().map(|it| host.main(&it.service)).collect();
    let pids: Vec<_> = mains.iter().map(|(pid, _)| pid.to_string()).collect();
    let agents = host.namespace.agents();
    agents.iter().for_each(|pid| kill_9(*pid));
    host.shell(&format!("kill -9 {}", pids.join(" ")));
    host.await_agents(&agents);
    for (daemon, old) in daemons.iter().zip(mains) {
        await_served(host, daemon);
        assert_ne!(host.main(&daemon.service), old, "{}", daemon.service);
    }
}

/// Asks the database once at its start, and keeps the answer.
const APP: &str = "\
user = \"postgres\"
requires = [\"CLUSTER\"]
command = [\"/bin/sh\", \"-c\", \"psql -Atc 'select 6*7' >> /tmp/answers 2>&1; exec sleep infinity\"]
";

#[test]
fn an_app_starts_when_its_database_serves() {
    let test = "an_app_starts_when_its_database_serves";
    needs_root!(test);
    let Some(root) = debian::root(test) else {
        return;
    };
    let names = Names::of(&root);
    let mut daemons = daemons(&names);
    daemons.retain(|it| it.service == names.cluster);
    let app = APP.replace("CLUSTER", &names.cluster);
    // Not in the config yet while its database is imported: check would refuse it.
    let host = boot(&root, &daemons, vec![("app.toml", app)]);
    host.shell("mv /etc/app.toml /etc/respawn/services/app.toml");
    host.shell(&format!("respawn stop {}; respawn reload", names.cluster));
    let mut wanted = 1;
    let answered = |wanted: usize| {
        let answers = || {
            let text = std::fs::read_to_string(host.namespace.path("/tmp/answers")).ok()?;
            (text.lines().count() >= wanted).then_some(text)
        };
        let text = eventually_or("the app has asked its database", answers, || {
            host.describe()
        });
        assert_eq!(text, "42\n".repeat(wanted));
    };
    host.respawn("start app");
    answered(wanted);
    for _ in 0..5 {
        // It follows, and waits again.
        host.respawn(&format!("restart {}", names.cluster));
        wanted += 1;
        answered(wanted);
    }
    for _ in 0..3 {
        // Agents that die while it waits.
        host.respawn(&format!("stop {}", names.cluster));
        assert_eq!(host.status("app").unwrap()["state"], "stopped");
        host.respawn("start app --no-wait");
        host.kill_agents();
        wanted += 1;
        answered(wanted);
        host.main("app");
    }
}

/// Writes when it begins and when it ends, into two files of that name.
fn outlasting(name: &str) -> String {
    format!(
        "echo $$ > /tmp/{name}.began; while ! test -e /tmp/end; do sleep 0.1; done; echo whole > /tmp/{name}.ended"
    )
}

#[test]
fn sessions_and_jobs_outlive_their_daemons() {
    let test = "sessions_and_jobs_outlive_their_daemons";
    needs_root!(test);
    let Some(root) = debian::root(test) else {
        return;
    };
    let mut daemons = daemons(&Names::of(&root));
    daemons.retain(|it| ["ssh", "cron"].contains(&it.service.as_str()));
    let job = format!("@reboot root {}\n", outlasting("job"));
    let minutes = "* * * * * root echo minute >> /tmp/minutes\n".to_owned();
    let host = boot(
        &root,
        &daemons,
        vec![("cron.d/job", job), ("cron.d/minutes", minutes)],
    );
    daemons
        .iter()
        .for_each(|daemon| await_served(&host, daemon));
    let began = |name: &str| pid_of(&host, name);
    let session = Session::begin(&host, "session");
    let pids = [began("job"), began("session")];
    let live = || {
        pids.iter()
            .all(|pid| host.succeeds(&format!("kill -0 {}", pid.trim())))
    };
    for with_agents in [false, true, false] {
        if with_agents {
            host.kill_agents();
        }
        for daemon in &daemons {
            let old = host.main(&daemon.service);
            host.respawn(&format!("restart {}", daemon.service));
            assert_ne!(host.main(&daemon.service), old);
            await_served(&host, daemon);
            assert!(live(), "{}", host.describe());
        }
    }
    // And the death of the daemons together with agent and spare.
    for daemon in &daemons {
        kill_main(&host, daemon);
        assert!(live(), "{}", host.describe());
    }
    // A stop leaves them alone, too.
    host.respawn("stop ssh cron");
    assert!(live(), "{}", host.describe());
    host.respawn("start ssh cron");
    let later = Session::begin(&host, "later");
    began("later");
    host.shell("rm -f /tmp/minutes; touch /tmp/end");
    assert!(session.ends_whole() && later.ends_whole());
    for name in ["job", "session", "later"] {
        let path = host.namespace.path(&format!("/tmp/{name}.ended"));
        eventually(name, || path.exists().then_some(()));
    }
    await_job_of_a_minute(&host);
}

/// What it has written when it began.
fn pid_of(host: &Host, name: &str) -> String {
    let path = host.namespace.path(&format!("/tmp/{name}.began"));
    let pid = || std::fs::read_to_string(&path).ok();
    eventually_or(
        name,
        || pid().filter(|it| it.ends_with('\n')),
        || host.describe(),
    )
}

/// There are new jobs, too.
fn await_job_of_a_minute(host: &Host) {
    let deadline = now() + Duration::from_secs(120);
    while !host.namespace.path("/tmp/minutes").exists() {
        assert!(
            now() < deadline,
            "no job within two minutes\n{}",
            host.describe()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A client of sshd, whose session lasts until `/tmp/end` is there.
struct Session(Child);

impl Session {
    fn begin(host: &Host, name: &str) -> Self {
        let words = ["ssh", "root@127.0.0.1", &outlasting(name)];
        Self(host.namespace.command(&words).spawn().unwrap())
    }

    /// Waits for its end: whether nothing has cut it off.
    fn ends_whole(mut self) -> bool {
        eventually("the session ends", || self.0.try_wait().unwrap()).success()
    }
}
