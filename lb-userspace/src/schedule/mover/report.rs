//! What an operator is told about the slots of a service.

use std::time::Instant;

use lb_common::BackendId;

/// How many slots are in which state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Nobody owns them.
    pub empty: u32,
    /// All their flows are their owner's.
    pub stable: u32,
    /// Some of their flows may be others', and all of those are in the flow table. Where flows are always tracked, these are
    /// all slots that do not move.
    pub tracked: u32,
    /// They will move when all handshakes are over that began before: `current` is who will own them, `previous` who does.
    pub arming: Vec<Group>,
    /// Flows that are not in the flow table are the previous owner's.
    pub moving: Vec<Group>,
    /// When the flow table lost a flow, the last time, if slots have moved since before then: they wait anew from then on.
    pub restarted: Option<Instant>,
    /// Of all slots, those that are to move, and wait because many have moved in the last minute.
    pub waiting: u32,
}

/// Slots that move between the same two backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The new owner.
    pub current: BackendId,
    /// The old owner.
    pub previous: BackendId,
    /// How many slots.
    pub slots: u32,
    /// When the first of them entered this state.
    pub since: Instant,
    /// When the last of them may leave it, if no flow is lost until then.
    pub until: Instant,
}

impl Report {
    pub(super) fn new(waiting: u32) -> Self {
        Self { waiting, ..Self::default() }
    }

    pub(super) fn add_arming(&mut self, current: BackendId, previous: BackendId, since: Instant, until: Instant) {
        add(&mut self.arming, Group { current, previous, slots: 1, since, until });
    }

    pub(super) fn add_moving(&mut self, current: BackendId, previous: BackendId, since: Instant, until: Instant) {
        add(&mut self.moving, Group { current, previous, slots: 1, since, until });
    }
}

fn add(groups: &mut Vec<Group>, slot: Group) {
    let key = |group: &Group| (group.current, group.previous);
    match groups.binary_search_by_key(&key(&slot), key) {
        Ok(index) => {
            let group = &mut groups[index];
            group.slots += 1;
            group.since = group.since.min(slot.since);
            group.until = group.until.max(slot.until);
        }
        Err(index) => groups.insert(index, slot),
    }
}
