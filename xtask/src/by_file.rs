//! Runs the test binaries that cargo has built, in cargo's place: the black-box tests one file after the
//! other, each in a process of its own, and the others as they are.
//!
//! All files of black-box tests are modules of one binary, as that links once. Many of them measure, or
//! load the host: run beside another file's tests they would say something about those.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    Verdict,
    report::note,
    workspace::{Workspace, output_of, shown},
};

/// The package of the black-box tests.
pub(crate) const PACKAGE: &str = "respawn-tests";

/// Their test target, and the beginning of its binary's name.
pub(crate) const BLACK_BOX: &str = "black_box";

/// Names the files that are to run, with spaces between them; all by default.
const FILES: &str = "RESPAWN_TEST_FILES";

/// Files whose tests run once more with the static binary, where libc works in another way.
const ALSO_STATIC: [&str; 1] = ["accounts"];

/// Names that binary, where it is built.
pub(crate) const STATIC_BINARY: &str = "RESPAWN_STATIC_BIN";

/// A test binary, with the arguments that cargo gives it
#[derive(clap::Args)]
pub(crate) struct Args {
    program: OsString,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// A `cargo test` that runs tests so; of the black-box tests those in these files, or all if none is named.
///
/// # Errors
/// When the path of this program is not known, or not UTF-8.
pub(crate) fn cargo_test(workspace: &Workspace, files: &[String]) -> Result<Command> {
    let this = env::current_exe().context("find this program")?;
    let this = this.to_str().context("this program's path is not UTF-8")?;
    let runner = toml::Value::from(vec![this, "run-tests"]);
    let mut command = workspace.cargo();
    command
        .args(["--config", &format!("target.'cfg(all())'.runner={runner}")])
        .args(["test", "--no-fail-fast"])
        .env(FILES, files.join(" "));
    Ok(command)
}

/// What cargo takes for tests that failed, and not for a program that did.
const TESTS_FAILED: u8 = 101;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    Ok(match run_tests(args)? {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail => ExitCode::from(TESTS_FAILED),
    })
}

fn run_tests(args: &Args) -> Result<Verdict> {
    let name = Path::new(&args.program).file_name().unwrap_or_default();
    let name = name.to_string_lossy();
    let is_black_box = name
        .strip_prefix(BLACK_BOX)
        .is_some_and(|rest| rest.starts_with('-'));
    let is_list = args.arguments.iter().any(|word| word == "--list");
    if !is_black_box || is_list {
        return run_one(Command::new(&args.program).args(&args.arguments));
    }
    let all = list(&args.program, &[])?;
    let fitting = list(&args.program, &args.arguments)?;
    let wanted = env::var(FILES).unwrap_or_default();
    let wanted: Vec<_> = wanted.split_whitespace().collect();
    let files = chosen(files_in(&all), files_in(&fitting), &wanted)?;
    let mut verdict = Verdict::Pass;
    for (file, tests) in files {
        note!("     tests/{file}.rs");
        let mut command = Command::new(&args.program);
        command.args(args.arguments.iter().filter(|word| *word != "--exact"));
        command.arg("--exact").args(tests);
        let mut verdicts = vec![run_one(&mut command)?];
        if let Some(binary) = env::var_os(STATIC_BINARY).filter(|_| ALSO_STATIC.contains(&file)) {
            note!("     tests/{file}.rs, with the static binary");
            verdicts.push(run_one(command.env("RESPAWN_BIN", binary))?);
        }
        if verdicts.contains(&Verdict::Fail) {
            verdict = Verdict::Fail;
        }
    }
    Ok(verdict)
}

/// What libtest lists of the tests that fit the arguments.
fn list(program: &OsString, arguments: &[OsString]) -> Result<String> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .args(["--list", "--format", "terse"]);
    let list = output_of(&mut command).context("list the tests")?;
    Ok(String::from_utf8_lossy(&list).into_owned())
}

fn run_one(command: &mut Command) -> Result<Verdict> {
    let status = command.status();
    let status = status.with_context(|| format!("start {}", shown(command)))?;
    Ok(match status.success() {
        true => Verdict::Pass,
        false => Verdict::Fail,
    })
}

/// The tests of each file, from what libtest lists.
fn files_in(list: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut files = BTreeMap::<_, Vec<_>>::new();
    for test in list.lines().filter_map(|line| line.strip_suffix(": test")) {
        let (file, _) = test.split_once("::").unwrap_or((test, ""));
        files.entry(file).or_default().push(test);
    }
    files
}

/// The tests that fit, in those of the files that are wanted.
///
/// # Errors
/// When there is no such file.
fn chosen<'a>(
    all: BTreeMap<&str, Vec<&str>>,
    mut fitting: BTreeMap<&'a str, Vec<&'a str>>,
    wanted: &[&str],
) -> Result<BTreeMap<&'a str, Vec<&'a str>>> {
    for file in wanted {
        if !all.contains_key(file) {
            bail!("there are no tests in tests/{file}.rs, or no such file");
        }
    }
    if !wanted.is_empty() {
        fitting.retain(|file, _| wanted.contains(file));
    }
    Ok(fitting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_tests_by_file_and_chooses_among_them() {
        let list = "start::a: test\nrestart::b: test\nmachine::init::c: test\nstart::d: test\n";
        let files = files_in(list);
        assert_eq!(
            files,
            BTreeMap::from([
                ("machine", vec!["machine::init::c"]),
                ("restart", vec!["restart::b"]),
                ("start", vec!["start::a", "start::d"]),
            ])
        );
        let chosen = |fitting: &str, wanted: &[&str]| {
            let files = super::chosen(files_in(list), files_in(fitting), wanted)?;
            let names: Vec<String> = files.into_keys().map(str::to_owned).collect();
            anyhow::Ok(names.join(" "))
        };
        assert_eq!(chosen(list, &["start"]).unwrap(), "start");
        assert_eq!(chosen(list, &[]).unwrap(), "machine restart start");
        assert_eq!(
            chosen("start::a: test\n", &["start", "restart"]).unwrap(),
            "start"
        );
        assert!(chosen(list, &["stop"]).is_err());
    }
}
