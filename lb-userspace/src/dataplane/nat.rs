//! The table of translated flows as the daemon has it: mapped into its memory. Packets make flows and change them; the daemon
//! ends those that are over, and it alone frees the places of all that has lived.

mod census;
mod held;
mod table;
#[cfg(test)]
mod tests;
mod usage;

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use aya::maps::{MapData, MapError};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use lb_common::{
    flow_table::{BucketBits, WAYS},
    layout::{INNER_MAP, MMAPABLE, names},
    nat::{NatRecord, NatTable as Word},
};

pub use self::{
    census::{NatSweep, sweep_nat},
    table::NatTable,
    usage::NatUsage,
};
use super::{
    Connections, DataplaneError,
    bpf::{self, new_map},
    mapped::Mapped,
    pins::pin_error,
};

/// Where the table of translated flows is, and the word by which the datapath finds it.
#[derive(Debug)]
pub struct NatTables {
    indices: MapData,
    records: MapData,
    word: Mapped,
    folder: PathBuf,
    table: Option<Arc<NatTable>>,
    connections: Arc<Connections>,
}

/// One of the maps of a table: what it is, by the place of its pin.
struct Part<'a> {
    pin: &'static str,
    outer: &'a MapData,
    index: u32,
    element: usize,
    elements: u32,
}

impl NatTables {
    /// The table that an earlier daemon left, if it did.
    pub(super) fn open(
        indices: MapData,
        records: MapData,
        word: Mapped,
        folder: &Path,
        connections: Arc<Connections>,
    ) -> Result<Self, DataplaneError> {
        let mut tables = Self { indices, records, word, folder: folder.to_owned(), table: None, connections };
        if let Some(bits) = Word(tables.word.word32(0).load(Ordering::Relaxed)).bits() {
            let maps = tables.parts(bits).map(|part| tables.existing(&part));
            tables.table = Some(Arc::new(tables.map_all(maps, bits)?));
        }
        Ok(tables)
    }

    /// The table, to be read and changed by whichever thread, if there is one.
    pub fn table(&self) -> Option<Arc<NatTable>> {
        self.table.clone()
    }

    /// Makes a table of that size, unless there is one. Returns the size that it has.
    pub fn ensure(&mut self, bits: BucketBits) -> Result<BucketBits, DataplaneError> {
        if let Some(table) = &self.table {
            return Ok(table.bits());
        }
        let maps = self.parts(bits).map(|part| self.create(&part));
        self.table = Some(Arc::new(self.map_all(maps, bits)?));
        self.word.word32(0).store(Word::new(bits).0, Ordering::Release);
        Ok(bits)
    }

    fn parts(&self, bits: BucketBits) -> [Part<'_>; 4] {
        let bucket = size_of::<[u64; WAYS]>();
        let index = |pin, index| Part { pin, outer: &self.indices, index, element: bucket, elements: bits.buckets() };
        let records = u32::try_from(bits.entries()).expect("no table of translated flows is that large");
        let (outer, element) = (&self.records, size_of::<NatRecord>());
        [
            index("NAT_FORWARD", 0),
            index("NAT_REVERSE", 1),
            Part { pin: "NAT_FLOWS", outer, index: 0, element, elements: records },
            index("NAT_WAITS", 2),
        ]
    }

    fn existing(&self, part: &Part<'_>) -> Result<MapData, DataplaneError> {
        let path = self.folder.join(part.pin);
        let map = MapData::from_pin(&path).map_err(map_error)?;
        if map.info().map_err(map_error)?.max_entries() != part.elements {
            return Err(DataplaneError::FlowTable { path });
        }
        Ok(map)
    }

    fn create(&self, part: &Part<'_>) -> Result<MapData, DataplaneError> {
        let path = self.folder.join(part.pin);
        // What a daemon left that was killed while it made the table.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(pin_error("remove", &path, error)),
            _ => {}
        }
        let map = new_map(part.pin, BPF_MAP_TYPE_ARRAY, part.element, part.elements, MMAPABLE | INNER_MAP)?;
        map.pin(&path).map_err(|error| pin_error("pin", &path, io::Error::other(error)))?;
        let outer: BorrowedFd<'_> = part.outer.fd().as_fd();
        bpf::put_inner_map(outer, part.index, map.fd().as_fd()).map_err(mapping_error)?;
        Ok(map)
    }

    fn map_all(
        &self,
        maps: [Result<MapData, DataplaneError>; 4],
        bits: BucketBits,
    ) -> Result<NatTable, DataplaneError> {
        let [forward, reverse, records, waits] = maps;
        let maps = [forward?, reverse?, records?];
        // It has to be there, but is the datapath's alone.
        waits?;
        let maps = maps.each_ref().map(|map| map.fd().as_fd());
        NatTable::of_maps(maps, bits, Arc::clone(&self.connections)).map_err(mapping_error)
    }
}

fn map_error(source: MapError) -> DataplaneError {
    DataplaneError::Map { name: names::NAT_INDICES, source }
}

fn mapping_error(source: io::Error) -> DataplaneError {
    DataplaneError::Mapping { name: names::NAT_INDICES, source }
}
