use crate::BackendId;

/// One slot of a service's table: who has its flows now, who had them before, and how much the datapath has to
/// remember (docs/ARCHITECTURE.md, "Just enough tracking").
///
/// ```text
///  31         30       29 ........ 15   14 ......... 0
/// ┌──────────┬─────────┬──────────────┬──────────────┐
/// │ remember │ look up │   previous   │   current    │
/// └──────────┴─────────┴──────────────┴──────────────┘
/// ```
///
/// The daemon changes a slot with one aligned 32-bit store, so a packet sees the old word or the new one, never a
/// mixture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct SlotWord(u32);

impl SlotWord {
    const PREVIOUS_SHIFT: u32 = 15;
    const LOOK_UP: u32 = 1 << 30;
    const REMEMBER: u32 = 1 << 31;

    /// A slot that nobody owns: its packets are dropped.
    pub const EMPTY: Self = Self(0);

    /// A slot whose flows all belong to `owner`: nothing is looked up, nothing remembered.
    #[inline(always)]
    pub const fn stable(owner: BackendId) -> Self {
        Self((owner.get() << Self::PREVIOUS_SHIFT) | owner.get())
    }

    /// A slot in any state.
    #[inline(always)]
    pub const fn new(current: BackendId, previous: BackendId, look_up: bool, remember: bool) -> Self {
        let mut word = (previous.get() << Self::PREVIOUS_SHIFT) | current.get();
        if look_up {
            word |= Self::LOOK_UP;
        }
        if remember {
            word |= Self::REMEMBER;
        }
        Self(word)
    }

    /// From the word in the map.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The word in the map.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The backend of new flows.
    #[inline(always)]
    pub const fn current(self) -> BackendId {
        BackendId::truncate(self.0)
    }

    /// The backend that had the slot before, and still has the flows that nobody remembered.
    #[inline(always)]
    pub const fn previous(self) -> BackendId {
        BackendId::truncate(self.0 >> Self::PREVIOUS_SHIFT)
    }

    /// Whether a packet of this slot has to be looked up in the flow table.
    #[inline(always)]
    pub const fn look_up(self) -> bool {
        self.0 & Self::LOOK_UP != 0
    }

    /// Whether a flow of this slot has to be put into the flow table.
    #[inline(always)]
    pub const fn remember(self) -> bool {
        self.0 & Self::REMEMBER != 0
    }

    /// The word of a flow whose slot has this one now, and had another slot with the word `before`: a flow that nobody remembers is where
    /// it was.
    #[inline(always)]
    #[must_use]
    pub const fn coming_from(self, before: Self) -> Self {
        let previous = if before.remember() { before.previous() } else { before.current() };
        Self::new(self.current(), previous, self.look_up(), self.remember())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_slot_word_keeps_its_four_parts_apart(
            current in 0..BackendId::COUNT, previous in 0..BackendId::COUNT, look_up: bool, remember: bool,
        ) {
            let id = BackendId::truncate;
            let word = SlotWord::new(id(current), id(previous), look_up, remember);
            prop_assert_eq!(word.current(), id(current));
            prop_assert_eq!(word.previous(), id(previous));
            prop_assert_eq!(word.look_up(), look_up);
            prop_assert_eq!(word.remember(), remember);
            prop_assert_eq!(SlotWord::from_bits(word.to_bits()), word);
        }
    }

    #[test]
    fn a_stable_slot_asks_for_no_tracking() {
        let owner = BackendId::truncate(7);
        assert_eq!(SlotWord::stable(owner), SlotWord::new(owner, owner, false, false));
        assert_eq!(SlotWord::stable(BackendId::NONE), SlotWord::EMPTY);
    }
}
