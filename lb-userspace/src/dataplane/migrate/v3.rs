//! What is different in version 3 of the layout: no service translates addresses or has a scheduler, nobody counts connections, and all
//! slots are picked by the hash of the flow. So some verdicts and counters of flows are missing, too.

use std::sync::atomic::Ordering;

use aya::maps::{Map, MapError, PerCpuArray, PerCpuValues};
use aya_obj::generated::bpf_map_type;
use lb_common::{
    Directory, ServiceEntry, Tracking, Verdict,
    layout::{self, MMAPABLE, names},
};

use super::folder::Folder;
use crate::dataplane::{DataplaneError, bpf::new_map, flow_table_pins, mapped::Mapped};

pub(super) const VERSION: u32 = 3;

/// The maps that both layouts have, but for those of flow tables, of which there are one or two.
pub(super) const SAME_MAPS: [&str; 11] = [
    names::SLOTS,
    names::ROW_OF,
    names::ROWS,
    names::INTERFACES,
    names::VIRTUAL_MACS,
    names::EGRESS,
    names::BACKEND_TRAFFIC,
    names::RETIRED_TRAFFIC,
    names::QUIC_SERVERS,
    names::FLOW_TABLES,
    names::FLOW_TABLES_IN_USE,
];

/// Pins the maps that both layouts have in `to`, too. Connections that a program of this version does not count meanwhile are found
/// by a recount of the flow table.
pub(super) fn share_maps(from: &Folder, to: &Folder) -> Result<(), DataplaneError> {
    to.share_maps(from, &SAME_MAPS)?;
    let tables: Vec<&'static str> = flow_table_pins().into_iter().filter(|name| from.has(name)).collect();
    to.share_maps(from, &tables)
}

/// How many there were: those that came since then are the last.
const VERDICTS: usize = Verdict::DropBackendsFull as usize;
const TRACKING: usize = Tracking::Translated as usize;

/// 32-bit words of a directory before its entries, of an entry then, and of one now: how a service translates is the last.
const HEAD: usize = size_of::<Directory>() / 4 - layout::DIRECTORY_PLACES * ENTRY;
const OLD_ENTRY: usize = 9;
const ENTRY: usize = size_of::<ServiceEntry>() / 4;
const _: () = assert!(ENTRY == OLD_ENTRY + 1);
const OLD_LEN: usize = HEAD + layout::DIRECTORY_PLACES * OLD_ENTRY;
const LEN: usize = HEAD + layout::DIRECTORY_PLACES * ENTRY;

/// Every place of the directory keeps its number: only the distance between them changes.
pub(super) fn convert_directory_from(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    let words = read_directory(old, OLD_LEN)?;
    let (head, entries) = words.split_at(HEAD);
    let entries = entries.chunks_exact(OLD_ENTRY).flat_map(|entry| entry.iter().chain(&[0]));
    write_directory(new, &head.iter().chain(entries).copied().collect::<Vec<_>>())
}

pub(super) fn convert_directory_to(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    let words = read_directory(new, LEN)?;
    let (head, entries) = words.split_at(HEAD);
    let entries = entries.chunks_exact(ENTRY).flat_map(|entry| {
        let (quic, same) = entry[..OLD_ENTRY].split_last().expect("an entry has words");
        same.iter().copied().chain([without_hash_inputs(*quic)])
    });
    write_directory(old, &head.iter().copied().chain(entries).collect::<Vec<_>>())
}

/// What picks slots now is in the second half of the word of QUIC ids, which was zero.
fn without_hash_inputs(word: u32) -> u32 {
    let [first, second, ..] = word.to_ne_bytes();
    u32::from_ne_bytes([first, second, 0, 0])
}

/// The directory in use, of so many words.
fn read_directory(folder: &Folder, len: usize) -> Result<Vec<u32>, DataplaneError> {
    let in_use = folder.directory_in_use()? as usize % layout::DIRECTORIES as usize;
    let map = folder.mapped(names::DIRECTORIES, layout::DIRECTORIES as usize * len * 4)?;
    Ok((in_use * len..(in_use + 1) * len).map(|word| map.word32(word * 4).load(Ordering::Relaxed)).collect())
}

/// Makes the map of directories, with this one in the first place.
fn write_directory(folder: &Folder, words: &[u32]) -> Result<(), DataplaneError> {
    let name = names::DIRECTORIES;
    let map = new_map(name, bpf_map_type::BPF_MAP_TYPE_ARRAY, words.len() * 4, layout::DIRECTORIES, MMAPABLE)?;
    let mapped = Mapped::new(map.fd(), words.len() * 4).map_err(|source| DataplaneError::Mapping { name, source })?;
    for (word, offset) in words.iter().zip((0..).step_by(4)) {
        mapped.word32(offset).store(*word, Ordering::Relaxed);
    }
    folder.pin(name, &map)
}

/// Packets that come between this and the new program are not counted.
pub(super) fn convert_counters_from(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    for (name, before, now) in
        [(names::VERDICTS, VERDICTS, Verdict::COUNT), (names::TRACKING, TRACKING, Tracking::COUNT)]
    {
        let mut counts = read_counts(old, name, before)?;
        counts.resize(now, vec![0; counts[0].len()]);
        write_counts(new, name, counts)?;
    }
    Ok(())
}

/// What was dropped for reasons that the older layout does not have counts as dropped for want of room.
pub(super) fn convert_counters_to(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    let mut verdicts = read_counts(new, names::VERDICTS, Verdict::COUNT)?;
    for counts in verdicts.split_off(VERDICTS) {
        verdicts[Verdict::DropInternal as usize].iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    write_counts(old, names::VERDICTS, verdicts)?;
    let mut tracking = read_counts(new, names::TRACKING, Tracking::COUNT)?;
    tracking.truncate(TRACKING);
    write_counts(old, names::TRACKING, tracking)
}

/// The first `len` counters, each for every CPU.
fn read_counts(folder: &Folder, name: &'static str, len: usize) -> Result<Vec<Vec<u64>>, DataplaneError> {
    let map = folder.map(name)?;
    let read = || {
        let map: PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into()?;
        (0..).take(len).map(|index| Ok(map.get(&index, 0)?.to_vec())).collect::<Result<_, _>>()
    };
    read().map_err(|source: MapError| DataplaneError::Map { name, source })
}

fn write_counts(folder: &Folder, name: &'static str, counts: Vec<Vec<u64>>) -> Result<(), DataplaneError> {
    let len = u32::try_from(counts.len()).expect("there are few counters");
    let map = new_map(name, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, size_of::<u64>(), len, 0)?;
    folder.pin(name, &map)?;
    let write = || {
        let mut map: PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into()?;
        (0..).zip(counts).try_for_each(|(index, counts)| map.set(index, PerCpuValues::try_from(counts)?, 0))
    };
    write().map_err(|source: MapError| DataplaneError::Map { name, source })
}
