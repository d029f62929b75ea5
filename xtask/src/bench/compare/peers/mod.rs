//! The peers, one a file.

mod busybox;
mod dinit;
mod floor;
mod monit;
mod respawn;
mod runit;
mod s6;
mod shell_loops;
mod supervisor;
mod systemd;
mod sysvinit;

pub(super) use self::{
    floor::Floor,
    respawn::{Respawn, runtime_dir},
    s6::S6,
    systemd::Systemd,
};
use super::peer::Peer;

/// All of them, in the order of the page.
pub(super) fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(Floor),
        Box::new(shell_loops::ShellLoops),
        Box::new(Respawn::PLAIN),
        Box::new(Respawn::OVERLAP),
        Box::new(Respawn::STANDBY),
        Box::new(Respawn::STANDBY_OVERLAP),
        Box::new(dinit::Dinit),
        Box::new(sysvinit::Sysvinit),
        Box::new(Systemd),
        Box::new(runit::Runit),
        Box::new(S6),
        Box::new(supervisor::Supervisor),
        Box::new(monit::Monit),
        Box::new(busybox::Busybox),
    ]
}
