//! The counters of verdicts. Each layout has its own verdicts; `verdicts` are those of the older one, in the order of its counters.

use aya::maps::{Map, MapError, PerCpuArray, PerCpuValues};
use aya_obj::generated::bpf_map_type;
use lb_common::{Verdict, layout::names};

use super::folder::Folder;
use crate::dataplane::{DataplaneError, bpf::new_map};

/// Packets that come between this and the new program are not counted.
pub(super) fn convert_from(old: &Folder, verdicts: &[Verdict], new: &Folder) -> Result<(), DataplaneError> {
    let counts = read_counts(old, verdicts.len())?;
    let mut converted = vec![vec![0; counts[0].len()]; Verdict::COUNT];
    for (verdict, counts) in verdicts.iter().zip(counts) {
        converted[*verdict as usize] = counts;
    }
    write_counts(new, converted)
}

/// A reset has been sent, and what met a backend that is gone, or only full ones, has met none.
pub(super) fn convert_to(old: &Folder, verdicts: &[Verdict], new: &Folder) -> Result<(), DataplaneError> {
    let counts = read_counts(new, Verdict::COUNT)?;
    let mut converted = vec![vec![0; counts[0].len()]; verdicts.len()];
    for (verdict, counts) in Verdict::ALL.iter().zip(counts) {
        let place_of = |verdict| verdicts.iter().position(|old| *old == verdict);
        let instead = match verdict {
            Verdict::Reset => Verdict::Transmitted,
            _ => Verdict::DropNoBackend,
        };
        let place = place_of(*verdict).or_else(|| place_of(instead)).expect("what stands for others is in all layouts");
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
