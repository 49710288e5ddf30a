//! The maps of the balancing program as the daemon reads and writes them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, DevMap, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuValues},
};
use lb_common::{
    Address, Affinity, BackendId, BackendRow, Condition, Directory, HotLoad, MacAddress, QuicServer, RowIndex,
    Scheduler, ServerOf, Service, ServiceEntry, ServiceId, SlotWord, Tracking, Traffic, Verdict,
    layout::{self, names},
    mac_word,
    nat::NatSource,
};

use super::{
    AffinityClients, Connections, DataplaneError, Latencies, clients::is_missing, mapped::Mapped, words::Words,
};

/// Typed access to the maps. One writer: the daemon.
pub struct Maps {
    directories: Mapped,
    directory_in_use: Mapped,
    words: Arc<Words>,
    schedulers: Mapped,
    affinities: Mapped,
    affinity_clients: Arc<AffinityClients>,
    affinity_servers: HashMap<MapData, ServerOf, BackendId>,
    connections: Arc<Connections>,
    latencies: Latencies,
    hot_loads: Mapped,
    rows: Array<MapData, BackendRow>,
    interfaces: Array<MapData, u64>,
    egress: DevMap<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    tracking: PerCpuArray<MapData, u64>,
    quic_servers: HashMap<MapData, QuicServer, BackendId>,
    retired_traffic: Array<MapData, Traffic>,
    backend_traffic: PerCpuArray<MapData, Traffic>,
    nat_sources: Array<MapData, NatSource>,
    virtual_addresses: Array<MapData, Address>,
    /// What stands in `virtual_addresses`, as far as it was written here.
    written_addresses: std::collections::HashMap<ServiceId, Address>,
}

impl Maps {
    pub(super) fn take_from(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            directories: map_array(ebpf, names::DIRECTORIES, layout::DIRECTORIES as usize * size_of::<Directory>())?,
            directory_in_use: map_array(ebpf, names::DIRECTORY_IN_USE, size_of::<u64>())?,
            words: Arc::new(Words::new(
                map_array(ebpf, names::SLOTS, Words::SLOTS_LEN)?,
                map_array(ebpf, names::ROW_OF, Words::ROW_OF_LEN)?,
            )),
            schedulers: map_array(ebpf, names::SCHEDULERS, layout::MAX_SERVICES as usize * size_of::<Scheduler>())?,
            affinities: map_array(ebpf, names::AFFINITIES, layout::MAX_SERVICES as usize * size_of::<Affinity>())?,
            affinity_clients: Arc::new(take_clients(ebpf)?),
            affinity_servers: take(ebpf, names::AFFINITY_SERVERS)?,
            connections: Arc::new(Connections::new(map_array(ebpf, names::CONNECTIONS, Connections::LEN)?)),
            latencies: Latencies::new(map_array(ebpf, names::LATENCIES, Latencies::LEN)?),
            hot_loads: map_array(ebpf, names::HOT_LOADS, layout::MAX_SERVICES as usize * size_of::<HotLoad>())?,
            rows: take(ebpf, names::ROWS)?,
            interfaces: take(ebpf, names::INTERFACES)?,
            egress: take(ebpf, names::EGRESS)?,
            verdicts: take(ebpf, names::VERDICTS)?,
            tracking: take(ebpf, names::TRACKING)?,
            quic_servers: take(ebpf, names::QUIC_SERVERS)?,
            retired_traffic: take(ebpf, names::RETIRED_TRAFFIC)?,
            backend_traffic: take(ebpf, names::BACKEND_TRAFFIC)?,
            nat_sources: take(ebpf, names::NAT_SOURCES)?,
            virtual_addresses: take(ebpf, names::VIRTUAL_ADDRESSES)?,
            written_addresses: std::collections::HashMap::new(),
        })
    }

    /// Makes `services` the services in the datapath, all at once, and `translated` the addresses that replies of translated flows
    /// come to or from.
    pub fn store_services(&mut self, services: &[ServiceEntry], translated: &[Address]) -> Result<(), DataplaneError> {
        self.store_virtual_addresses(services)?;
        wait_for_packets();
        let next = (self.directory_in_use() + 1) % layout::DIRECTORIES;
        // SAFETY: any bytes are a directory, and nobody reads this one: it is not in use, and the packets of the time
        // when it was have just been waited for. There is one writer, which holds `self`.
        let directory = unsafe { self.directories.as_mut::<Directory>(next as usize) };
        if !directory.fill(services, translated) {
            return Err(DataplaneError::Directory { services: services.len() });
        }
        self.directory_in_use.word32(0).store(next, Ordering::Release);
        Ok(())
    }

    /// Only replies of translated flows need them.
    fn store_virtual_addresses(&mut self, services: &[ServiceEntry]) -> Result<(), DataplaneError> {
        for ServiceEntry { key, service } in services.iter().filter(|entry| entry.service.nat.is_in_use()) {
            if self.written_addresses.get(&service.id) != Some(&key.address) {
                let name = names::VIRTUAL_ADDRESSES;
                self.virtual_addresses
                    .set(service.id.get(), key.address, 0)
                    .map_err(|source| DataplaneError::Map { name, source })?;
                self.written_addresses.insert(service.id, key.address);
            }
        }
        Ok(())
    }

    /// The sources of translated flows, by number.
    pub fn nat_sources(&self) -> Result<Vec<NatSource>, MapError> {
        self.nat_sources.iter().collect()
    }

    /// Writes the sources of translated flows from number `first` on.
    pub fn put_nat_sources(&mut self, first: u16, sources: &[NatSource]) -> Result<(), MapError> {
        (u32::from(first)..).zip(sources).try_for_each(|(number, source)| self.nat_sources.set(number, *source, 0))
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
        self.words.store_slot(service, slot, word);
    }

    /// The slot word number `slot` of `service`.
    pub fn load_slot(&self, service: &Service, slot: u32) -> SlotWord {
        self.words.slot(service, slot)
    }

    /// All slot words of `service`.
    pub fn load_slots(&self, service: &Service) -> Vec<SlotWord> {
        (0..=service.slot_mask).map(|slot| self.load_slot(service, slot)).collect()
    }

    /// Stores the turns of a rotation, from `first_chunk` of the slot array on.
    pub fn store_turns(&self, first_chunk: u32, turns: &[BackendId]) {
        self.words.store_turns(first_chunk, turns);
    }

    /// Lets new flows of `service` get their backends by `scheduler`: packets that read it see the turns that were stored before.
    pub fn store_scheduler(&self, service: ServiceId, scheduler: Scheduler) {
        self.scheduler_word(service).store(scheduler.to_bits(), Ordering::Release);
    }

    /// How new flows of `service` get their backends.
    pub fn scheduler(&self, service: ServiceId) -> Scheduler {
        Scheduler::from_bits(self.scheduler_word(service).load(Ordering::Relaxed))
    }

    fn scheduler_word(&self, service: ServiceId) -> &AtomicU64 {
        &self.schedulers.words64()[service.get() as usize]
    }

    /// Lets clients of `service` stay with their servers in this way.
    pub fn store_affinity(&self, service: ServiceId, affinity: Affinity) {
        self.affinity_word(service).store(affinity.to_bits(), Ordering::Release);
    }

    /// How clients of `service` stay with their servers.
    pub fn affinity(&self, service: ServiceId) -> Affinity {
        Affinity::from_bits(self.affinity_word(service).load(Ordering::Relaxed))
    }

    fn affinity_word(&self, service: ServiceId) -> &AtomicU64 {
        &self.affinities.words64()[service.get() as usize]
    }

    /// Lets `backend` take new flows for a server of a service.
    pub fn put_server(&mut self, server: ServerOf, backend: BackendId) -> Result<(), MapError> {
        self.affinity_servers.insert(server, backend, 0)
    }

    /// Lets no backend take new flows for it.
    pub fn remove_server(&mut self, server: &ServerOf) -> Result<(), MapError> {
        unless_missing(self.affinity_servers.remove(server))
    }

    /// All servers of services with affinity, and who takes their new flows.
    pub fn servers(&self) -> Result<Vec<(ServerOf, BackendId)>, MapError> {
        self.affinity_servers.iter().collect()
    }

    /// The clients of which it is known which server they have.
    pub fn affinity_clients(&self) -> Arc<AffinityClients> {
        Arc::clone(&self.affinity_clients)
    }

    /// The connections of backends.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.connections)
    }

    /// How long backends take to answer.
    pub const fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Lets backends of `service` with a higher load be hot.
    pub fn store_hot_load(&self, service: ServiceId, HotLoad(load): HotLoad) {
        self.hot_loads.words64()[service.get() as usize].store(load, Ordering::Relaxed);
    }

    /// The words of slots and rows, for who reads them beside the daemon.
    pub fn words(&self) -> Arc<Words> {
        Arc::clone(&self.words)
    }

    /// Writes `row` to the unused place `index` and makes it the row of `backend`.
    pub fn put_row(&mut self, backend: BackendId, index: RowIndex, row: &BackendRow) -> Result<(), MapError> {
        self.rows.set(index.0, row, 0)?;
        self.words.store_row(backend, index);
        Ok(())
    }

    /// Leaves `backend` without a row.
    pub fn remove_row(&self, backend: BackendId) {
        self.words.store_row(backend, RowIndex::NONE);
    }

    /// All backends that have a row.
    pub fn rows(&self) -> Result<Vec<(BackendId, RowIndex, BackendRow)>, MapError> {
        (0..BackendId::COUNT)
            .map(BackendId::truncate)
            .map(|backend| (backend, self.words.row(backend)))
            .filter(|(_, index)| *index != RowIndex::NONE)
            .map(|(backend, index)| Ok((backend, index, self.rows.get(&index.0, 0)?)))
            .collect()
    }

    /// What becomes of the flows of `backend`. Without a row they go to others.
    pub fn condition(&self, backend: BackendId) -> Result<Condition, MapError> {
        match self.words.row(backend) {
            RowIndex::NONE => Ok(Condition::RESCHEDULE),
            RowIndex(index) => Ok(self.rows.get(&index, 0)?.condition),
        }
    }

    /// Lets frames to `mac` that come in by the interface `ifindex` be balanced, and packets leave by it: replies of translated flows go
    /// where the client's packets come from.
    pub fn put_interface(&mut self, ifindex: u32, mac: MacAddress) -> Result<(), DataplaneError> {
        self.put_egress(ifindex)?;
        self.interfaces
            .set(ifindex, mac_word(mac), 0)
            .map_err(|source| DataplaneError::Map { name: names::INTERFACES, source })
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

    /// How often what became of flows that were looked up, since the maps were made.
    pub fn tracking(&self) -> Result<Vec<(Tracking, u64)>, MapError> {
        Tracking::ALL.iter().map(|event| Ok((*event, self.tracking.get(&(*event as u32), 0)?.iter().sum()))).collect()
    }

    /// Lets QUIC packets whose connection id names `server` go to `backend`.
    pub fn put_quic_server(&mut self, server: QuicServer, backend: BackendId) -> Result<(), MapError> {
        self.quic_servers.insert(server, backend, 0)
    }

    /// Lets connection ids that name `server` count for nothing, as if it had never been put.
    pub fn remove_quic_server(&mut self, server: QuicServer) -> Result<(), MapError> {
        unless_missing(self.quic_servers.remove(&server))
    }

    /// All QUIC servers, and whose they are.
    pub fn quic_servers(&self) -> Result<Vec<(QuicServer, BackendId)>, MapError> {
        self.quic_servers.iter().collect()
    }

    /// What backends have carried for a service that it no longer has. Together with what its backends have, that is the traffic
    /// of the service.
    pub fn retired_traffic(&self, service: ServiceId) -> Result<Traffic, MapError> {
        self.retired_traffic.get(&service.get(), 0)
    }

    /// Traffic of a backend.
    pub fn backend_traffic(&self, backend: BackendId) -> Result<Traffic, MapError> {
        Ok(sum_of_cpus(&self.backend_traffic.get(&backend.get(), 0)?))
    }

    /// Zeroes the traffic of an id that is given to a new service.
    pub fn reset_service_traffic(&mut self, service: ServiceId) -> Result<(), MapError> {
        self.retired_traffic.set(service.get(), Traffic::default(), 0)
    }

    /// Makes the traffic of a backend a part of that of `service`, for good.
    pub fn retire_traffic(&mut self, service: ServiceId, backend: BackendId) -> Result<(), MapError> {
        let retired = self.retired_traffic(service)? + self.backend_traffic(backend)?;
        self.retired_traffic.set(service.get(), retired, 0)?;
        self.reset_backend_traffic(backend)
    }

    /// Zeroes the traffic of an id that is given to a new backend.
    pub fn reset_backend_traffic(&mut self, backend: BackendId) -> Result<(), MapError> {
        self.backend_traffic.set(backend.get(), no_traffic()?, 0)
    }
}

/// The same, but what was not there has been removed.
fn unless_missing(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(error) if is_missing(&error) => Ok(()),
        removed => removed,
    }
}

fn take_clients(ebpf: &mut Ebpf) -> Result<AffinityClients, DataplaneError> {
    let name = names::AFFINITY_CLIENTS;
    match ebpf.take_map(name) {
        Some(Map::LruHashMap(map)) => Ok(AffinityClients::new(map)),
        _ => Err(DataplaneError::Missing { name }),
    }
}

/// Returns when every packet that was in the program has left it.
///
/// XDP programs run inside RCU read-side critical sections, and `MEMBARRIER_CMD_GLOBAL` waits for a grace period of RCU
/// (membarrier(2)). Kernels with `nohz_full` CPUs refuse it; a packet takes microseconds, so there a long sleep has to do.
pub(super) fn wait_for_packets() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes no pointer.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        thread::sleep(Duration::from_millis(100));
    }
}

fn sum_of_cpus(per_cpu: &PerCpuValues<Traffic>) -> Traffic {
    per_cpu.iter().copied().sum()
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

pub(super) fn map_array(ebpf: &mut Ebpf, name: &'static str, len: usize) -> Result<Mapped, DataplaneError> {
    let Some(Map::Array(data)) = ebpf.take_map(name) else {
        return Err(DataplaneError::Missing { name });
    };
    Mapped::new(data.fd(), len).map_err(|source| DataplaneError::Mapping { name, source })
}
