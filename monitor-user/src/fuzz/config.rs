//! Configs that are made up by the grammar: well-formed TOML with the keys that there are, and values
//! of every kind, since random bytes are refused before anything is looked at.

use std::fs;

use super::{Material, Random, run};
use crate::config::{self, Surroundings};

/// Values that mean something somewhere, and some that are at an edge.
const VALUES: &[&str] = &[
    "true",
    "false",
    "0",
    "-1",
    "1",
    "65536",
    "9223372036854775807",
    "-9223372036854775808",
    "1.5",
    "inf",
    "nan",
    "0o777",
    "0o22",
    "0xff",
    "1979-05-27T07:32:00Z",
    "\"\"",
    "\"x\"",
    "\"/bin/true\"",
    "\"true\"",
    "\"/nonexistent\"",
    "\"/\"",
    "\"0s\"",
    "\"1ms\"",
    "\"10s\"",
    "\"1h30m\"",
    "\"99999999999999h\"",
    "\"infinity\"",
    "\"-1s\"",
    "\"512MiB\"",
    "\"18446744073709551615TiB\"",
    "\"150%\"",
    "\"always\"",
    "\"no\"",
    "\"on-failure\"",
    "\"group\"",
    "\"mixed\"",
    "\"main\"",
    "\"SIGTERM\"",
    "\"TERM\"",
    "\"SIGRTMIN+3\"",
    "\"SIG\"",
    "\"root\"",
    "\"0\"",
    "\"inherit\"",
    "\"null\"",
    "\"unlimited\"",
    "\"022\"",
    "\"a\\u0000b\"",
    "\"\\u202e\"",
    "[]",
    "[\"true\"]",
    "[\"/bin/true\", \"x\", \"\"]",
    "[0, 1, 255, 256]",
    "[[\"true\"], []]",
    "{}",
    "{ burst = 5, interval = \"10s\" }",
    "{ burst = -1, interval = \"\" }",
    "{ nofile = 1024 }",
    "{ nofile = [2, 1], core = \"unlimited\" }",
    "{ PATH = \"/bin\", \"\" = \"x\" }",
    "{ run = [\"true\"], user = \"root\" }",
    "'''a\nb'''",
];

/// A key's value: one of the above, one of another seed's, or an array or a table of some.
fn value(random: &mut Random, depth: usize) -> String {
    match random.index(if depth == 0 { 6 } else { 8 }) {
        6 => {
            let items = (0..random.index(4)).map(|_| value(random, depth - 1));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        7 => {
            let items = (0..random.index(3)).map(|index| {
                let value = value(random, depth - 1).replace('\n', " ");
                format!("k{index} = {value}")
            });
            format!("{{ {} }}", items.collect::<Vec<_>>().join(", "))
        }
        5 => {
            let number = random.next();
            let unit = random.pick(&["s", "ms", "h", "KiB", "%", ""]);
            format!("\"{number}{unit}\"")
        }
        _ => random.pick(VALUES).to_owned(),
    }
}

/// Lines with keys, a few of them twice or misspelled.
fn table(random: &mut Random, keys: &[&str]) -> String {
    let mut text = String::new();
    for _ in 0..random.index(8) {
        let mut key = random.pick(keys).to_owned();
        match random.index(20) {
            0 => key.push('x'),
            1 => {
                key = format!(
                    "{key}.{}",
                    random.pick(&["burst", "nofile", "PATH", "\"\""])
                )
            }
            _ => {}
        }
        text += &format!("{key} = {}\n", value(random, 2));
    }
    text
}

/// A file of one service or of several, which has a program as a rule.
fn file(random: &mut Random, keys: &[&str]) -> String {
    let command = "command = [\"/bin/true\"]\n";
    if random.chance(70) {
        let start = if random.chance(80) { command } else { "" };
        return start.to_owned() + &table(random, keys);
    }
    let mut text = String::new();
    for name in ["web", "db", "\"a b\""].iter().take(random.index(4)) {
        text += &format!("[service.{name}]\n{command}{}", table(random, keys));
    }
    text
}

#[test]
fn config() {
    let (service_keys, agent_keys) = config::key_names();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("services")).unwrap();
    let surroundings = Surroundings::of_this_process();
    let material = Material::of(
        "config",
        &["\n", "=", "\"", "'''", "[", "]", "{", "}", ".", "#", "\\"],
    );
    let make = |material: &Material, random: &mut Random| match random.index(10) {
        0 => material.input(random),
        _ => file(random, &service_keys).into_bytes(),
    };
    let mut agents = Random(2);
    run("config", &material, make, |bytes| {
        fs::write(dir.path().join("services/made-up.toml"), bytes).unwrap();
        let agent = table(&mut agents, &agent_keys);
        fs::write(dir.path().join("agent.toml"), agent).unwrap();
        match config::load(dir.path(), &surroundings) {
            Ok(config) => {
                for spec in config.services.values() {
                    assert!(spec.unusable.is_none());
                    assert!(spec.exec.program.is_absolute(), "{:?}", spec.exec.program);
                    let policy = &spec.policy;
                    assert!(policy.restart_delay <= policy.restart_max_delay);
                }
            }
            Err(invalid) => {
                assert!(!invalid.problems.is_empty());
                let lines = bytes.split(|byte| *byte == b'\n').count();
                for problem in &invalid.problems {
                    let told = problem.to_string();
                    assert!(!told.contains('\n'), "{told:?}");
                    let is_services = told.contains("made-up.toml");
                    let line = problem.line.filter(|_| is_services);
                    assert!(
                        line.is_none_or(|line| (1..=lines).contains(&line)),
                        "{told}"
                    );
                }
            }
        }
    });
}
