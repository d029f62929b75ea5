//! What differs between the processors that machines are emulated for.

use crate::static_build::Arch;

impl Arch {
    /// Debian's name of it.
    pub(super) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
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
