//! What a daemon does with one slot, by the rules of "Just enough tracking" in docs/DESIGN.md.

use crate::rules::{IDLE_TIMEOUT, Slot};

/// As long as a handshake may take, in nanoseconds.
pub(crate) const HANDSHAKE: u64 = 3_000_000_000;

/// A slot on its way to whom it is wanted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving {
    pub(crate) slot: Slot,
    pub(crate) wanted: u16,
    /// How long it has to arm: not at all where flows have no first packets.
    handshake: u64,
    /// When it began to arm, or to move.
    since: u64,
}

impl Moving {
    pub(crate) const fn new(owner: u16, handshake: u64) -> Self {
        Self { slot: Slot::Stable(owner), wanted: owner, handshake, since: 0 }
    }

    /// An operator's wish.
    pub(crate) fn want(&mut self, wanted: u16, now: u64) {
        self.wanted = wanted;
        match self.slot {
            Slot::Stable(owner) | Slot::Tracked(owner) if owner != wanted => {
                self.slot = Slot::Arming(owner);
                self.since = now;
                self.pass(now, 0);
            }
            Slot::Arming(owner) if owner == wanted => self.slot = Slot::Tracked(owner),
            Slot::Moving { from, .. } => self.redirect(from),
            _ => {}
        }
    }

    /// A backend is gone, and not wanted any more: so a slot does not move to it either.
    pub(crate) fn lose(&mut self, gone: u16) {
        match self.slot {
            Slot::Stable(owner) | Slot::Arming(owner) | Slot::Tracked(owner) if owner == gone => {
                self.slot = Slot::Tracked(self.wanted);
            }
            Slot::Moving { to, from } if from == gone => self.slot = Slot::Tracked(to),
            _ => {}
        }
    }

    /// All flows that are not with `from` are in the table, so whoever is wanted can have the slot at once.
    const fn redirect(&mut self, from: u16) {
        self.slot = if self.wanted == from { Slot::Tracked(from) } else { Slot::Moving { to: self.wanted, from } };
    }

    /// When something is due, if only time has to pass for it.
    pub(crate) const fn deadline(&self) -> Option<u64> {
        match self.slot {
            Slot::Arming(_) => Some(self.since + self.handshake),
            _ => None,
        }
    }

    /// Time has passed; at `loss` the table last lost a flow. Whether every flow of the slot has been seen by now.
    pub(crate) fn pass(&mut self, now: u64, loss: u64) -> bool {
        match self.slot {
            Slot::Arming(owner) if now >= self.since + self.handshake => {
                self.slot = Slot::Moving { to: self.wanted, from: owner };
                self.since = now;
                false
            }
            Slot::Moving { .. } => now >= self.since.max(loss) + IDLE_TIMEOUT,
            _ => false,
        }
    }

    /// After [`Moving::pass`] has said so, and what was sighted is confirmed.
    pub(crate) const fn settle(&mut self) {
        if let Slot::Moving { to, .. } = self.slot {
            self.slot = Slot::Tracked(to);
        }
    }

    /// The table has no flow of this slot that is not its owner's.
    pub(crate) const fn is_clear(&mut self) {
        if let Slot::Tracked(owner) = self.slot {
            self.slot = Slot::Stable(owner);
        }
    }
}
