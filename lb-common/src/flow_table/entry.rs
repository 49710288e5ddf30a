//! One flow in the table: what is known of it, and since when.

use super::FlowTag;
use crate::BackendId;

/// A time of `CLOCK_MONOTONIC_COARSE`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowTime(pub u64);

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// Only its first packet has come, perhaps several times.
    Opening = 0,
    /// One packet of a flow that was there before, or of one whose protocol has no first packets.
    Sighted = 1,
    /// More than that.
    Established = 2,
    /// The client has said that it ends (FIN, RST).
    Closing = 3,
}

impl FlowState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Opening, Self::Sighted, Self::Established, Self::Closing];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Sighted => "sighted",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }

    /// The time of an entry is counted in 2 to the power of so many nanoseconds: 1.07 s for states that last seconds,
    /// 34.4 s for those that last minutes or hours. The count has eight bits.
    #[inline(always)]
    const fn tick_shift(self) -> u32 {
        tick_shift(self as u32)
    }
}

/// See [`FlowState::tick_shift`]; calculated, because the verifier follows each branch of a program on its own.
#[inline(always)]
const fn tick_shift(state: u32) -> u32 {
    let is_long = (state ^ state >> 1) & 1;
    30 + 5 * is_long
}

/// What a packet says about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// It opens the flow: a SYN, a QUIC Initial.
    Opens = 0,
    /// It is of a connection under way: data, or an acknowledgement.
    Continues = 1,
    /// FIN or RST.
    Closes = 2,
    /// It is of a protocol without connections: it may be the first.
    Datagram = 3,
}

impl Signal {
    /// The signal with this number; a number that is none stands for the last one.
    #[inline(always)]
    pub const fn of_number(number: u32) -> Self {
        match number {
            0 => Self::Opens,
            1 => Self::Continues,
            2 => Self::Closes,
            _ => Self::Datagram,
        }
    }
}

/// One flow, as it stands in the table. Zero is a free way.
///
/// ```text
///  63 ........ 25   24 ..... 17   16 15   14 ..... 0
/// ┌──────────────┬──────────────┬───────┬────────────┐
/// │     tag      │ time (ticks) │ state │  backend   │
/// └──────────────┴──────────────┴───────┴────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowEntry(u64);

const STATE_SHIFT: u32 = 15;
const TIME_SHIFT: u32 = 17;
const TIME_MASK: u64 = 0xff;
const TAG_SHIFT: u32 = 25;

impl FlowEntry {
    /// Nobody's.
    pub const FREE: Self = Self(0);

    /// How long the way of an opening flow is kept from others: as long as a handshake may take, 3 s, and the tick that has
    /// begun. In ticks of 1.07 s.
    const OPENING_GUARD: u8 = 5;
    /// How long after the client has said that it ends a segment belongs to that end: 3 s, in ticks of 1.07 s and the one that has begun.
    /// It acknowledges what the backend sends, or is data that was lost or overtaken. A client that acknowledges for longer goes on to
    /// receive, and one that sends for longer has not ended.
    const CLOSING_GUARD: u8 = 5;
    const MAX_AGE: u8 = u8::MAX;

    /// A flow of `backend`, seen `now`.
    #[inline(always)]
    pub const fn new(tag: FlowTag, backend: BackendId, state: FlowState, now: FlowTime) -> Self {
        Self(tag.0 << TAG_SHIFT).with(backend, state, now)
    }

    /// From the word in the table.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word in the table.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether the way is nobody's.
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 == 0
    }

    /// Whose flow it is: never [`BackendId::NONE`] in an entry that is not free.
    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        BackendId::truncate(self.0 as u32)
    }

    /// Who has an active connection here: nobody in a way that is free, or where it ends.
    #[inline(always)]
    pub const fn holder(self) -> BackendId {
        // Calculated, because the verifier follows each branch of a program on its own.
        let state = self.state_bits();
        let is_closing = state & state >> 1;
        BackendId::truncate(self.0 as u32 & is_closing.wrapping_sub(1))
    }

    /// Which flow it is.
    #[inline(always)]
    pub const fn tag(self) -> FlowTag {
        FlowTag(self.0 >> TAG_SHIFT)
    }

    /// Whether this is the flow with that tag.
    #[inline(always)]
    pub const fn is(self, tag: FlowTag) -> bool {
        // The entries with this tag are numbers that follow each other, so that one comparison finds them, and in a loop it is one for
        // each way. Zero is none of them.
        let lowest = tag.0 << TAG_SHIFT;
        let first = lowest | (lowest == 0) as u64;
        let last = lowest | ((1 << TAG_SHIFT) - 1);
        self.0.wrapping_sub(first) <= last - first
    }

    /// Its state.
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        match (self.0 >> STATE_SHIFT) & 3 {
            0 => FlowState::Opening,
            1 => FlowState::Sighted,
            2 => FlowState::Established,
            _ => FlowState::Closing,
        }
    }

    /// Ticks of its state that have begun since it was last seen, and one: at most [`FlowEntry::MAX_AGE`], after which it starts
    /// over. Zero is an entry that another CPU has stamped with the next tick since `now` was read.
    #[inline(always)]
    const fn age(self, now: FlowTime) -> u8 {
        let now = now.0 >> tick_shift(self.state_bits());
        (now.wrapping_sub(self.0 >> TIME_SHIFT) as u8).wrapping_add(1)
    }

    #[inline(always)]
    const fn state_bits(self) -> u32 {
        (self.0 >> STATE_SHIFT) as u32 & 3
    }

    /// How long ago it was last seen, at least, in nanoseconds.
    pub const fn idle_ns(self, now: FlowTime) -> u64 {
        (self.age(now).saturating_sub(2) as u64) << self.state().tick_shift()
    }

    /// Whether a packet that opens a flow opens a new one, because this one ends, or has been idle for `idle_ticks` of 34.4 s.
    /// Before that it may be forged, and the flow alive.
    #[inline(always)]
    pub const fn is_over(self, now: FlowTime, idle_ticks: u8) -> bool {
        match self.state() {
            FlowState::Opening => false,
            FlowState::Closing => true,
            FlowState::Sighted | FlowState::Established => self.age(now) as u32 >= idle_ticks as u32 + 2,
        }
    }

    /// The same flow with another backend.
    #[inline(always)]
    #[must_use]
    pub const fn of_backend(self, backend: BackendId) -> Self {
        Self(self.0 & !(BackendId::COUNT as u64 - 1) | backend.get() as u64)
    }

    /// The same by another hash of the flow.
    #[inline(always)]
    #[must_use]
    pub const fn with_tag(self, tag: FlowTag) -> Self {
        Self(tag.0 << TAG_SHIFT | self.0 & ((1 << TAG_SHIFT) - 1))
    }

    /// The flow after a packet: FIN and RST only shorten its time. Data and acknowledgements that still come after a while undo that:
    /// a forged RST ends nothing, and a client that has nothing more to say may go on to receive.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, signal: Signal, now: FlowTime) -> Self {
        let state = match (self.state(), signal) {
            (_, Signal::Closes) => FlowState::Closing,
            (FlowState::Closing, Signal::Continues) if self.age(now) < Self::CLOSING_GUARD => return self,
            (state @ (FlowState::Opening | FlowState::Closing), Signal::Opens) => state,
            // What opens a flow that is there is forged, or of a new one with the same ports, whose handshake it has to outlast.
            (_, Signal::Opens | Signal::Continues | Signal::Datagram) => FlowState::Established,
        };
        self.with(self.backend(), state, now)
    }

    /// A flow that was seen once is established from now on: nobody else gets its way.
    #[must_use]
    pub const fn confirmed(self) -> Self {
        match self.state() {
            FlowState::Sighted => Self(self.0 ^ (3 << STATE_SHIFT)),
            _ => self,
        }
    }

    #[inline(always)]
    const fn with(self, backend: BackendId, state: FlowState, now: FlowTime) -> Self {
        let time = (now.0 >> state.tick_shift()) & TIME_MASK;
        let low = time << TIME_SHIFT | (state as u64) << STATE_SHIFT | backend.get() as u64;
        Self(self.0 >> TAG_SHIFT << TAG_SHIFT | low)
    }

    /// Flows of this rank and above keep their way.
    pub(super) const KEPT: u16 = 0x0f00;

    /// How easily its way is given to another flow: the lowest rank first, from [`FlowEntry::KEPT`] on never. A flow that was
    /// seen often is kept for as long as `idle_ticks` of 34.4 s, one that is opening for 3 s; of the others those go first that
    /// end, then those that never opened, then those that were seen once, each the oldest first.
    #[inline(always)]
    pub(super) const fn rank(self, now: FlowTime, idle_ticks: u8) -> u16 {
        // A byte for each state: from which age on it is old; its class when old, and when young, in four bits each. Calculated,
        // because the verifier follows each branch of a program on its own.
        const CLASSES: u32 = 0x11_1f_13_2f;
        if self.is_free() {
            return 0;
        }
        let state = self.state_bits();
        let age = self.age(now) as u32;
        let idle_ticks = idle_ticks as u32 + 2;
        let old_from = (Self::OPENING_GUARD as u32 | idle_ticks << 8 | idle_ticks << 16) >> (8 * state) & 0xff;
        let is_young = age.wrapping_sub(old_from) >> 31;
        let class = CLASSES >> (8 * state + 4 - 4 * is_young) & 0xf;
        (class << 8 | (0xff - age)) as u16
    }
}

/// `idle_ticks` for flows that live `seconds` without a packet: rounded up, and at most 2 h 24 min.
pub const fn idle_ticks(seconds: u64) -> u8 {
    const MAX: u64 = FlowEntry::MAX_AGE as u64 - 2;
    let ticks = seconds.saturating_mul(1_000_000_000).div_ceil(1 << FlowState::Established.tick_shift());
    if ticks > MAX { MAX as u8 } else { ticks as u8 }
}

/// How long `idle_ticks` are, in nanoseconds.
pub const fn ticks_ns(idle_ticks: u8) -> u64 {
    (idle_ticks as u64) << FlowState::Established.tick_shift()
}
