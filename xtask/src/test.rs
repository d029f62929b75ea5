//! `cargo xtask test`: all tests, with the committed kernel object.
//!
//! Needs stable Rust, a C linker and the packages of `Cargo.lock`; no kernel toolchain. How each test
//! binary is run: `by_file.rs`.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{
    Verdict,
    by_file::{self, BLACK_BOX, PACKAGE},
    dist, previous,
    report::note,
    summary::{Counts, Summary, read_skips},
    workspace::{BPF_OBJECT_VARIABLE, Profile, Workspace, shown},
};

/// Run all tests: each crate's own, and those of the `respawn` binary on this kernel
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Passed on to `cargo test`: names of tests, `-p PACKAGE`, `-- --nocapture` …; but `--test FILE` runs
    /// the black-box tests in tests/FILE.rs alone, and can be repeated
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    arguments: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &Args) -> Result<Verdict> {
    let (arguments, files) = split(&args.arguments)?;
    let mut command = by_file::cargo_test(workspace, &files)?;
    if !files.is_empty() {
        command.args(["--package", PACKAGE, "--test", BLACK_BOX]);
    } else if !names_a_package(&arguments) {
        command.arg("--workspace");
    }
    command.args(&arguments);
    run_tests(workspace, command, &files)
}

/// What is for cargo, and the files of black-box tests that are named.
///
/// # Errors
/// When an option has no value.
fn split(arguments: &[String]) -> Result<(Vec<String>, Vec<String>)> {
    let (mut for_cargo, mut files) = (Vec::new(), Vec::new());
    let mut arguments = arguments.iter().cloned();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            for_cargo.push(argument);
            for_cargo.extend(arguments);
            break;
        }
        match argument.strip_prefix("--test") {
            Some("") => files.push(arguments.next().context("--test: which file?")?),
            Some(rest) if rest.starts_with('=') => files.push(rest[1..].to_owned()),
            _ => for_cargo.push(argument),
        }
    }
    if !files.is_empty() {
        // It is the package that the files are in.
        for_cargo = without_package(for_cargo);
    }
    Ok((for_cargo, files))
}

/// Without `-p respawn-tests`, in any of its forms.
fn without_package(arguments: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for argument in arguments {
        let is_option = |word: &String| word == "-p" || word == "--package";
        if argument == PACKAGE && kept.last().is_some_and(is_option) {
            kept.pop();
        } else if argument != format!("--package={PACKAGE}") && argument != format!("-p{PACKAGE}") {
            kept.push(argument);
        }
    }
    kept
}

/// Runs the tests of the binary with this kernel object in place of the one it embeds.
///
/// # Errors
/// When the tests cannot be run; a test that fails is a verdict.
pub(crate) fn black_box_with(workspace: &Workspace, object: &Path) -> Result<Verdict> {
    note!("the tests of the binary, with {}", object.display());
    let mut command = by_file::cargo_test(workspace, &[])?;
    command.args(["--package", PACKAGE]);
    command.env(BPF_OBJECT_VARIABLE, object);
    run_tests(workspace, command, &[])
}

/// Whether cargo is told which packages to test.
fn names_a_package(arguments: &[String]) -> bool {
    let for_cargo = arguments.iter().take_while(|argument| *argument != "--");
    for_cargo.into_iter().any(|argument| {
        ["--package", "--workspace", "--all", "--manifest-path"]
            .iter()
            .any(|option| argument == option || argument.starts_with(&format!("{option}=")))
            || (argument.starts_with("-p") && !argument.starts_with("--"))
    })
}

/// Whether cargo is told to run the tests of the binary, among others perhaps.
fn tests_the_binary(command: &Command) -> bool {
    let words = command.get_args().map(|word| word.to_string_lossy());
    let mut for_cargo = words.take_while(|word| word != "--");
    for_cargo.any(|word| word == "--workspace" || word.ends_with(PACKAGE))
}

/// Whether the tests of packages are among these files; all are if none is named.
fn tests_packages(files: &[String]) -> bool {
    let is_one =
        |file: &String| ["packages", "image", "container", "accounts"].contains(&file.as_str());
    files.is_empty() || files.iter().any(is_one)
}

/// Runs what `command` tests, of the black-box tests those in `files` or all, and sums it up.
///
/// # Errors
/// As [`black_box_with`].
pub(crate) fn run_tests(
    workspace: &Workspace,
    mut command: Command,
    files: &[String],
) -> Result<Verdict> {
    if !nix::unistd::geteuid().is_root() {
        note!("not root: the tests that load a kernel program will be skipped");
    }
    let binary = workspace.build_respawn(Profile::Release, None)?;
    if tests_the_binary(&command) {
        let previous = previous::build(workspace)?;
        previous.tell(&mut command);
        if tests_packages(files) {
            dist::for_tests::tell(workspace, &previous, &mut command)?;
        }
    }
    let skips = tempfile::NamedTempFile::new().context("make the file for skipped tests")?;
    command
        .env("RESPAWN_BIN", &binary)
        .env("RESPAWN_SKIPS", skips.path())
        .stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", shown(&command)))?;
    let stdout = child.stdout.take().context("cargo's output is not piped")?;
    let counts = pass_on(stdout, &mut io::stdout());
    // Wait whatever became of its output: no test run is left behind.
    let status = child.wait().context("wait for cargo test")?;
    let text = fs::read(skips.path()).context("read which tests were skipped")?;
    let skips = read_skips(&String::from_utf8_lossy(&text));
    let summary = Summary {
        counts: counts?,
        skips,
        cargo_passed: status.success(),
    };
    writeln!(io::stdout(), "\n{summary}")?;
    Ok(if summary.failed() == 0 {
        Verdict::Pass
    } else {
        Verdict::Fail
    })
}

/// Copies as it comes, and counts on the way.
fn pass_on(mut from: impl io::Read, to: &mut impl io::Write) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut line = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let length = from.read(&mut buffer).context("read cargo's output")?;
        let chunk = &buffer[..length];
        to.write_all(chunk)
            .and_then(|()| to.flush())
            .context("write cargo's output")?;
        for byte in chunk {
            if *byte == b'\n' {
                counts.add_line(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(*byte);
            }
        }
        if length == 0 {
            counts.add_line(&String::from_utf8_lossy(&line));
            return Ok(counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_everything_and_counts_across_reads() {
        let output = "test result: ok. 1 passed; 0 failed;\nrest\ntest result: ok. 2 passed";
        let mut shown = Vec::new();
        // One byte a read.
        let counts = pass_on(OneByOne(output.as_bytes()), &mut shown).unwrap();
        assert_eq!(shown, output.as_bytes());
        assert_eq!(counts.passed, 3);
    }

    struct OneByOne<'a>(&'a [u8]);

    impl io::Read for OneByOne<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut buffer[..1])
        }
    }

    #[test]
    fn knows_when_the_binary_is_tested() {
        let tests = |words: &[&str]| tests_the_binary(Command::new("cargo").args(words));
        assert!(tests(&["test", "--workspace"]));
        assert!(tests(&["test", "-p", "respawn-tests", "--test", "pins"]));
        assert!(tests(&["test", "--package=respawn-tests"]));
        assert!(!tests(&["test", "-p", "xtask", "--", "respawn-tests"]));
    }

    #[test]
    fn packages_are_built_for_their_tests_alone() {
        let tests = |files: &[&str]| {
            tests_packages(&files.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert!(tests(&[]));
        assert!(tests(&["restart", "packages"]));
        assert!(!tests(&["restart"]));
    }

    #[test]
    fn files_of_black_box_tests_are_no_test_targets_of_cargos() {
        let split = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            let (for_cargo, files) = split(&words).unwrap();
            (for_cargo.join(" "), files.join(" "))
        };
        let both = |for_cargo: &str, files: &str| (for_cargo.to_owned(), files.to_owned());
        assert_eq!(
            split(&["--test", "restart", "--test=stop"]),
            both("", "restart stop")
        );
        assert_eq!(
            split(&[
                "-p",
                "respawn-tests",
                "--test",
                "pins",
                "name",
                "--",
                "--test"
            ]),
            both("name -- --test", "pins")
        );
        assert_eq!(
            split(&["-p", "respawn-tests"]),
            both("-p respawn-tests", "")
        );
    }

    #[test]
    fn knows_when_a_package_is_named() {
        let named = |arguments: &[&str]| {
            names_a_package(
                &arguments
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            )
        };
        assert!(named(&["-p", "xtask"]));
        assert!(named(&["-pxtask", "name"]));
        assert!(named(&["--package=xtask"]));
        assert!(!named(&["name_of_a_test", "--", "-p"]));
        assert!(!named(&[]));
    }
}
