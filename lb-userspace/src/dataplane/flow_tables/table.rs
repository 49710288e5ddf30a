use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, atomic::Ordering},
};

use lb_common::{
    BackendId, FlowEntry, FlowHash, FlowState, FlowTime,
    flow_table::{self, Bucket as _, BucketBits, FlowTag, Inserted, WAYS},
};

use crate::dataplane::{Connections, mapped::Mapped};

/// One flow table, mapped into memory.
#[derive(Debug)]
pub struct FlowTable {
    memory: Mapped,
    bits: BucketBits,
    /// Of all tables: whose connections the entries are.
    connections: Arc<Connections>,
}

/// A bucket of a [`FlowTable`].
pub(super) type Bucket<'a> = flow_table::MemoryBucket<'a, Connections>;

/// An entry, and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) bucket: Bucket<'a>,
    pub(super) way: usize,
    /// What stood there when it was read.
    pub(super) entry: FlowEntry,
}

impl FlowTable {
    /// The table in the map `fd`.
    pub(super) fn of_map(fd: impl AsFd, bits: BucketBits, connections: Arc<Connections>) -> io::Result<Self> {
        Ok(Self { memory: Mapped::new(fd, len(bits))?, bits, connections })
    }

    /// An empty table that no datapath uses, for tests and benchmarks.
    pub fn in_memory(bits: BucketBits) -> io::Result<Self> {
        Ok(Self { memory: Mapped::anonymous(len(bits))?, bits, connections: Arc::new(Connections::in_memory()?) })
    }

    /// Its size.
    pub const fn bits(&self) -> BucketBits {
        self.bits
    }

    /// The entry of the flow with this hash.
    pub fn find(&self, hash: FlowHash) -> Option<FlowEntry> {
        let buckets = self.pair(self.bits.buckets_of(hash));
        find(buckets, FlowTag::of(hash)).map(|place| place.entry)
    }

    #[cfg(test)]
    pub(super) fn place_of(&self, hash: FlowHash) -> Option<Place<'_>> {
        find(self.pair(self.bits.buckets_of(hash)), FlowTag::of(hash))
    }

    /// Remembers that the flow with this hash, which is not in the table, belongs to `backend`.
    pub fn insert(
        &self,
        hash: FlowHash,
        backend: BackendId,
        state: FlowState,
        now: FlowTime,
        idle_ticks: u8,
    ) -> Inserted {
        let entry = FlowEntry::new(FlowTag::of(hash), backend, state, now);
        let [first, second] = self.pair(self.bits.buckets_of(hash));
        flow_table::insert([&first, &second], entry, now, idle_ticks)
    }

    /// Forgets all flows; those that packets insert meanwhile, or not. Their connections are counted no more.
    pub fn clear(&self) {
        self.places().filter(|place| place.replace(FlowEntry::FREE)).for_each(drop);
    }

    /// The connections that its entries are counted as.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// How many flows are in the table.
    pub fn count(&self) -> usize {
        self.places().count()
    }

    pub(super) fn pair(&self, numbers: [u32; 2]) -> [Bucket<'_>; 2] {
        let (buckets, _) = self.memory.words64().as_chunks();
        numbers.map(|number| Bucket { ways: &buckets[number as usize], counter: &*self.connections })
    }

    pub(super) fn buckets(&self) -> impl Iterator<Item = Bucket<'_>> {
        let (buckets, _) = self.memory.words64().as_chunks();
        buckets.iter().map(|ways| Bucket { ways, counter: &*self.connections })
    }

    /// Everything that is in the table, while it may change.
    pub(super) fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.buckets().flat_map(places_of)
    }
}

/// The flow with this tag, which stands in one of `buckets`.
pub(super) fn find(buckets: [Bucket<'_>; 2], tag: FlowTag) -> Option<Place<'_>> {
    let [first, second] = buckets.map(|bucket| bucket.find(tag).map(|(way, entry)| Place { bucket, way, entry }));
    first.or(second)
}

/// What is in `bucket`. Most are empty most of the time, so that is asked first, and of the whole cache line at once.
pub(super) fn places_of(bucket: Bucket<'_>) -> impl Iterator<Item = Place<'_>> {
    let entries = bucket.ways.each_ref().map(|way| way.load(Ordering::Relaxed));
    let is_empty = entries.iter().fold(0, |all, entry| all | entry) == 0;
    let ways = if is_empty { 0 } else { WAYS };
    (0..ways)
        .map(move |way| Place { bucket, way, entry: FlowEntry::from_bits(entries[way]) })
        .filter(|place| !place.entry.is_free())
}

impl Place<'_> {
    /// The same place, and what stands there now.
    pub(super) fn again(&self) -> Self {
        Self { entry: self.bucket.load(self.way), ..*self }
    }

    /// Puts `new` there, if nothing has changed there since.
    pub(super) fn replace(&self, new: FlowEntry) -> bool {
        self.bucket.replace(self.way, self.entry, new)
    }
}

const fn len(bits: BucketBits) -> usize {
    bits.buckets() as usize * size_of::<[u64; WAYS]>()
}
