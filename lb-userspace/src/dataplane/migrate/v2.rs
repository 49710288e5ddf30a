//! What is different in version 2 of the layout: services have no QUIC ids, and there are two verdicts less.

use std::sync::atomic::Ordering;

use aya::maps::{Map, MapError, PerCpuArray, PerCpuValues};
use aya_obj::generated::bpf_map_type;
use lb_common::{
    Directory, ServiceEntry, Verdict,
    layout::{self, MMAPABLE, names},
};

use super::folder::Folder;
use crate::dataplane::{DataplaneError, bpf::new_map, mapped::Mapped};

pub(super) const VERSION: u32 = 2;

/// The maps that both layouts have. In rows, what says now in which condition a backend is was unused, and zero; so was the GUE port:
/// the upper half of the interface index, which is smaller than that on machines of little-endian byte order.
pub(super) const SAME_MAPS: [&str; 7] = [
    names::SLOTS,
    names::ROW_OF,
    names::ROWS,
    names::INTERFACES,
    names::VIRTUAL_MACS,
    names::EGRESS,
    names::BACKEND_TRAFFIC,
];

/// The verdicts in the order of their counters.
const VERDICTS: [Verdict; 12] = [
    Verdict::PassNotIp,
    Verdict::PassOtherHost,
    Verdict::PassMalformed,
    Verdict::PassFragment,
    Verdict::PassOtherProtocol,
    Verdict::PassNoService,
    Verdict::Local,
    Verdict::Transmitted,
    Verdict::Redirected,
    Verdict::DropNoBackend,
    Verdict::DropTooBig,
    Verdict::DropInternal,
];

/// 32-bit words of a directory before its entries, of an entry then, and of one now: the QUIC ids are the last.
const HEAD: usize = size_of::<Directory>() / 4 - layout::DIRECTORY_PLACES * ENTRY;
const OLD_ENTRY: usize = 8;
const ENTRY: usize = size_of::<ServiceEntry>() / 4;
const _: () = assert!(ENTRY > OLD_ENTRY);
const OLD_LEN: usize = HEAD + layout::DIRECTORY_PLACES * OLD_ENTRY;
const LEN: usize = HEAD + layout::DIRECTORY_PLACES * ENTRY;

/// Every place of the directory keeps its number: only the distance between them changes.
pub(super) fn convert_directory_from(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    let mut words = read_directory(old, OLD_LEN)?.into_iter();
    let mut converted: Vec<u32> = words.by_ref().take(HEAD).collect();
    while let Some(first) = words.next() {
        converted.push(first);
        converted.extend(words.by_ref().take(OLD_ENTRY - 1));
        converted.extend([0; ENTRY - OLD_ENTRY]);
    }
    write_directory(new, &converted)
}

pub(super) fn convert_directory_to(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    let words = read_directory(new, LEN)?;
    let (head, entries) = words.split_at(HEAD);
    let entries = entries.chunks_exact(ENTRY).flat_map(|entry| &entry[..OLD_ENTRY]);
    write_directory(old, &head.iter().chain(entries).copied().collect::<Vec<_>>())
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
pub(super) fn convert_verdicts_from(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    let counts = read_counts(old, VERDICTS.len())?;
    let mut converted = vec![vec![0; counts[0].len()]; Verdict::COUNT];
    for (verdict, counts) in VERDICTS.into_iter().zip(counts) {
        converted[verdict as usize] = counts;
    }
    write_counts(new, converted)
}

/// A reset has been sent, and what met a backend that is gone has met none.
pub(super) fn convert_verdicts_to(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    let counts = read_counts(new, Verdict::COUNT)?;
    let mut converted = vec![vec![0; counts[0].len()]; VERDICTS.len()];
    for (verdict, counts) in Verdict::ALL.iter().zip(counts) {
        let verdict = match verdict {
            Verdict::Reset => Verdict::Transmitted,
            Verdict::DropBackendGone => Verdict::DropNoBackend,
            other => *other,
        };
        let place = VERDICTS.iter().position(|old| *old == verdict).expect("all others are in both layouts");
        converted[place].iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    write_counts(old, converted)
}

/// The first `len` counters, each for every CPU.
fn read_counts(folder: &Folder, len: usize) -> Result<Vec<Vec<u64>>, DataplaneError> {
    let map = folder.map(names::VERDICTS)?;
    let read = || {
        let map: PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into()?;
        (0..).take(len).map(|index| Ok(map.get(&index, 0)?.to_vec())).collect::<Result<_, _>>()
    };
    read().map_err(map_error)
}

fn write_counts(folder: &Folder, counts: Vec<Vec<u64>>) -> Result<(), DataplaneError> {
    let name = names::VERDICTS;
    let len = u32::try_from(counts.len()).expect("there are few verdicts");
    let map = new_map(name, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, size_of::<u64>(), len, 0)?;
    folder.pin(name, &map)?;
    let write = || {
        let mut map: PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into()?;
        (0..).zip(counts).try_for_each(|(index, counts)| map.set(index, PerCpuValues::try_from(counts)?, 0))
    };
    write().map_err(map_error)
}

fn map_error(source: MapError) -> DataplaneError {
    DataplaneError::Map { name: names::VERDICTS, source }
}
