//! The flow table: which backend a flow belongs to, for the flows for which the slot alone does not say so.
//!
//! It is built like the cache of a CPU: an array of buckets of one cache line each, with eight ways. A flow may stand in
//! either of two buckets. An entry is one 64-bit word that is only ever changed by compare-and-swap, by packets on all
//! CPUs and by the daemon at once, so it is never torn and never lost.
//!
//! Which bits of the flow's hash are where:
//!
//! ```text
//!  63       51 50      39 38 37           16 15         0
//! ┌───────────┬──────────┬──┬───────────────┬────────────┐
//! │  unused   │  base (13)  │               │ slot bits  │
//! └───────────┴──────────┴──┴───────────────┴────────────┘
//!                        │    └ upper bits ┘             │
//!                        └────────── tag (39) ───────────┘
//! ```
//!
//! The number of a bucket is base bits below, upper bits above; the other bucket differs in the base only, by an odd number
//! that follows from the tag. So from the tag and the place of an entry follow its slot and the two buckets it may stand in in
//! a table of any size: the daemon can copy entries to a larger or smaller table without knowing the flows. Which of the two
//! is the first choice follows too, since the lowest bit of the base is also the highest of the tag. The base is independent
//! of the slot: when one slot in a hundred moves, its flows spread over all buckets.
//!
//! Two flows are taken for one if they share the tag and the pair of buckets, 51 of 64 bits: with a million entries that
//! happens to one new flow in two billion.

use crate::{BackendId, FlowHash};

/// Ways of a bucket.
pub const WAYS: usize = 8;
/// The smallest table has 2 to the power of this many buckets: 65,536 entries.
pub const MIN_BUCKET_BITS: u32 = BASE_BITS;
/// The largest table: 67,108,864 entries in 512 MiB.
pub const MAX_BUCKET_BITS: u32 = 23;

const BASE_BITS: u32 = 13;
const BASE_MASK: u32 = (1 << BASE_BITS) - 1;
const TAG_BITS: u32 = 39;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
const BASE_SHIFT: u32 = TAG_BITS - 1;
/// Below these are the slot bits.
const UPPER_SHIFT: u32 = 16;

/// What of a flow's hash an entry keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowTag(u64);

impl FlowTag {
    /// The tag of the flow with this hash.
    #[inline(always)]
    pub const fn of(hash: FlowHash) -> Self {
        Self(hash.0 & TAG_MASK)
    }

    /// The number itself: 39 bits.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The flow's slot in a table with this mask.
    #[inline(always)]
    pub const fn slot(self, mask: u32) -> u32 {
        self.0 as u32 & mask
    }

    /// In what the base bits of the two buckets differ: an odd number.
    #[inline(always)]
    const fn detour(self) -> u32 {
        // 2^64 divided by the golden ratio spreads all bits of the tag to the top.
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BASE_BITS)) as u32 | 1
    }
}

/// How many buckets a table has: 2 to the power of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketBits(u32);

impl BucketBits {
    /// From [`MIN_BUCKET_BITS`] to [`MAX_BUCKET_BITS`].
    #[inline(always)]
    pub const fn new(bits: u32) -> Option<Self> {
        if bits < MIN_BUCKET_BITS || bits > MAX_BUCKET_BITS { None } else { Some(Self(bits)) }
    }

    /// The exponent.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Buckets in the table.
    pub const fn buckets(self) -> u32 {
        1 << self.0
    }

    /// Entries that the table holds.
    pub const fn entries(self) -> u64 {
        (WAYS as u64) << self.0
    }

    /// The first and the second choice of a flow.
    #[inline(always)]
    pub const fn buckets_of(self, hash: FlowHash) -> [u32; 2] {
        let first = self.place((hash.0 >> BASE_SHIFT) as u32 & BASE_MASK, FlowTag::of(hash));
        [first, first ^ FlowTag::of(hash).detour()]
    }

    /// The first and the second choice in this table for an entry that stands in `bucket` of a table of whatever size.
    pub const fn buckets_of_entry(self, tag: FlowTag, bucket: u32) -> [u32; 2] {
        let one = self.place(bucket & BASE_MASK, tag);
        let other = one ^ tag.detour();
        if one & 1 == (tag.0 >> BASE_SHIFT) as u32 { [one, other] } else { [other, one] }
    }

    #[inline(always)]
    const fn place(self, base: u32, tag: FlowTag) -> u32 {
        let upper = (tag.0 >> UPPER_SHIFT) as u32 & ((1 << (self.0 - BASE_BITS)) - 1);
        base | upper << BASE_BITS
    }
}

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
    /// It carries data of a connection.
    Data = 1,
    /// A segment without data.
    Acknowledges = 2,
    /// FIN or RST.
    Closes = 3,
    /// It is of a protocol without connections: it may be the first.
    Datagram = 4,
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
    /// How long after the client has said that it ends a bare acknowledgement belongs to that end: 3 s, in ticks of 1.07 s and the
    /// one that has begun. A client that acknowledges for longer goes on to receive.
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

    /// Which flow it is.
    #[inline(always)]
    pub const fn tag(self) -> FlowTag {
        FlowTag(self.0 >> TAG_SHIFT)
    }

    /// Whether this is the flow with that tag.
    #[inline(always)]
    pub const fn is(self, tag: FlowTag) -> bool {
        self.0 >> TAG_SHIFT == tag.0 && !self.is_free()
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

    /// The flow after a packet: FIN and RST only shorten its time. Data undoes that, and so do acknowledgements that still come
    /// after a while: a forged RST ends nothing, and a client that has nothing more to say may go on to receive.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, signal: Signal, now: FlowTime) -> Self {
        let state = match (self.state(), signal) {
            (_, Signal::Closes) => FlowState::Closing,
            (FlowState::Closing, Signal::Acknowledges) if self.age(now) < Self::CLOSING_GUARD => return self,
            (FlowState::Opening, Signal::Opens) => FlowState::Opening,
            // Forged, or of another flow with the same ports, which is soon over.
            (_, Signal::Opens) => return self,
            (_, Signal::Data | Signal::Datagram | Signal::Acknowledges) => FlowState::Established,
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
    const KEPT: u16 = 0x0f00;

    /// How easily its way is given to another flow: the lowest rank first, from [`FlowEntry::KEPT`] on never. A flow that was
    /// seen often is kept for as long as `idle_ticks` of 34.4 s, one that is opening for 3 s; of the others those go first that
    /// end, then those that never opened, then those that were seen once, each the oldest first.
    #[inline(always)]
    const fn rank(self, now: FlowTime, idle_ticks: u8) -> u16 {
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

/// A bucket, in a map or in memory.
pub trait Bucket {
    /// What stands in a way, below [`WAYS`].
    fn load(&self, way: usize) -> FlowEntry;

    /// Compare-and-swap: puts `new` there if `old` still is; whether it was.
    fn replace(&self, way: usize, old: FlowEntry, new: FlowEntry) -> bool;

    /// `value` itself, in a form from which the verifier of eBPF programs cannot tell what it is. The verifier follows every
    /// value that a loop can end with on its own, through all that comes after; of what it does not know there is only one.
    #[inline(always)]
    fn veil(&self, value: usize) -> usize {
        value
    }

    /// Where the flow with this tag stands.
    #[inline(always)]
    fn find(&self, tag: FlowTag) -> Option<(usize, FlowEntry)> {
        // The way and the entry in variables of the loop: there is one way out of it.
        let mut found = WAYS;
        for way in (0..WAYS).rev() {
            if self.load(way).is(tag) {
                found = way;
            }
            found = self.veil(found);
        }
        if found >= WAYS {
            return None;
        }
        let entry = self.load(found);
        // Otherwise it has just gone.
        entry.is(tag).then_some((found, entry))
    }

    /// Takes the flow with this tag out of a way, whatever it has become meanwhile: what it was, unless it had gone.
    #[inline(always)]
    fn take(&self, way: usize, tag: FlowTag) -> Option<FlowEntry> {
        for _ in 0..ATTEMPTS {
            let entry = self.load(way);
            if !entry.is(tag) {
                return None;
            }
            if self.replace(way, entry, FlowEntry::FREE) {
                return Some(entry);
            }
        }
        None
    }

    /// The way that is given away most easily, and its rank.
    #[inline(always)]
    fn weakest(&self, now: FlowTime, idle_ticks: u8) -> Weakest {
        // Rank and way in one number: the lowest wins.
        let mut lowest = usize::MAX;
        for way in 0..WAYS {
            let rank = self.veil(self.load(way).rank(now, idle_ticks).into());
            lowest = self.veil(lowest.min(rank << WAY_BITS | way));
        }
        let way = lowest & (WAYS - 1);
        Weakest { rank: (lowest >> WAY_BITS) as u16, way, entry: self.load(way) }
    }
}

const WAY_BITS: u32 = WAYS.trailing_zeros();

/// See [`Bucket::weakest`].
#[derive(Clone, Copy, Debug)]
pub struct Weakest {
    /// See [`FlowEntry::rank`].
    rank: u16,
    /// Which way.
    way: usize,
    /// What stands there: something of another rank if somebody has taken the way meanwhile.
    entry: FlowEntry,
}

impl Weakest {
    /// The lower one is the one to take. Of free ways that is the one with fewer flows before it, since the first free one is
    /// taken: so buckets fill evenly, and a table is more than two thirds full before the first flow finds no room.
    #[inline(always)]
    const fn order(&self) -> usize {
        (self.rank as usize) << WAY_BITS | self.way
    }
}

/// What came of an attempt to remember a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is in the table; another flow lost its way to it, or not.
    New {
        /// Whether a flow that was not over lost its way.
        evicted: bool,
    },
    /// Somebody else has remembered the same flow at the same time, as this.
    Existing(FlowEntry),
    /// All ways are taken by flows that are not given away.
    Full,
}

/// How often an insertion is tried again when others change the same ways at the same time.
const ATTEMPTS: usize = 2;

/// Puts `entry`, a flow that was found in neither bucket, into the one with more room.
#[inline(always)]
pub fn insert<B: Bucket>(buckets: [&B; 2], entry: FlowEntry, now: FlowTime, idle_ticks: u8) -> Inserted {
    let [first, second] = buckets;
    for _ in 0..ATTEMPTS {
        let (one, other) = (first.weakest(now, idle_ticks), second.weakest(now, idle_ticks));
        let into_first = one.order() <= other.order();
        let (bucket, weakest) = if into_first { (first, one) } else { (second, other) };
        if weakest.rank >= FlowEntry::KEPT {
            return Inserted::Full;
        }
        // Whoever has taken a way meanwhile does not lose it to us: there may be others.
        let is_taken = weakest.entry.rank(now, idle_ticks) != weakest.rank;
        if is_taken || !bucket.replace(weakest.way, weakest.entry, entry) {
            continue;
        }
        let place = if into_first { weakest.way } else { WAYS + weakest.way };
        return match settle(buckets, place, entry) {
            Some(twin) => Inserted::Existing(twin),
            None => Inserted::New { evicted: weakest.rank >= 2 << 8 },
        };
    }
    Inserted::Full
}

/// Sees to it that the flow that has just been put at `place`, a way counted through both buckets, stands there only: if it
/// stands elsewhere too, this is what stood there.
///
/// Two CPUs may insert the same flow at the same time. Whichever is later sees the other's entry, and both may. The one at the
/// earlier place is left, and whoever takes the other one out decides: so they agree what the flow is, which is what whoever was
/// first has said, if there is one.
#[inline(always)]
fn settle<B: Bucket>(buckets: [&B; 2], place: usize, entry: FlowEntry) -> Option<FlowEntry> {
    let [first, second] = buckets;
    let tag = entry.tag();
    let mut at = 2 * WAYS;
    for other in (0..2 * WAYS).rev() {
        let bucket = if other < WAYS { first } else { second };
        if other != place && bucket.load(other % WAYS).is(tag) {
            at = other;
        }
        at = first.veil(at);
    }
    if at >= 2 * WAYS {
        return None;
    }
    let (own, bucket) = (if place < WAYS { first } else { second }, if at < WAYS { first } else { second });
    if at < place {
        let twin = bucket.load(at % WAYS);
        if !twin.is(tag) {
            return None;
        }
        // If ours has gone, the other one has taken it, and is what ours was.
        own.take(place % WAYS, tag)?;
        return Some(twin);
    }
    let twin = bucket.take(at % WAYS, tag)?;
    if own.replace(place % WAYS, entry, twin) {
        return Some(twin);
    }
    // Somebody has met ours meanwhile, and gone where it says.
    let met = own.load(place % WAYS);
    met.is(tag).then_some(met)
}

/// Which tables there are, in one word that packets read once: the map of tables has two places, and while a table is
/// replaced by one of another size both are in use.
///
/// ```text
///  31 ........ 24   23 ............ 16   15 ............. 8   0
/// ┌──────────────┬────────────────────┬────────────────────┬───┐
/// │  idle ticks  │ old table's bits   │ table's bits       │ i │
/// └──────────────┴────────────────────┴────────────────────┴───┘
/// ```
///
/// `i` is the place of the table, and the other place is that of the old one. Bits of zero mean that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowTables(u64);

impl FlowTables {
    /// The table at `place`, 0 or 1, and perhaps an old one at the other place. Flows without a packet for more than
    /// `idle_ticks` of 34.4 s give way to new ones.
    pub const fn new(place: u32, bits: BucketBits, old: Option<BucketBits>, idle_ticks: u8) -> Self {
        let old = match old {
            Some(bits) => bits.0,
            None => 0,
        };
        Self((place & 1) as u64 | (bits.0 as u64) << 8 | (old as u64) << 16 | (idle_ticks as u64) << 24)
    }

    /// From the word in the map.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word in the map.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Place and size of the table.
    #[inline(always)]
    pub const fn current(self) -> Option<(u32, BucketBits)> {
        match BucketBits::new((self.0 >> 8) as u32 & 0xff) {
            Some(bits) => Some((self.0 as u32 & 1, bits)),
            None => None,
        }
    }

    /// Place and size of the table that is being replaced.
    #[inline(always)]
    pub const fn old(self) -> Option<(u32, BucketBits)> {
        match BucketBits::new((self.0 >> 16) as u32 & 0xff) {
            Some(bits) => Some((self.0 as u32 & 1 ^ 1, bits)),
            None => None,
        }
    }

    /// See [`FlowTables::new`].
    #[inline(always)]
    pub const fn idle_ticks(self) -> u8 {
        (self.0 >> 24) as u8
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

#[cfg(target_has_atomic = "64")]
mod memory {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::{Bucket, FlowEntry, WAYS};

    /// A bucket in memory, or in a map that is mapped into memory. Sequentially consistent, as two CPUs that insert the same
    /// flow have to see each other's entry.
    impl Bucket for [AtomicU64; WAYS] {
        fn load(&self, way: usize) -> FlowEntry {
            FlowEntry::from_bits(self[way].load(SeqCst))
        }

        fn replace(&self, way: usize, old: FlowEntry, new: FlowEntry) -> bool {
            self[way].compare_exchange(old.to_bits(), new.to_bits(), SeqCst, SeqCst).is_ok()
        }
    }
}

#[cfg(test)]
mod tests;
