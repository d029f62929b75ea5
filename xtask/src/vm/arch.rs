//! What differs between the processors that machines are emulated for.

use crate::{
    static_build::Arch,
    unpacked::{ARM_EMULATOR, EMULATOR, Program},
};

impl Arch {
    /// Debian's name of it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// What emulates it.
    pub(crate) fn emulator(self) -> Program {
        match self {
            Self::X86_64 => EMULATOR,
            Self::Aarch64 => ARM_EMULATOR,
        }
    }

    /// The machine that the emulator is to be.
    pub(super) fn machine(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &["-cpu", "max", "-M", "q35"],
            Self::Aarch64 => &["-cpu", "cortex-a72", "-M", "virt"],
        }
    }

    /// The kernel's names of the two serial ports: what the kernel writes to, and the results.
    pub(super) fn ports(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("ttyS0", "ttyS1"),
            Self::Aarch64 => ("ttyAMA0", "ttyS0"),
        }
    }

    /// The port of the results, as the emulator has it.
    pub(super) fn result_port(self) -> [&'static str; 2] {
        match self {
            Self::X86_64 => ["-serial", "chardev:result"],
            // The board has one port; this one is a card's.
            Self::Aarch64 => ["-device", "pci-serial,chardev=result"],
        }
    }
}
