//! The inits that a machine can have as PID 1, each as Debian has it, and how each runs the job.

use std::io::Write;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::cpio::Archive;

/// An init.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Init {
    Busybox,
    Sysvinit,
    Systemd,
    Runit,
    S6,
    Openrc,
}

/// Of the units that a host needs, a machine needs none.
const SYSTEMD_TARGET: &str = "[Unit]\nDescription=nothing but what is installed\n\
    Wants=multi-user.target vm.service\nAfter=multi-user.target\nAllowIsolate=yes\n";
const SYSTEMD_MULTI_USER: &str = "[Unit]\nDescription=services\nAllowIsolate=yes\n";
const SYSTEMD_JOB: &str = "[Unit]\nDescription=the job\nDefaultDependencies=no\n\
    [Service]\nExecStartPre=/vm/boot\nExecStart=/vm/start\nTimeoutStartSec=infinity\n\
    Delegate=yes\n";

const RUNIT_RUN: &str = "#!/bin/sh\n/vm/start &\n\
    exec env - PATH=/usr/sbin:/usr/bin runsvdir -P /etc/service 'log: ....'\n";

const S6_INIT: &str = "#!/bin/sh\nexport PATH=/usr/sbin:/usr/bin\n/vm/boot\n\
    mkdir -p /run/service\n/vm/start &\nexec s6-svscan /run/service\n";

const OPENRC_JOB: &str = "#!/sbin/openrc-run\nstart() {\n    /vm/boot\n    /vm/start &\n}\n";

impl Init {
    /// Its name, as `respawn install --init` has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::Sysvinit => "sysvinit",
            Self::Systemd => "systemd",
            Self::Runit => "runit",
            Self::S6 => "s6",
            Self::Openrc => "openrc",
        }
    }

    /// What it is in, beside what every machine has.
    pub(super) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Busybox => &[],
            Self::Sysvinit => &["sysvinit-core"],
            Self::Systemd => &["systemd"],
            Self::Runit => &["runit"],
            Self::S6 => &["s6", "execline"],
            Self::Openrc => &["openrc"],
        }
    }

    /// Whether what `install` writes is there at the next boot.
    pub(super) fn keeps_entries(self) -> bool {
        // Its directory is in /run.
        self != Self::S6
    }

    /// Makes it PID 1, and the job its work.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub(super) fn write<W: Write>(self, archive: &mut Archive<W>) -> Result<()> {
        const INIT: &str = "/usr/sbin/init";
        match self {
            Self::Busybox => {
                archive.link(INIT, b"/usr/bin/busybox")?;
                let table = b"::sysinit:/vm/boot\n::once:/vm/start\n";
                archive.file("/etc/inittab", 0o644, table)?;
            }
            Self::Sysvinit => {
                let table = b"id:2:initdefault:\nsi::sysinit:/vm/boot\nvm:2:once:/vm/start\n";
                archive.file("/etc/inittab", 0o644, table)?;
            }
            Self::Systemd => {
                archive.link(INIT, b"/usr/lib/systemd/systemd")?;
                let folder = "/etc/systemd/system";
                archive.directories(folder)?;
                for (name, text) in [
                    ("default.target", SYSTEMD_TARGET),
                    ("multi-user.target", SYSTEMD_MULTI_USER),
                    ("vm.service", SYSTEMD_JOB),
                ] {
                    archive.file(&format!("{folder}/{name}"), 0o644, text.as_bytes())?;
                }
                archive.file(
                    "/etc/machine-id",
                    0o444,
                    b"00000000000000000000000000007e57\n",
                )?;
            }
            Self::Runit => {
                archive.link(INIT, b"/usr/sbin/runit-init")?;
                archive.directories("/etc/service")?;
                archive.directories("/etc/runit/runsvdir/default")?;
                archive.link("/etc/runit/runsvdir/current", b"default")?;
                archive.file("/etc/runit/1", 0o755, b"#!/bin/sh\nexec /vm/boot\n")?;
                archive.file("/etc/runit/2", 0o755, RUNIT_RUN.as_bytes())?;
                archive.file("/etc/runit/3", 0o755, b"#!/bin/sh\n")?;
            }
            Self::S6 => archive.file(INIT, 0o755, S6_INIT.as_bytes())?,
            Self::Openrc => {
                archive.link(INIT, b"/usr/sbin/openrc-init")?;
                archive.directories("/etc/insserv.conf.d")?;
                archive.file("/etc/insserv.conf", 0o644, b"")?;
                archive.directories("/etc/init.d")?;
                archive.file("/etc/init.d/vm", 0o755, OPENRC_JOB.as_bytes())?;
                archive.directories("/etc/runlevels/default")?;
                archive.link("/etc/runlevels/default/vm", b"/etc/init.d/vm")?;
            }
        }
        Ok(())
    }
}
