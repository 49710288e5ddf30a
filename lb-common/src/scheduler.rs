//! How a service gives new flows to its backends where their slots do not say so.

/// How a new flow gets its backend.
///
/// A bare byte with named values: the datapath reads it from a map, where an enum of Rust may not hold every value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Policy(u8);

impl Policy {
    /// By its slot.
    pub const SLOT: Self = Self(0);
    /// The next one of the rotation: each CPU counts for itself.
    pub const NEXT: Self = Self(1);
    /// Any one of the rotation.
    pub const RANDOM: Self = Self(2);
    /// The one of the rotation with the fewest connections for its weight; all of its turns are looked at, at most
    /// [`Policy::MAX_COMPARED`]. Of those that have equally many the next one.
    pub const LEAST: Self = Self(3);
    /// Of two random ones of the rotation the one with fewer connections for its weight (Mitzenmacher, *The Power of Two Choices in
    /// Randomized Load Balancing*, IEEE TPDS 2001).
    pub const LEAST_OF_TWO: Self = Self(4);
    /// Of [`Policy::SAMPLES`] random ones of the rotation the fastest one that is not hot, or the one with the fewest connections if all
    /// are (Wydrowski et al., *Load is not what you should balance*, NSDI 2024).
    pub const FASTEST: Self = Self(5);

    /// The longest rotation for [`Policy::LEAST`].
    pub const MAX_COMPARED: u32 = 64;
    /// How many are looked at for [`Policy::FASTEST`]: where there are two backends in all, the slower one yet gets one in sixteen
    /// flows, where there are more hardly any.
    pub const SAMPLES: u32 = 4;
}

/// What a service does with new flows, in one word, so that a packet sees all of a change or nothing.
///
/// A *rotation* is a sequence of backends in chunks of its own in the slot array, one slot word for each turn. It names
/// backends that take new flows only, each as often as its weight asks for. Where that is not once, and backends have limits, the
/// *members* follow, in chunks of their own: each once.
///
/// ```text
///  63 ... 41   40 .... 25   24 ... 8    6     5     4    3 ... 0
/// ┌──────────┬────────────┬──────────┬─────┬─────┬─────┬────────┐
/// │ 1. chunk │  members   │  turns   │ lrn │ rst │ lim │ policy │
/// └──────────┴────────────┴──────────┴─────┴─────┴─────┴────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Scheduler(u64);

const LIMITED: u64 = 1 << 4;
const RESET: u64 = 1 << 5;
const LEARNING: u64 = 1 << 6;
const TURNS_SHIFT: u32 = 8;
const TURNS_MASK: u64 = (1 << 17) - 1;
const MEMBERS_SHIFT: u32 = 25;
const MEMBERS_MASK: u64 = (1 << 16) - 1;
const CHUNK_SHIFT: u32 = 41;

impl Scheduler {
    /// New flows go by their slots.
    pub const NONE: Self = Self(0);
    /// The longest rotation, in turns.
    pub const MAX_TURNS: u32 = crate::layout::MAX_SLOTS;

    /// By `policy`, with a rotation of so many turns, at most [`Scheduler::MAX_TURNS`], from that chunk on.
    pub const fn new(policy: Policy, first_chunk: u32, turns: u32) -> Self {
        Self((first_chunk as u64) << CHUNK_SHIFT | (turns as u64 & TURNS_MASK) << TURNS_SHIFT | policy.0 as u64)
    }

    /// The same where backends have limits: one that is full gets no new flow. If all are, the flow is dropped, or answered with a
    /// reset.
    #[must_use]
    pub const fn limited(self, reset: bool) -> Self {
        Self(self.0 | LIMITED | if reset { RESET } else { 0 })
    }

    /// The same with so many members, at most [`BackendId::COUNT`](crate::BackendId::COUNT), each of which stands once in the chunks after those of the turns.
    #[must_use]
    pub const fn with_members(self, members: u32) -> Self {
        Self(self.0 & !(MEMBERS_MASK << MEMBERS_SHIFT) | (members as u64 & MEMBERS_MASK) << MEMBERS_SHIFT)
    }

    /// The same while connections that were there before are counted as they send something.
    #[must_use]
    pub const fn learning(self) -> Self {
        Self(self.0 | LEARNING)
    }

    /// Whether a connection of which the first packet was not seen is remembered.
    #[inline(always)]
    pub const fn is_learning(self) -> bool {
        self.0 & LEARNING != 0
    }

    /// Whether backends have limits.
    #[inline(always)]
    pub const fn is_limited(self) -> bool {
        self.0 & LIMITED != 0
    }

    /// Whether first packets for which there is no room are answered with a reset.
    #[inline(always)]
    pub const fn resets_when_full(self) -> bool {
        self.0 & RESET != 0
    }

    /// From the word in the map.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word in the map.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// How a new flow gets its backend.
    #[inline(always)]
    pub const fn policy(self) -> Policy {
        Policy(self.0 as u8 & 0xf)
    }

    /// How many turns the rotation has; none if no backend takes new flows.
    #[inline(always)]
    pub const fn turns(self) -> u32 {
        (self.0 >> TURNS_SHIFT & TURNS_MASK) as u32
    }

    /// The first chunk of the rotation.
    #[inline(always)]
    pub const fn first_chunk(self) -> u32 {
        (self.0 >> CHUNK_SHIFT) as u32
    }

    /// Where the turns stand.
    #[inline(always)]
    pub const fn rotation(self) -> Ring {
        Ring { first_chunk: self.first_chunk(), len: self.turns() }
    }

    /// Where each backend that takes new flows stands once: of its own, or the turns. Empty if there is neither.
    #[inline(always)]
    pub const fn members(self) -> Ring {
        let len = (self.0 >> MEMBERS_SHIFT & MEMBERS_MASK) as u32;
        if len == 0 {
            return self.rotation();
        }
        Ring { first_chunk: self.first_chunk().wrapping_add(chunks_of(self.turns())), len }
    }

    /// How many chunks turns and members take.
    pub const fn chunks(self) -> u32 {
        chunks_of(self.turns()) + chunks_of((self.0 >> MEMBERS_SHIFT & MEMBERS_MASK) as u32)
    }
}

/// How many chunks so many words take.
const fn chunks_of(words: u32) -> u32 {
    words.div_ceil(crate::layout::CHUNK_SLOTS)
}

/// A part of the slot array that begins anew at its end: the turns of a rotation, or the slots of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Its first chunk.
    pub first_chunk: u32,
    /// How many words it has.
    pub len: u32,
}

impl Ring {
    /// Which chunk of the slot array holds the word `index`, and at which place.
    #[inline(always)]
    pub const fn locate(self, index: u32) -> (u32, usize) {
        let slots = crate::layout::CHUNK_SLOTS;
        (self.first_chunk.wrapping_add(index / slots), (index % slots) as usize)
    }

    /// What comes after the word `index`.
    #[inline(always)]
    pub const fn after(self, index: u32) -> u32 {
        // Calculated, because the verifier of eBPF programs follows each branch on its own.
        let next = index.wrapping_add(1);
        next & 0_u32.wrapping_sub(((next as u64).wrapping_sub(self.len as u64) >> 63) as u32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_word_keeps_its_parts_apart(
            policy in 0..=5_u8, first_chunk in 0..crate::layout::SLOT_CHUNKS, turns in 0..=Scheduler::MAX_TURNS,
            members in 0..=crate::BackendId::COUNT, limited: bool, reset: bool, learning: bool,
        ) {
            let plain = Scheduler::new(Policy(policy), first_chunk, turns).with_members(members);
            let scheduler = if limited { plain.limited(reset) } else { plain };
            let scheduler = if learning { scheduler.learning() } else { scheduler };
            let after = Ring { first_chunk: first_chunk + turns.div_ceil(1024), len: members };
            prop_assert_eq!(scheduler.members(), if members == 0 { scheduler.rotation() } else { after });
            prop_assert_eq!(scheduler.chunks(), turns.div_ceil(1024) + members.div_ceil(1024));
            prop_assert_eq!(scheduler.is_learning(), learning);
            prop_assert_eq!(scheduler.policy(), Policy(policy));
            prop_assert_eq!(scheduler.rotation(), Ring { first_chunk, len: turns });
            prop_assert_eq!(scheduler.is_limited(), limited);
            prop_assert_eq!(scheduler.resets_when_full(), limited && reset);
            prop_assert_eq!(Scheduler::from_bits(scheduler.to_bits()), scheduler);
        }

        #[test]
        fn whoever_goes_round_a_ring_meets_each_word_once(len in 1..5000_u32, start: u32) {
            let ring = Ring { first_chunk: 7, len };
            let mut met = [0_u8; 5000];
            let mut index = start % len;
            for _ in 0..len {
                met[index as usize] += 1;
                let (chunk, place) = ring.locate(index);
                prop_assert_eq!((chunk - 7) * 1024 + u32::try_from(place).unwrap(), index);
                index = ring.after(index);
            }
            prop_assert_eq!(index, start % len);
            prop_assert!(met[..len as usize].iter().all(|count| *count == 1));
        }
    }
}
