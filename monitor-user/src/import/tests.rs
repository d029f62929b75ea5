//! Real-looking files in, service files and findings out. What is written always passes the check.

use super::*;

/// The files that the black-box tests read, too.
macro_rules! fixture {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../tests/fixtures/import/", $name)),
        )
    };
}

const UNITS: &[(&str, &str)] = &[
    fixture!("nginx.service"),
    fixture!("ssh.service"),
    fixture!("cron.service"),
    fixture!("redis-server.service"),
    fixture!("php8.2-fpm.service"),
    fixture!("haproxy.service"),
    fixture!("rsyslog.service"),
    fixture!("mosquitto.service"),
    fixture!("dnsmasq.service"),
];
const TEMPLATE: (&str, &str) = fixture!("postgresql@.service");
const SUPERVISORD: (&str, &str) = fixture!("supervisord.conf");
const SYSVINIT: (&str, &str) = fixture!("inittab.sysvinit");
const BUSYBOX: (&str, &str) = fixture!("inittab.busybox");

fn text(name: &str, text: &str) -> Text {
    Text {
        path: Path::new("/from").join(name),
        name: name.to_owned(),
        text: text.to_owned(),
        is_secret: false,
        added: Vec::new(),
        variables: BTreeSet::new(),
        sockets: Vec::new(),
        tmpfiles: Vec::new(),
    }
}

fn host() -> Host {
    Host {
        name: "host".to_owned(),
        existing: BTreeSet::from(["there".to_owned()]),
        surroundings: Surroundings::default(),
    }
}

fn import(files: &[(&str, &str)]) -> Imported {
    let texts: Vec<_> = files.iter().map(|(name, it)| text(name, it)).collect();
    convert(&texts, None, &host())
}

/// One unit's service, with no user or program that this host may lack.
fn unit(lines: &str) -> (Service, Imported) {
    let whole = match lines.contains("ExecStart=") {
        true => format!("[Service]\n{lines}\n"),
        false => format!("[Service]\nExecStart=/bin/true\n{lines}\n"),
    };
    let mut imported = import(&[("web.service", &whole)]);
    (imported.services.remove(0), imported)
}

fn value(service: &Service, key: &str) -> Value {
    service.get(key).cloned().unwrap_or(Value::Null)
}

/// Of these, the lines that say something of a key.
fn found(imported: &Imported, setting: &str) -> Vec<(Severity, String)> {
    let found = imported.findings.iter();
    let found = found.filter(|finding| finding.setting.starts_with(setting));
    found.map(|it| (it.severity, it.message.clone())).collect()
}

/// But for users, groups and programs that this host does not have.
fn assert_checked(imported: &Imported) {
    for finding in &imported.findings {
        let message = &finding.message;
        let is_of_host = ["no user is named", "no group is named", "no program"];
        assert!(
            !message.contains("respawn check refuses it")
                || is_of_host.iter().any(|it| message.contains(it)),
            "{finding:?}"
        );
    }
}

#[test]
fn debians_units_become_services() {
    let imported = import(UNITS);
    assert_checked(&imported);
    assert_eq!(imported.services.len(), UNITS.len());
    let service = |name: &str| {
        let mut services = imported.services.iter();
        services.find(|service| service.name == name).unwrap()
    };
    let nginx = service("nginx");
    let command = ["/usr/sbin/nginx", "-g", "daemon off; master_process on;"];
    assert_eq!(value(nginx, "command"), json(&command));
    assert_eq!(value(nginx, "stop_signal"), "SIGQUIT");
    assert_eq!(value(nginx, "stop_mode"), "mixed");
    assert_eq!(value(nginx, "stop_timeout"), "5s");
    assert_eq!(value(nginx, "after"), json(&["php8.2-fpm"]));
    let ssh = service("ssh");
    let command = ["/bin/sh", "-c", "set -f; exec /usr/sbin/sshd -D $SSHD_OPTS"];
    assert_eq!(value(ssh, "command"), json(&command));
    assert_eq!(value(ssh, "environment_file"), "-/etc/default/ssh");
    assert_eq!(value(ssh, "stop_mode"), "main");
    let redis = service("redis-server");
    assert_eq!(value(redis, "user"), "redis");
    assert_eq!(value(redis, "stop_timeout"), "infinity");
    assert_eq!(value(redis, "umask"), "0007");
    assert_eq!(
        value(redis, "limits"),
        serde_json::json!({ "nofile": 65535 })
    );
    let haproxy = service("haproxy");
    assert_eq!(
        value(haproxy, "success_exit_status"),
        serde_json::json!([0, 143])
    );
    assert_eq!(value(haproxy, "after"), json(&["rsyslog"]));
    assert_eq!(
        haproxy.get("environment").unwrap()["CONFIG"],
        "/etc/haproxy/haproxy.cfg"
    );
    let rsyslog = service("rsyslog");
    assert_eq!(value(rsyslog, "stdout"), "null");
    assert_eq!(value(rsyslog, "stderr"), "inherit");
    let capabilities = value(rsyslog, "capabilities");
    assert!(
        capabilities
            .as_array()
            .unwrap()
            .contains(&"CAP_SYSLOG".into())
    );
    let (severity, _) = &found(&imported, "Requires=syslog.socket")[0];
    assert_eq!(*severity, Severity::Harmless);
    assert_eq!(
        value(ssh, "before_start"),
        serde_json::json!([["/usr/sbin/sshd", "-t"]])
    );
    assert_eq!(
        value(ssh, "conditions")["path_exists"],
        "!/etc/ssh/sshd_not_to_be_run"
    );
    assert_eq!(found(&imported, "ExecStartPre="), []);
    let dnsmasq = service("dnsmasq");
    assert_eq!(
        value(dnsmasq, "before_stop"),
        serde_json::json!([["/usr/share/dnsmasq/systemd-helper", "stop-resolvconf"]])
    );
    let haproxy = service("haproxy");
    let script =
        "set -ef; /usr/sbin/haproxy -Ws -f $CONFIG -c -q $EXTRAOPTS; /bin/kill -USR2 $MAINPID";
    assert_eq!(value(haproxy, "reload"), json(&["/bin/sh", "-c", script]));
}

fn json(words: &[&str]) -> Value {
    serde_json::json!(words)
}

#[test]
fn a_template_keeps_its_instances_open() {
    let unit = "[Unit]\nDescription=Worker %I of %p\nAfter=db@%i.service\nRequires=db@%i.service\n\
        Before=front@%i.service nginx.service\n[Service]\nExecStart=/bin/true %i %n %N %p %H %t/%p %S %L %C 100%%\n\
        Environment=PORT=80%i\nRuntimeDirectory=worker-%i\nStandardOutput=append:/tmp/%I.log\nCPUQuota=50%\n";
    let other = "[Service]\nExecStart=/bin/true\n";
    let imported = import(&[
        ("worker@.service", unit),
        (
            "db@.service",
            "[Service]\nExecStart=/bin/true\n[Install]\nDefaultInstance=main\n",
        ),
        ("front@.service", other),
        ("nginx.service", other),
    ]);
    assert_checked(&imported);
    let of = |name: &str| {
        let mut services = imported.services.iter();
        services.find(|service| service.name == name).unwrap()
    };
    let worker = of("worker@");
    let words = [
        "/bin/true",
        "%i",
        "worker@%i.service",
        "worker@%i",
        "worker",
        "host",
        "/run/worker",
        "/var/lib",
        "/var/log",
        "/var/cache",
        "100%%",
    ];
    assert_eq!(value(worker, "command"), json(&words));
    assert_eq!(value(worker, "requires"), json(&["db@%i"]));
    assert_eq!(value(worker, "stdout"), "/tmp/%i.log");
    assert_eq!(value(worker, "cpu_max"), "50%%");
    assert_eq!(value(worker, "environment")["PORT"], "80%i");
    assert_eq!(
        value(worker, "directories")["runtime"],
        json(&["worker-%i"])
    );
    assert!(worker.to_toml().contains("# Worker %i of worker\n"));
    assert_eq!(value(of("db@"), "instances"), json(&["main"]));
    assert_eq!(value(of("front@"), "after"), json(&["worker@%i"]));
    assert!(of("nginx").get("after").is_none());
    for service in &imported.services {
        assert!(!service.to_toml().contains(INSTANCE));
    }
    assert_eq!(imported.count(Severity::Lost), 0, "{:?}", imported.findings);
    let (severity, _) = &found(&imported, "StandardOutput=append:/tmp/%I.log")[0];
    assert_eq!(*severity, Severity::Approximated);
}

#[test]
fn an_instance_of_a_template_is_a_service_of_its_own() {
    let imported = import(&[TEMPLATE]);
    assert_checked(&imported);
    assert_eq!(imported.services[0].name, "postgresql@");
    let (_, template) = TEMPLATE;
    let mut named = text("postgresql@.service", template);
    named.name = "postgresql@15-main.service".to_owned();
    let imported = convert(&[named], None, &host());
    assert_checked(&imported);
    let service = &imported.services[0];
    assert_eq!(service.name, "postgresql@15-main");
    // It returns when the server is ready, and only then others may start.
    let command = value(service, "command");
    assert_eq!(
        command.as_array().unwrap()[1..],
        ["--skip-systemctl-redirect", "15-main", "start"]
    );
    assert_eq!(value(service, "type"), "forking");
    assert_eq!(value(service, "pid_file"), "/run/postgresql/15-main.pid");
    assert!(service.to_toml().contains("# PostgreSQL Cluster 15-main\n"));
    assert_eq!(
        value(service, "limits")["nofile"],
        serde_json::json!([1024, 524_288])
    );
}

/// Lines of `[Service]`, a key, and its value as JSON.
#[rustfmt::skip]
const CARRIED_OVER: &[(&str, &str, &str)] = &[
    ("Type=oneshot", "type", r#""oneshot""#),
    ("", "restart", r#""on-failure""#),
    ("Restart=no", "restart", r#""no""#),
    ("Restart=on-abnormal", "restart", r#""on-abnormal""#),
    ("ExecReload=/bin/kill -HUP $MAINPID", "reload", r#""SIGHUP""#),
    ("ExecReload=-/usr/sbin/x -t $A 'b c'\nExecReload=/usr/sbin/x -s $MAINPID", "reload",
     r#"["/bin/sh", "-c", "set -ef; /usr/sbin/x -t $A 'b c' || :; /usr/sbin/x -s $MAINPID"]"#),
    ("ExecReload=/usr/sbin/x -t ; /bin/kill -HUP ${MAINPID}", "reload",
     r#"["/bin/sh", "-c", "set -ef; /usr/sbin/x -t; /bin/kill -HUP \"${MAINPID-}\""]"#),
    ("ExecReload=/usr/sbin/x -s $MAINPID", "reload", r#"["/usr/sbin/x", "-s", "${MAINPID-}"]"#),
    ("ExecReload=/usr/sbin/x $OPTS", "reload", r#"["/bin/sh", "-c", "set -f; exec /usr/sbin/x $OPTS"]"#),
    ("[Unit]\nConditionPathExists=|/a\nConditionPathExists=|!/b\nConditionDirectoryNotEmpty=|/c\nConditionPathExists=/d\n[Service]", "conditions",
     r#"{"path_exists": "/d", "command": ["/bin/sh", "-c", "[ -e /a ] || [ ! -e /b ] || [ -n \"$(ls -A /c 2>/dev/null)\" ]"]}"#),
    ("[Unit]\nRequires=there.socket\n[Service]", "requires", r#"["there"]"#),
    ("TasksMax=99%", "pids_max", r#"null"#),
    ("Type=notify", "ready", r#"{"notify":true,"access":"main"}"#),
    ("Type=notify\nNotifyAccess=all", "ready", r#"{"notify":true}"#),
    ("Type=notify\nNotifyAccess=exec", "ready", r#"{"notify":true,"access":"main"}"#),
    ("Type=notify\nNotifyAccess=none", "ready", r#"{"notify":true,"access":"main"}"#),
    ("Type=notify-reload", "reload", r#"{"signal":"SIGHUP","notify":true}"#),
    ("Type=notify-reload\nReloadSignal=SIGUSR1", "reload", r#"{"signal":"SIGUSR1","notify":true}"#),
    ("Type=oneshot\nExecReload=/bin/kill -HUP $MAINPID", "reload", r#"null"#),
    ("User=daemon\nExecReload=-+/usr/sbin/x -r", "reload", r#"{"run":["/usr/sbin/x","-r"],"user":"root","ignore_failure":true}"#),
    ("User=daemon\nExecReload=!/usr/sbin/x -t\nExecReload=+/usr/sbin/x -r", "reload",
        r#"{"run":["/bin/sh","-c","set -ef; /usr/sbin/x -t; /usr/sbin/x -r"],"user":"root"}"#),
    ("User=daemon\nPermissionsStartOnly=yes\nExecReload=/usr/sbin/x", "reload", r#"{"run":["/usr/sbin/x"],"user":"root"}"#),
    ("ExecReload=/usr/sbin/x -r\nTimeoutStartSec=5", "start_timeout", r#""5s""#),
    ("ExecReload=/bin/kill -HUP $MAINPID\nTimeoutStartSec=5", "start_timeout", r#"null"#),
    ("Type=oneshot\nExecReload=/bin/a -f /x", "reload", r#"["/bin/a", "-f", "/x"]"#),
    ("User=1\nConfigurationDirectory=x\nExecStartPre=/bin/b", "before_start",
     r#"[{"run": ["/usr/bin/install", "-d", "-m", "0755", "/etc/x"], "user": "root"}, ["/bin/b"]]"#),
    ("[Unit]\nConditionVirtualization=no\n[Service]", "conditions", r#"{"container": false, "virtual_machine": false}"#),
    ("Type=dbus\nBusName=a.b", "ready", r#"{"command": ["/usr/bin/dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus",
      "/org/freedesktop/DBus", "org.freedesktop.DBus.GetNameOwner", "string:a.b"]}"#),
    ("Restart=on-watchdog", "restart", r#""on-failure""#),
    ("RestartPreventExitStatus=255 SIGTERM", "restart_prevent_exit_status", r#"[255]"#),
    ("Type=oneshot", "restart", r#"null"#),
    ("RestartSec=1min 30s", "restart_delay", r#""90s""#),
    ("StartLimitBurst=3", "start_limit", r#"{"burst": 3, "interval": "10s"}"#),
    ("StartLimitInterval=0\nStartLimitBurst=3", "start_limit", r#"null"#),
    ("SuccessExitStatus=TEMPFAIL 250", "success_exit_status", r#"[0, 75, 250]"#),
    ("KillMode=none", "stop_mode", r#""main""#),
    ("KillSignal=INT", "stop_signal", r#""SIGINT""#),
    ("ExecStop=/bin/kill -s QUIT $MAINPID", "stop_signal", r#""SIGQUIT""#),
    ("", "stop_timeout", r#""90s""#),
    ("TimeoutSec=7", "stop_timeout", r#""7s""#),
    ("TimeoutStopSec=infinity", "stop_timeout", r#""infinity""#),
    ("SendSIGKILL=no", "stop_timeout", r#""infinity""#),
    ("User=root\nGroup=root", "group", r#""root""#),
    ("WorkingDirectory=-/tmp", "working_directory", r#""/tmp""#),
    ("Environment=A=1 \"B=x y\"\nEnvironment=A=2", "environment", r#"{"A": "2", "B": "x y"}"#),
    ("Environment=A=1\nEnvironment=\nEnvironment=B=2", "environment", r#"{"B": "2"}"#),
    ("PassEnvironment=A B", "pass_environment", r#"["A", "B"]"#),
    ("LimitNOFILE=infinity", "limits", r#"{"nofile": 1048576}"#),
    ("LimitCORE=0\nLimitAS=4G:infinity", "limits", r#"{"core": 0, "as": ["4GiB", "unlimited"]}"#),
    ("LimitRTTIME=5ms\nLimitCPU=1min", "limits", r#"{"rttime": "5ms", "cpu": "60s"}"#),
    ("UMask=0077", "umask", r#""0077""#),
    ("Nice=-5", "nice", r#"-5"#),
    ("OOMScoreAdjust=-500", "oom_score_adj", r#"-500"#),
    ("NoNewPrivileges=yes", "no_new_privileges", r#"true"#),
    ("CapabilityBoundingSet=CAP_CHOWN cap_kill", "capabilities", r#"["CAP_CHOWN", "CAP_KILL"]"#),
    ("User=1\nAmbientCapabilities=CAP_CHOWN", "capabilities", r#"["CAP_CHOWN"]"#),
    ("User=1\nCapabilityBoundingSet=CAP_CHOWN", "capabilities", r#"null"#),
    ("CPUAffinity=0 2-3", "cpu_affinity", r#"["0", "2-3"]"#),
    ("RuntimeDirectory=a b/c\nRuntimeDirectoryMode=0700", "directories", r#"{"runtime": ["a", "b/c"], "mode": "0700"}"#),
    ("RuntimeDirectory=a\nRuntimeDirectoryMode=2755", "before_start", r#"[["/bin/chmod", "2755", "/run/a"]]"#),
    ("User=1\nRuntimeDirectory=a\nLogsDirectory=b c\nLogsDirectoryMode=0750\nExecStartPre=/bin/x", "before_start",
     r#"[{"run": ["/bin/chmod", "0750", "/var/log/b"], "user": "root"}, {"run": ["/bin/chmod", "0750", "/var/log/c"], "user": "root"}, ["/bin/x"]]"#),
    ("MemoryMax=512M", "memory_max", r#""512MiB""#),
    ("CPUQuota=150%", "cpu_max", r#""150%""#),
    ("TasksMax=50", "pids_max", r#"50"#),
    ("FileDescriptorStoreMax=7", "fd_store", r#"7"#),
    ("FileDescriptorStoreMax=4224", "fd_store", r#"512"#),
    ("FileDescriptorStoreMax=0", "fd_store", r#"null"#),
    ("Type=oneshot\nFileDescriptorStoreMax=7", "fd_store", r#"null"#),
    ("StandardOutput=append:/tmp/x", "stdout", r#""/tmp/x""#),
    ("EnvironmentFile=-/a\nEnvironmentFile=/dev/null", "environment_file", r#"["-/a", "/dev/null"]"#),
    ("ExecStart=@/bin/sleep zzz 5", "command", r#"["/bin/sleep", "5"]"#),
    ("ExecStart=/bin/sh -c 'a ; b'", "command", r#"["/bin/sh", "-c", "a ; b"]"#),
    ("ExecStart=:/bin/echo $A ${B}", "command", r#"["/bin/echo", "$A", "$${B}"]"#),
    ("ExecStart=/bin/echo %n %%", "command", r#"["/bin/echo", "web.service", "%"]"#),
    ("Type=oneshot\nExecStart=/bin/a 'x y'\nExecStart=/bin/b", "command", r#"["/bin/b"]"#),
    ("Type=oneshot\nExecStartPre=/bin/p\nExecStart=-/bin/a 'x y'\nExecStart=/bin/b\nExecStartPost=/bin/c", "before_start",
     r#"[["/bin/p"], {"run": ["/bin/a", "x y"], "ignore_failure": true}, ["/bin/b"]]"#),
    ("ExecStartPre=-/bin/mkdir -p /x\nExecStartPre=/bin/a ${B} ; /bin/b", "before_start",
     r#"[{"run": ["/bin/mkdir", "-p", "/x"], "ignore_failure": true}, ["/bin/a", "${B-}"], ["/bin/b"]]"#),
    ("User=1\nExecStartPre=+/bin/a\nExecStartPre=/bin/b", "before_start", r#"[{"run": ["/bin/a"], "user": "root"}, ["/bin/b"]]"#),
    ("User=1\nPermissionsStartOnly=yes\nExecStartPre=/bin/a", "before_start", r#"[{"run": ["/bin/a"], "user": "root"}]"#),
    ("ExecStart=/bin/a\nExecStart=/bin/b", "before_start", r#"null"#),
    ("ExecStart=/bin/sh -c 'echo $$HOME ${B} $C'", "command", r#"["/bin/sh", "-c", "echo $HOME ${B-} $C"]"#),
    ("ExecStartPost=@/bin/a b c", "after_start", r#"[["/bin/a", "c"]]"#),
    ("ExecStop=/bin/a $MAINPID\nExecStop=/bin/b", "before_stop", r#"[["/bin/a", "${MAINPID-}"], ["/bin/b"]]"#),
    ("ExecStopPost=/bin/a", "after_stop", r#"[["/bin/a"]]"#),
    ("ExecCondition=/bin/a", "conditions", r#"{"command": ["/bin/a"]}"#),
    ("[Unit]\nConditionPathExists=/a\nConditionPathExists=!/b\nConditionFileNotEmpty=|/c\n[Service]", "conditions",
     r#"{"path_exists": ["/a", "!/b"], "file_not_empty": "/c"}"#),
    ("[Unit]\nConditionPathExists=|/a\nConditionPathExists=|/b\n[Service]", "conditions", r#"{"command": ["/bin/sh", "-c", "[ -e /a ] || [ -e /b ]"]}"#),
    ("[Unit]\nConditionPathExists=|/a\nConditionHost=|b\n[Service]", "conditions", r#"null"#),
    ("[Unit]\nConditionPathExists=|/a\nConditionPathExists=|/b;c\n[Service]", "conditions", r#"null"#),
    ("[Unit]\nAssertPathExistsGlob=/etc/*\n[Service]", "conditions", r#"{"path_matches": "/etc/*"}"#),
    ("[Unit]\nConditionVirtualization=!container\nConditionKernelCommandLine=!a=b\n[Service]", "conditions",
     r#"{"container": false, "kernel_command_line": ["!a=b"]}"#),
    ("ProtectSystem=strict\nReadWritePaths=/var/lib/x -/y\nPrivateTmp=yes\nPrivateDevices=no", "sandbox",
     r#"{"optional": true, "private_tmp": true, "read_only": ["/"], "writable": ["/var/lib/x", "-/y"]}"#),
    ("ProtectSystem=full\nProtectHome=read-only", "sandbox",
     r#"{"optional": true, "read_only": ["-/usr", "-/boot", "-/efi", "-/etc", "-/home", "-/root", "-/run/user"]}"#),
    ("ProtectHome=yes\nPrivateNetwork=yes\nPrivateDevices=yes\nReadWritePaths=/x", "sandbox",
     r#"{"network": false, "optional": true, "private_devices": true, "protect_home": true}"#),
    ("ProtectSystem=no\nProtectHome=false", "sandbox", "null"),
    ("OOMScoreAdjust=-500", "sandbox", r#"{"optional": true}"#),
    ("OOMScoreAdjust=500", "sandbox", "null"),
    ("CapabilityBoundingSet=CAP_CHOWN", "sandbox", r#"{"optional": true}"#),
    ("User=1\nAmbientCapabilities=CAP_CHOWN", "sandbox", "null"),
    ("ProtectSystem=strict\nReadOnlyPaths=/etc\nReadWritePaths=\"/opt/with blank\" /etc", "sandbox",
     r#"{"optional": true, "read_only": ["/"], "writable": ["/opt/with blank", "/etc"]}"#),
    ("ProtectSystem=strict\nReadWritePaths=/", "sandbox", "null"),
    ("[Unit]\nConditionACPower=true\nConditionCapability=CAP_SYS_TIME\n[Service]", "conditions",
     r#"{"ac_power": true, "capability": "CAP_SYS_TIME"}"#),
    ("[Unit]\nPartOf=elsewhere.service some.target\n[Service]", "part_of", r#"["elsewhere"]"#),
    ("Restart=on-abort", "restart", r#""on-abort""#),
    ("Type=oneshot\nRemainAfterExit=yes\nExecStop=/bin/a", "before_stop", r#"[["/bin/a"]]"#),
    ("TimeoutStartSec=5\nExecStartPre=/bin/true", "start_timeout", r#""5s""#),
];

#[test]
fn settings_are_carried_over() {
    for (lines, key, expected) in CARRIED_OVER {
        let expected: Value = serde_json::from_str(expected).unwrap();
        let (service, imported) = unit(lines);
        assert_eq!(value(&service, key), expected, "{lines}");
        if !lines.contains("/dev/null") {
            assert_checked(&imported);
        }
    }
}

/// Such as chronyd, which changes to its user itself.
#[test]
fn a_command_with_all_rights_is_roots() {
    let lines = "User=1\nGroup=2\nExecStart=!/bin/true\nExecStartPre=/bin/a\nExecStartPre=+/bin/b\n\
                 RuntimeDirectory=x\nRuntimeDirectoryMode=0700\nCapabilityBoundingSet=CAP_CHOWN";
    let (service, imported) = unit(lines);
    assert_checked(&imported);
    assert_eq!((service.get("user"), service.get("group")), (None, None));
    assert_eq!(service.get("directories"), None);
    let steps = serde_json::json!([
        ["/usr/bin/install", "-d", "-m", "0700", "/run/x"],
        ["/bin/chown", "1:2", "/run/x"],
        { "run": ["/bin/a"], "user": "1" },
        ["/bin/b"],
    ]);
    assert_eq!(value(&service, "before_start"), steps);
    assert_eq!(value(&service, "capabilities"), json(&["CAP_CHOWN"]));
    assert_eq!(imported.count(Severity::Lost), 0, "{:?}", imported.findings);
}

#[test]
fn what_is_made_at_boot_is_made_before_the_start() {
    let with_lines = |lines: &str| {
        let mut unit = text(
            "web.service",
            &format!("[Service]\nExecStart=/bin/true\n{lines}"),
        );
        let made = "d /run/web 0755 1 2 - -\nd /run/own - - - - -\n";
        unit.tmpfiles = vec![(PathBuf::from("/x/web.conf"), made.to_owned())];
        convert(&[unit], None, &host())
    };
    let imported = with_lines("ExecStartPre=/bin/a\nRuntimeDirectory=own\n");
    assert_checked(&imported);
    let service = &imported.services[0];
    let web = [
        "/usr/bin/install",
        "-d",
        "-m",
        "0755",
        "-o",
        "1",
        "-g",
        "2",
        "/run/web",
    ];
    assert_eq!(
        value(service, "before_start"),
        serde_json::json!([web, ["/bin/a"]])
    );
    let toml = service.to_toml();
    assert!(
        toml.contains("# web.conf:1: d /run/web 0755 1 2 - -\n# web.service:3: "),
        "{toml}"
    );
    let imported = with_lines("User=1\n");
    let step = value(&imported.services[0], "before_start")[0].clone();
    assert_eq!(step, serde_json::json!({ "run": web, "user": "root" }));
}

#[test]
fn units_name_each_other() {
    let start = "[Service]\nExecStart=/bin/true\n";
    let imported = import(&[
        (
            "a.service",
            &format!(
                "[Unit]\nRequires=b.service gone.service x.target\nWants=there.service\nBefore=c.service\n{start}"
            ),
        ),
        (
            "b.service",
            &format!("[Unit]\nAfter=c.service there.service gone.service\n{start}"),
        ),
        ("c.service", &format!("[Unit]\nBindsTo=b.service\n{start}")),
    ]);
    assert_checked(&imported);
    let of = |name: &str, key: &str| {
        let mut services = imported.services.iter();
        value(services.find(|it| it.name == name).unwrap(), key)
    };
    assert_eq!(of("a", "requires"), json(&["b"]));
    assert_eq!(of("a", "wants"), json(&["there"]));
    assert_eq!(of("c", "binds"), json(&["b"]));
    assert_eq!(of("c", "after"), json(&["a"]));
    // b after c would be a cycle.
    assert_eq!(of("b", "after"), json(&["there"]));
    let (severity, _) = &found(&imported, "Requires=")[0];
    assert_eq!(*severity, Severity::Lost);
}

/// A file that the check refuses would keep the agent from taking up the others.
#[test]
fn what_the_check_refuses_is_not_written() {
    let start = "[Service]\nExecStart=/bin/true\n";
    let imported = import(&[
        (
            "a.service",
            &format!("[Unit]\nRequires=b.service c.service\n{start}"),
        ),
        ("b.service", &format!("{start}User=no-such-user\n")),
        ("c.service", "[Service]\nExecStart=/bin/true\n"),
        ("d.service", "[Service]\nType=oneshot\n"),
    ]);
    let refused = imported.services.iter().map(|it| it.refused.is_some());
    assert_eq!(refused.collect::<Vec<_>>(), [false, true, false, true]);
    assert_eq!(value(&imported.services[0], "requires"), json(&["c"]));
    assert!(
        imported.services[1]
            .to_toml()
            .starts_with("# NOT WRITTEN: user: no user")
    );
    let dir = tempfile::tempdir().unwrap();
    let written = write(&imported.services, &BTreeSet::new(), dir.path()).unwrap();
    let existing = BTreeSet::from(["c".to_owned()]);
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(write(&imported.services, &existing, elsewhere.path()).is_err());
    assert!(!elsewhere.path().join("services").exists());
    let names = written
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["a.toml", "c.toml"]);
}

#[test]
fn drop_ins_add_and_empty() {
    let mut web = text(
        "web.service",
        "[Service]\nExecStart=/bin/true\nLimitNOFILE=1\n",
    );
    let more = "[Service]\nExecStart=\nExecStart=/bin/false\nLimitNOFILE=2\n";
    web.added
        .push((PathBuf::from("/from/web.service.d/x.conf"), more.to_owned()));
    let imported = convert(&[web], None, &host());
    let service = &imported.services[0];
    assert_eq!(value(service, "command"), json(&["/bin/false"]));
    assert_eq!(value(service, "limits")["nofile"], 2);
    assert!(
        service
            .to_toml()
            .contains("# x.conf:3: ExecStart=/bin/false\n")
    );
}

/// What an environment file sets wins for systemd, and the table wins here.
#[test]
fn a_variable_of_a_file_is_not_hidden() {
    let lines =
        "[Service]\nExecStart=/bin/true\nEnvironment=A=1 B=secret\nEnvironmentFile=/etc/x\n";
    let mut web = text("web.service", lines);
    web.variables.insert("A".to_owned());
    let imported = convert(&[web], None, &host());
    assert_eq!(
        value(&imported.services[0], "environment"),
        serde_json::json!({ "B": "secret" })
    );
    let report = format!("{:?}", imported.findings);
    assert!(!report.contains("secret"), "{report}");
}

#[test]
fn every_directive_has_its_cost() {
    let mut lines = BTreeMap::from([("Unit", String::new()), ("Service", String::new())]);
    for (section, key) in directives::all() {
        lines
            .get_mut(section)
            .unwrap()
            .push_str(&format!("{key}=x\n"));
    }
    let whole = format!(
        "[Unit]\n{}[Service]\nExecStart=/bin/true\n{}",
        lines["Unit"], lines["Service"]
    );
    let imported = import(&[("web.service", &whole)]);
    assert_checked(&imported);
    for (_, key) in directives::all() {
        let found = found(&imported, &format!("{key}="));
        assert!(!found.is_empty(), "{key}");
        for (_, message) in found {
            assert!(!message.contains("not known"), "{key}: {message}");
        }
    }
    let (_, imported) = unit("Frobnicate=1\nX-Mine=2");
    assert_eq!(found(&imported, "Frobnicate")[0].0, Severity::Lost);
    assert_eq!(found(&imported, "X-Mine")[0].0, Severity::Harmless);
}

/// Of which nothing need be told here: what is off, of a template alone, overridden by another one, or told of with
/// another one.
const UNTOLD: [&str; 6] = [
    "NoNewPrivileges",
    "DefaultInstance",
    "TimeoutSec",
    "StartLimitBurst",
    "ConfigurationDirectoryMode",
    "Description",
];

/// Not of this table's, but of systemd's manual.
const DIRECTIVES: (&str, &str) = fixture!("systemd.directives");

#[test]
fn every_directive_of_systemds_manual_is_known() {
    let (_, names) = DIRECTIVES;
    let names = names.lines().filter(|line| !line.starts_with('#'));
    let names: Vec<_> = names.filter_map(|line| line.split_once(' ')).collect();
    assert!(names.len() > 300, "{}", names.len());
    let mut whole = String::new();
    for section in ["Unit", "Service", "Install"] {
        whole.push_str(&format!("[{section}]\n"));
        for (_, key) in names.iter().filter(|(of, _)| *of == section) {
            let value = match *key {
                "ExecStart" => "/bin/true",
                "Type" => "notify",
                _ => "x",
            };
            whole.push_str(&format!("{key}={value}\n"));
        }
    }
    let imported = import(&[("web.service", &whole)]);
    assert_checked(&imported);
    assert_eq!(imported.services.len(), 1);
    let toml = imported.services[0].to_toml();
    let untold = names.iter().filter(|(_, key)| {
        let found = found(&imported, &format!("{key}="));
        let is_unknown = found
            .iter()
            .any(|(_, it)| it.contains("is not known") && it.contains("directive"));
        let is_told =
            !found.is_empty() || toml.contains(&format!(": {key}")) || *key == "Environment";
        is_unknown || !is_told && !UNTOLD.contains(key)
    });
    let untold: Vec<_> = untold
        .map(|(section, key)| format!("{section} {key}"))
        .collect();
    assert_eq!(untold, Vec::<String>::new());
}

#[test]
fn what_follows_a_failure_or_a_reload_of_another_is_carried_over() {
    let start = "[Service]\nExecStart=/bin/true\n";
    let imported = import(&[
        (
            "a.service",
            &format!(
                "[Unit]\nOnFailure=b.service gone.service\nPartOf=c.service\nReloadPropagatedFrom=c.service\n{start}"
            ),
        ),
        (
            "b.service",
            &format!("[Unit]\nReloadPropagatedFrom=c.service\n{start}"),
        ),
        ("c.service", start),
    ]);
    assert_checked(&imported);
    let of = |name: &str, key: &str| {
        let service = imported.services.iter().find(|it| it.name == name).unwrap();
        value(service, key)
    };
    let words = of("a", "on_failed");
    assert!(words[0].as_str().unwrap().starts_with('/'), "{words}");
    let rest: Vec<_> = words.as_array().unwrap().iter().skip(1).collect();
    assert_eq!(rest, ["start", "--no-wait", "b"]);
    assert_eq!(of("a", "part_of"), serde_json::json!(["c"]));
    let told = |setting: &str| {
        found(&imported, setting)
            .into_iter()
            .map(|it| it.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(told("OnFailure="), [Severity::Approximated]);
    assert_eq!(
        told("ReloadPropagatedFrom="),
        [Severity::Approximated, Severity::Harmless]
    );
}

#[test]
fn what_stays_in_the_background_is_known_by_its_pid_file() {
    let unheardof = "Type=forking\nExecStart=/usr/sbin/unheardof -d\n";
    for (more, expected) in [
        ("PIDFile=/run/x.pid", Some("/run/x.pid")),
        ("PIDFile=x/y.pid", Some("/run/x/y.pid")),
        ("", None),
    ] {
        let (toml, imported) = unit(&format!("{unheardof}{more}"));
        assert_eq!(value(&toml, "type"), "forking", "{more}");
        assert_eq!(value(&toml, "pid_file").as_str(), expected, "{more}");
        assert_checked(&imported);
    }
    let (toml, _) = unit("Type=forking\nExecStart=/usr/sbin/nginx\nPIDFile=/run/nginx.pid");
    assert!(toml.get("pid_file").is_none() && toml.get("type").is_none());
}

#[test]
fn programs_of_supervisord_become_services() {
    use serde_json::json;

    let imported = import(&[SUPERVISORD]);
    assert_checked(&imported);
    let names: Vec<_> = imported
        .services
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    let expected = [
        "console",
        "db",
        "idle",
        "loud",
        "once",
        "picky",
        "queue",
        "quiet",
        "web",
        "worker_00",
        "worker_01",
        "worker_02",
    ];
    assert_eq!(names, expected);
    let of = |name: &str, key: &str| {
        let mut services = imported.services.iter();
        value(services.find(|it| it.name == name).unwrap(), key)
    };
    for (name, key, expected) in [
        ("db", "restart", json!("always")),
        ("db", "after", Value::Null),
        ("queue", "after", json!(["db"])),
        ("queue", "stop_signal", json!("SIGQUIT")),
        ("queue", "stop_timeout", json!("30s")),
        ("web", "after", json!(["queue"])),
        ("web", "command", json!(["/bin/sleep", "${WEB_SECONDS}"])),
        ("web", "pass_environment", json!(["WEB_SECONDS"])),
        ("web", "environment", json!({"A": "one, two", "B": "web"})),
        ("web", "umask", json!("0027")),
        (
            "worker_01",
            "command",
            json!(["/bin/sh", "-c", "exec sleep 1001"]),
        ),
        ("worker_01", "stop_mode", Value::Null),
        ("once", "restart", json!("no")),
        ("once", "start_check", json!("0s")),
        ("picky", "restart", json!("on-failure")),
        ("picky", "success_exit_status", json!([0, 2])),
        ("idle", "autostart", json!(false)),
        ("quiet", "stderr", json!("null")),
        ("console", "stdout", json!("inherit")),
        ("console", "stop_mode", json!("mixed")),
    ] {
        assert_eq!(of(name, key), expected, "{name} {key}");
    }
    let (severity, _) = &found(&imported, "[eventlistener:mail]")[0];
    assert_eq!(*severity, Severity::Lost);
}

#[test]
fn lines_of_inittabs_become_services() {
    for (file, expected) in [
        (
            SYSVINIT,
            &["sleep", "sleep-s2", "script-lo", "sleep-on", "true"][..],
        ),
        (BUSYBOX, &["sleep", "sleep-3", "sleep-ttyS0", "sleep-7"]),
    ] {
        let imported = import(&[file]);
        assert_checked(&imported);
        let names: Vec<_> = imported
            .services
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        assert_eq!(names, expected);
    }
    let imported = import(&[SYSVINIT]);
    let other = &imported.services[1];
    assert_eq!(value(other, "autostart"), false);
    let words = [
        "/bin/sh",
        "-c",
        "exec /bin/sh -c \"exec sleep 1003\" >/dev/null 2>&1",
    ];
    assert_eq!(value(&imported.services[2], "command"), json(&words));
    assert_eq!(value(&imported.services[4], "type"), "oneshot");
    assert_eq!(found(&imported, "bad line")[0].0, Severity::Lost);
}

#[test]
fn formats_are_told_apart() {
    let format = |name: &str, it: &str| guess(&text(name, it));
    assert_eq!(format("a.service", ""), Some(Format::Systemd));
    assert_eq!(format("a", "[Service]\n"), Some(Format::Systemd));
    assert_eq!(format("a.conf", "[program:x]\n"), Some(Format::Supervisord));
    assert_eq!(format("inittab", ""), Some(Format::Inittab));
    assert_eq!(
        format("a", "# x\n::respawn:/bin/x\n"),
        Some(Format::Inittab)
    );
    assert_eq!(format("a", "hello\n"), None);
    let imported = import(&[("a.txt", "hello"), ("x.socket", "[Socket]\n")]);
    assert_eq!(imported.count(Severity::Lost), 2);
}

#[test]
fn socket_units_become_the_sockets_of_their_service() {
    let service = "[Unit]\nRequires=web.socket\n[Service]\nExecStart=/bin/true\n";
    let socket = "[Unit]\nDescription=x\n[Socket]\nListenStream=80\nListenStream=127.0.0.1:81\n\
                  ListenStream=%t/web.sock\nListenDatagram=[::1]:53\nListenSequentialPacket=/run/web/seq\n\
                  SocketMode=660\nSocketUser=root\nBacklog=7\nBindIPv6Only=both\nReusePort=yes\n\
                  ListenStream=@abstract\nListenFIFO=/run/fifo\nKeepAlive=yes\nRemoveOnStop=yes\n\
                  [Install]\nWantedBy=sockets.target\n";
    let imported = import(&[("web.service", service), ("web.socket", socket)]);
    assert_checked(&imported);
    let listen = value(&imported.services[0], "listen");
    let expected = serde_json::json!([
        { "tcp": "[::]:80", "name": "web.socket", "reuse_port": true, "ipv6_only": false, "backlog": 7 },
        { "tcp": "127.0.0.1:81", "name": "web.socket", "reuse_port": true, "backlog": 7 },
        { "unix": "/run/web.sock", "name": "web.socket", "mode": "0660", "user": "root", "backlog": 7 },
        { "udp": "[::1]:53", "name": "web.socket", "reuse_port": true, "ipv6_only": false },
        { "unix_seqpacket": "/run/web/seq", "name": "web.socket", "mode": "0660", "user": "root", "backlog": 7 },
    ]);
    assert_eq!(listen, expected);
    for (setting, severity, message) in [
        (
            "ListenStream=80",
            Severity::Approximated,
            "its service starts at once",
        ),
        (
            "ListenStream=@abstract",
            Severity::Lost,
            "there is no such socket here",
        ),
        (
            "ListenFIFO",
            Severity::Lost,
            "it is not a socket that can be held",
        ),
        (
            "KeepAlive",
            Severity::Approximated,
            "it is not carried over",
        ),
        (
            "ListenSequentialPacket",
            Severity::Approximated,
            "/run/web has to be there",
        ),
    ] {
        let found = found(&imported, setting);
        assert_eq!(found.len(), 1, "{setting} {found:?}");
        assert_eq!(found[0].0, severity, "{setting}");
        assert!(found[0].1.contains(message), "{found:?}");
    }
    for setting in ["Requires=web.socket", "RemoveOnStop"] {
        assert_eq!(found(&imported, setting), [], "{setting}");
    }
}

#[test]
fn a_socket_unit_may_come_to_none() {
    let service = "[Unit]\nRequires=web.socket\n[Service]\nExecStart=/bin/true\n";
    let named = |socket: &str| {
        let socket = format!("[Socket]\n{socket}\n");
        import(&[("web.service", service), ("x.socket", &socket)])
    };
    let imported = named(
        "Service=web.service\nListenStream=1\nListenStream=\nListenStream=2\nFileDescriptorName=a",
    );
    assert_eq!(
        value(&imported.services[0], "listen"),
        serde_json::json!([{ "tcp": "[::]:2", "name": "a" }])
    );
    let imported = named("Service=web.service\nListenStream=1\nAccept=yes");
    assert_eq!(value(&imported.services[0], "listen"), Value::Null);
    assert_eq!(found(&imported, "Accept=yes")[0].0, Severity::Lost);
    let imported = named("ListenStream=1");
    let alone = imported
        .findings
        .iter()
        .any(|it| it.message == "it is for x.service; import it together with that");
    assert!(alone, "{:?}", imported.findings);
    let message = &found(&imported, "Requires=web.socket")[0].1;
    assert_eq!(
        message,
        "web.socket is not imported: no sockets are passed to it"
    );
    let oneshot = service.replace("[Service]", "[Service]\nType=oneshot");
    let imported = import(&[
        ("web.service", &oneshot),
        ("web.socket", "[Socket]\nListenStream=1\n"),
    ]);
    assert_checked(&imported);
    assert_eq!(value(&imported.services[0], "listen"), Value::Null);
}

/// Whatever is read: no panic, and what is written is a service file.
#[test]
fn torn_files_are_read() {
    for (name, whole) in UNITS
        .iter()
        .chain([&TEMPLATE, &SUPERVISORD, &SYSVINIT, &BUSYBOX])
    {
        for end in (0..whole.len()).step_by(29) {
            let mut torn = text(name, whole.get(..end).unwrap_or_default());
            torn.name = name.replace("@.", "@x.");
            let imported = convert(&[torn], None, &Host::default());
            for service in &imported.services {
                let (problems, _) = config::check_text(
                    Path::new("x.toml"),
                    service.to_toml(),
                    &Surroundings::default(),
                );
                let is_toml = |problem: &config::Problem| !problem.message.contains("TOML");
                assert!(problems.iter().all(is_toml), "{name} {end}: {problems:?}");
            }
        }
    }
    let odd = "[Service]\nExecStart=/bin/echo \"\u{7f}\u{1b}\" 'ä$' \\x41 \\xff %%\nEnvironment='A=\u{7f}\"\\n'\n               Description=\u{1b}[31m\nCPUQuota=99999999999%\nLimitNICE=+5\nUMask=99\n";
    let (service, imported) = (unit(odd).0, unit(odd).1);
    assert_checked(&imported);
    assert!(!service.to_toml().contains('\u{1b}'));
}

#[test]
fn a_file_that_several_write_to_is_nobodys_log() {
    let program = "[program:web]\ncommand=/bin/true\nnumprocs=2\nprocess_name=web_%(process_num)d\n\
        stdout_logfile=/tmp/x.log\nstdout_logfile_maxbytes=10MB\nredirect_stderr=true\n";
    let imported = import(&[("supervisord.conf", program)]);
    assert_eq!(imported.services.len(), 2);
    for service in &imported.services {
        assert_eq!(value(service, "log"), Value::Null);
        assert_eq!(value(service, "stdout"), "/tmp/x.log");
        assert_eq!(service.refused, None);
    }
    let told = found(&imported, "log");
    assert_eq!(told.len(), 2, "{told:?}");
}

/// A run directory, with its other files.
fn directory(name: &str, run: &str, files: &[(&str, &str)]) -> Text {
    let place = Path::new("/from").join(name);
    let main = match files.iter().any(|(name, _)| *name == "type") {
        true => "type",
        false => "run",
    };
    let mut read = text(name, run);
    read.path = place.join(main);
    let all = [("run", run)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty());
    let all = all.chain(files.iter().copied());
    read.added = all
        .map(|(name, text)| (place.join(name), text.to_owned()))
        .collect();
    read
}

fn import_directories(texts: &[Text]) -> Imported {
    let imported = convert(texts, None, &host());
    assert_checked(&imported);
    imported
}

#[test]
fn a_run_directory_of_runit_becomes_a_service() {
    let run = "#!/bin/sh\nexec 2>&1\nmkdir -p /run/web\nsv start there || exit 1\nulimit -n 4096\n\
               exec chpst -u daemon:adm -e ./env -n 5 -o 1024 -C /srv ./bin/web -f 'a b' $$X\n";
    let run = run.replace(" $$X", "");
    let web = directory(
        "web",
        &run,
        &[
            ("finish", ""),
            ("check", ""),
            ("down", ""),
            ("env/A", "one \ntwo\n"),
            ("env/B", ""),
            (
                "log/run",
                "#!/bin/sh\nexec chpst -u log svlogd -tt ./main\n",
            ),
            ("log/main/config", "s65536\nn3\nu1.2.3.4\n"),
            ("control/t", ""),
        ],
    );
    let imported = import_directories(&[web]);
    let service = &imported.services[0];
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    for (key, expected) in [
        ("command", r#"["/srv/bin/web", "-f", "a b"]"#),
        ("working_directory", r#""/srv""#),
        ("user", r#""daemon""#),
        ("group", r#""adm""#),
        ("nice", "5"),
        ("limits", r#"{"nofile": 1024}"#),
        ("environment", r#"{"A": "one"}"#),
        (
            "before_start",
            r#"[{"run": ["mkdir", "-p", "/run/web"], "user": "root", "ignore_failure": true}]"#,
        ),
        ("requires", r#"["there"]"#),
        ("autostart", "false"),
        ("ready", r#"{"command": ["/from/web/check"]}"#),
        ("stop_mode", r#""mixed""#),
        (
            "log",
            r#"{"path": "/from/web/log/main/current", "max_size": "64KiB", "keep": 3, "timestamps": true}"#,
        ),
        (
            "after_stop",
            r#"[{"run": ["/from/web/finish", "${RESPAWN_CODE:--1}", "${RESPAWN_SIGNAL:-0}"], "user": "root", "ignore_failure": true}]"#,
        ),
    ] {
        assert_eq!(value(service, key), json(expected), "{key}");
    }
    assert_eq!(found(&imported, "u1.2.3.4")[0].0, Severity::Lost);
    let lost: Vec<_> = imported
        .findings
        .iter()
        .filter(|it| it.file.ends_with("control/t"))
        .collect();
    assert_eq!(lost[0].severity, Severity::Lost);
}

#[test]
fn a_run_directory_of_s6_becomes_a_service() {
    let run = "#!/command/execlineb -P\nfdmove -c 2 1\ncd /srv\nexport X \"y z\"\ns6-softlimit -o 512\n\
               s6-setuidgid daemon\n/bin/sleep 1000\n";
    let db = directory(
        "db",
        run,
        &[
            ("notification-fd", "3\n"),
            ("timeout-kill", "7000\n"),
            ("down-signal", "INT\n"),
            ("finish", ""),
        ],
    );
    let imported = import_directories(&[db]);
    let service = &imported.services[0];
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    for (key, expected) in [
        ("command", r#"["/bin/sleep", "1000"]"#),
        ("user", r#""daemon""#),
        ("limits", r#"{"nofile": 512}"#),
        ("environment", r#"{"X": "y z"}"#),
        ("ready", r#"{"fd": 3}"#),
        ("stop_timeout", r#""7s""#),
        ("stop_signal", r#""SIGINT""#),
        (
            "after_stop",
            r#"[{"run": ["/from/db/finish", "${RESPAWN_CODE:-256}", "${RESPAWN_SIGNAL:-0}", "db"], "user": "root", "timeout": "5s", "ignore_failure": true}]"#,
        ),
    ] {
        assert_eq!(value(service, key), json(expected), "{key}");
    }
    // One that does more is run as it is, and the line is named.
    let app = directory(
        "app",
        "#!/bin/sh\n[ -r conf ] && . ./conf\nexec sleep $TIME\n",
        &[],
    );
    let imported = import_directories(&[app]);
    assert_eq!(
        value(&imported.services[0], "command"),
        json(r#"["/from/app/run"]"#)
    );
    let (severity, _) = &found(&imported, "[ -r conf ]")[0];
    assert_eq!(*severity, Severity::Approximated);
}

#[test]
fn source_directories_of_s6_rc_name_each_other() {
    let longrun = "longrun\n";
    let imported = import_directories(&[
        directory(
            "app",
            "#!/bin/execlineb -P\n/bin/sleep 1\n",
            &[
                ("type", longrun),
                ("dependencies.d/base", ""),
                ("dependencies.d/gone", ""),
                ("producer-for", "app-log\n"),
                ("timeout-up", "0"),
            ],
        ),
        directory(
            "app-log",
            "#!/bin/execlineb -P\ns6-setuidgid log\ns6-log n5 s100000 T /var/log/app\n",
            &[("type", longrun), ("consumer-for", "app\n")],
        ),
        directory(
            "base",
            "",
            &[("type", "bundle\n"), ("contents", "mounts\nthere\n")],
        ),
        directory(
            "mounts",
            "",
            &[
                ("type", "oneshot\n"),
                ("up", "/bin/mount -a\n"),
                ("down", "/bin/umount -a\n"),
            ],
        ),
    ]);
    let names: Vec<_> = imported
        .services
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(names, ["app", "mounts"]);
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (app, mounts) = (&imported.services[0], &imported.services[1]);
    assert_eq!(value(app, "requires"), json(r#"["mounts", "there"]"#));
    assert_eq!(value(app, "start_timeout"), "infinity");
    assert_eq!(
        value(app, "log"),
        json(
            r#"{"path": "/var/log/app/current", "max_size": 100000, "keep": 5, "timestamps": true}"#
        )
    );
    assert_eq!(value(mounts, "type"), "oneshot");
    assert_eq!(value(mounts, "command"), json(r#"["/bin/mount", "-a"]"#));
    assert_eq!(
        value(mounts, "before_stop"),
        json(r#"[["/bin/umount", "-a"]]"#)
    );
    assert_eq!(found(&imported, "dependencies: gone").len(), 1);
}
