//! What is different in version 2 of the layout: services have no QUIC ids, flows no table, and some verdicts are missing.

use std::sync::atomic::Ordering;

use aya_obj::generated::bpf_map_type;
use lb_common::{
    Directory, ServiceEntry, Verdict,
    layout::{self, MMAPABLE, names},
};

use super::{folder::Folder, traffic, verdicts};
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

/// 32-bit words of a directory before its entries, of an entry then, and of one now: the last is for QUIC ids and for what picks a slot.
const HEAD: usize = size_of::<Directory>() / 4 - layout::DIRECTORY_PLACES * ENTRY;
const OLD_ENTRY: usize = 8;
const ENTRY: usize = size_of::<ServiceEntry>() / 4;
const _: () = assert!(ENTRY == OLD_ENTRY + 1);
const OLD_LEN: usize = HEAD + layout::DIRECTORY_PLACES * OLD_ENTRY;
const LEN: usize = HEAD + layout::DIRECTORY_PLACES * ENTRY;

/// Makes the folder of this layout, except for the links.
pub(super) fn convert_from(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    new.share_maps(old, &SAME_MAPS)?;
    verdicts::convert_from(old, &VERDICTS, new)?;
    convert_directory_from(old, new)?;
    traffic::convert_from(old, new, &new.rows()?)
}

/// The opposite.
pub(super) fn convert_to(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    old.share_maps(new, &SAME_MAPS)?;
    verdicts::convert_to(old, &VERDICTS, new)?;
    convert_directory_to(old, new)?;
    traffic::convert_to(old, new, &new.rows()?)
}

/// Every place of the directory keeps its number: only the distance between them changes.
fn convert_directory_from(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    let mut words = read_directory(old, OLD_LEN)?.into_iter();
    let mut converted: Vec<u32> = words.by_ref().take(HEAD).collect();
    while let Some(first) = words.next() {
        converted.push(first);
        converted.extend(words.by_ref().take(OLD_ENTRY - 1));
        converted.push(0);
    }
    write_directory(new, &converted)
}

fn convert_directory_to(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
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
