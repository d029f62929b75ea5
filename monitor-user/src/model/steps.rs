//! What is done around the run of a service: commands before and after its start and its stop, and what has
//! to hold for it to be started at all.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::confinement::CAPABILITIES;
use super::spec::Identity;

/// When a command is run, by the key that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// Before each start; the start fails if one of them does.
    BeforeStart,
    /// When the instance runs, and is ready if it says so; it is up only after them.
    AfterStart,
    /// Before the instance is stopped.
    BeforeStop,
    /// In place of the stop signal.
    Stop,
    /// When nothing is left of an instance, however it ended.
    AfterStop,
}

impl Phase {
    /// The key in a service's file.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::BeforeStart => "before_start",
            Self::AfterStart => "after_start",
            Self::BeforeStop => "before_stop",
            Self::Stop => "stop_command",
            Self::AfterStop => "after_stop",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// One such command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    /// The program's absolute path, looked up already.
    pub(crate) program: PathBuf,
    /// `argv`, `argv[0]` included; never empty.
    pub(crate) arguments: Vec<String>,
    /// `None`: as the service, with its rights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Identity>,
    /// After this it is killed; `None`: `start_timeout`, or in a stop `stop_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Duration>,
    /// What goes wrong with it is logged, and no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ignore_failure: bool,
}

/// All of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Steps {
    /// All have to hold, or it is not started.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) before_start: Vec<Step>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) after_start: Vec<Step>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) before_stop: Vec<Step>,
    /// One at most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) stop_command: Vec<Step>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) after_stop: Vec<Step>,
}

impl Steps {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Those of a phase, in order.
    pub(crate) fn of(&self, phase: Phase) -> &[Step] {
        match phase {
            Phase::BeforeStart => &self.before_start,
            Phase::AfterStart => &self.after_start,
            Phase::BeforeStop => &self.before_stop,
            Phase::Stop => &self.stop_command,
            Phase::AfterStop => &self.after_stop,
        }
    }

    /// Each with its phase.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Phase, &Step)> {
        let phases = [
            Phase::BeforeStart,
            Phase::AfterStart,
            Phase::BeforeStop,
            Phase::Stop,
            Phase::AfterStop,
        ];
        let of_phases = phases.map(|phase| self.of(phase).iter().map(move |step| (phase, step)));
        of_phases.into_iter().flatten()
    }

    /// Whether there is something to do before the process is made.
    pub(crate) fn precede_a_start(&self) -> bool {
        !self.conditions.is_empty() || !self.before_start.is_empty()
    }
}

/// What has to hold for a service to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    pub(crate) test: Test,
    /// It must not hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) negated: bool,
}

/// What is looked at. Symbolic links are followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Test {
    /// There is such a file, directory or the like.
    PathExists(PathBuf),
    /// Some path matches this pattern.
    PathMatches(String),
    /// It is a directory.
    PathIsDirectory(PathBuf),
    /// Another file system is mounted there.
    PathIsMountPoint(PathBuf),
    /// It is a file that somebody may execute.
    FileIsExecutable(PathBuf),
    /// It is a file with something in it.
    FileNotEmpty(PathBuf),
    /// It is a directory with something in it.
    DirectoryNotEmpty(PathBuf),
    /// The kernel was started with this word, or with a value for this name.
    KernelCommandLine(String),
    /// The agent may have this capability, by its number, and so may its services.
    Capability(u8),
    /// This host has mains power, or no battery.
    AcPower,
    /// This host is a container.
    Container,
    /// This host is a virtual machine.
    VirtualMachine,
    /// It exits with 0; with 1 to 254 the condition does not hold.
    Command(Step),
}

impl Test {
    /// The key in the table `conditions`.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::PathExists(_) => "path_exists",
            Self::PathMatches(_) => "path_matches",
            Self::PathIsDirectory(_) => "path_is_directory",
            Self::PathIsMountPoint(_) => "path_is_mount_point",
            Self::FileIsExecutable(_) => "file_is_executable",
            Self::FileNotEmpty(_) => "file_not_empty",
            Self::DirectoryNotEmpty(_) => "directory_not_empty",
            Self::KernelCommandLine(_) => "kernel_command_line",
            Self::Capability(_) => "capability",
            Self::AcPower => "ac_power",
            Self::Container => "container",
            Self::VirtualMachine => "virtual_machine",
            Self::Command(_) => "command",
        }
    }
}

impl Condition {
    /// The command that it asks, if it asks one.
    pub(crate) fn command(&self) -> Option<&Step> {
        match &self.test {
            Test::Command(step) => Some(step),
            _ => None,
        }
    }
}

impl Test {
    /// What is looked at, in words.
    pub(crate) fn subject(&self) -> String {
        match self {
            Self::PathMatches(text) | Self::KernelCommandLine(text) => text.clone(),
            Self::Capability(number) => {
                let name = CAPABILITIES.get(usize::from(*number));
                name.copied().unwrap_or_default().to_owned()
            }
            Self::Container | Self::VirtualMachine | Self::AcPower => String::new(),
            Self::PathExists(path)
            | Self::PathIsDirectory(path)
            | Self::PathIsMountPoint(path)
            | Self::FileIsExecutable(path)
            | Self::FileNotEmpty(path)
            | Self::DirectoryNotEmpty(path) => path.to_string_lossy().into_owned(),
            Self::Command(step) => step.arguments.join(" "),
        }
    }
}

impl fmt::Display for Condition {
    /// `path_exists = "!/etc/example"`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Test::Container | Test::VirtualMachine | Test::AcPower = self.test {
            return write!(f, "{} = {}", self.test.key(), !self.negated);
        }
        let sign = if self.negated { "!" } else { "" };
        let subject = format!("{sign}{}", self.test.subject());
        write!(f, "{} = {subject:?}", self.test.key())
    }
}
