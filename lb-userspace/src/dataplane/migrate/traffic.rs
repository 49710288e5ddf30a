//! The counters of services. In version 2 of the layout the program counts them, for each CPU; now the traffic of a service is
//! that of its backends, and the daemon keeps what backends have carried that are gone.

use std::collections::HashMap;

use aya::maps::{Array, Map, MapError, PerCpuArray, PerCpuValues};
use aya_obj::generated::bpf_map_type;
use lb_common::{
    BackendId, BackendRow, ServiceId, Traffic,
    layout::{self, names},
};

use super::folder::Folder;
use crate::dataplane::{DataplaneError, bpf::new_map, sum_of_cpus};

/// The name of the counters in version 2.
pub(super) const SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";

/// What the old program counts from now on for a service, it counts for a backend, too: so nothing is lost.
pub(super) fn convert_from(
    old: &Folder,
    new: &Folder,
    rows: &HashMap<BackendId, BackendRow>,
) -> Result<(), DataplaneError> {
    let mut carried = of_backends(new, rows)?;
    let name = names::RETIRED_TRAFFIC;
    let value_size = size_of::<Traffic>();
    let map = new_map(name, bpf_map_type::BPF_MAP_TYPE_ARRAY, value_size, layout::MAX_SERVICES, 0)?;
    new.pin(name, &map)?;
    let counted = per_cpu(old, SERVICE_TRAFFIC)?;
    let convert = || {
        let mut retired: Array<_, Traffic> = Map::Array(map).try_into()?;
        service_ids().try_for_each(|service| {
            let counted = sum_of_cpus(&counted.get(&service.get(), 0)?);
            let carried = carried.remove(&service).unwrap_or_default();
            retired.set(service.get(), counted.saturating_sub(carried), 0)
        })
    };
    convert().map_err(|source| DataplaneError::Map { name, source })
}

/// The first CPU has counted everything.
pub(super) fn convert_to(
    old: &Folder,
    new: &Folder,
    rows: &HashMap<BackendId, BackendRow>,
) -> Result<(), DataplaneError> {
    let mut carried = of_backends(new, rows)?;
    let name = SERVICE_TRAFFIC;
    let value_size = size_of::<Traffic>();
    let map = new_map(name, bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, value_size, layout::MAX_SERVICES, 0)?;
    old.pin(name, &map)?;
    let retired = new.map(names::RETIRED_TRAFFIC)?;
    let convert = || {
        let mut counted: PerCpuArray<_, Traffic> = Map::PerCpuArray(map).try_into()?;
        let retired: Array<_, Traffic> = Map::Array(retired).try_into()?;
        service_ids().try_for_each(|service| {
            let mut cpus = counted.get(&service.get(), 0)?.to_vec();
            cpus[0] = retired.get(&service.get(), 0)? + carried.remove(&service).unwrap_or_default();
            counted.set(service.get(), PerCpuValues::try_from(cpus)?, 0)
        })
    };
    convert().map_err(|source| DataplaneError::Map { name, source })
}

fn service_ids() -> impl Iterator<Item = ServiceId> {
    (0..layout::MAX_SERVICES).filter_map(ServiceId::new)
}

/// What the backends of each service have carried.
fn of_backends(
    folder: &Folder,
    rows: &HashMap<BackendId, BackendRow>,
) -> Result<HashMap<ServiceId, Traffic>, DataplaneError> {
    let counted = per_cpu(folder, names::BACKEND_TRAFFIC)?;
    let mut carried: HashMap<ServiceId, Traffic> = HashMap::new();
    for (backend, row) in rows {
        let cpus = counted.get(&backend.get(), 0).map_err(|source| map_error(names::BACKEND_TRAFFIC, source))?;
        *carried.entry(row.service).or_default() += sum_of_cpus(&cpus);
    }
    Ok(carried)
}

fn per_cpu(folder: &Folder, name: &'static str) -> Result<PerCpuArray<aya::maps::MapData, Traffic>, DataplaneError> {
    Map::PerCpuArray(folder.map(name)?).try_into().map_err(|source| map_error(name, source))
}

fn map_error(name: &'static str, source: MapError) -> DataplaneError {
    DataplaneError::Map { name, source }
}
