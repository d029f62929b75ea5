//! What differs between the processors that machines are emulated for.

use crate::{
    static_build::Arch,
    unpacked::{EMULATOR, Program},
};

impl Arch {
    /// Debian's name of it.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
        }
    }

    /// What emulates it.
    pub(super) fn emulator(self) -> Program {
        match self {
            Self::X86_64 => EMULATOR,
        }
    }

    /// The machine that the emulator is to be.
    pub(super) fn machine(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35"],
        }
    }

    /// The kernel's names of the two serial ports: what the kernel writes to, and the results.
    pub(super) fn ports(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("ttyS0", "ttyS1"),
        }
    }
}
