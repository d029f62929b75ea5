//! The instances for which the kernel's watch map has no room: the agent has their births in files
//! and sees their ends by pidfds, as where there is no eBPF. Says so once in the log, and in `status`
//! of each.

use std::collections::HashSet;

use crate::model::Instance;
use crate::probe::{MOST_WATCHED, NoRoom};

/// Those that live.
#[derive(Debug, Default)]
pub(super) struct Unwatched {
    instances: HashSet<Instance>,
    /// How many the kernel watches, once there was no room.
    room: Option<NoRoom>,
}

impl Unwatched {
    /// There is no room for this one.
    pub(super) fn add(&mut self, instance: Instance, room: NoRoom) {
        self.instances.insert(instance);
        if self.room.replace(room).is_none() {
            tracing::error!(
                "{room}: the others' starts are kept in files, and if one ends while no agent lives, \
                 nobody knows how; {}",
                advice(room)
            );
        }
    }

    /// It has ended, and that is told.
    pub(super) fn remove(&mut self, instance: &Instance) {
        self.instances.remove(instance);
    }

    /// What `status` says of an instance.
    pub(super) fn hint(&self, instance: &Instance) -> Option<String> {
        let room = self.room.filter(|_| self.instances.contains(instance))?;
        Some(format!(
            "not watched by the kernel: {room}; {}",
            advice(room)
        ))
    }
}

fn advice(NoRoom(room): NoRoom) -> &'static str {
    match u32::try_from(room).is_ok_and(|room| room < MOST_WATCHED) {
        true => "start the agent again: the next one makes more room",
        false => "that is the most; run fewer services in one agent",
    }
}
