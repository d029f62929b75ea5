//! The config as its users meet it: files in, specs or problems out.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::model::{
    Address, Check, Limit, Listen, Log, NotifyAccess, Output, Policy, Probe, Ready, Reload,
    RestartPolicy, ServiceType, Signal, StartLimit, Step, StopMode, Target,
};

use super::*;

/// A config directory with files in it, removed when dropped.
struct Dir(TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = Self(TempDir::new().unwrap());
        fs::create_dir(dir.path(SERVICES)).unwrap();
        for (name, text) in files {
            fs::write(dir.path(name), text).unwrap();
        }
        dir
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self) -> Result<Config, Invalid> {
        load(self.0.path(), &surroundings())
    }

    fn problems(&self) -> Vec<Problem> {
        self.load().expect_err("a bad config").problems
    }
}

fn surroundings() -> Surroundings {
    let environment = [
        ("PATH", "/usr/bin:/bin"),
        ("LANG", "C.UTF-8"),
        ("SECRET", "of the shell that started the agent"),
    ];
    Surroundings {
        environment: environment
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        uid: nix::unistd::geteuid().as_raw(),
        ..Surroundings::default()
    }
}

/// The one service of a file with this text.
fn service(text: &str) -> Arc<Spec> {
    let dir = Dir::new(&[("services/web.toml", text)]);
    match dir.load() {
        Ok(config) => Arc::clone(&config.services["web"]),
        Err(invalid) => panic!("{invalid}"),
    }
}

/// Compares problems with (line, key, part of the message), in order.
#[track_caller]
fn assert_problems(text: &str, problems: &[Problem], expected: &[(usize, &str, &str)]) {
    let told: Vec<_> = problems.iter().map(Problem::to_string).collect();
    let told = told.join("\n");
    assert_eq!(problems.len(), expected.len(), "{text}\n{told}");
    for (problem, (line, key, message)) in problems.iter().zip(expected) {
        assert_eq!(problem.line.unwrap_or(0), *line, "{text}\n{told}");
        assert_eq!(problem.key.as_deref().unwrap_or(""), *key, "{text}\n{told}");
        assert!(
            problem.message.contains(message),
            "{message}\n{text}\n{told}"
        );
    }
}

#[test]
fn a_command_is_all_that_a_service_needs() {
    let spec = service("command = [\"/bin/sleep\", \"9\"]");
    assert_eq!(
        spec.policy,
        Policy {
            kind: ServiceType::Simple,
            pid_file: None,
            start_timeout: Duration::from_secs(90),
            restart: RestartPolicy::Always,
            restart_delay: Duration::ZERO,
            restart_max_delay: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            start_limit: None,
            success_exit_status: vec![0],
            restart_prevent_exit_status: vec![],
            stop_signal: Signal::TERM,
            stop_timeout: Duration::from_secs(10),
            stop_mode: StopMode::Group,
            start_check: Duration::from_secs(1),
            notify_access: NotifyAccess::All,
            restart_mode: crate::model::RestartMode::StopFirst,
            overlap: false,
            standby: false,
            essential: false,
            last_output: 0,
        }
    );
    let exec = &spec.exec;
    assert_eq!(exec.program, Path::new("/bin/sleep"));
    assert_eq!(exec.arguments, ["/bin/sleep", "9"]);
    assert_eq!(exec.working_directory, Path::new("/"));
    assert_eq!(
        (&exec.stdout, &exec.stderr),
        (&Output::Inherit, &Output::Inherit)
    );
    assert_eq!((&exec.identity, exec.umask, exec.nice), (&None, None, None));
    let environment: Vec<_> = exec.environment.iter().collect();
    let expected = [("LANG", "C.UTF-8"), ("PATH", "/usr/bin:/bin")];
    assert!(
        environment
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .eq(expected)
    );
}

const EVERY_KEY: &str = r#"
command = ["sh", "-c", "exit 3", ""]
user = "root"
group = 12345
working_directory = "/tmp"
environment = { KEY = "value", HOME = "/elsewhere" }
umask = "0027"
nice = -5
restart = "on-failure"
restart_delay = "100ms"
restart_max_delay = "1m 30s"
stable_after = "1h"
start_limit = { burst = 5, interval = "10s" }
success_exit_status = [3, 0, 3]
stop_signal = "HUP"
stop_timeout = "0s"
stop_mode = "main"
start_check = "300ms"
overlap = true
stdout = "/tmp/web.log"
last_output = "8KiB"

[limits]
core = "unlimited"
cpu = "1m"
memlock = "64KiB"
nofile = [1024, 4096]
stack = ["8MiB", "unlimited"]
rttime = "200ms"
"#;

#[test]
fn every_key_reaches_the_spec() {
    let spec = service(EVERY_KEY);
    assert_eq!(
        spec.policy,
        Policy {
            kind: ServiceType::Simple,
            pid_file: None,
            start_timeout: Duration::from_secs(90),
            restart: RestartPolicy::OnFailure,
            restart_delay: Duration::from_millis(100),
            restart_max_delay: Duration::from_secs(90),
            stable_after: Duration::from_secs(3600),
            start_limit: Some(StartLimit {
                burst: 5,
                interval: Duration::from_secs(10)
            }),
            success_exit_status: vec![0, 3],
            restart_prevent_exit_status: vec![],
            stop_signal: Signal::HUP,
            stop_timeout: Duration::ZERO,
            stop_mode: StopMode::Main,
            start_check: Duration::from_millis(300),
            notify_access: NotifyAccess::All,
            restart_mode: crate::model::RestartMode::StopFirst,
            overlap: true,
            standby: false,
            essential: false,
            last_output: 8 << 10,
        }
    );
    let exec = &spec.exec;
    assert_eq!(exec.program, Path::new("/usr/bin/sh"));
    assert_eq!(exec.arguments, ["sh", "-c", "exit 3", ""]);
    let identity = exec.identity.as_ref().unwrap();
    assert_eq!((identity.uid, identity.gid), (0, 12345));
    assert!(identity.groups.contains(&12345));
    assert_eq!(exec.working_directory, Path::new("/tmp"));
    assert_eq!(exec.environment["KEY"], "value");
    assert_eq!(exec.environment["HOME"], "/elsewhere");
    assert_eq!(exec.environment["USER"], "root");
    assert_eq!((exec.umask, exec.nice), (Some(0o027), Some(-5)));
    assert_eq!(exec.stdout, Output::File("/tmp/web.log".into()));
    assert_eq!(exec.stderr, exec.stdout);
    let limits: Vec<_> = exec
        .limits
        .iter()
        .map(|l| (l.resource, l.soft, l.hard))
        .collect();
    let expected = [
        (4, None, None),
        (0, Some(60), Some(60)),
        (8, Some(65_536), Some(65_536)),
        (7, Some(1024), Some(4096)),
        (15, Some(200_000), Some(200_000)),
        (3, Some(8 << 20), None),
    ];
    assert_eq!(limits, expected);
}

#[test]
fn some_values_can_be_written_in_more_than_one_way() {
    let with = |line: &str| service(&format!("command = [\"/bin/true\"]\n{line}"));
    assert_eq!(with("umask = 0o027").exec.umask, Some(0o027));
    assert_eq!(with("umask = \"27\"").exec.umask, Some(0o027));
    assert_eq!(with("stop_signal = 15").policy.stop_signal, Signal::TERM);
    assert_eq!(with("limits.as = 4096").exec.limits[0].soft, Some(4096));
    assert_eq!(with("stderr = \"null\"").exec.stderr, Output::Null);
    assert!(
        with("success_exit_status = []")
            .policy
            .success_exit_status
            .is_empty()
    );
    for user in ["user = \"root\"", "user = 0", "user = \"0\""] {
        let exec = &with(user).exec;
        let identity = exec.identity.as_ref().unwrap();
        assert_eq!((identity.uid, identity.gid), (0, 0), "{user}");
        assert!(identity.groups.contains(&0), "{user}");
        assert_eq!(exec.environment["LOGNAME"], "root", "{user}");
    }
    let identity = with("user = 54321\ngroup = 54322").exec.identity.clone();
    let identity = identity.unwrap();
    assert_eq!(
        (identity.uid, identity.gid, identity.groups),
        (54321, 54322, vec![54322])
    );
    let identity = with("group = \"root\"").exec.identity.clone().unwrap();
    assert_eq!((identity.uid, identity.gid), (0, 0));
}

#[test]
fn a_long_first_delay_raises_the_longest_one_unless_that_is_given() {
    let spec = service("command = [\"/bin/true\"]\nrestart_delay = \"1m\"");
    assert_eq!(spec.policy.restart_max_delay, Duration::from_secs(60));
}

/// Service files with what is wrong in them: (line, key, part of the message).
type Broken = (&'static str, &'static [(usize, &'static str, &'static str)]);

const BROKEN_COMMANDS: &[Broken] = &[
    (
        "",
        &[(1, "command", "is missing; expected an array of words")],
    ),
    ("restart = \"no\"", &[(1, "command", "is missing")]),
    ("command = []", &[(1, "command", "found an empty array")]),
    (
        "command = [\"\"]",
        &[(1, "command[0]", "expected a program, found \"\"")],
    ),
    (
        "command = \"/bin/true -x\"",
        &[(1, "command", "found \"/bin/true -x\"; no shell reads it")],
    ),
    (
        "command = [\"/bin/true\", 1, true]",
        &[
            (1, "command[1]", "found the integer 1; write \"1\""),
            (1, "command[2]", "found true; write \"true\""),
        ],
    ),
    (
        "command = [\"/bin/true\", \"a\\u0000b\"]",
        &[(1, "command[1]", "NUL")],
    ),
    (
        "command = [\"./true\"]",
        &[(
            1,
            "command[0]",
            "expected an absolute path, or a name to look up in PATH",
        )],
    ),
    (
        "command = [\"no-such-program\"]",
        &[(
            1,
            "command[0]",
            "no program \"no-such-program\" is in PATH (/usr/bin:/bin)",
        )],
    ),
    (
        "command = [\"sh\"]\nenvironment.PATH = \"/nowhere:.:relative\"",
        &[(
            1,
            "command[0]",
            "no program \"sh\" is in PATH (/nowhere:.:relative)",
        )],
    ),
];

/// These follow a good command on line 1.
#[rustfmt::skip]
const BROKEN: &[Broken] = &[
    ("stop_timeout = 10", &[(2, "stop_timeout", "expected a duration such as \"10s\" or \"1m 30s\", found the integer 10; with a unit, write \"10s\"")]),
    ("stop_timeout = \"10\"", &[(2, "stop_timeout", "found \"10\"; units are h, m, s")]),
    ("stable_after = \"10 parsecs\"", &[(2, "stable_after", "found \"10 parsecs\"")]),
    ("restart_delay = \"-1s\"", &[(2, "restart_delay", "not negative, found \"-1s\"")]),
    ("restart_delay = \"999999h\"", &[(2, "restart_delay", "at most ten years")]),
    ("restart_delay = \"99999999999999999999s\"", &[(2, "restart_delay", "expected a duration")]),
    ("restart_delay = 1.5", &[(2, "restart_delay", "found the number 1.5")]),
    ("restart_delay = \"40s\"\nrestart_max_delay = \"30s\"", &[(3, "restart_max_delay", "at least restart_delay, which is 40s")]),
    ("restart = \"allways\"", &[(2, "restart", "expected \"always\" or \"on-failure\" or \"on-abnormal\" or \"on-abort\" or \"no\", found \"allways\"")]),
    ("restart = false", &[(2, "restart", "found false")]),
    ("restart_dealy = \"1s\"", &[(2, "restart_dealy", "did you mean restart_delay?")]),
    ("sockets = [\"db\"]", &[(2, "sockets", "unknown key; expected one of command, user")]),
    ("\"\\u001b[31m\" = 1", &[(2, "\"\\u{1b}[31m\"", "unknown key")]),
    ("user = \"no-such-user\"", &[(2, "user", "no user is named \"no-such-user\"")]),
    ("user = \"\"", &[(2, "user", "expected a user's name or number, found \"\"")]),
    ("user = -1", &[(2, "user", "from 0 to 4294967294, found the integer -1")]),
    ("user = 4294967295", &[(2, "user", "from 0 to")]),
    ("user = \"99999999999\"", &[(2, "user", "from 0 to")]),
    ("user = 54321", &[(2, "user", "user 54321 has no primary group")]),
    ("user = 54321\ngroup = \"no-such-group\"", &[(3, "group", "no group is named")]),
    ("group = [\"a\"]", &[(2, "group", "found an array")]),
    ("working_directory = \"here\"", &[(2, "working_directory", "expected an absolute path, found \"here\"")]),
    ("environment = [\"A=1\"]", &[(2, "environment", "expected a table such as { KEY = \"value\" }, found an array")]),
    ("environment = \"A=1\"", &[(2, "environment", "found a string")]),
    ("environment = { PORT = 80, \"A=B\" = \"\", \"\" = \"\", X = \"\\u0000\" }", &[
        (2, "environment.PORT", "expected a string: put the value in quotes"),
        (2, "environment.\"A=B\"", "no '='"),
        (2, "environment.\"\"", "not empty"),
        (2, "environment.X", "NUL"),
    ]),
    ("environment_file = \"/no/such/file\"", &[(2, "environment_file", "/no/such/file: does not exist")]),
    ("environment_file = \"web.env\"", &[(2, "environment_file", "absolute path")]),
    ("environment_file = [\"-/no/such/file\", \"-x\", 1]", &[
        (2, "environment_file[1]", "an absolute path, with \"-\" before it if the file may be missing, found \"-x\""),
        (2, "environment_file[2]", "found the integer 1"),
    ]),
    ("pass_environment = \"TZ\"", &[(2, "pass_environment", "an array of names such as")]),
    ("pass_environment = [\"A=1\", \"\"]", &[
        (2, "pass_environment[0]", "a name of letters, digits, '_' and '*', found \"A=1\""),
        (2, "pass_environment[1]", "found \"\""),
    ]),
    ("on_exit = [\"true\", \"${x%y}\"]", &[(2, "on_exit[1]", "expected ${NAME}, ${NAME-text} or ${NAME:-text}, found \"${x%y}\"")]),
    ("umask = 27", &[(2, "umask", "write \"0027\", if that was meant")]),
    ("umask = \"0088\"", &[(2, "umask", "expected a mask in octal")]),
    ("umask = \"+27\"", &[(2, "umask", "expected a mask in octal")]),
    ("umask = \"1777\"", &[(2, "umask", "from \"0000\" to \"0777\"")]),
    ("nice = 20", &[(2, "nice", "an integer from -20 to 19, found the integer 20")]),
    ("nice = \"5\"", &[(2, "nice", "found \"5\"")]),
    ("oom_score_adj = 1001", &[(2, "oom_score_adj", "from -1000 to 1000, found the integer 1001")]),
    ("no_new_privileges = 1", &[(2, "no_new_privileges", "expected true or false")]),
    ("capabilities = \"CAP_CHOWN\"", &[(2, "capabilities", "an array of capabilities such as")]),
    ("capabilities = [\"CAP_NET_BIND_SERVCE\", 10]", &[
        (2, "capabilities[0]", "did you mean CAP_NET_BIND_SERVICE?"),
        (2, "capabilities[1]", "found the integer 10"),
    ]),
    ("cpu_affinity = []", &[(2, "cpu_affinity", "at least one processor")]),
    ("cpu_affinity = [\"3-1\", \"a\", -1, \"0-9999\", \"+1\"]", &[
        (2, "cpu_affinity[0]", "a range such as \"0-3\", from 0 to 8191, found \"3-1\""),
        (2, "cpu_affinity[1]", "found \"a\""),
        (2, "cpu_affinity[2]", "found the integer -1"),
        (2, "cpu_affinity[3]", "found \"0-9999\""),
        (2, "cpu_affinity[4]", "found \"+1\""),
    ]),
    ("directories = [\"x\"]", &[(2, "directories", "expected a table such as { state = [\"x\"]")]),
    ("[directories]\nstate = [\"/x\", \"a/../b\", \"\", \"a//b\", \"a:b\"]\nlog = [\"x\"]\nmode = \"0999\"", &[
        (3, "directories.state[0]", "a relative path without \"..\""),
        (3, "directories.state[1]", "found \"a/../b\""),
        (3, "directories.state[2]", "found \"\""),
        (3, "directories.state[3]", "found \"a//b\""),
        (3, "directories.state[4]", "found \"a:b\""),
        (4, "directories.log", "did you mean logs?"),
        (5, "directories.mode", "expected a mode in octal such as \"0750\""),
    ]),
    ("memory_max = \"512M\"", &[(2, "memory_max", "units are B, KiB")]),
    ("memory_high = 0", &[(2, "memory_high", "at least \"4KiB\", found the integer 0")]),
    ("cpu_max = 150", &[(2, "cpu_max", "a share of one processor such as \"150%\", found the integer 150")]),
    ("cpu_max = \"0%\"", &[(2, "cpu_max", "from \"1%\" to")]),
    ("pids_max = 0", &[(2, "pids_max", "from 1 to")]),
    ("io_weight = 10001", &[(2, "io_weight", "a weight from 1 to 10000")]),
    ("overlap = \"yes\"", &[(2, "overlap", "expected true or false, without quotes, found \"yes\"")]),
    ("stdout = \"web.log\"", &[(2, "stdout", "expected an absolute path, \"null\" or \"inherit\", found \"web.log\"")]),
    ("stderr = 2024-01-01", &[(2, "stderr", "found the date 2024-01-01")]),
    ("stop_signal = \"SIGTREM\"", &[(2, "stop_signal", "unknown signal \"SIGTREM\"")]),
    ("stop_signal = 65", &[(2, "stop_signal", "unknown signal \"65\"")]),
    ("success_exit_status = 3", &[(2, "success_exit_status", "expected an array")]),
    ("success_exit_status = [0, 256, -1]", &[
        (2, "success_exit_status[1]", "from 0 to 255, found the integer 256"),
        (2, "success_exit_status[2]", "found the integer -1"),
    ]),
    ("start_limit = 5", &[(2, "start_limit", "expected a table such as { burst = 5")]),
    ("start_limit = { burst = 5 }", &[(2, "start_limit.interval", "is missing")]),
    ("start_limit = { burst = 0, interval = \"0s\", brst = 1 }", &[
        (2, "start_limit.burst", "from 1 to"),
        (2, "start_limit.interval", "longer than nothing"),
        (2, "start_limit.brst", "did you mean burst?"),
    ]),
    ("[limits]\nnofiles = 1\nnofile = \"unlimited\"\ncore = \"64K\"\ncpu = 10\nnproc = [1, 2, 3]\nas = -1\nstack = [2, 1]\nbananas = 3", &[
        (3, "limits.nofiles", "did you mean nofile?"),
        (4, "limits.nofile", "has no unlimited nofile"),
        (5, "limits.core", "found \"64K\"; units are B, KiB"),
        (6, "limits.cpu", "write \"10s\""),
        (7, "limits.nproc", "[soft, hard]"),
        (8, "limits.as", "not negative"),
        (9, "limits.stack", "at most the hard one"),
        (10, "limits.bananas", "expected one of cpu, fsize"),
    ]),
    ("stop_timeout = = 1", &[(2, "stop_timeout", "not valid TOML")]),
    ("umask = 0027", &[(2, "umask", "leading zero; put an octal number in quotes")]),
    ("nice = 1\nnice = 2\nuser = 1.0", &[
        (3, "nice", "\"nice\" is defined twice, first at line 2"),
        (4, "user", "found the number 1.0"),
    ]),
    ("[limits]\nas = 010", &[(3, "limits.as", "not valid TOML")]),
    ("nice = 1 2\n\"a b\" = 1 2", &[(2, "nice", "not valid TOML")]),
    ("\"a b\" = 1 2", &[(2, "", "not valid TOML")]),
    ("restart = \"always", &[(2, "restart", "not valid TOML")]),
    ("[limits\nas = 1", &[(2, "", "not valid TOML")]),
    ("[limits]\nas = 1\n[limits]\nas = 2", &[(4, "limits", "\"limits\" is defined twice, first at line 2")]),
];

#[test]
fn broken_services_are_refused_with_line_and_key() {
    for (text, expected) in BROKEN_COMMANDS {
        let dir = Dir::new(&[("services/web.toml", text)]);
        assert_problems(text, &dir.problems(), expected);
    }
    for (text, expected) in BROKEN {
        let text = format!("command = [\"/bin/true\"]\n{text}\n");
        let dir = Dir::new(&[("services/web.toml", &text)]);
        assert_problems(&text, &dir.problems(), expected);
    }
}

/// What an agent works with at boot: of each service why it cannot be used, if it cannot, and
/// whether that may end by itself.
fn usable(dir: &Dir) -> BTreeMap<String, Option<(String, bool)>> {
    let config = dir.load().unwrap_err().usable.unwrap();
    let services = config.services.into_iter();
    let unusable = |spec: &Spec| spec.unusable.clone().map(|it| (it.why, it.may_end));
    services
        .map(|(name, spec)| (name.to_string(), unusable(&spec)))
        .collect()
}

#[test]
fn one_bad_file_costs_one_service() {
    let good = "command = [\"/bin/true\"]";
    for (text, why, may_end) in [
        ("", "web.toml:1:1: command: is missing", false),
        ("x = \n", "not valid TOML", false),
        (
            "command = []\nnice = 99",
            "found an empty array; and 1 more problem",
            false,
        ),
        (
            "command = [\"/bin/true\"]\nnice = 1\nnice = 2",
            "\"nice\" is defined twice",
            false,
        ),
        (
            "command = [\"no-such-program\"]",
            "no program \"no-such-program\" is in PATH",
            true,
        ),
        (
            "command = [\"/bin/true\"]\nuser = \"no-such-user\"",
            "no user is named",
            true,
        ),
        (
            "command = [\"/bin/true\"]\ngroup = \"no-such-group\"",
            "no group is named",
            true,
        ),
        (
            "command = [\"/bin/true\"]\nuser = 54321",
            "has no primary group",
            true,
        ),
        // Of several problems the one that lasts decides.
        (
            "command = [\"no-such-program\"]\nnice = 99",
            "and 1 more problem",
            false,
        ),
    ] {
        let dir = Dir::new(&[("services/web.toml", text), ("services/db.toml", good)]);
        let usable = usable(&dir);
        assert_eq!(usable["db"], None, "{text}");
        let (told, may) = usable["web"].clone().unwrap();
        assert!(told.contains(why), "{text}: {told}");
        assert_eq!(may, may_end, "{text}: {told}");
        assert!(!told.contains('\n'));
    }
}

#[test]
fn a_file_that_cannot_be_read_costs_the_service_of_its_name() {
    let dir = Dir::new(&[("services/db.toml", "command = [\"/bin/true\"]")]);
    let file = dir.path("services/web.toml");
    let mkfifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let cases: [(Make<'_>, &str, bool); 4] = [
        (
            &|path| symlink("/no/such/file", path).unwrap(),
            "dangling",
            true,
        ),
        (&|path| fs::create_dir(path).unwrap(), "a directory", false),
        (&mkfifo, "a FIFO", false),
        (&|path| fs::write(path, b"\xff").unwrap(), "UTF-8", false),
    ];
    for (make, why, may_end) in cases {
        make(&file);
        let usable = usable(&dir);
        assert_eq!(usable["db"], None);
        let (told, may) = usable["web"].clone().unwrap();
        assert!(told.contains(why), "{told}");
        assert_eq!(may, may_end, "{told}");
        let config = dir.load().unwrap_err().usable.unwrap();
        assert_eq!(config.files["web"], file);
        // It may have had any services.
        assert!(config.is_partial);
        let _ = fs::remove_file(&file).or_else(|_| fs::remove_dir(&file));
    }
}

#[test]
fn of_a_file_with_several_services_the_good_ones_are_used() {
    let text = "[service.a]\ncommand = [\"/bin/true\"]\n[service.b]\ncommand = 1\n\
                [service.c]\ncommand = [\"/bin/true\"]\nuser = \"no-such-user\"";
    let dir = Dir::new(&[("services/many.toml", text)]);
    let usable = usable(&dir);
    assert_eq!(usable.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let may_end: Vec<_> = usable
        .values()
        .map(|it| it.as_ref().map(|it| it.1))
        .collect();
    assert_eq!(may_end, [None, Some(false), Some(true)]);
    let config = dir.load().unwrap_err().usable.unwrap();
    assert!(!config.is_partial);
    // A key that is there twice may belong to any of them.
    let text = "[service.a]\ncommand = [\"/bin/true\"]\nnice = 1\nnice = 2\n\
                [service.b]\ncommand = [\"/bin/true\"]";
    fs::write(dir.path("services/many.toml"), text).unwrap();
    assert!(self::usable(&dir).values().all(Option::is_some));
}

#[test]
fn of_two_definitions_the_first_is_used() {
    let dir = Dir::new(&[
        ("services/a.toml", "command = [\"/bin/true\"]"),
        ("services/b.toml", "[service.a]\ncommand = [\"/bin/false\"]"),
        ("services/not a name.toml", "command = [\"/bin/true\"]"),
    ]);
    let config = dir.load().unwrap_err().usable.unwrap();
    assert_eq!(config.services.len(), 1);
    assert_eq!(config.services["a"].exec.program, Path::new("/bin/true"));
    assert_eq!(config.files["a"], dir.path("services/a.toml"));
}

#[test]
fn an_environment_file_that_is_not_there_yet_costs_nothing_but_starts() {
    let text = "command = [\"/bin/true\"]\nenvironment_file = \"/no/such/file\"";
    let dir = Dir::new(&[("services/web.toml", text)]);
    assert_eq!(usable(&dir)["web"], None);
    let why = read_environment_file(Path::new("/no/such/file")).unwrap_err();
    assert_eq!(why, "/no/such/file: does not exist");
}

#[test]
fn a_bad_agent_file_costs_what_is_bad_in_it() {
    let dir = Dir::new(&[
        ("services/web.toml", "command = [\"/bin/true\"]"),
        (
            "agent.toml",
            "max_hooks = 3\njournal_max_size = \"1B\"\nx = 1",
        ),
    ]);
    let config = dir.load().unwrap_err().usable.unwrap();
    assert_eq!(config.services["web"].unusable, None);
    let expected = AgentConfig {
        max_hooks: 3,
        ..AgentConfig::default()
    };
    assert_eq!(config.agent, expected);
}

#[test]
fn without_a_directory_nothing_can_be_used() {
    let dir = Dir::new(&[]);
    let nowhere = load(&dir.path("nowhere"), &surroundings()).unwrap_err();
    assert_eq!(nowhere.usable, None);
    fs::remove_dir(dir.path(SERVICES)).unwrap();
    fs::write(dir.path(SERVICES), "").unwrap();
    assert_eq!(dir.load().unwrap_err().usable, None);
}

#[test]
fn a_service_is_read_again_from_its_file() {
    let dir = Dir::new(&[("services/web.toml", "command = 1")]);
    let file = dir.path("services/web.toml");
    let empty = Dir::new(&[]).load().unwrap();
    let again = || load_again(dir.0.path(), &file, "web", &empty, &surroundings());
    assert!(again().unwrap_err().why.contains("expected an array"));
    fs::write(dir.path("agent.toml"), "on_exit = [\"/bin/true\"]").unwrap();
    fs::write(&file, "command = [\"/bin/true\"]").unwrap();
    let Again { spec, lines, .. } = again().unwrap().unwrap();
    assert_eq!(lines["command"], 1);
    assert!(spec.unusable.is_none() && spec.hooks.on_exit.is_some());
    fs::write(&file, "[service.other]\ncommand = [\"/bin/true\"]").unwrap();
    assert_eq!(again().unwrap(), None);
    fs::remove_file(&file).unwrap();
    assert!(again().unwrap_err().may_end);
}

#[test]
fn a_problem_reads_as_compilers_write_it() {
    let text = "command = [\"/bin/true\"]\n\nstop_timeout = 10\n";
    let dir = Dir::new(&[("services/web.toml", text)]);
    let invalid = dir.load().unwrap_err();
    let place = dir.path("services/web.toml");
    assert_eq!(
        invalid.to_string(),
        format!(
            "{}:3:16: stop_timeout: expected a duration such as \"10s\" or \"1m 30s\", \
             found the integer 10; with a unit, write \"10s\"",
            place.display()
        )
    );
    let json = serde_json::to_value(&invalid.problems[0]).unwrap();
    assert_eq!(json["file"], place.to_str().unwrap());
    assert_eq!((&json["line"], &json["column"]), (&3.into(), &16.into()));
    assert_eq!(json["key"], "stop_timeout");
}

#[test]
fn all_problems_of_all_files_come_in_one_go() {
    let dir = Dir::new(&[
        (
            "agent.toml",
            "journal_max_size = \"1B\"\nacces_group = \"x\"",
        ),
        (
            "services/b.toml",
            "command = []\nuser = \"no-such-user\"\nnice = 99",
        ),
        ("services/a.toml", "x = \n"),
        ("services/c.toml", "command = [\"/bin/true\"]"),
    ]);
    let problems = dir.problems();
    let expected = [
        (1, "journal_max_size", "from \"64KiB\" to \"1TiB\""),
        (2, "acces_group", "did you mean access_group?"),
        (1, "x", "not valid TOML"),
        (1, "command", "empty array"),
        (2, "user", "no user is named"),
        (3, "nice", "from -20 to 19"),
    ];
    assert_problems("all files", &problems, &expected);
    assert_eq!(problems[2].file, dir.path("services/a.toml"));
}

#[test]
fn one_file_can_have_several_services() {
    let text = "[service.web]\ncommand = [\"/bin/true\"]\n[service.\"db@1\"]\ncommand = [\"sh\"]\n\
                limits = { nofile = 10 }\n";
    let dir = Dir::new(&[("services/all of them.toml", text)]);
    let config = dir.load().unwrap();
    let names: Vec<_> = config.services.keys().map(AsRef::as_ref).collect();
    assert_eq!(names, ["db@1", "web"]);
    let limit = Limit {
        resource: 7,
        soft: Some(10),
        hard: Some(10),
    };
    assert_eq!(config.services["db@1"].exec.limits, [limit]);
}

#[test]
fn several_services_are_refused_with_their_names_in_the_key() {
    for (text, expected) in [
        (
            "nice = 1\n[service.web]\nstop_timeout = 1\nnise = 1\n",
            &[
                (1, "nice", "has nothing beside them"),
                (2, "service.web.command", "is missing"),
                (3, "service.web.stop_timeout", "write \"1s\""),
                (4, "service.web.nise", "did you mean nice?"),
            ][..],
        ),
        (
            "service = 1",
            &[(1, "service", "tables such as [service.web]")],
        ),
        (
            "service.web = 1",
            &[(1, "service.web", "a table of the service's keys")],
        ),
        (
            "[[service]]\nname = \"web\"",
            &[(1, "service", "found an array")],
        ),
        (
            "[service.\"a b\"]\ncommand = [\"/bin/true\"]",
            &[(1, "service.\"a b\"", "found \"a b\"")],
        ),
        (
            "[service.web]\ncommand = [\"/bin/true\"]\n[service.web]\ncommand = [\"/bin/false\"]",
            &[(
                3,
                "service.web",
                "\"web\" is defined twice, first at line 1",
            )],
        ),
    ] {
        let dir = Dir::new(&[("services/all.toml", text)]);
        assert_problems(text, &dir.problems(), expected);
    }
}

#[test]
fn a_service_defined_twice_is_told_with_both_places() {
    let dir = Dir::new(&[
        (
            "services/all.toml",
            "\n[service.web]\ncommand = [\"/bin/true\"]",
        ),
        ("services/web.toml", "command = [\"/bin/true\"]"),
    ]);
    let problems = dir.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].file, dir.path("services/web.toml"));
    let first = format!("first in {}:2", dir.path("services/all.toml").display());
    assert!(problems[0].message.contains(&first), "{}", problems[0]);
}

#[test]
fn names_of_files_are_names_of_services() {
    for bad in ["-x", "a b", "ä", "a:b", &"x".repeat(65)] {
        let file = format!("services/{bad}.toml");
        let dir = Dir::new(&[(&file, "command = [\"/bin/true\"]")]);
        assert_problems(bad, &dir.problems(), &[(0, "", "expected a service name")]);
    }
    for good in ["x", "web.example-1_2@3", &"x".repeat(64)] {
        let file = format!("services/{good}.toml");
        let dir = Dir::new(&[(&file, "command = [\"/bin/true\"]")]);
        assert!(dir.load().unwrap().services.contains_key(good));
    }
}

#[test]
fn other_files_are_left_alone() {
    let dir = Dir::new(&[
        ("services/web.toml~", "x"),
        ("services/.web.toml", "x"),
        ("services/README", "x"),
        ("web.toml", "x"),
    ]);
    assert!(dir.load().unwrap().services.is_empty());
}

#[test]
fn no_services_are_valid_but_no_config_directory_is_not() {
    let dir = Dir::new(&[]);
    fs::remove_dir(dir.path(SERVICES)).unwrap();
    let config = dir.load().unwrap();
    assert!(config.services.is_empty());
    assert_eq!(config.agent, AgentConfig::default());

    let missing = dir.path("missing");
    let invalid = load(&missing, &surroundings()).unwrap_err();
    assert_problems(
        "missing",
        &invalid.problems,
        &[(0, "", "does not exist; expected")],
    );
    fs::write(&missing, "").unwrap();
    let invalid = load(&missing, &surroundings()).unwrap_err();
    assert_problems(
        "a file",
        &invalid.problems,
        &[(0, "", "expected a directory")],
    );
    fs::write(dir.path(SERVICES), "").unwrap();
    assert_problems("a file", &dir.problems(), &[(0, "", "cannot be listed")]);
}

#[test]
fn files_that_are_no_text_are_refused_without_blocking() {
    let dir = Dir::new(&[("services/big.toml", &"#".repeat(1 << 20))]);
    nix::unistd::mkfifo(
        &dir.path("services/fifo.toml"),
        nix::sys::stat::Mode::S_IRUSR,
    )
    .unwrap();
    fs::create_dir(dir.path("services/dir.toml")).unwrap();
    symlink("/dev/zero", dir.path("services/device.toml")).unwrap();
    symlink("/no/such/file", dir.path("services/dangling.toml")).unwrap();
    symlink("loop.toml", dir.path("services/loop.toml")).unwrap();
    let _socket = UnixListener::bind(dir.path("services/socket.toml")).unwrap();
    fs::write(dir.path("services/latin.toml"), b"# gut\n# sch\xf6n\n").unwrap();
    fs::write(dir.path("services/huge.toml"), "#".repeat((1 << 20) + 1)).unwrap();
    let expected = [
        (1, "command", "is missing"),
        (0, "", "is a dangling symbolic link to /no/such/file"),
        (0, "", "found a device"),
        (0, "", "found a directory"),
        (0, "", "found a FIFO"),
        (0, "", "larger than 1 MiB"),
        (2, "", "expected UTF-8 text, found the byte 0xf6"),
        (0, "", "cannot be read: "),
        (0, "", "found a socket"),
    ];
    assert_problems("special files", &dir.problems(), &expected);
    let fifo = dir.path("services/fifo.toml");
    let invalid = load_file(&fifo, &surroundings()).unwrap_err();
    assert_problems("fifo", &invalid.problems, &[(0, "", "found a FIFO")]);
}

#[test]
fn an_unreadable_file_is_refused() {
    let dir = Dir::new(&[("services/web.toml", "command = [\"/bin/true\"]")]);
    let file = dir.path("services/web.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&file).is_ok() {
        return; // Root reads everything.
    }
    assert_problems("0000", &dir.problems(), &[(0, "", "Permission denied")]);
}

#[test]
fn the_access_group_has_its_old_name_too() {
    for (text, expected) in [
        ("control_group = 7", 7),
        ("control_group = 7\naccess_group = 8", 8),
        ("access_group = 8\ncontrol_group = 7", 8),
    ] {
        let dir = Dir::new(&[("agent.toml", text)]);
        let config = load_file(&dir.path("agent.toml"), &surroundings()).unwrap();
        assert_eq!(config.agent.access_group, Some(expected), "{text}");
        let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
        let [warning] = warnings.as_slice() else {
            panic!("{warnings:?}");
        };
        assert!(
            warning.contains("control_group: is called access_group now"),
            "{warning}"
        );
    }
}

#[test]
fn one_file_alone_can_be_read() {
    let dir = Dir::new(&[
        ("api.toml", "command = [\"/bin/true\"]"),
        (
            "agent.toml",
            "access_group = \"root\"\njournal_max_size = \"1MiB\"",
        ),
        ("services/agent.toml", "command = [\"/bin/true\"]"),
    ]);
    let load = |name| load_file(&dir.path(name), &surroundings()).unwrap();
    assert!(load("api.toml").services.contains_key("api"));
    assert!(load("services/agent.toml").services.contains_key("agent"));
    let agent = load("agent.toml").agent;
    assert_eq!(
        (agent.access_group, agent.journal_max_size),
        (Some(0), 1 << 20)
    );
    let invalid = load_file(&dir.path("none.toml"), &surroundings()).unwrap_err();
    assert_problems("none", &invalid.problems, &[(0, "", "does not exist")]);
}

#[test]
fn environment_files_lie_under_the_environment_table() {
    let dir = Dir::new(&[("web.env", "A=file\nB='file too'\nUSER=file\n# C=1\n")]);
    let text = format!(
        "command = [\"/bin/true\"]\nuser = 0\nenvironment_file = {:?}\nenvironment.A = \"table\"",
        dir.path("web.env")
    );
    fs::write(dir.path("services/web.toml"), text).unwrap();
    let config = dir.load().unwrap();
    let exec = &config.services["web"].exec;
    let file = &exec.environment_file[0];
    let mut environment = exec.environment.clone();
    file.lay_under(&mut environment, read_environment_file(&file.path).unwrap());
    for (key, value) in [("A", "table"), ("B", "file too"), ("USER", "file")] {
        assert_eq!(environment[key], value);
    }
    assert!(!environment.contains_key("SECRET"));
}

#[test]
fn environment_files_may_be_several_and_missing() {
    let dir = Dir::new(&[("web.env", "A=1")]);
    let there = dir.path("web.env");
    let spec = service(&format!(
        "command = [\"/bin/true\"]\nenvironment_file = [\"-/no/such/file\", {there:?}]"
    ));
    let files = spec.exec.environment_file.iter();
    let files: Vec<_> = files.map(|file| (&*file.path, file.optional)).collect();
    assert_eq!(files, [(Path::new("/no/such/file"), true), (&there, false)]);
}

/// A reload restarts a service for a change of any of them, and of nothing else.
#[test]
fn each_key_of_the_surroundings_is_another_way_to_run_it() {
    let mut fingerprints = Vec::new();
    for key in [
        "",
        "oom_score_adj = 0",
        "oom_score_adj = 1",
        "no_new_privileges = true",
        "capabilities = []",
        "capabilities = [\"CAP_CHOWN\"]",
        "cpu_affinity = [0]",
        "cpu_affinity = [0, 1]",
        "directories = { state = [\"x\"] }",
        "directories = { state = [\"x\"], mode = \"0700\" }",
        "directories = { cache = [\"x\"] }",
        "memory_max = \"1GiB\"",
        "memory_high = \"1GiB\"",
        "cpu_max = \"150%\"",
        "pids_max = 150",
        "io_weight = 150",
        "pass_environment = [\"A\"]",
    ] {
        let spec = service(&format!("command = [\"/bin/true\"]\n{key}"));
        fingerprints.push(spec.exec.fingerprint());
    }
    let different: BTreeSet<_> = fingerprints.iter().collect();
    assert_eq!(different.len(), fingerprints.len());
    // What says nothing is as before these keys were there.
    for key in [
        "no_new_privileges = false",
        "directories = { mode = \"0700\" }",
    ] {
        let spec = service(&format!("command = [\"/bin/true\"]\n{key}"));
        assert_eq!(spec.exec.fingerprint(), fingerprints[0], "{key}");
    }
}

#[test]
fn directories_are_told_to_the_service_and_expected_to_be_there() {
    let dir = Dir::new(&[(
        "services/web.toml",
        "command = [\"/bin/true\"]\nstdout = \"/var/log/no-such-web/log\"\n\
         working_directory = \"/var/lib/no-such-web\"\nenvironment.CACHE_DIRECTORY = \"own\"\n\
         directories = { state = [\"no-such-web/x\", \"y\"], logs = [\"no-such-web\"], cache = [\"z\"] }",
    )]);
    let config = dir.load().unwrap();
    assert_problems("made", &config.warnings, &[]);
    let environment = &config.services["web"].exec.environment;
    let expected = "/var/lib/no-such-web/x:/var/lib/y";
    assert_eq!(environment["STATE_DIRECTORY"], expected);
    assert_eq!(environment["LOGS_DIRECTORY"], "/var/log/no-such-web");
    assert_eq!(environment["CACHE_DIRECTORY"], "own");
    assert!(!environment.contains_key("RUNTIME_DIRECTORY"));
}

#[test]
fn variables_of_the_agent_are_passed_by_name() {
    let with = |keys: &str| service(&format!("command = [\"/bin/true\"]\n{keys}"));
    let secret = |spec: &Spec| spec.exec.environment.get("SECRET").cloned();
    let passed = with("pass_environment = [\"S*T\", \"NONE\"]");
    let value = Some("of the shell that started the agent".to_owned());
    assert_eq!(secret(&passed), value);
    assert_eq!(
        secret(&with("pass_environment = [\"S*X\", \"SECRE\"]")),
        None
    );
    let own = with("pass_environment = [\"*\"]\nenvironment.SECRET = \"own\"");
    assert_eq!(secret(&own).as_deref(), Some("own"));
    // Another value is no other service, another name is.
    let mut elsewhere = Spec::clone(&passed);
    let other = ("SECRET".to_owned(), "other".to_owned());
    elsewhere.exec.environment.extend([other]);
    assert_eq!(elsewhere.exec.fingerprint(), passed.exec.fingerprint());
    assert_ne!(with("").exec.fingerprint(), passed.exec.fingerprint());
    let mut changed = Spec::clone(&own);
    let other = ("SECRET".to_owned(), "other".to_owned());
    changed.exec.environment.extend([other]);
    assert_ne!(changed.exec.fingerprint(), own.exec.fingerprint());
}

#[test]
fn a_variable_of_a_command_that_is_not_set_is_a_warning() {
    let dir = Dir::new(&[(
        "services/web.toml",
        "environment.A = \"x\"\ncommand = [\"/bin/echo\", \"${A}\", \"${NONE}\"]",
    )]);
    let warnings = dir.load().unwrap().warnings;
    let expected = [(
        2,
        "command",
        "${NONE} is not set; set NONE in its environment",
    )];
    assert_problems("unset", &warnings, &expected);
}

#[test]
fn bad_lines_of_environment_files_are_told_without_their_values() {
    let dir = Dir::new(&[("web.env", "A=1\nhunter2\n1B=hunter2\nC=\"hunter2\n")]);
    let text = format!(
        "command = [\"/bin/true\"]\nenvironment_file = {:?}",
        dir.path("web.env")
    );
    fs::write(dir.path("services/web.toml"), text).unwrap();
    let problems = dir.problems();
    let expected = [
        (2, "environment_file", "expected KEY=VALUE"),
        (3, "environment_file", "expected a name of letters"),
        (4, "environment_file", "quote to be closed"),
    ];
    assert_problems("web.env", &problems, &expected);
    for problem in problems {
        assert_eq!(problem.file, dir.path("web.env"));
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
}

#[test]
fn programs_are_looked_up_where_the_service_would_find_them() {
    let dir = Dir::new(&[("own-program", ""), ("not-executable", "")]);
    let program = dir.path("own-program");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let text = |name: &str| {
        format!(
            "command = [{name:?}]\nenvironment.PATH = {:?}",
            dir.0.path()
        )
    };
    fs::write(dir.path("services/web.toml"), text("own-program")).unwrap();
    let config = dir.load().unwrap();
    assert_eq!(config.services["web"].exec.program, program);
    assert_eq!(config.services["web"].exec.arguments, ["own-program"]);
    fs::write(dir.path("services/web.toml"), text("not-executable")).unwrap();
    assert_problems("mode", &dir.problems(), &[(1, "command[0]", "is in PATH")]);

    let bare = Surroundings::default();
    fs::write(dir.path("services/web.toml"), "command = [\"sh\"]").unwrap();
    let config = load(dir.0.path(), &bare).unwrap();
    assert!(config.services["web"].exec.environment["PATH"].contains("/usr/sbin"));
}

#[test]
fn what_may_still_come_to_be_is_a_warning() {
    let text = "command = [\"/no/such/program\"]\nworking_directory = \"/no/such/directory\"\n\
                stdout = \"/no/such/directory/log\"\nstderr = \"null\"";
    let dir = Dir::new(&[("services/web.toml", text)]);
    let config = dir.load().unwrap();
    let expected = [
        (1, "command[0]", "cannot find /no/such/program"),
        (2, "working_directory", "is not a directory"),
        (3, "stdout", "its directory does not exist"),
    ];
    assert_problems("warnings", &config.warnings, &expected);
}

#[test]
fn what_everyone_can_write_to_is_a_warning_once_for_each_place() {
    let command = "command = [\"/bin/true\"]";
    let dir = Dir::new(&[
        ("services/web.toml", command),
        ("services/db.toml", command),
    ]);
    for name in ["services/web.toml", "services"] {
        fs::set_permissions(dir.path(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let config = dir.load().unwrap();
    let expected = [
        (0, "", "everyone may write to it (mode 0777), and could run"),
        (0, "", "it is a service file; expected"),
    ];
    assert_problems("0777", &config.warnings, &expected);
}

#[test]
fn problems_are_told_up_to_a_number_that_can_be_read() {
    let many = |one: fn(usize) -> String| (0..40_000).map(one).collect::<String>();
    let worst = [
        many(|i| format!("restart_{i} = 1\n")),
        many(|_| "nice = 1\n".to_owned()),
        format!("limits = {{{}}}", many(|i| format!("nofile_{i}=1,"))),
        format!("command = [{}]", many(|_| "1,".to_owned())),
        many(|i| format!("[service.x{i}]\n")),
    ];
    for text in worst {
        read_anything(&text);
        let dir = Dir::new(&[("services/web.toml", &text)]);
        let problems = dir.problems();
        assert_eq!(problems.len(), 1001);
        assert!(problems[1000].message.contains("more problems than these"));
    }
}

#[test]
fn two_readings_are_equal() {
    let text = "command = [\"sh\"]\nuser = \"root\"\nlimits = { nofile = 1, core = 0 }";
    let dir = Dir::new(&[("services/web.toml", text)]);
    assert_eq!(dir.load().unwrap(), dir.load().unwrap());
}

/// Reads a text as a service file and checks that what is told lies within it.
fn read_anything(text: &str) {
    let surroundings = surroundings();
    let source = Source::new(Path::new("/services/web.toml"), text.to_owned());
    let sources = Sources::of(source.clone());
    let mut loader = Loader::new(&surroundings);
    let report = loader.report.part();
    loader.service_sources(&sources, &Layout::default(), &report);
    loader.report.absorb(report);
    let context = Context {
        source: &sources,
        report: &loader.report,
        host: &loader.host,
    };
    agent::read(context, &surroundings);
    environment::file(&source, "environment_file", &loader.report);
    let (problems, warnings) = loader.report.finish();
    let lines = text.split('\n').count();
    for problem in problems.iter().chain(&warnings) {
        assert!(
            problem.line.is_none_or(|line| (1..=lines).contains(&line)),
            "{problem}"
        );
        assert!(!problem.to_string().contains('\n'), "{problem}");
    }
}

/// Lines of well-formed TOML that mean anything at all.
fn any_line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "command",
        "user",
        "group",
        "working_directory",
        "environment",
        "environment.PATH",
        "environment_file",
        "umask",
        "nice",
        "limits",
        "limits.nofile",
        "limits.cpu",
        "restart",
        "restart_delay",
        "restart_max_delay",
        "stable_after",
        "start_limit",
        "start_limit.burst",
        "success_exit_status",
        "stop_signal",
        "stop_timeout",
        "overlap",
        "stdout",
        "stderr",
        "service",
        "service.web",
        "service.web.command",
        "\"\"",
        "x",
        "'\u{7f}ä'",
    ]);
    let value = prop_oneof![
        any::<i64>().prop_map(|i| i.to_string()),
        any::<f64>().prop_map(|f| format!("{f:?}")),
        any::<bool>().prop_map(|b| b.to_string()),
        "\\PC{0,8}".prop_map(|s| format!("{s:?}")),
        "[0-9]{1,20}(ms|s|m|h|KiB|TiB|TB| )".prop_map(|s| format!("{s:?}")),
        prop::sample::select(vec![
            "[]",
            "{}",
            "[[]]",
            "[1, [2]]",
            "[\"sh\"]",
            "{ nofile = [2, 1] }",
            "{ a.b = 1 }",
            "\"/bin/sh\"",
            "\"\\u0000\"",
            "0o777",
            "0xffff",
            "99999999999999999999",
            "inf",
            "nan",
            "1979-05-27T07:32:00Z",
            "{ burst = 1, interval = \"1s\" }",
            "\"unlimited\"",
        ])
        .prop_map(str::to_owned),
    ];
    prop_oneof![
        8 => (key.clone(), value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => key.clone().prop_map(|key| format!("[{key}]")),
        1 => key.prop_map(|key| format!("[[{key}]]")),
        1 => "\\PC{0,12}",
    ]
}

proptest! {
    #[test]
    fn nothing_that_a_file_holds_is_fatal(text in "(?s).{0,64}") {
        read_anything(&text);
    }

    #[test]
    fn no_service_table_is_fatal(lines in prop::collection::vec(any_line(), 0..12)) {
        read_anything(&lines.join("\n"));
    }

    #[test]
    fn no_bytes_are_fatal(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let dir = Dir::new(&[]);
        fs::write(dir.path("services/web.toml"), bytes).unwrap();
        let _ = dir.load();
    }
}

// ---- services and each other ----

fn problem_lines(files: &[(&str, &str)]) -> Vec<String> {
    let dir = Dir::new(files);
    let root = dir.path("");
    let root = root.to_str().unwrap();
    let lines = dir.problems().into_iter();
    let lines = lines.map(|problem| problem.to_string().replace(root, ""));
    lines.collect()
}

#[test]
fn a_requirement_has_to_exist_and_other_names_need_not() {
    let files = [
        (
            "services/app.toml",
            "command = [\"/bin/true\"]\nrequires = [\"db\", \"bad\"]\nafter = [\"x\"]\nwants = [\"y\"]",
        ),
        ("services/dbs.toml", "command = [\"/bin/true\"]"),
        (
            "services/more.toml",
            "[service.one]\ncommand = [\"/bin/true\"]\nbinds = [\"two\"]",
        ),
        ("services/bad.toml", "="),
    ];
    let lines = problem_lines(&files);
    assert_eq!(lines.len(), 3, "{lines:?}");
    let expected = [
        "services/app.toml:2: requires: no service is named \"db\"; did you mean dbs?",
        "services/bad.toml:1:1: ",
        "services/more.toml:3: binds: no service is named \"two\"",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn a_cycle_is_named_and_costs_one_service_at_boot() {
    let files = [
        (
            "services/a.toml",
            "command = [\"/bin/true\"]\nrequires = [\"b\"]",
        ),
        (
            "services/b.toml",
            "command = [\"/bin/true\"]\nafter = [\"c\"]",
        ),
        (
            "services/c.toml",
            "command = [\"/bin/true\"]\nbinds = [\"a\"]\nwants = [\"c\"]",
        ),
        (
            "services/d.toml",
            "command = [\"/bin/true\"]\nafter = [\"d\"]",
        ),
    ];
    assert_eq!(
        problem_lines(&files),
        [
            "services/a.toml:2: requires: the order of services is a cycle: a requires b, b after c, c \
             binds a; take out one of these",
            "services/d.toml:2: after: the order of services is a cycle: d after d; take out one of these",
        ]
    );
    let usable = Dir::new(&files).load().unwrap_err().usable.unwrap();
    let unusable = usable.services.iter();
    let unusable = unusable.filter(|(_, spec)| spec.unusable.is_some());
    let unusable: Vec<&str> = unusable.map(|(name, _)| &**name).collect();
    assert_eq!(unusable, ["c", "d"]);
}

#[test]
fn names_of_services_are_names() {
    let lines = problem_lines(&[(
        "services/web.toml",
        "command = [\"/bin/true\"]\nafter = \"db\"\nwants = [\"a b\", 1]\nautostart = \"no\"",
    )]);
    let expected = [
        "services/web.toml:2:9: after: expected an array of names of services such as [\"db\"]",
        "services/web.toml:3:10: wants[0]: expected the name of a service, found \"a b\"",
        "services/web.toml:3:17: wants[1]: expected the name of a service, found the integer 1",
        "services/web.toml:4:13: autostart: expected true or false",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn a_oneshot_is_not_restarted_after_success() {
    let spec = service("command = [\"/bin/true\"]\ntype = \"oneshot\"");
    assert_eq!(
        (spec.policy.kind, spec.policy.restart),
        (ServiceType::Oneshot, RestartPolicy::No)
    );
    let text = "command = [\"/bin/true\"]\ntype = \"oneshot\"\nrestart = \"on-failure\"";
    assert_eq!(service(text).policy.restart, RestartPolicy::OnFailure);
    let text = "command = [\"/bin/true\"]\ntype = \"oneshot\"\nrestart = \"always\"";
    assert_eq!(
        problem_lines(&[("services/web.toml", text)]),
        [
            "services/web.toml:3:11: restart: expected \"no\" or \"on-failure\", found \"always\"; a oneshot \
             service is done when it exits with success"
        ]
    );
    let text = "command = [\"/bin/true\"]\ntype = \"dbus\"";
    assert_eq!(
        problem_lines(&[("services/web.toml", text)]),
        [
            "services/web.toml:2:8: type: expected \"simple\" or \"oneshot\" or \"forking\", found \"dbus\""
        ]
    );
}

#[test]
fn each_form_of_readiness_is_read() {
    let command = "command = [\"/bin/true\"]\n";
    let spec = service(&format!(
        "{command}ready = {{ fd = 3 }}\nstart_timeout = \"infinity\""
    ));
    assert_eq!(spec.exec.ready, Some(Ready::Fd(3)));
    assert_eq!(spec.policy.start_timeout, value::INFINITY);
    let test = |words: &[&str]| Probe::Command {
        program: "/bin/true".into(),
        arguments: words.iter().map(|&word| word.to_owned()).collect(),
    };
    for (text, expected) in [
        ("notify = true", Ready::Notify),
        (
            "tcp = \"[::1]:80\"",
            Ready::Probe(Probe::Tcp("[::1]:80".parse().unwrap())),
        ),
        (
            "tcp = \"localhost:80\"",
            Ready::Probe(Probe::Tcp("127.0.0.1:80".parse().unwrap())),
        ),
        (
            "unix = \"/run/x\"",
            Ready::Probe(Probe::Unix("/run/x".into())),
        ),
        (
            "file = \"/run/x\"",
            Ready::Probe(Probe::File("/run/x".into())),
        ),
        (
            "http = \"http://[::1]:80/a?b\"",
            Ready::Probe(Probe::Http("http://[::1]:80/a?b".into())),
        ),
        (
            "http = \"http://127.0.0.1\"",
            Ready::Probe(Probe::Http("http://127.0.0.1".into())),
        ),
        (
            "command = [\"/bin/true\", \"x\"]",
            Ready::Probe(test(&["/bin/true", "x"])),
        ),
    ] {
        let spec = service(&format!("{command}ready = {{ {text} }}"));
        assert_eq!(spec.exec.ready, Some(expected), "{text}");
    }
    for (access, expected) in [("all", NotifyAccess::All), ("main", NotifyAccess::Main)] {
        let spec = service(&format!(
            "{command}ready = {{ access = \"{access}\", notify = true }}"
        ));
        assert_eq!(spec.exec.ready, Some(Ready::Notify));
        assert_eq!(spec.policy.notify_access, expected);
    }
    let spec = service(&format!(
        "{command}watchdog = \"30s\"\ncheck = {{ command = [\"/bin/true\"], failures = 1, timeout = \"infinity\" }}"
    ));
    assert_eq!(spec.exec.watchdog, Some(Duration::from_secs(30)));
    let check = Check {
        probe: test(&["/bin/true"]),
        interval: Duration::from_secs(10),
        timeout: value::INFINITY,
        failures: 1,
    };
    assert_eq!(spec.check, Some(check));
}

#[test]
fn each_form_of_reload_is_read() {
    let command = "command = [\"/bin/true\"]\n";
    for (text, expected) in [
        ("\"hup\"", Reload::Signal(Signal::HUP)),
        (
            "{ signal = \"usr1\" }",
            Reload::Signal("SIGUSR1".parse().unwrap()),
        ),
        ("{ notify = true }", Reload::Notify(Signal::HUP)),
        (
            "[\"true\", \"${MAINPID}\"]",
            Reload::Command(Step {
                program: "/bin/true".into(),
                arguments: vec!["true".to_owned(), "${MAINPID}".to_owned()],
                identity: None,
                timeout: None,
                ignore_failure: false,
            }),
        ),
        (
            "{ run = [\"true\"], timeout = \"5s\", ignore_failure = true }",
            Reload::Command(Step {
                program: "/bin/true".into(),
                arguments: vec!["true".to_owned()],
                identity: None,
                timeout: Some(Duration::from_secs(5)),
                ignore_failure: true,
            }),
        ),
    ] {
        let spec = service(&format!(
            "{command}environment = {{ PATH = \"/bin\" }}\nready = {{ notify = true }}\nreload = {text}"
        ));
        assert_eq!(spec.reload, Some(expected));
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a line a case")]
fn what_is_wrong_with_readiness_and_checks_is_told() {
    const ONE_WAY: &str = "ready: expected a table with one way to report it";
    const CHECK: &str = "check: expected a table such as { tcp = \"127.0.0.1:80\", interval = \"10s\" } \
                         with one of tcp, unix, http and command";
    let command = "command = [\"/bin/true\"]\n";
    for (text, expected) in [
        (
            "ready = { fd = 3 }\nstart_timeout = \"0s\"",
            ":3:17: start_timeout: expected a duration above 0",
        ),
        (
            "ready = { notify = false }",
            ":2:20: ready.notify: expected true",
        ),
        (
            "ready = { port = 80 }",
            ":2:11: ready.port: unknown key; expected one of fd, notify, tcp",
        ),
        (
            "ready = { fd = 2 }",
            ":2:16: ready.fd: expected the number of a file descriptor from 3 to 255",
        ),
        ("ready = {}", &format!(":2:9: {ONE_WAY}")),
        (
            "ready = { fd = 3, access = \"main\" }",
            ":2:19: ready.access: this needs notify = true",
        ),
        (
            "ready = { access = \"main\" }",
            ":2:9: ready: expected a table with one way to report it",
        ),
        (
            "ready = { notify = true, access = \"none\" }",
            ":2:35: ready.access: expected \"all\" or \"main\"",
        ),
        (
            "ready = { fd = 3, notify = true }",
            &format!(":2:9: {ONE_WAY}"),
        ),
        ("ready = true", &format!(":2:9: {ONE_WAY}")),
        (
            "ready = { tcp = \"db:80\" }",
            ":2:17: ready.tcp: expected an IP address and a port such as",
        ),
        (
            "ready = { tcp = \"127.0.0.1:0\" }",
            ":2:17: ready.tcp: expected an IP address and a port such as",
        ),
        (
            "ready = { http = \"https://127.0.0.1/\" }",
            ":2:18: ready.http: expected a URL of an IP address or localhost such as",
        ),
        (
            "ready = { http = \"http://example.com/\" }",
            ":2:18: ready.http: expected a URL of an IP address or localhost such as",
        ),
        (
            "ready = { http = \"http://localhost:x/\" }",
            ":2:18: ready.http: expected a URL of an IP address or localhost such as",
        ),
        (
            "ready = { http = \"http://127.0.0.1:0/\" }",
            ":2:18: ready.http: expected a URL of an IP address or localhost such as",
        ),
        (
            "ready = { http = \"http://127.0.0.1:99999/\" }",
            ":2:18: ready.http: expected a URL of an IP address or localhost such as",
        ),
        (
            "ready = { http = \"http://me:secret@127.0.0.1/\" }",
            ":2:18: ready.http: expected a URL of an IP address or localhost such as",
        ),
        (
            "ready = { file = \"x\" }",
            ":2:18: ready.file: expected an absolute path",
        ),
        (
            "type = \"oneshot\"\nready = { fd = 3 }",
            ":3:1: ready: a oneshot service is ready when it is done",
        ),
        (
            "type = \"oneshot\"\nreload = \"SIGHUP\"",
            ":3:10: reload: expected a command",
        ),
        (
            "type = \"oneshot\"\nwatchdog = \"1s\"",
            ":3:1: watchdog: a oneshot service ends by itself",
        ),
        (
            "watchdog = \"0s\"",
            ":2:12: watchdog: expected a duration longer than nothing",
        ),
        (
            "reload = true",
            ":2:10: reload: expected a signal such as \"SIGHUP\", a command such as",
        ),
        (
            "reload = { notify = true }",
            ":2:10: reload: notify = true needs a service that notifies: set ready",
        ),
        (
            "restart_mode = \"rolling\"",
            ":2:16: restart_mode: \"rolling\" needs held sockets: set listen",
        ),
        (
            "restart_mode = \"rolling\"\nlisten = [{ tcp = \"127.0.0.1:80\" }]\nready = { http = \"http://127.0.0.1/\" }",
            ":2:16: restart_mode: \"rolling\" needs a service that says when it is ready",
        ),
        (
            "restart_mode = \"rolling\"\nlisten = [{ tcp = \"127.0.0.1:80\" }]\nready = { notify = true }\nafter_start = [[\"/bin/true\"]]",
            ":5:1: after_start: this cannot be together with restart_mode",
        ),
        (
            "type = \"oneshot\"\nrestart_mode = \"rolling\"",
            ":3:16: restart_mode: \"rolling\" needs type = \"simple\"",
        ),
        (
            "type = \"oneshot\"\nreload = { signal = \"SIGHUP\" }",
            ":3:10: reload: expected a command",
        ),
        (
            "reload = { command = \"x\" }",
            ":2:12: reload.command: unknown key",
        ),
        ("reload = \"restart\"", ":2:10: reload: unknown signal"),
        ("reload = []", ":2:10: reload: expected an array of words"),
        ("check = { interval = \"1s\" }", &format!(":2:9: {CHECK}")),
        (
            "check = { tcp = \"127.0.0.1:80\", unix = \"/x\" }",
            &format!(":2:9: {CHECK}"),
        ),
        (
            "check = { tcp = \"127.0.0.1:80\", file = \"/x\" }",
            ":2:33: check.file: unknown key",
        ),
        (
            "check = { tcp = \"127.0.0.1:80\", failures = 0 }",
            ":2:44: check.failures: expected a number of failures in a row from 1 to 1000",
        ),
    ] {
        let lines = problem_lines(&[("services/web.toml", &format!("{command}{text}"))]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with(&format!("services/web.toml{expected}")),
            "{lines:?}"
        );
    }
}

#[test]
fn sockets_have_defaults_and_count_for_a_restart_only_where_they_are_set() {
    let command = "command = [\"/bin/true\"]\n";
    let plain = service(command);
    let spec = service(&format!(
        "{command}listen = [{{ tcp = \"127.0.0.1:80\" }}, {{ unix = \"/run/x\", user = 0 }}]"
    ));
    let tcp = Listen::at(Address::Tcp("127.0.0.1:80".parse().unwrap()));
    let unix = Listen {
        uid: Some(0),
        // Root's own.
        gid: Some(0),
        ..Listen::at(Address::Unix("/run/x".into()))
    };
    assert_eq!(spec.exec.listen, [tcp, unix]);
    let store = service(&format!("{command}fd_store = 7"));
    assert_eq!(store.exec.fd_store, 7);
    assert!(store.exec.notifies() && !spec.exec.notifies());
    assert_ne!(
        store.exec.fingerprint(),
        service(&format!("{command}fd_store = 8"))
            .exec
            .fingerprint()
    );
    let none = service(&format!("{command}listen = []"));
    assert_eq!(none.exec.fingerprint(), plain.exec.fingerprint());
    let named = service(&format!(
        "{command}listen = [{{ tcp = \"127.0.0.1:80\", name = \"a\" }}, {{ unix = \"/run/x\", user = 0 }}]"
    ));
    assert_ne!(named.exec.fingerprint(), spec.exec.fingerprint());
}

#[test]
#[expect(clippy::too_many_lines, reason = "a line a case")]
fn what_is_wrong_with_sockets_is_told() {
    const ONE: &str = "expected a table such as { tcp = \"127.0.0.1:80\", name = \"http\" } with one of \
                       tcp, udp, unix, unix_datagram and unix_seqpacket";
    let long = format!("/{}", "x".repeat(107));
    let many = format!("listen = [{}]", "{},".repeat(65));
    let of = |socket: &str| format!("listen = [{{ {socket} }}]");
    let tcp = "tcp = \"127.0.0.1:80\"";
    for (text, expected) in [
        (
            "listen = 80".to_owned(),
            "10: listen: expected an array of tables",
        ),
        (
            "listen = [80]".to_owned(),
            &*format!("11: listen[0]: {ONE}, found the integer 80"),
        ),
        (of(""), &format!("11: listen[0]: {ONE}")),
        (of("name = \"x\""), &format!("11: listen[0]: {ONE}")),
        (
            of(&format!("{tcp}, udp = \"127.0.0.1:80\"")),
            &format!("11: listen[0]: {ONE}"),
        ),
        (
            of("port = 80, tcp = \"127.0.0.1:81\""),
            "13: listen[0].port: unknown key; expected one of tcp, udp, unix",
        ),
        (
            of("tcp = 80"),
            "19: listen[0].tcp: expected an IP address and a port such as \"127.0.0.1:80\" or \"[::1]:80\", \
             found the integer 80; for all addresses write \"[::]:80\"",
        ),
        (
            of("tcp = \"db:80\""),
            "19: listen[0].tcp: expected an IP address and a port",
        ),
        (
            of("udp = \"127.0.0.1:0\""),
            "19: listen[0].udp: expected an IP address and a port",
        ),
        (
            of("unix = \"x\""),
            "20: listen[0].unix: expected an absolute path",
        ),
        (
            of(&format!("unix = {long:?}")),
            "20: listen[0].unix: expected the absolute path of a socket, of at most 107 bytes",
        ),
        (
            of(&format!("{tcp}, name = \"a:b\"")),
            "42: listen[0].name: expected a name of at most 255",
        ),
        (
            of(&format!("{tcp}, name = \"\"")),
            "42: listen[0].name: expected a name",
        ),
        (
            of(&format!("{tcp}, backlog = 0")),
            "45: listen[0].backlog: expected a number of connections",
        ),
        (
            of(&format!("{tcp}, mode = \"0600\"")),
            "35: listen[0].mode: this only has a meaning for Unix sockets",
        ),
        (
            of(&format!("{tcp}, ipv6_only = true")),
            "35: listen[0].ipv6_only: this only has a meaning for IPv6",
        ),
        (
            of("unix = \"/x\", freebind = true"),
            "26: listen[0].freebind: this only has a meaning for IP addresses",
        ),
        (
            of("unix_datagram = \"/x\", backlog = 5"),
            "35: listen[0].backlog: this only has a meaning for sockets with connections",
        ),
        (
            of("unix = \"/x\", mode = \"0999\""),
            "33: listen[0].mode: expected a mode in octal",
        ),
        (
            of(&format!("{tcp} }}, {{ tcp = \"0.0.0.0:80\"")),
            "37: listen[1]: 0.0.0.0:80 is listed twice",
        ),
        (many, "10: listen: expected at most 64 sockets"),
        (
            format!("{}\nready = {{ fd = 3 }}", of(tcp)),
            "9: ready: expected a descriptor from 4 on",
        ),
        (
            format!("{}\ntype = \"oneshot\"", of(tcp)),
            "1: listen: a oneshot service ends by itself",
        ),
        (
            "fd_store = 513".to_owned(),
            "12: fd_store: expected a number of descriptors",
        ),
        (
            "fd_store = -1".to_owned(),
            "12: fd_store: expected a number of descriptors",
        ),
        (
            "fd_store = 5\ntype = \"oneshot\"".to_owned(),
            "1: fd_store: a oneshot service ends by itself",
        ),
        (
            "fd_store = 5\ntype = \"forking\"".to_owned(),
            "1: fd_store: this needs a program that stays in the foreground",
        ),
        (
            "fd_store = 5\nready = { fd = 7 }".to_owned(),
            "9: ready: expected a descriptor from 8 on",
        ),
        (
            "fd_store = 500\nready = { fd = 7 }".to_owned(),
            "9: ready: no descriptor is left for it: make `fd_store` smaller",
        ),
    ] {
        let text = format!("command = [\"/bin/true\"]\n{text}");
        let lines = problem_lines(&[("services/web.toml", &text)]);
        assert_eq!(lines.len(), 1, "{text}\n{lines:?}");
        let line = if expected.contains("ready") { 3 } else { 2 };
        let expected = format!("services/web.toml:{line}:{expected}");
        assert!(lines[0].starts_with(&expected), "{lines:?}\n{expected}");
    }
}

#[test]
fn a_probe_that_would_always_succeed_is_warned_of() {
    let listen = "listen = [{ tcp = \"0.0.0.0:80\" }, { unix = \"/run/x\" }]";
    for (key, is_warned) in [
        ("ready = { tcp = \"127.0.0.1:80\" }", true),
        ("ready = { unix = \"/run/x\" }", true),
        ("check = { tcp = \"127.0.0.1:80\" }", true),
        ("check = { tcp = \"127.0.0.1:81\" }", false),
        ("ready = { http = \"http://127.0.0.1:80/\" }", false),
        ("ready = { fd = 5 }", false),
    ] {
        let text = format!("command = [\"/bin/true\"]\n{listen}\n{key}");
        let config = Dir::new(&[("services/web.toml", &text)]).load().unwrap();
        let mut warnings = config.warnings.iter();
        let found = warnings.any(|it| it.message.starts_with("the socket is held"));
        assert_eq!(found, is_warned, "{key}");
    }
}

#[test]
fn the_examples_are_valid_but_for_what_this_host_lacks() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/services");
    let files = service_files(&examples).unwrap();
    assert!(files.len() >= 9, "{files:?}");
    let listed = fs::read_to_string(examples.join("README.md")).unwrap();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(listed.contains(&format!("[{name}]({name})")), "{name}");
        let surroundings = Surroundings {
            essential: Essential::Heeded,
            ..surroundings()
        };
        let problems = match load_file(&file, &surroundings) {
            Ok(config) => config.warnings,
            Err(Invalid {
                problems, warnings, ..
            }) => problems.into_iter().chain(warnings).collect(),
        };
        for problem in problems {
            let is_of_host = [
                "no program",
                "no user is named",
                "cannot find",
                "does not exist",
            ];
            let is_of_host = is_of_host.iter().any(|it| problem.message.contains(it));
            assert!(is_of_host, "{name}: {problem}");
        }
    }
}

#[test]
fn a_service_is_not_proposed_to_itself() {
    let text = "command = [\"/bin/true\"]\nrequires = [\"x\"]";
    assert_eq!(
        problem_lines(&[("services/a.toml", text)]),
        ["services/a.toml:2: requires: no service is named \"x\""]
    );
}

#[test]
fn a_socket_in_the_place_of_a_file_is_warned_of() {
    for (path, is_warned) in [
        ("/etc/passwd", true),
        ("/etc", true),
        ("/run/none.sock", false),
    ] {
        let text = format!("command = [\"/bin/true\"]\nlisten = [{{ unix = {path:?} }}]");
        let config = Dir::new(&[("services/web.toml", &text)]).load().unwrap();
        let mut warnings = config.warnings.iter();
        let found = warnings.any(|it| it.message.starts_with("what is there is not a socket"));
        assert_eq!(found, is_warned, "{path}");
    }
}

#[test]
fn two_services_cannot_listen_at_one_address() {
    let service = |listen: &str| format!("command = [\"/bin/true\"]\n\nlisten = [{{ {listen} }}]");
    let [a, b, c, d] = [
        "tcp = \"0.0.0.0:80\"",
        "tcp = \"127.0.0.1:80\"",
        "udp = \"127.0.0.1:80\"",
        "tcp = \"127.0.0.1:81\"",
    ]
    .map(service);
    let files = [
        ("services/a.toml", &*a),
        ("services/b.toml", &*b),
        ("services/c.toml", &*c),
        ("services/d.toml", &*d),
    ];
    assert_eq!(
        problem_lines(&files),
        ["services/b.toml:3: listen: 127.0.0.1:80 is taken: \"a\" listens there too"]
    );
    let dir = Dir::new(&files);
    let usable = dir.load().unwrap_err().usable.unwrap();
    assert!(usable.services["b"].unusable.is_some());
    assert!(usable.services["a"].unusable.is_none());
}

#[test]
fn a_log_has_defaults_and_goes_with_neither_stream() {
    let spec = service("command = [\"true\"]\nlog = { path = \"/tmp/web.log\" }");
    assert_eq!(
        (&spec.exec.stdout, &spec.exec.stderr),
        (&Output::Log, &Output::Log)
    );
    assert_eq!(spec.log, Some(Log::to(Target::File("/tmp/web.log".into()))));
    let text = "command = [\"true\"]\nlog = { path = \"/tmp/x\", max_size = \"1MiB\", keep = 0, timestamps = false }";
    let log = service(text).log.clone().unwrap();
    assert_eq!(
        (log.max_size, log.keep, log.timestamps),
        (1 << 20, 0, false)
    );
}

#[test]
fn a_bad_log_is_refused_with_line_and_key() {
    for (log, key, message) in [
        (
            "log = { path = \"/tmp/x\" }\nstdout = \"null\"",
            "stdout",
            "leave one of the two out",
        ),
        (
            "log = { path = \"/tmp/x\" }\nstderr = \"/tmp/y\"",
            "stderr",
            "leave one of the two out",
        ),
        ("log = \"/tmp/x\"", "log", "expected a table such as"),
        ("log = {}", "log.path", "is missing"),
        (
            "log = { path = \"x\" }",
            "log.path",
            "expected an absolute path",
        ),
        (
            "log = { path = \"/\" }",
            "log.path",
            "expected the absolute path of a file",
        ),
        (
            "log = { path = \"/tmp/x\", max_size = \"1KiB\" }",
            "log.max_size",
            "at least \"64KiB\"",
        ),
        (
            "log = { path = \"/tmp/x\", keep = -1 }",
            "log.keep",
            "from 0 to 1000",
        ),
        (
            "log = { path = \"/tmp/x\", max_age = \"0s\" }",
            "log.max_age",
            "a duration longer than nothing",
        ),
        (
            "log = { path = \"/tmp/x\", on_full = \"block\" }",
            "log.on_full",
            "wait",
        ),
        ("log = { syslog = false }", "log.syslog", "leave it out"),
        (
            "log = { journald = true, keep = 3 }",
            "log.keep",
            "for a file",
        ),
        (
            "log = { syslog = true, timestamps = true }",
            "log.timestamps",
            "for a file",
        ),
        (
            "log = { path = \"/tmp/x\", stdout = true }",
            "log.stdout",
            "one target",
        ),
        (
            "log = { path = \"/tmp/x\", rotate = 1 }",
            "log.rotate",
            "unknown key",
        ),
    ] {
        let text = format!("command = [\"true\"]\n{log}");
        let dir = Dir::new(&[("services/web.toml", &text)]);
        let line = if key.starts_with("std") { 3 } else { 2 };
        assert_problems(&text, &dir.problems(), &[(line, key, message)]);
    }
}

#[test]
fn two_services_have_no_log_in_common() {
    let text = "command = [\"true\"]\nlog = { path = \"/tmp/x\" }";
    let dir = Dir::new(&[("services/a.toml", text), ("services/b.toml", text)]);
    assert_problems(text, &dir.problems(), &[(2, "log", "is the log of a too")]);
}

#[test]
fn a_log_may_go_elsewhere() {
    let target = |log: &str| {
        let spec = service(&format!("command = [\"true\"]\nlog = {log}"));
        spec.log.clone().unwrap()
    };
    let syslog = target("{ syslog = true, on_full = \"drop\" }");
    assert_eq!(syslog.target, Target::Syslog("/dev/log".into()));
    assert!(!syslog.timestamps);
    let journald = target("{ journald = \"/tmp/socket\" }");
    assert_eq!(journald.target, Target::Journald("/tmp/socket".into()));
    let stdout = target("{ stdout = true, timestamps = true }");
    assert_eq!((stdout.target, stdout.timestamps), (Target::Stdout, true));
}

#[test]
fn commands_around_a_run_are_read_in_both_forms() {
    let command = "command = [\"/bin/true\"]\n";
    let step = |words: &[&str]| crate::model::Step {
        program: "/bin/true".into(),
        arguments: words.iter().map(|word| (*word).to_owned()).collect(),
        identity: None,
        timeout: None,
        ignore_failure: false,
    };
    let spec = service(&format!(
        "{command}before_start = [[\"true\", \"${{HOME}}\"], {{ run = [\"/bin/true\"], timeout = \"5s\", ignore_failure = true }}]\n\
         stop_command = [\"true\"]\nconditions = {{ path_exists = [\"/x\", \"!/y\"], command = [\"true\"] }}"
    ));
    let long = crate::model::Step {
        timeout: Some(Duration::from_secs(5)),
        ignore_failure: true,
        ..step(&["/bin/true"])
    };
    let found = |step: &crate::model::Step| step.program.ends_with("true");
    let steps = &spec.steps;
    assert!(
        steps
            .before_start
            .iter()
            .chain(&steps.stop_command)
            .all(found)
    );
    assert_eq!(steps.before_start[0].arguments, ["true", "${HOME}"]);
    assert_eq!(steps.before_start[1], long);
    let conditions: Vec<String> = steps.conditions.iter().map(ToString::to_string).collect();
    let expected = [
        "path_exists = \"/x\"",
        "path_exists = \"!/y\"",
        "command = \"true\"",
    ];
    for words in expected {
        assert!(conditions.iter().any(|it| it == words), "{conditions:?}");
    }
    assert!(steps.after_start.is_empty());
}

#[test]
fn bad_commands_around_a_run_are_told_with_their_place() {
    const COMMANDS: &str = "expected an array of commands such as";
    let command = "command = [\"/bin/true\"]\n";
    for (text, expected) in [
        (
            "before_start = [\"/usr/sbin/nginx\", \"-t\"]",
            format!(":2:16: before_start: {COMMANDS}"),
        ),
        (
            "after_stop = \"x\"",
            format!(":2:14: after_stop: {COMMANDS}"),
        ),
        (
            "before_start = [[]]",
            ":2:17: before_start[0]: expected an array of words".to_owned(),
        ),
        (
            "before_stop = [{ timeout = \"1s\" }]",
            ":2:16: before_stop[0].run: is missing".to_owned(),
        ),
        (
            "before_stop = [{ run = [\"/bin/true\"], timout = \"1s\" }]",
            ":2:39: before_stop[0].timout: unknown key; did you mean timeout?".to_owned(),
        ),
        (
            "before_stop = [{ run = [\"/bin/true\"], timeout = \"0s\" }]",
            ":2:49: before_stop[0].timeout: expected a duration longer than nothing".to_owned(),
        ),
        (
            "before_stop = [{ run = [\"/bin/true\"], user = \"nobody-of-that-name\" }]",
            ":2:46: before_stop[0].user: no user is named".to_owned(),
        ),
        (
            "stop_command = [[\"/bin/true\"]]",
            ":2:17: stop_command[0]: expected a string".to_owned(),
        ),
        (
            "before_start = [[\"/bin/true\", \"${\"]]",
            ":2:31: before_start[0][1]: expected ${NAME}".to_owned(),
        ),
        (
            "conditions = { path_exists = \"x\" }",
            ":2:30: conditions.path_exists: expected an absolute path".to_owned(),
        ),
        (
            "conditions = { path_matches = \"/a/***\" }",
            ":2:31: conditions.path_matches: expected a pattern".to_owned(),
        ),
        (
            "conditions = { container = \"no\" }",
            ":2:28: conditions.container: expected true or false".to_owned(),
        ),
        (
            "conditions = { kernel_command_line = \"a b\" }",
            ":2:38: conditions.kernel_command_line: expected a word".to_owned(),
        ),
        (
            "conditions = { path_exist = \"/x\" }",
            ":2:16: conditions.path_exist: unknown key; did you mean path_exists?".to_owned(),
        ),
        (
            "type = \"oneshot\"\nafter_start = [[\"/bin/true\"]]",
            ":3:1: after_start: a oneshot service is up when it is done".to_owned(),
        ),
    ] {
        let lines = problem_lines(&[("services/web.toml", &format!("{command}{text}"))]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with(&format!("services/web.toml{expected}")),
            "{lines:?}"
        );
    }
}
