//! Finding the flow table at a start, or making one, or making one of another size; each step leaves what the next start can go
//! on from. The word that packets read is the truth, and what it does not name is left over.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use aya::maps::{MapData, MapError};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use lb_common::{
    FlowEntry, FlowTables as Word, FlowTime,
    flow_table::{BucketBits, Inserted, WAYS, insert},
    layout::{self, INNER_MAP, MMAPABLE, names},
};

use super::{
    FlowTable, FlowTables, Lifetimes, flow_time,
    table::{Place, find, places_of},
};
use crate::dataplane::{
    Connections, DataplaneError,
    bpf::{self, new_map},
    mapped::Mapped,
    maps::wait_for_packets,
    pins::pin_error,
};

/// How the flow table came to be what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// There was none.
    Created,
    /// As an earlier daemon left it.
    TakenOver,
    /// It had another size.
    Resized {
        /// Its size before.
        from: BucketBits,
        /// Flows that were copied by the daemon; others were by packets.
        copied: u64,
        /// Flows that found no room, or took that of others.
        refused: u64,
    },
    /// It has another size than it should, since not all its flows would have had room.
    Kept {
        /// How many there are, about.
        flows: u64,
    },
}

/// The places for flow tables: the array of maps, the pins, and the word.
#[derive(Debug)]
pub(in crate::dataplane) struct Places {
    pub(in crate::dataplane) outer: MapData,
    pub(in crate::dataplane) in_use: Mapped,
    /// The folder of the pins.
    pub(in crate::dataplane) folder: PathBuf,
    /// Whose connections the entries are.
    pub(in crate::dataplane) connections: Arc<Connections>,
}

/// What came of copying a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Copied {
    flows: u64,
    /// How many had no room.
    refused: u64,
}

/// What becomes of a flow that is in both tables already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InBoth {
    /// Packets change the table that is copied to: what is there is newer.
    Leave,
    /// Packets change the table that is copied from.
    Overwrite,
}

impl FlowTables {
    /// The flow table, of `wanted` size if that is possible. Packets may use it all the while, and none loses its flow.
    pub(in crate::dataplane) fn open(
        places: Places,
        wanted: BucketBits,
        idle_ticks: u8,
    ) -> Result<(Self, Opened), DataplaneError> {
        let (table, opened) = places.settle(wanted, idle_ticks)?;
        Ok((Self { places, table: Arc::new(table), refused: opened.refused() }, opened))
    }

    /// Replaces the table by one of `wanted` size, if that is possible. It takes as long as its flows take to be copied.
    pub fn resize(&mut self, wanted: BucketBits, idle_ticks: u8) -> Result<Opened, DataplaneError> {
        let (table, opened) = self.places.settle(wanted, idle_ticks)?;
        self.table = Arc::new(table);
        self.refused += opened.refused();
        Ok(opened)
    }
}

impl Opened {
    fn refused(self) -> u64 {
        match self {
            Self::Resized { refused, .. } => refused,
            Self::Created | Self::TakenOver | Self::Kept { .. } => 0,
        }
    }
}

impl FlowTable {
    /// The table at `place`, by its pin in `folder`.
    pub(in crate::dataplane) fn pinned(
        folder: &Path,
        place: u32,
        bits: BucketBits,
        connections: Arc<Connections>,
    ) -> Result<Self, DataplaneError> {
        let path = pin(folder, place);
        let map = MapData::from_pin(&path).map_err(map_error)?;
        if map.info().map_err(map_error)?.max_entries() != bits.buckets() {
            return Err(DataplaneError::FlowTable { path });
        }
        Self::of_map(map.fd(), bits, connections).map_err(mapping_error)
    }
}

/// The names of the pins of flow tables, by their places.
pub(in crate::dataplane) const fn flow_table_pins() -> [&'static str; layout::FLOW_TABLES as usize] {
    ["FLOW_TABLE_0", "FLOW_TABLE_1"]
}

fn pin(folder: &Path, place: u32) -> PathBuf {
    folder.join(flow_table_pins()[place as usize])
}

impl Places {
    /// The table that is there, in the size that is wanted.
    fn settle(&self, wanted: BucketBits, idle_ticks: u8) -> Result<(FlowTable, Opened), DataplaneError> {
        // Some may still use what an interrupted change was about to take away.
        wait_for_packets();
        let Some((place, bits)) = self.word().current() else {
            return Ok((self.start(wanted, idle_ticks)?, Opened::Created));
        };
        self.store(Word::new(place, bits, self.word().old().map(|(_, bits)| bits), idle_ticks));
        let found = self.existing(place, bits)?;
        self.resume(place, found, wanted)
    }

    /// The first table.
    fn start(&self, bits: BucketBits, idle_ticks: u8) -> Result<FlowTable, DataplaneError> {
        self.clear(1)?;
        let table = self.create(0, bits)?;
        self.store(Word::new(0, bits, None, idle_ticks));
        Ok(table)
    }

    /// Goes on from a table that is in use.
    fn resume(&self, place: u32, found: FlowTable, wanted: BucketBits) -> Result<(FlowTable, Opened), DataplaneError> {
        let other = place ^ 1;
        let (table, opened) = if let Some((_, bits)) = self.word().old() {
            self.replace(self.existing(other, bits)?, place, found)
        } else {
            self.forget(other);
            self.clear(other)?;
            (found, Opened::TakenOver)
        };
        if table.bits() == wanted || matches!(opened, Opened::Kept { .. }) {
            return Ok((table, opened));
        }
        let flows = live_flows(&table, self.lifetimes());
        // Up to here all find room (lb-common, `flow_table::tests`).
        if flows > wanted.entries() / 3 * 2 {
            return Ok((table, Opened::Kept { flows }));
        }
        let Some((place, bits)) = self.word().current() else { unreachable!("there is a table") };
        let new = self.create(place ^ 1, wanted)?;
        self.store(Word::new(place ^ 1, wanted, Some(bits), self.word().idle_ticks()));
        Ok(self.replace(table, place ^ 1, new))
    }

    /// Makes an end of `old` when `new`, at `place`, is in use already. If `new` is smaller and has no room for all flows, it is
    /// the other way round.
    fn replace(&self, old: FlowTable, place: u32, new: FlowTable) -> (FlowTable, Opened) {
        let idle_ticks = self.word().idle_ticks();
        // The last to put a flow into the old table.
        wait_for_packets();
        let copy = |from: &_, to: &_, in_both| copy(from, to, in_both, self.lifetimes(), idle_ticks, flow_time);
        let copied = copy(&old, &new, InBoth::Leave);
        if copied.refused == 0 || new.bits() > old.bits() {
            self.store(Word::new(place, new.bits(), None, idle_ticks));
            wait_for_packets();
            // What had no room, or was over, is still counted.
            old.clear();
            self.leave(place ^ 1);
            return (new, Opened::Resized { from: old.bits(), copied: copied.flows, refused: copied.refused });
        }
        copy(&new, &old, InBoth::Overwrite);
        self.store(Word::new(place ^ 1, old.bits(), Some(new.bits()), idle_ticks));
        wait_for_packets();
        copy(&new, &old, InBoth::Leave);
        self.store(Word::new(place ^ 1, old.bits(), None, idle_ticks));
        wait_for_packets();
        new.clear();
        self.leave(place);
        let flows = live_flows(&old, self.lifetimes());
        (old, Opened::Kept { flows })
    }

    /// The table that is at `place`.
    fn existing(&self, place: u32, bits: BucketBits) -> Result<FlowTable, DataplaneError> {
        FlowTable::pinned(&self.folder, place, bits, Arc::clone(&self.connections))
    }

    /// A new table at `place`, which is not in use. It is pinned, so that the next daemon finds it: who may open a map by its
    /// number has more rights than the daemon needs.
    fn create(&self, place: u32, bits: BucketBits) -> Result<FlowTable, DataplaneError> {
        self.clear(place)?;
        let map = create_map(bits)?;
        let path = self.pin(place);
        map.pin(&path).map_err(|error| pin_error("pin", &path, io::Error::other(error)))?;
        bpf::put_inner_map(self.outer.fd().as_fd(), place, map.fd().as_fd()).map_err(mapping_error)?;
        FlowTable::of_map(map.fd(), bits, Arc::clone(&self.connections)).map_err(mapping_error)
    }

    /// Sees to it that the flows of a table that is not in use any more count no longer, if there is one at `place`: somebody may have died
    /// before that was done.
    fn forget(&self, place: u32) {
        let Ok(map) = MapData::from_pin(self.pin(place)) else { return };
        let Some(bits) = map.info().ok().and_then(|info| BucketBits::new(info.max_entries().trailing_zeros())) else {
            return;
        };
        if let Ok(table) = self.existing(place, bits) {
            table.clear();
        }
    }

    /// Frees what is at `place`, if anything is.
    fn clear(&self, place: u32) -> Result<(), DataplaneError> {
        let path = self.pin(place);
        let ignore_missing = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        ignore_missing(bpf::remove_inner_map(self.outer.fd().as_fd(), place))
            .and_then(|()| ignore_missing(fs::remove_file(&path)))
            .map_err(|source| pin_error("remove", &path, source))
    }

    /// Frees a table that is not in use any more. If that fails its memory stays taken, and nothing else is wrong: the next one
    /// to use the place tries again.
    fn leave(&self, place: u32) {
        if let Err(error) = self.clear(place) {
            log::warn!("the flow table that has been replaced stays in memory: {error}");
        }
    }

    fn pin(&self, place: u32) -> PathBuf {
        pin(&self.folder, place)
    }

    fn lifetimes(&self) -> Lifetimes {
        Lifetimes::new(self.word().idle_ticks())
    }

    fn word(&self) -> Word {
        Word::from_bits(self.in_use.words64()[0].load(Ordering::Relaxed))
    }

    fn store(&self, word: Word) {
        self.in_use.words64()[0].store(word.to_bits(), Ordering::Release);
    }
}

fn create_map(bits: BucketBits) -> Result<MapData, DataplaneError> {
    let bucket_size = size_of::<[u64; WAYS]>();
    new_map("FLOW_TABLE", BPF_MAP_TYPE_ARRAY, bucket_size, bits.buckets(), MMAPABLE | INNER_MAP)
}

fn map_error(source: MapError) -> DataplaneError {
    DataplaneError::Map { name: names::FLOW_TABLES, source }
}

fn mapping_error(source: io::Error) -> DataplaneError {
    DataplaneError::Mapping { name: names::FLOW_TABLES, source }
}

fn live_flows(table: &FlowTable, lifetimes: Lifetimes) -> u64 {
    let now = flow_time();
    let ended = |place: &Place<'_>| lifetimes.have_ended(place.entry, now, flow_time);
    table.places().filter(|place| !ended(place)).count() as u64
}

/// Copies every flow of `from` that lives. Where packets change the other table, flows are moved, so that each counts for one connection
/// but for a moment; what has no room there stays.
fn copy(
    from: &FlowTable,
    to: &FlowTable,
    in_both: InBoth,
    lifetimes: Lifetimes,
    idle_ticks: u8,
    clock: impl Fn() -> FlowTime + Copy,
) -> Copied {
    let mut copied = Copied::default();
    for (bucket, number) in from.buckets().zip(0..) {
        let now = clock();
        for place in places_of(bucket) {
            let entry = place.entry;
            let tag = entry.tag();
            let buckets = to.pair(to.bits().buckets_of_entry(tag, number));
            if lifetimes.have_ended(entry, now, clock) {
                continue;
            }
            let is_there = if let Some(found) = find(buckets, tag) {
                if in_both == InBoth::Overwrite {
                    found.replace(entry);
                }
                true
            } else {
                let [first, second] = buckets;
                let inserted = insert([&first, &second], entry, now, idle_ticks);
                match inserted {
                    Inserted::New { evicted: false } => copied.flows += 1,
                    Inserted::Existing(_) => {}
                    Inserted::New { evicted: true } | Inserted::Full => copied.refused += 1,
                }
                inserted != Inserted::Full
            };
            if is_there && in_both == InBoth::Leave {
                place.replace(FlowEntry::FREE);
            }
        }
    }
    copied
}

#[cfg(test)]
mod tests;
