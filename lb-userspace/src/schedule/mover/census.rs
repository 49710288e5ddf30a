//! What a sweep over the flow table finds out for one service.

use std::time::Instant;

use lb_common::{BackendId, flow_table::FlowTag};

/// A sweep over the flow table, and what it has found of one service. Whoever sweeps shows each live entry of the service
/// to [`Census::meet`].
#[derive(Debug, Clone)]
pub struct Census {
    started: Instant,
    slots: Vec<Surveyed>,
}

#[derive(Debug, Clone, Copy)]
struct Surveyed {
    owner: BackendId,
    settles: bool,
    differs: bool,
}

impl Census {
    /// With the owner of each slot, and whether the slot is about to give up its previous one.
    pub(super) fn new(started: Instant, slots: impl Iterator<Item = (BackendId, bool)>) -> Self {
        let survey = |(owner, settles)| Surveyed { owner, settles, differs: false };
        Self { started, slots: slots.map(survey).collect() }
    }

    /// Takes note of a live flow of `backend`, one of the service's. Whether it has to be confirmed, lest it be evicted:
    /// nothing but its entry will say whose it is.
    #[must_use = "an entry that is not confirmed may be lost"]
    pub fn meet(&mut self, flow: FlowTag, backend: BackendId) -> bool {
        let slot = flow.slot(self.slots() - 1);
        let slot = &mut self.slots[slot as usize];
        slot.differs |= backend != slot.owner;
        slot.settles
    }

    /// When it began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// How many slots the table had.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("tables have at most 2^16 slots")
    }

    /// Whether all entries of the slot were confirmed.
    pub(super) fn confirmed(&self, slot: u32) -> bool {
        self.slots[slot as usize].settles
    }

    /// Whether all flows of the slot are its owner's.
    pub(super) fn agrees(&self, slot: u32) -> bool {
        !self.slots[slot as usize].differs
    }
}
