//! The config as its users meet it: files in, specs or problems out.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::model::{Limit, Output, Policy, RestartPolicy, Signal, StartLimit, StopMode};

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
            restart: RestartPolicy::Always,
            restart_delay: Duration::ZERO,
            restart_max_delay: Duration::from_secs(30),
            stable_after: Duration::from_secs(10),
            start_limit: None,
            success_exit_status: vec![0],
            stop_signal: Signal::TERM,
            stop_timeout: Duration::from_secs(10),
            stop_mode: StopMode::Group,
            start_check: Duration::from_secs(1),
            overlap: false,
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
            restart: RestartPolicy::OnFailure,
            restart_delay: Duration::from_millis(100),
            restart_max_delay: Duration::from_secs(90),
            stable_after: Duration::from_secs(3600),
            start_limit: Some(StartLimit {
                burst: 5,
                interval: Duration::from_secs(10)
            }),
            success_exit_status: vec![0, 3],
            stop_signal: Signal::HUP,
            stop_timeout: Duration::ZERO,
            stop_mode: StopMode::Main,
            start_check: Duration::from_millis(300),
            overlap: true,
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
    ("restart = \"allways\"", &[(2, "restart", "expected \"always\" or \"on-failure\" or \"no\", found \"allways\"")]),
    ("restart = false", &[(2, "restart", "found false")]),
    ("restart_dealy = \"1s\"", &[(2, "restart_dealy", "did you mean restart_delay?")]),
    ("after = [\"db\"]", &[(2, "after", "unknown key; expected one of command, user")]),
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
    ("umask = 27", &[(2, "umask", "write \"0027\", if that was meant")]),
    ("umask = \"0088\"", &[(2, "umask", "expected a mask in octal")]),
    ("umask = \"+27\"", &[(2, "umask", "expected a mask in octal")]),
    ("umask = \"1777\"", &[(2, "umask", "from \"0000\" to \"0777\"")]),
    ("nice = 20", &[(2, "nice", "an integer from -20 to 19, found the integer 20")]),
    ("nice = \"5\"", &[(2, "nice", "found \"5\"")]),
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
    let again = || load_again(dir.0.path(), &file, "web", &surroundings());
    assert!(again().unwrap_err().why.contains("expected an array"));
    fs::write(dir.path("agent.toml"), "on_exit = [\"/bin/true\"]").unwrap();
    fs::write(&file, "command = [\"/bin/true\"]").unwrap();
    let (spec, lines) = again().unwrap().unwrap();
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
            "journal_max_size = \"1B\"\ncontrol_grup = \"x\"",
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
        (2, "control_grup", "did you mean control_group?"),
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
fn one_file_alone_can_be_read() {
    let dir = Dir::new(&[
        ("api.toml", "command = [\"/bin/true\"]"),
        (
            "agent.toml",
            "control_group = \"root\"\njournal_max_size = \"1MiB\"",
        ),
        ("services/agent.toml", "command = [\"/bin/true\"]"),
    ]);
    let load = |name| load_file(&dir.path(name), &surroundings()).unwrap();
    assert!(load("api.toml").services.contains_key("api"));
    assert!(load("services/agent.toml").services.contains_key("agent"));
    let agent = load("agent.toml").agent;
    assert_eq!(
        (agent.control_group, agent.journal_max_size),
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
    let file = exec.environment_file.as_ref().unwrap();
    let variables = read_environment_file(&file.path).unwrap();
    let environment = file.lay_under(exec.environment.clone(), variables);
    for (key, value) in [("A", "table"), ("B", "file too"), ("USER", "file")] {
        assert_eq!(environment[key], value);
    }
    assert!(!environment.contains_key("SECRET"));
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
        (2, "working_directory", "is no directory"),
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
        (
            0,
            "",
            "everyone may write to it (mode 0777), and so could have",
        ),
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
    let mut loader = Loader::new(&surroundings);
    let report = loader.report.part();
    loader.service_source(&source, &report);
    loader.report.absorb(report);
    let context = Context {
        source: &source,
        report: &loader.report,
        accounts: &loader.accounts,
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
