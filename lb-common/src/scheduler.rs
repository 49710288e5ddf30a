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
}

/// What a service does with new flows, in one word, so that a packet sees all of a change or nothing.
///
/// A *rotation* is a sequence of backends in chunks of its own in the slot array, one slot word for each turn. It names
/// backends that take new flows only, each as often as its weight asks for.
///
/// ```text
///  63 ........... 32   31 ......... 8   7 ... 0
/// ┌──────────────────┬────────────────┬─────────┐
/// │   first chunk    │  turns         │ policy  │
/// └──────────────────┴────────────────┴─────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Scheduler(u64);

const TURNS_SHIFT: u32 = 8;
const TURNS_MASK: u64 = (1 << 24) - 1;
const CHUNK_SHIFT: u32 = 32;

impl Scheduler {
    /// New flows go by their slots.
    pub const NONE: Self = Self(0);
    /// The longest rotation, in turns.
    pub const MAX_TURNS: u32 = crate::layout::MAX_SLOTS;

    /// By `policy`, with a rotation of so many turns, at most [`Scheduler::MAX_TURNS`], from that chunk on.
    pub const fn new(policy: Policy, first_chunk: u32, turns: u32) -> Self {
        Self((first_chunk as u64) << CHUNK_SHIFT | (turns as u64 & TURNS_MASK) << TURNS_SHIFT | policy.0 as u64)
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
        Policy(self.0 as u8)
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

    /// Which chunk of the slot array holds this turn, and at which place.
    #[inline(always)]
    pub const fn locate(self, turn: u32) -> (u32, usize) {
        let slots = crate::layout::CHUNK_SLOTS;
        (self.first_chunk().wrapping_add(turn / slots), (turn % slots) as usize)
    }
}
