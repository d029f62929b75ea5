//! Starts that wait for a later turn of the agent's loop, where there are many: a boot with thousands of services
//! holds up neither the restart of one that ends meanwhile nor the answer to a client.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{Attempt, ServiceName};
use crate::supervisor::Action;

/// How many starts a turn makes, which takes some 20 ms. It is more than the deaths that are handled together, so
/// that a restart is never left for later by those.
const A_TURN: usize = 64;

/// Starts that the supervisor waits for, and that are not begun.
#[derive(Default)]
pub(super) struct StartQueue {
    waiting: BTreeMap<ServiceName, Attempt>,
    /// A service whose start was removed is passed over.
    order: VecDeque<ServiceName>,
    /// How many more may be made in this turn.
    room: usize,
}

impl StartQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn begin_turn(&mut self) {
        self.room = A_TURN;
    }

    /// A start, to be made now if there is room in this turn: ahead of those that wait.
    pub(super) fn add(&mut self, service: ServiceName, attempt: Attempt) -> Option<Action> {
        if let Some(room) = self.room.checked_sub(1) {
            self.room = room;
            return Some(Action::Spawn { service, attempt });
        }
        self.order.push_back(service.clone());
        self.waiting.insert(service, attempt);
        None
    }

    /// Those that wait, as long as there is room in this turn.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Action> {
        std::iter::from_fn(|| {
            let room = self.room.checked_sub(1)?;
            loop {
                let service = self.order.pop_front()?;
                if let Some(attempt) = self.waiting.remove(&service) {
                    self.room = room;
                    return Some(Action::Spawn { service, attempt });
                }
            }
        })
    }

    /// Whether that start was waiting; it does no more.
    pub(super) fn remove(&mut self, service: &ServiceName, attempt: Attempt) -> bool {
        let is_it = self.waiting.get(service) == Some(&attempt);
        if is_it {
            self.waiting.remove(service);
        }
        is_it
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: usize) -> ServiceName {
        format!("s{number}").into()
    }

    fn started(action: &Action) -> ServiceName {
        match action {
            Action::Spawn { service, .. } => service.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_turn_makes_some_of_many_and_a_new_one_goes_ahead() {
        let mut queue = StartQueue::default();
        queue.begin_turn();
        let now: Vec<_> = (0..200)
            .filter_map(|number| queue.add(service(number), Attempt(1)))
            .collect();
        assert_eq!(now.len(), A_TURN);
        assert_eq!(queue.take().count(), 0);

        queue.begin_turn();
        let ahead = queue.add(service(0), Attempt(2)).expect("room");
        assert_eq!(started(&ahead), service(0));
        let next: Vec<_> = queue.take().map(|it| started(&it)).collect();
        let expected: Vec<_> = (A_TURN..2 * A_TURN - 1).map(service).collect();
        assert_eq!(next, expected);
        assert!(!queue.is_empty());
    }

    #[test]
    fn one_that_is_removed_is_made_again_only_when_it_is_added_again() {
        let mut queue = StartQueue::default();
        for number in 0..3 {
            assert!(queue.add(service(number), Attempt(1)).is_none());
        }
        assert!(!queue.remove(&service(1), Attempt(2)));
        assert!(queue.remove(&service(1), Attempt(1)));
        assert!(!queue.remove(&service(1), Attempt(1)));
        queue.begin_turn();
        let made: Vec<_> = queue.take().map(|it| started(&it)).collect();
        assert_eq!(made, [service(0), service(2)]);
        assert!(queue.is_empty());
    }
}
