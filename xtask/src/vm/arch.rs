//! The processors that machines are emulated for, and what differs between them.

use clap::ValueEnum;

/// A processor family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Arch {
    #[value(name = "x86_64", alias = "amd64", alias = "x86-64")]
    X86_64,
}

impl Arch {
    /// Debian's name of it.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
        }
    }

    /// Rust's target of static programs for it.
    pub(super) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
        }
    }

    /// The emulator, and the machine that it is to be.
    pub(super) fn emulator(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::X86_64 => (
                "qemu-system-x86_64",
                &["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35"],
            ),
        }
    }

    /// The kernel's names of the two serial ports: what the kernel writes to, and the results.
    pub(super) fn ports(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("ttyS0", "ttyS1"),
        }
    }
}
