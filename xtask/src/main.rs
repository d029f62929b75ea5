//! respawn's build, test, demo and CI commands: `cargo xtask --help`.
//!
//! Holds no logic: a command is a file, and one line in each of the three lists below.

mod bench;
mod build;
mod by_file;
mod ci;
mod demo;
mod dist;
mod ebpf;
mod fuzz;
mod install;
mod setup;
mod soak;
mod survey;
mod test;
mod vm;

mod apt;
mod cross;
mod deny;
mod manifest;
mod object_file;
mod previous;
mod report;
mod static_build;
mod summary;
mod toolchain;
mod unpacked;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use report::note;
use workspace::Workspace;

/// respawn's build, test, demo and CI commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Setup(setup::Args),
    Build(build::Args),
    Install(install::Args),
    Dist(dist::Args),
    Image(dist::ImageArgs),
    Ebpf(ebpf::Args),
    Test(test::Args),
    Soak(soak::Args),
    Fuzz(fuzz::Args),
    ImportSurvey(survey::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Vm(vm::Args),
    Ci(ci::Args),
    #[command(hide = true)]
    RunTests(by_file::Args),
    #[command(hide = true)]
    Tethered(demo::TetheredArgs),
    #[command(hide = true)]
    DemoInit(demo::Place),
}

/// How a command that ran to its end ended. Whatever stopped one on the way is an error instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// The command has already said why.
    Fail,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(exit_code) => exit_code,
        Err(error) => {
            note!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find;
    let verdict = match command {
        Command::Setup(args) => setup::run(&workspace()?, &args),
        Command::Build(args) => build::run(&workspace()?, &args),
        Command::Install(args) => install::run(&workspace()?, &args),
        Command::Dist(args) => dist::run(&workspace()?, &args),
        Command::Image(args) => dist::run(&workspace()?, &args.into()),
        Command::Ebpf(args) => ebpf::run(&workspace()?, &args),
        Command::Test(args) => test::run(&workspace()?, &args),
        Command::Soak(args) => soak::run(&workspace()?, &args),
        Command::Fuzz(args) => fuzz::run(&workspace()?, &args),
        Command::ImportSurvey(args) => survey::run(&workspace()?, &args),
        Command::Demo(args) => demo::run(&workspace()?, &args),
        Command::Bench(args) => bench::run(&workspace()?, &args),
        Command::Vm(args) => vm::run(&workspace()?, &args),
        Command::Ci(args) => ci::run(&workspace()?, &args),
        Command::RunTests(args) => return by_file::run(&args),
        Command::Tethered(args) => demo::tethered(&args),
        Command::DemoInit(place) => demo::init(&place),
    }?;
    Ok(match verdict {
        Verdict::Pass => ExitCode::SUCCESS,
        Verdict::Fail => ExitCode::FAILURE,
    })
}
