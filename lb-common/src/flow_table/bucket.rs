//! Finding a flow among the ways of its buckets, and finding a way for it.

#[cfg(target_has_atomic = "64")]
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{FlowEntry, FlowTag, FlowTime, WAYS};
use crate::BackendId;
#[cfg(target_has_atomic = "64")]
use crate::Tally;

/// A bucket, in a map or in memory.
pub trait Bucket {
    /// What stands in a way, below [`WAYS`].
    fn load(&self, way: usize) -> FlowEntry;

    /// Compare-and-swap: puts `new` there if `old` still is; whether it was.
    fn swap(&self, way: usize, old: FlowEntry, new: FlowEntry) -> bool;

    /// Counts that an active connection is no more `from`'s, and is `to`'s. It may be nobody's, before or after.
    fn hand_over(&self, from: BackendId, to: BackendId);

    /// Puts `new` there if `old` still is; whether it was. Every change of an entry goes through here, and whoever makes it counts
    /// it: so the numbers of active connections are exact.
    #[inline(always)]
    fn replace(&self, way: usize, old: FlowEntry, new: FlowEntry) -> bool {
        let replaced = self.swap(way, old, new);
        if replaced && old.holder() != new.holder() {
            self.hand_over(old.holder(), new.holder());
        }
        replaced
    }

    /// `value` itself, in a form from which the verifier of eBPF programs cannot tell what it is. The verifier follows every
    /// value that a loop can end with on its own, through all that comes after; of what it does not know there is only one.
    #[inline(always)]
    fn veil(&self, value: usize) -> usize {
        value
    }

    /// Where the flow with this tag stands.
    #[inline(always)]
    fn find(&self, tag: FlowTag) -> Option<(usize, FlowEntry)> {
        let found = self.twin(tag, WAYS);
        if found >= WAYS {
            return None;
        }
        let entry = self.load(found);
        // Otherwise it has just gone.
        entry.is(tag).then_some((found, entry))
    }

    /// The first way but for this one where the flow with this tag stands; [`WAYS`] if it stands in none.
    #[inline(always)]
    fn twin(&self, tag: FlowTag, except: usize) -> usize {
        let mut found = WAYS;
        for way in (0..WAYS).rev() {
            if self.load(way).is(tag) && way != except {
                found = way;
            }
        }
        // Once, behind the loop: what it ends with is a number that the verifier has no other questions about.
        self.veil(found)
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

    /// Puts `new` where an earlier entry of the same flow stands. What stands there then, since others may have seen the same packet;
    /// `None` if the flow has gone meanwhile.
    #[inline(always)]
    fn renew(&self, way: usize, old: FlowEntry, new: FlowEntry) -> Option<FlowEntry> {
        if self.replace(way, old, new) {
            return Some(new);
        }
        let met = self.load(way);
        met.is(new.tag()).then_some(met)
    }

    /// The first way that is nobody's; [`WAYS`] if there is none.
    #[inline(always)]
    fn vacant(&self) -> usize {
        let mut vacant = WAYS;
        for way in (0..WAYS).rev() {
            if self.load(way).is_free() {
                vacant = way;
            }
        }
        self.veil(vacant)
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
    /// A way that is nobody's.
    #[inline(always)]
    const fn vacant(way: usize) -> Self {
        Self { rank: 0, way, entry: FlowEntry::FREE }
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
        let (one, other) = (first.vacant(), second.vacant());
        let (into_first, weakest) = if one.min(other) < WAYS {
            // Of free ways that is the one with fewer flows before it: so buckets fill evenly, and a table is more than two thirds full
            // before the first flow finds no room.
            (one <= other, Weakest::vacant(one.min(other)))
        } else {
            let (one, other) = (first.weakest(now, idle_ticks), second.weakest(now, idle_ticks));
            if one.rank <= other.rank { (true, one) } else { (false, other) }
        };
        let bucket = if into_first { first } else { second };
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
    let mut at = first.twin(tag, place);
    if at >= WAYS {
        at = WAYS + second.twin(tag, place.wrapping_sub(WAYS));
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

/// A bucket in memory, or in a map that is mapped into memory. Sequentially consistent, as two CPUs that insert the same
/// flow have to see each other's entry.
#[cfg(target_has_atomic = "64")]
#[derive(Debug)]
pub struct MemoryBucket<'a, C> {
    /// What stands there.
    pub ways: &'a [AtomicU64; WAYS],
    /// Who counts connections.
    pub counter: &'a C,
}

#[cfg(target_has_atomic = "64")]
impl<C> Clone for MemoryBucket<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

#[cfg(target_has_atomic = "64")]
impl<C> Copy for MemoryBucket<'_, C> {}

/// Somebody who counts the active connections of backends, in whatever is shared with the other users of a flow table.
#[cfg(target_has_atomic = "64")]
pub trait ConnectionCounter {
    /// Adds `change`, [`Tally::BEGUN`](crate::Tally::BEGUN) or [`Tally::ENDED`](crate::Tally::ENDED).
    fn add(&self, backend: BackendId, change: u64);

    /// Counts that a connection of one backend is one of another, or that it begins or ends, where one of them is nobody.
    fn hand_over(&self, from: BackendId, to: BackendId) {
        for (backend, change) in [(from, Tally::ENDED), (to, Tally::BEGUN)] {
            if backend != BackendId::NONE {
                self.add(backend, change);
            }
        }
    }
}

#[cfg(target_has_atomic = "64")]
impl<C: ConnectionCounter> Bucket for MemoryBucket<'_, C> {
    fn load(&self, way: usize) -> FlowEntry {
        FlowEntry::from_bits(self.ways[way].load(SeqCst))
    }

    fn swap(&self, way: usize, old: FlowEntry, new: FlowEntry) -> bool {
        self.ways[way].compare_exchange(old.to_bits(), new.to_bits(), SeqCst, SeqCst).is_ok()
    }

    fn hand_over(&self, from: BackendId, to: BackendId) {
        self.counter.hand_over(from, to);
    }
}
