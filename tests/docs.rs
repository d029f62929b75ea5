//! What the documentation shows works: its service files are valid, its commands exist, and what can be run anywhere
//! prints what it says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::respawn;

/// A block of code in a page.
struct Block {
    /// "docs/services.md:66"
    place: String,
    language: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|it| it == "md")));
    pages.sort();
    pages
}

fn blocks(language: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let mut open: Option<Block> = None;
        for (number, line) in text.lines().enumerate() {
            match (&mut open, line.strip_prefix("```")) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text += &format!("{line}\n"),
                (None, Some(language)) => {
                    open = Some(Block {
                        place: format!("{}:{}", page.display(), number + 1),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}", page.display());
    }
    blocks.retain(|block| block.language == language);
    blocks
}

/// Problems of the host that the tests run on, not of the file: it has none of the programs and users.
fn is_of_the_host(problem: &Value) -> bool {
    let message = problem["message"].as_str().unwrap();
    let parts = [
        "No such file or directory",
        "does not exist",
        "no user",
        "no group",
        "no service",
        "not found",
    ];
    parts.iter().any(|part| message.contains(part))
}

#[test]
fn service_files_in_the_docs_are_valid() {
    let blocks = blocks("toml");
    assert!(blocks.len() > 20, "{}", blocks.len());
    for block in blocks {
        let dir = tempfile::tempdir().unwrap();
        let services = dir.path().join("services");
        fs::create_dir(&services).unwrap();
        let is_template = block.text.contains("\ninstances =") || block.text.contains("@.toml");
        let name = if is_template { "web@.toml" } else { "web.toml" };
        let is_whole = block.text.lines().any(|line| line.starts_with("command ="));
        let text = match is_whole {
            true => block.text.clone(),
            false => format!("command = [\"/bin/true\"]\n{}", block.text),
        };
        fs::write(services.join(name), &text).unwrap();
        let output = respawn().args(["check", "--json"]).arg(dir.path()).output();
        let output = output.unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let problems = said["problems"].as_array().unwrap();
        let wrong: Vec<_> = problems.iter().filter(|it| !is_of_the_host(it)).collect();
        assert!(wrong.is_empty(), "{}: {wrong:#?}\n{text}", block.place);
    }
}

/// The commands of a console block that call respawn, as words.
fn commands(block: &Block) -> Vec<Vec<String>> {
    let text = block.text.replace("\\\n", " ");
    let prompts = |line: &str| {
        let command = line.strip_prefix("# ").or(line.strip_prefix("$ "))?;
        let command = command.split(" # ").next().unwrap();
        let command = command.split(['|', '>', '&']).next().unwrap();
        let words = shell_words(command);
        let mut words = words.into_iter();
        (words.next()? == "respawn").then(|| words.collect())
    };
    text.lines().filter_map(prompts).collect()
}

/// Words with single quotes, as far as the docs use them.
fn shell_words(command: &str) -> Vec<String> {
    let mut is_quoted = false;
    let is_between = |c: char| {
        is_quoted ^= c == '\'';
        c.is_whitespace() && !is_quoted
    };
    let words = command.split(is_between).filter(|word| !word.is_empty());
    words.map(|word| word.replace('\'', "")).collect()
}

/// `--help` at the end is reached only if all that is before it is understood.
#[test]
fn commands_in_the_docs_exist() {
    let mut tried = 0;
    for block in blocks("console") {
        for words in commands(&block) {
            let output = respawn().args(&words).arg("--help").output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{}: {words:?}: {stderr}",
                block.place
            );
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried}");
}

/// What a block shows after its command, which is run with `dir` for /etc/respawn.
#[track_caller]
fn assert_shown(language: &str, first: &str, services: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("services")).unwrap();
    for (name, text) in services {
        fs::write(dir.path().join("services").join(name), text).unwrap();
    }
    let output = respawn().arg("check").arg(dir.path()).output().unwrap();
    assert!(!output.status.success());
    let shown = String::from_utf8(output.stderr).unwrap();
    let shown = shown.replace(dir.path().to_str().unwrap(), "/etc/respawn");
    let found = blocks(language);
    let block = found.iter().find(|block| block.text.starts_with(first));
    let block = block.unwrap();
    for line in block.text.lines().filter(|line| !line.starts_with("# ")) {
        assert!(shown.contains(line), "{}: {line}\n{shown}", block.place);
    }
}

#[test]
fn problems_in_the_docs_are_shown_as_they_are() {
    assert_shown(
        "console",
        "# respawn check\n",
        &[("bad.toml", "comand = [\"/bin/true\"]\n")],
    );
    assert_shown(
        "text",
        "/etc/respawn/services/app.toml:2: requires: ",
        &[
            (
                "app.toml",
                "command = [\"/bin/true\"]\nrequires = [\"db\"]\n",
            ),
            ("db.toml", "command = [\"/bin/true\"]\nafter = [\"app\"]\n"),
        ],
    );
}
