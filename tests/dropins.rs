//! Files of packages, and drop-ins.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use support::{Agent, Setup, environment, eventually};
use tempfile::TempDir;

const NAP: &str = "command = [\"/bin/sleep\", \"1000\"]\nstart_check = \"0s\"\n";

/// Writes a file below an agent's directory.
fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(path, text).expect("a file");
}

/// An agent with packages' services: these files are below its directory, `packages/` or
/// `config/services/`.
fn agent(files: &[(&str, &str)]) -> Agent {
    let dir = TempDir::new().expect("a directory");
    let packages = dir.path().join("packages");
    fs::create_dir(&packages).expect("a directory");
    write(
        dir.path(),
        "config/agent.toml",
        &format!("package_services = {packages:?}\n"),
    );
    // By this, what an agent has left is found at the end of a test.
    let unique = dir.path().file_name().and_then(|name| name.to_str());
    let marker = unique.expect("a name").trim_start_matches('.');
    for (name, text) in files {
        let text = match text.contains("command") {
            true => format!("{text}environment.RESPAWN_TEST = \"{marker}-\"\n"),
            false => (*text).to_owned(),
        };
        write(dir.path(), name, &text);
    }
    Agent::within(dir, &Setup::default(), &[])
}

fn reload(agent: &Agent) {
    let output = agent.run(&["reload"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn stdout(agent: &Agent, arguments: &[&str]) -> String {
    String::from_utf8_lossy(&agent.run(arguments).stdout).into_owned()
}

fn failure(agent: &Agent, arguments: &[&str]) -> String {
    let output = agent.run(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn services_of_packages_run_and_the_admin_changes_and_masks_them() {
    let agent = agent(&[("packages/web.toml", NAP), ("packages/db.toml", NAP)]);
    let (web, db) = (agent.running("web"), agent.running("db"));
    let shown = stdout(&agent, &["show", "web"]);
    assert!(shown.contains("packages/web.toml"), "{shown}");
    // A file of the admin's own stands in for it.
    let own = fs::read_to_string(agent.dir().join("packages/web.toml")).expect("the file");
    let own = own.replace("1000", "2000");
    write(agent.dir(), "config/services/web.toml", &own);
    reload(&agent);
    let new = agent.replaced("web", web);
    assert_eq!(support::arguments(new), ["/bin/sleep", "2000"]);
    // An empty one masks it, and so does a link to /dev/null.
    write(agent.dir(), "config/services/web.toml", "");
    symlink("/dev/null", agent.service_file("db")).expect("a link");
    assert_eq!(agent.running("db"), db);
    reload(&agent);
    assert_eq!(agent.statuses().len(), 0);
    let said = failure(&agent, &["start", "db"]);
    assert!(!said.contains("was not loaded"), "{said}");
    fs::remove_file(agent.service_file("db")).expect("the link");
    reload(&agent);
    agent.running("db");
}

#[test]
fn a_drop_in_is_taken_up_by_a_reload_and_said_before() {
    let agent = agent(&[
        ("packages/web.toml", NAP),
        ("packages/db.toml", NAP),
        (
            "config/services/web.toml.d/10-a.toml",
            "environment.A = \"1\"\n",
        ),
    ]);
    let (web, db) = (agent.running("web"), agent.running("db"));
    assert_eq!(environment(web)["A"], "1");
    let hint = |what: &str| {
        let hint = eventually("the change is seen", || {
            agent.status("web")["hint"].as_str().map(str::to_owned)
        });
        assert!(hint.contains(what), "{hint}");
    };
    assert!(agent.status("web")["hint"].is_null());
    let first = "config/services/web.toml.d/10-a.toml";
    write(agent.dir(), first, "# now\nenvironment.A = \"2\"\n");
    hint("web.toml.d/10-a.toml has changed since it was loaded");
    reload(&agent);
    let web = agent.replaced("web", web);
    assert_eq!(environment(web)["A"], "2");
    write(
        agent.dir(),
        "config/services/web.toml.d/20-b.toml",
        "environment.B = \"3\"\n",
    );
    hint("web.toml.d/20-b.toml was added since it was loaded");
    reload(&agent);
    let web = agent.replaced("web", web);
    let variables = environment(web);
    assert_eq!(
        (variables["A"].as_str(), variables["B"].as_str()),
        ("2", "3")
    );
    let shown = stdout(&agent, &["show", "web"]);
    assert!(shown.contains("10-a.toml:2"), "{shown}");
    assert!(shown.contains("20-b.toml:1"), "{shown}");
    fs::remove_file(agent.dir().join(first)).expect("the drop-in");
    hint("10-a.toml is gone or cannot be read since it was loaded");
    reload(&agent);
    let web = agent.replaced("web", web);
    assert!(!environment(web).contains_key("A"));
    assert_eq!(agent.running("db"), db);
    assert!(agent.status("web")["hint"].is_null());
}

#[test]
fn a_bad_drop_in_changes_nothing_and_costs_one_service_at_boot() {
    let mut agent = agent(&[
        ("packages/web.toml", NAP),
        ("packages/db.toml", NAP),
        (
            "config/services/web.toml.d/a.toml",
            "environment.A = \"1\"\n",
        ),
    ]);
    let pids = [agent.running("web"), agent.running("db")];
    write(
        agent.dir(),
        "config/services/web.toml.d/a.toml",
        "environment.A = \"2\"\nnice = 99\n",
    );
    let place = "config/services/web.toml.d/a.toml:2:8: nice: expected";
    let file = agent.service_file("web");
    let file = file.to_str().expect("a path");
    for words in [&["reload"][..], &["check"], &["check", file]] {
        let said = failure(&agent, words);
        assert!(said.contains(place), "{words:?}: {said}");
    }
    // The next agent goes on with the last good config, what was merged included.
    agent.kill();
    agent.start_again();
    assert_eq!([agent.running("web"), agent.running("db")], pids);
    agent.must("restart", "web");
    assert_eq!(environment(agent.replaced("web", pids[0]))["A"], "1");
    // Without one, as after a boot, the others run.
    agent.must("stop", "--all");
    agent.kill();
    fs::remove_dir_all(agent.runtime_dir()).expect("the runtime directory");
    agent.start_again();
    agent.running("db");
    let status = agent.wait_state("web", "failed");
    let error = status["error"].as_str().expect("an error");
    assert!(error.contains(place), "{error}");
    // Its file is read again at the next start, with its drop-ins.
    write(
        agent.dir(),
        "config/services/web.toml.d/a.toml",
        "environment.A = \"3\"\n",
    );
    agent.must("start", "web");
    assert_eq!(environment(agent.running("web"))["A"], "3");
}
