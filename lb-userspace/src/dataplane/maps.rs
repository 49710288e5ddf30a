//! The maps of the balancing program as the daemon reads and writes them.

use std::{sync::atomic::Ordering, thread, time::Duration};

use aya::{
    Ebpf,
    maps::{Array, DevMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use lb_common::{
    BackendId, BackendRow, Directory, MacAddress, RowIndex, Service, ServiceEntry, ServiceId, SlotWord, Traffic,
    Verdict,
    layout::{self, names},
    mac_word,
};

use super::{DataplaneError, mapped::Mapped};

/// Distance in bytes of two row words: array maps round each element up to 8 bytes.
const ROW_WORD_STRIDE: usize = 8;
const CHUNK_BYTES: usize = layout::CHUNK_SLOTS as usize * size_of::<u32>();

/// Typed access to the maps. One writer: the daemon.
pub struct Maps {
    directories: Mapped,
    directory_in_use: Mapped,
    slots: Mapped,
    row_of: Mapped,
    rows: Array<MapData, BackendRow>,
    interfaces: Array<MapData, u64>,
    egress: DevMap<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    service_traffic: PerCpuArray<MapData, Traffic>,
    backend_traffic: PerCpuArray<MapData, Traffic>,
}

impl Maps {
    pub(super) fn take_from(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            directories: map_array(ebpf, names::DIRECTORIES, layout::DIRECTORIES as usize * size_of::<Directory>())?,
            directory_in_use: map_array(ebpf, names::DIRECTORY_IN_USE, size_of::<u64>())?,
            slots: map_array(ebpf, names::SLOTS, layout::SLOT_CHUNKS as usize * CHUNK_BYTES)?,
            row_of: map_array(ebpf, names::ROW_OF, BackendId::COUNT as usize * ROW_WORD_STRIDE)?,
            rows: take(ebpf, names::ROWS)?,
            interfaces: take(ebpf, names::INTERFACES)?,
            egress: take(ebpf, names::EGRESS)?,
            verdicts: take(ebpf, names::VERDICTS)?,
            service_traffic: take(ebpf, names::SERVICE_TRAFFIC)?,
            backend_traffic: take(ebpf, names::BACKEND_TRAFFIC)?,
        })
    }

    /// Makes `services` the services in the datapath, all at once.
    pub fn store_services(&mut self, services: &[ServiceEntry]) -> Result<(), DataplaneError> {
        wait_for_packets();
        let next = (self.directory_in_use() + 1) % layout::DIRECTORIES;
        // SAFETY: any bytes are a directory, and nobody reads this one: it is not in use, and the packets of the time
        // when it was have just been waited for. There is one writer, which holds `self`.
        let directory = unsafe { self.directories.as_mut::<Directory>(next as usize) };
        if !directory.fill(services) {
            return Err(DataplaneError::Directory { services: services.len() });
        }
        self.directory_in_use.word32(0).store(next, Ordering::Release);
        Ok(())
    }

    /// All services in the datapath.
    pub fn services(&self) -> Vec<ServiceEntry> {
        // SAFETY: any bytes are a directory, and only `store_services` writes to one, which needs `self` for itself.
        let directory = unsafe { self.directories.as_ref::<Directory>(self.directory_in_use() as usize) };
        directory.services().copied().collect()
    }

    fn directory_in_use(&self) -> u32 {
        self.directory_in_use.word32(0).load(Ordering::Relaxed)
    }

    /// Stores the slot word number `slot` of `service`.
    pub fn store_slot(&self, service: &Service, slot: u32, word: SlotWord) {
        self.slots.word32(slot_offset(service, slot)).store(word.to_bits(), Ordering::Release);
    }

    /// The slot word number `slot` of `service`.
    pub fn load_slot(&self, service: &Service, slot: u32) -> SlotWord {
        SlotWord::from_bits(self.slots.word32(slot_offset(service, slot)).load(Ordering::Relaxed))
    }

    /// All slot words of `service`.
    pub fn load_slots(&self, service: &Service) -> Vec<SlotWord> {
        (0..=service.slot_mask).map(|slot| self.load_slot(service, slot)).collect()
    }

    /// Writes `row` to the unused place `index` and makes it the row of `backend`.
    pub fn put_row(&mut self, backend: BackendId, index: RowIndex, row: &BackendRow) -> Result<(), MapError> {
        self.rows.set(index.0, row, 0)?;
        self.row_word(backend).store(index.0, Ordering::Release);
        Ok(())
    }

    /// Leaves `backend` without a row.
    pub fn remove_row(&self, backend: BackendId) {
        self.row_word(backend).store(RowIndex::NONE.0, Ordering::Release);
    }

    /// All backends that have a row.
    pub fn rows(&self) -> Result<Vec<(BackendId, RowIndex, BackendRow)>, MapError> {
        (0..BackendId::COUNT)
            .map(BackendId::truncate)
            .map(|backend| (backend, RowIndex(self.row_word(backend).load(Ordering::Relaxed))))
            .filter(|(_, index)| *index != RowIndex::NONE)
            .map(|(backend, index)| Ok((backend, index, self.rows.get(&index.0, 0)?)))
            .collect()
    }

    fn row_word(&self, backend: BackendId) -> &std::sync::atomic::AtomicU32 {
        self.row_of.word32(backend.get() as usize * ROW_WORD_STRIDE)
    }

    /// Lets frames to `mac` that come in by the interface `ifindex` be balanced.
    pub fn put_interface(&mut self, ifindex: u32, mac: MacAddress) -> Result<(), MapError> {
        self.interfaces.set(ifindex, mac_word(mac), 0)
    }

    /// Lets packets be redirected to the interface `ifindex`.
    pub fn put_egress(&mut self, ifindex: u32) -> Result<(), DataplaneError> {
        self.egress
            .set(ifindex, ifindex, None, 0)
            .map_err(|source| DataplaneError::Egress { ifindex, source: Box::new(source) })
    }

    /// Packets of each verdict since the maps were made.
    pub fn verdicts(&self) -> Result<Vec<(Verdict, u64)>, MapError> {
        Verdict::ALL
            .iter()
            .map(|verdict| Ok((*verdict, self.verdicts.get(&(*verdict as u32), 0)?.iter().sum())))
            .collect()
    }

    /// Traffic of a service.
    pub fn service_traffic(&self, service: ServiceId) -> Result<Traffic, MapError> {
        Ok(sum(&self.service_traffic.get(&service.get(), 0)?))
    }

    /// Traffic of a backend.
    pub fn backend_traffic(&self, backend: BackendId) -> Result<Traffic, MapError> {
        Ok(sum(&self.backend_traffic.get(&backend.get(), 0)?))
    }

    /// Zeroes the traffic of an id that is given to a new service.
    pub fn reset_service_traffic(&mut self, service: ServiceId) -> Result<(), MapError> {
        self.service_traffic.set(service.get(), no_traffic()?, 0)
    }

    /// Zeroes the traffic of an id that is given to a new backend.
    pub fn reset_backend_traffic(&mut self, backend: BackendId) -> Result<(), MapError> {
        self.backend_traffic.set(backend.get(), no_traffic()?, 0)
    }
}

/// Returns when every packet that was in the program has left it.
///
/// XDP programs run inside RCU read-side critical sections, and `MEMBARRIER_CMD_GLOBAL` waits for a grace period of RCU
/// (membarrier(2)). Kernels with `nohz_full` CPUs refuse it; a packet takes microseconds, so there a long sleep has to do.
fn wait_for_packets() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no pointer.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        thread::sleep(Duration::from_millis(100));
    }
}

fn slot_offset(service: &Service, slot: u32) -> usize {
    let (chunk, index) = service.locate(slot);
    chunk as usize * CHUNK_BYTES + index * size_of::<u32>()
}

fn sum(per_cpu: &PerCpuValues<Traffic>) -> Traffic {
    per_cpu.iter().fold(Traffic::default(), |total, one| Traffic {
        packets: total.packets + one.packets,
        bytes: total.bytes + one.bytes,
    })
}

fn no_traffic() -> Result<PerCpuValues<Traffic>, MapError> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    Ok(PerCpuValues::try_from(vec![Traffic::default(); cpus])?)
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DataplaneError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(DataplaneError::Missing { name })?;
    M::try_from(map).map_err(|source| DataplaneError::Map { name, source })
}

fn map_array(ebpf: &mut Ebpf, name: &'static str, len: usize) -> Result<Mapped, DataplaneError> {
    let Some(Map::Array(data)) = ebpf.take_map(name) else {
        return Err(DataplaneError::Missing { name });
    };
    Mapped::new(data.fd(), len).map_err(|source| DataplaneError::Mapping { name, source })
}
