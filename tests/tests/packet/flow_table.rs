//! Flow tables and their entries as the documentation of `lb_common::flow_table` lays them out, decoded here once more.

use std::{
    fmt, fs,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use lb_common::layout::names;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::sandbox::Sandbox;

/// Entries that stand in one bucket.
pub(crate) const WAYS: usize = 8;
/// The smallest table has 2 to the power of this many buckets.
pub(crate) const SMALLEST: u32 = 13;

const BASE_BITS: u32 = 13;
const BASE_SHIFT: u32 = 38;
const TAG_BITS: u32 = 39;
const UPPER_SHIFT: u32 = 16;

/// What is known of a flow, as numbered in its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum State {
    Opening,
    Sighted,
    Established,
    Closing,
}

impl State {
    /// In what the time of an entry is counted, in nanoseconds.
    pub(crate) const fn tick(self) -> u64 {
        match self {
            Self::Opening | Self::Closing => 1 << 30,
            Self::Sighted | Self::Established => 1 << 35,
        }
    }
}

/// One flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Entry {
    pub(crate) tag: u64,
    pub(crate) backend: u16,
    pub(crate) state: State,
    /// When it was last seen, in ticks of its state, the last eight bits of the count.
    pub(crate) time: u8,
}

impl Entry {
    /// The flow with this hash, last seen at `time` in nanoseconds.
    pub(crate) const fn new(hash: u64, backend: u16, state: State, time: u64) -> Self {
        let [time, ..] = (time / state.tick()).to_le_bytes();
        Self { tag: tag(hash), backend, state, time }
    }

    pub(crate) const fn to_word(self) -> u64 {
        self.tag << 25 | (self.time as u64) << 17 | (self.state as u64) << 15 | self.backend as u64
    }

    /// What is in a way, unless it is free.
    pub(crate) fn of_word(word: u64) -> Option<Self> {
        let state = match word >> 15 & 3 {
            0 => State::Opening,
            1 => State::Sighted,
            2 => State::Established,
            _ => State::Closing,
        };
        let [time, ..] = (word >> 17).to_le_bytes();
        let [low, high, ..] = word.to_le_bytes();
        let backend = u16::from_le_bytes([low, high & 0x7f]);
        (word != 0).then_some(Self { tag: word >> 25, backend, state, time })
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tag, backend, state, time } = self;
        write!(f, "{state:?} of {backend} at tick {time} ({tag:010x})")
    }
}

/// What an entry keeps of a flow's hash.
pub(crate) const fn tag(hash: u64) -> u64 {
    hash & ((1 << TAG_BITS) - 1)
}

/// The first and the second choice of a flow in a table of 2 to the power of `bits` buckets.
pub(crate) const fn buckets_of(bits: u32, hash: u64) -> [usize; 2] {
    let base = bits_of(hash >> BASE_SHIFT, BASE_BITS);
    let upper = bits_of(hash >> UPPER_SHIFT, bits - BASE_BITS);
    let detour = bits_of(tag(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BASE_BITS), BASE_BITS) | 1;
    let first = upper << BASE_BITS | base;
    [first, first ^ detour]
}

/// The low bits of `number`, as many as `count`.
#[expect(clippy::cast_possible_truncation, reason = "the numbers of buckets are small")]
const fn bits_of(number: u64, count: u32) -> usize {
    (number & ((1 << count) - 1)) as usize
}

/// A table in the maps, mapped into memory.
pub(crate) struct FlowTable {
    words: NonNull<libc::c_void>,
    bits: u32,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed through atomics.
unsafe impl Send for FlowTable {}
// SAFETY: as above.
unsafe impl Sync for FlowTable {}

impl FlowTable {
    /// An empty table of 2 to the power of `bits` buckets at one of the two places for tables.
    pub(crate) fn create(sandbox: &Sandbox, place: u32, bits: u32) -> Self {
        /// `BPF_F_MMAPABLE` and `BPF_F_INNER_MAP`.
        const FLAGS: u32 = 1 << 10 | 1 << 12;
        let pin = sandbox.pin(&Self::name(place));
        // One that was there before; whoever still has it mapped keeps it.
        let _ = fs::remove_file(&pin);
        let array = Array::<MapData, [u64; WAYS]>::create(1 << bits, FLAGS).expect("the table can be created");
        array.pin(&pin).expect("the table can be pinned");
        let map = MapData::from_pin(&pin).expect("the table is pinned");
        let outer = Map::ArrayOfMaps(sandbox.map(names::FLOW_TABLES));
        let mut outer = ArrayOfMaps::<MapData>::try_from(outer).expect("a map of maps");
        outer.set(place, &map, 0).expect("the table can be put at its place");
        Self::open(sandbox, place, bits)
    }

    /// The table at one of the two places.
    pub(crate) fn open(sandbox: &Sandbox, place: u32, bits: u32) -> Self {
        let map = sandbox.map(&Self::name(place));
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let words = unsafe { mmap(None, Self::len(bits), protection, MapFlags::MAP_SHARED, map.fd(), 0) };
        Self { words: words.expect("the table can be mapped"), bits }
    }

    fn name(place: u32) -> String {
        format!("FLOW_TABLE_{place}")
    }

    const fn len(bits: u32) -> NonZeroUsize {
        NonZeroUsize::new((8 * WAYS) << bits).expect("a table has buckets")
    }

    /// All ways of all buckets.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins at a page, is that long, lives as long as `self`, and is accessed through atomics only.
        unsafe { std::slice::from_raw_parts(self.words.cast().as_ptr(), WAYS << self.bits) }
    }

    /// The ways of both buckets in which the flow with this hash may stand.
    pub(crate) fn ways_of(&self, hash: u64) -> [&[AtomicU64]; 2] {
        buckets_of(self.bits, hash).map(|bucket| &self.words()[bucket * WAYS..][..WAYS])
    }

    /// What is in the table, in the order of the tags.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let words = self.words().iter().map(|word| word.load(Ordering::Relaxed)).filter(|word| *word != 0);
        let mut entries: Vec<Entry> = words.filter_map(Entry::of_word).collect();
        entries.sort_unstable();
        entries
    }

    /// The entry of the flow with this hash.
    pub(crate) fn find(&self, hash: u64) -> Option<Entry> {
        let entries = self.ways_of(hash).into_iter().flatten();
        entries.filter_map(|word| Entry::of_word(word.load(Ordering::SeqCst))).find(|entry| entry.tag == tag(hash))
    }

    pub(crate) fn clear(&self) {
        self.words().iter().for_each(|word| word.store(0, Ordering::SeqCst));
    }
}

impl Drop for FlowTable {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nobody borrows from it any more.
        if let Err(error) = unsafe { munmap(self.words, Self::len(self.bits).get()) } {
            eprintln!("unmap a flow table: {error}");
        }
    }
}

/// The word that tells packets which tables there are: the one at `place`, and perhaps an old one at the other place, by
/// the exponents of their sizes. Flows without a packet for longer than `idle_ticks` of 34.4 s give way to new ones.
pub(crate) fn in_use(place: u32, bits: u32, old: Option<u32>, idle_ticks: u8) -> u64 {
    u64::from(place | bits << 8 | old.unwrap_or(0) << 16 | u32::from(idle_ticks) << 24)
}
