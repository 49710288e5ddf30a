//! Translated flows: two indices, a record of each flow, and since when its client waits.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use lb_common::{
    Address, FlowEntry, FlowTime,
    flow_table::{Bucket, BucketBits},
    nat::{Holder, NatRecord, NatSource, NatState, RecordIndex, Ways},
};

use super::{
    MapBucket, NAT_INDICES, NAT_RECORDS, NAT_SOURCES, NAT_TABLE, VIRTUAL_ADDRESSES, connections::count_connection, load,
};

/// How large the table of translated flows is, if there is one.
#[inline(always)]
pub fn nat_bits() -> Option<BucketBits> {
    NAT_TABLE.get_ptr(0).map(load)?.bits()
}

/// A bucket of an index of translated flows.
#[inline(always)]
pub fn nat_bucket(index: u32, bucket: u32, unknown: u64) -> Option<NatBucket> {
    NAT_INDICES.get_value_ptr_mut(index, &bucket).map(|bucket| NatBucket(MapBucket(bucket, FlowTime(unknown))))
}

/// A translated flow.
#[inline(always)]
pub fn nat_record(index: RecordIndex) -> Option<MapRecord> {
    NAT_RECORDS.get_value_ptr_mut(0, &index.0).map(|record| MapRecord(record, index))
}

/// Since when the client of a translated flow waits for an answer.
#[inline(always)]
pub fn nat_wait(index: RecordIndex) -> Option<MapWait> {
    /// Its number among the arrays of words: it follows both indices.
    const WAITS: u32 = 2;
    let bucket = MapBucket(NAT_INDICES.get_value_ptr_mut(WAITS, &index.bucket())?, FlowTime(0));
    Some(MapWait(bucket.way(index.way())))
}

/// A source of translated flows.
#[inline(always)]
pub fn nat_source(number: u16) -> Option<&'static NatSource> {
    NAT_SOURCES.get(u32::from(number))
}

/// The virtual IP of a service.
#[inline(always)]
pub fn virtual_address(service: u16) -> Option<&'static Address> {
    VIRTUAL_ADDRESSES.get(u32::from(service))
}

/// A record in a map, which others change at the same time.
#[derive(Clone, Copy)]
pub struct MapRecord(*mut NatRecord, RecordIndex);

impl MapRecord {
    /// Where it stands.
    #[inline(always)]
    pub fn index(self) -> RecordIndex {
        self.1
    }

    #[inline(always)]
    pub fn state(self) -> NatState {
        // SAFETY: the record lies in a map that lives as long as the program.
        NatState::from_bits(load(unsafe { &raw const (*self.0).state }.cast()))
    }

    /// The hash of the client's packets, as it is at this moment.
    #[inline(always)]
    pub fn hash(self) -> u64 {
        // SAFETY: as for `state`.
        load(unsafe { &raw const (*self.0).hash })
    }

    /// Compare-and-swap of the state; whether it was `old`. Whoever makes the change counts it: so the numbers of active connections
    /// are exact.
    #[inline(always)]
    pub fn replace_state(self, old: NatState, new: NatState) -> bool {
        // SAFETY: as for `state`; it is changed by atomic instructions only.
        let (_, replaced) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                (&raw mut (*self.0).state).cast(),
                old.to_bits(),
                new.to_bits(),
            )
        };
        if replaced && old.holder() != new.holder() {
            count_connection(old.holder().get(), new.holder().get());
        }
        replaced
    }

    /// The record, to be read: what of it changes while it is alive is the state, for which there is [`MapRecord::state`], and words
    /// of which each stands for itself.
    #[inline(always)]
    pub fn get(self) -> &'static NatRecord {
        // SAFETY: the record lies in a map that lives as long as the program; whoever writes the rest of it has claimed its
        // place, and nobody reads it before it is alive. Who had it in hand when its connection gave way to the next one of the same
        // client may read the source of either: so the last segment of a closed connection may go astray.
        unsafe { &*self.0 }
    }

    /// Changes the record as `write` says: one of ours that is not yet alive, or words of which each stands for itself.
    #[inline(always)]
    pub fn update(self, write: impl FnOnce(&mut NatRecord)) {
        // SAFETY: as for `get`; nothing that is read at the same time has to fit to what is written.
        write(unsafe { &mut *self.0 });
    }
}

impl Holder for MapRecord {
    #[inline(always)]
    fn reverse(&self) -> RecordIndex {
        // SAFETY: as for `state`.
        load(unsafe { &raw const (*self.0).reverse })
    }

    #[inline(always)]
    fn is_alive(&self) -> bool {
        self.state().phase().is_alive()
    }
}

/// Since when a client waits, in a map in which others write at the same time; nanoseconds of the exact clock, or zero.
#[derive(Clone, Copy)]
pub struct MapWait(*mut u64);

impl MapWait {
    /// Since when; zero: it does not wait.
    #[inline(always)]
    pub fn since(self) -> u64 {
        load(self.0)
    }

    /// From now on it is this.
    #[inline(always)]
    pub fn set(self, since: u64) {
        // SAFETY: the word lies in a map that lives as long as the program, and an aligned word is stored whole.
        unsafe { self.0.write_volatile(since) };
    }
}

/// A bucket of an index of translated flows.
#[derive(Clone, Copy)]
pub struct NatBucket(MapBucket);

impl Ways for NatBucket {
    #[inline(always)]
    fn load(&self, way: usize) -> u64 {
        load(self.0.way(way))
    }

    #[inline(always)]
    fn replace(&self, way: usize, old: u64, new: u64) -> bool {
        self.0.swap(way, FlowEntry::from_bits(old), FlowEntry::from_bits(new))
    }

    #[inline(always)]
    fn veil(&self, value: usize) -> usize {
        Bucket::veil(&self.0, value)
    }
}
