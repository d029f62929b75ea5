//! Templates and their instances.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;

use support::{Agent, arguments, environment, pid_of, shell, sleeping};

/// A template whose instances have their name in all that there is.
fn template(keys: &str) -> String {
    shell(
        "exec sleep 1000 # %i 100%%",
        &format!("{keys}\nenvironment.NAME = \"name-%i\""),
    )
}

/// The services, by name, with their states.
fn states(agent: &Agent) -> Vec<String> {
    let statuses = agent.statuses();
    let text = |status: &serde_json::Value| {
        let word = |key: &str| status[key].as_str().expect("a word").to_owned();
        format!("{} {}", word("service"), word("state"))
    };
    statuses.iter().map(text).collect()
}

fn stderr(agent: &Agent, arguments: &[&str]) -> String {
    let output = agent.run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn each_instance_is_a_service_with_its_name() {
    let services = [
        (
            "x@",
            template("instances = [\"a\", \"b-1\"]\nafter = [\"db@%i\"]"),
        ),
        ("db@", template("instances = [\"a\"]")),
        ("web", sleeping("instances = 2\nautostart = false")),
    ];
    let services = services
        .each_ref()
        .map(|(name, text)| (*name, text.as_str()));
    let agent = Agent::start(&services);
    for name in ["x@a", "x@b-1", "db@a"] {
        let pid = agent.running(name);
        let instance = name.split_once('@').expect("an instance").1;
        assert_eq!(environment(pid)["NAME"], format!("name-{instance}"));
    }
    assert_eq!(
        states(&agent),
        [
            "db@a running",
            "web@1 stopped",
            "web@2 stopped",
            "x@a running",
            "x@b-1 running"
        ]
    );
    agent.must("start", "web@*");
    let one = agent.running("web@1");
    agent.must("stop", "web@2");
    agent.wait_state("web@2", "stopped");
    assert_eq!(agent.running("web@1"), one);
    // Of the order of the two, the journal tells.
    let events = agent.events();
    let started = |name: &str| {
        let mut events = events.iter();
        events.position(|it| it["service"] == name && it["event"] == "started")
    };
    assert!(started("db@a") < started("x@a"), "{events:?}");
    let shown = agent.run(&["show", "x@a"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("services/x@.toml"), "{shown}");
    assert!(shown.contains("name-a"), "{shown}");
}

#[test]
fn the_command_line_of_an_instance_has_its_name() {
    let text = "command = [\"/bin/sleep\", \"1000%i\"]\ninstances = 2";
    let agent = Agent::start(&[("nap@", text)]);
    for (name, word) in [("nap@1", "10001"), ("nap@2", "10002")] {
        assert_eq!(arguments(agent.running(name)), ["/bin/sleep", word]);
    }
}

#[test]
fn a_reload_adds_and_takes_away_instances_and_leaves_the_others_alone() {
    let agent = Agent::start(&[("x@", &template("instances = 3"))]);
    let pids: Vec<u32> = ["x@1", "x@2", "x@3"].map(|it| agent.running(it)).into();
    agent.write_service("x@", &template("instances = [\"2\", \"4\"]"));
    assert!(agent.run(&["reload"]).status.success());
    agent.running("x@4");
    assert_eq!(agent.running("x@2"), pids[1]);
    assert_eq!(states(&agent), ["x@2 running", "x@4 running"]);
    assert_eq!(agent.live("x@").len(), 2);
    // Links make instances, too.
    let link = agent.service_file("x@c");
    symlink("x@.toml", &link).expect("a link");
    assert!(agent.run(&["reload"]).status.success());
    agent.running("x@c");
    fs::remove_file(&link).expect("the link");
    assert!(agent.run(&["reload"]).status.success());
    assert_eq!(states(&agent), ["x@2 running", "x@4 running"]);
    assert_eq!(agent.running("x@2"), pids[1]);
}

#[test]
fn an_instance_that_is_not_there_is_refused_with_what_to_do() {
    let agent = Agent::start(&[("x@", &template("instances = 1"))]);
    let said = stderr(&agent, &["start", "x@7"]);
    assert!(said.contains("x@.toml has no such instance"), "{said}");
    assert!(said.contains("`instances`"), "{said}");
    let said = stderr(&agent, &["start", "y@7"]);
    assert!(!said.contains("instance;"), "{said}");
}

#[test]
fn what_is_wrong_with_a_template_names_its_file_and_line_and_changes_nothing() {
    let agent = Agent::start(&[("x@", &template("instances = 2"))]);
    let pid = agent.running("x@1");
    agent.write_service("x@", &template("instances = 2\ncpu_max = \"50%\""));
    for command in ["check", "reload"] {
        let said = stderr(&agent, &[command]);
        assert!(
            said.contains("x@.toml:4:11: cpu_max: expected %i"),
            "{said}"
        );
        assert!(said.contains("1 problem") || command == "reload", "{said}");
    }
    assert_eq!(agent.running("x@1"), pid);
}

#[test]
fn the_next_agent_adopts_instances_and_boot_goes_by_their_names() {
    let mut agent = Agent::start(&[("x@", &template("instances = 2"))]);
    assert!(agent.run(&["disable", "x@2"]).status.success());
    let pids = ["x@1", "x@2"].map(|it| agent.running(it));
    agent.kill();
    agent.start_again();
    assert_eq!(["x@1", "x@2"].map(|it| agent.running(it)), pids);
    assert_eq!(agent.status("x@2")["autostart"], false);
    // A template that cannot be read costs its instances' next start, and nothing that runs.
    fs::write(agent.service_file("x@"), "nonsense").expect("the template");
    agent.kill();
    agent.start_again();
    assert_eq!(["x@1", "x@2"].map(|it| pid_of(&agent.status(it))), pids);
}
