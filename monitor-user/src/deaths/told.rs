//! A death as the kernel program reports it, made ready to be shown or kept.

use super::masking;
use crate::clock::WallClock;
use crate::decode::Death;
use crate::model::{Exited, Profile};

/// What happened, and who it was. Secrets in arguments are hidden; without `argv` there are none.
pub(crate) fn told(death: Death, argv: bool, wall: &WallClock) -> (Exited, Profile) {
    let Death {
        mut exit,
        mut profile,
    } = death;
    guard(&mut profile, argv);
    let senders = exit.senders_mut();
    let of_senders = senders.filter_map(|sender| sender.profile.as_mut());
    of_senders.for_each(|profile| guard(profile, argv));
    let mut exited = Exited::with_record(exit, wall);
    exited.service = profile.owner.service.take();
    (exited, profile)
}

/// Leaves out of the arguments what is not to be told.
fn guard(profile: &mut Profile, keep: bool) {
    match &mut profile.argv {
        Some(argv) if keep => masking::mask(argv),
        argv => *argv = None,
    }
}
