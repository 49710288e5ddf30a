//! The loaded balancer and its maps.

use std::{net::IpAddr, path::Path, process::Command, sync::Arc};

use aya::{
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::Xdp,
};
use etherparse::IpNumber;
use lb_common::{
    Address, BackendId, BackendRow, HashKey, NetU16, RowIndex, Service, ServiceEntry, ServiceId, ServiceKey, SlotWord,
    Tracking, Traffic, Verdict,
    flow_table::BucketBits,
    layout::{self, names},
};
use lb_tests::lab::run;
use lb_userspace::{
    dataplane::{Dataplane, DataplaneError, FlowTables, Maps, NatTable, Sweep, VirtualMacs, sweep},
    model::Subject,
};

use crate::{
    backend::Backend,
    case::{Action, Datapath, Outcome, increments, test_run, test_run_on},
    flow_table::{FlowTable, SMALLEST},
    frame::Frame,
    sandbox::Sandbox,
    world::{BACKEND, FAMILIES, Family, INGRESS_IFINDEX, OTHER_IFINDEX, OWN_MAC, PROTOCOLS, SERVICE, SERVICE_PORT},
};

/// The key of the flow hash.
pub(crate) const HASH_KEY: [u8; 16] = *b"a key for tests!";

/// What the clock of the tests shows, in nanoseconds, until a case sets it.
pub(crate) const NOW: u64 = 1_000_000_000_000_000;
/// How long flows live without a packet, in ticks of 34.4 s.
pub(crate) const IDLE_TICKS: u8 = 9;

/// The balancing program and its maps.
pub(crate) struct Balancer {
    dataplane: Dataplane,
    tables: FlowTables,
    clock: Option<Array<MapData, u64>>,
    flow_table: FlowTable,
    tracking: PerCpuArray<MapData, u64>,
    /// The service ids and backend ids whose traffic is watched.
    watched: Vec<BackendId>,
    /// The counters after the last run.
    counted: Counted,
    services: Vec<ServiceEntry>,
    /// The addresses that replies of translated flows come to or from.
    translated: Vec<Address>,
    chunks: u32,
    rows: u32,
    sandbox: Sandbox,
}

impl Balancer {
    /// Without services, and with a clock that stands still; `None`, and a loud notice, without root.
    pub(crate) fn empty() -> Option<Self> {
        Self::loaded(|pins, hash_key| {
            let (dataplane, mut clock) = Dataplane::load_with_test_clock(pins, hash_key)?;
            clock.set(0, NOW, 0).expect("the clock can be set");
            Ok((dataplane, Some(clock)))
        })
    }

    /// As it is outside of tests.
    pub(crate) fn with_the_clock_of_the_kernel() -> Option<Self> {
        Self::loaded(|pins, hash_key| Ok((Dataplane::load(pins, hash_key, layout::AFFINITY_CLIENTS, None)?, None)))
    }

    fn loaded(
        load: impl FnOnce(&Path, HashKey) -> Result<(Dataplane, Option<Array<MapData, u64>>), DataplaneError>,
    ) -> Option<Self> {
        let sandbox = Sandbox::enter()?;
        add_other_interface();
        let (mut dataplane, clock) =
            load(sandbox.pins(), HashKey::from_bytes(HASH_KEY)).expect("the program can be loaded");
        let bits = BucketBits::new(SMALLEST).expect("a size");
        let (tables, _) = dataplane.open_flow_tables(bits, IDLE_TICKS).expect("there can be a flow table");
        let maps = &mut dataplane.maps;
        maps.put_interface(INGRESS_IFINDEX, OWN_MAC).expect("the interface map takes it");
        maps.put_egress(OTHER_IFINDEX).expect("the interface can be redirected to");
        let mut balancer = Self {
            dataplane,
            tables,
            clock,
            flow_table: FlowTable::open(&sandbox, 0, SMALLEST),
            tracking: PerCpuArray::try_from(Map::PerCpuArray(sandbox.map(names::TRACKING)))
                .expect("an array of counters"),
            watched: Vec::new(),
            counted: Counted::default(),
            services: Vec::new(),
            translated: Vec::new(),
            chunks: 0,
            rows: 0,
            sandbox,
        };
        balancer.counted = balancer.count();
        Some(balancer)
    }

    /// With the virtual IPs of both families, whose TCP and UDP service on [`SERVICE_PORT`] has one backend,
    /// [`BACKEND`], reached by L2-DSR until a case says otherwise.
    pub(crate) fn with_one_backend() -> Option<Self> {
        let mut balancer = Self::empty()?;
        let owners = vec![SlotWord::stable(BACKEND); layout::MIN_SLOTS as usize];
        let service = balancer.put_slots(SERVICE, &owners);
        balancer.put_services(keys(SERVICE_PORT), service);
        balancer.put_row(BACKEND, &Backend::L2_DSR.row(Family::V4));
        Some(balancer)
    }

    /// Gives a service a slot table; it is not found until [`Balancer::put_services`].
    pub(crate) fn put_slots(&mut self, id: ServiceId, slots: &[SlotWord]) -> Service {
        let slot_count = u32::try_from(slots.len()).expect("a table has at most 65,536 slots");
        let service = Service { id, first_chunk: self.chunks, slot_mask: slot_count - 1, ..Service::default() };
        self.chunks += u32::try_from(slots.len()).expect("a table has at most 65,536 slots") / layout::CHUNK_SLOTS;
        for (slot, word) in (0..).zip(slots) {
            self.dataplane.maps.store_slot(&service, slot, *word);
        }
        service
    }

    /// Makes packets for these keys belong to `service`.
    pub(crate) fn put_services(&mut self, keys: impl IntoIterator<Item = ServiceKey>, service: Service) {
        for key in keys {
            self.services.retain(|entry| entry.key != key);
            self.services.push(ServiceEntry { key, service });
        }
        self.store_services();
    }

    pub(crate) fn remove_service(&mut self, key: ServiceKey) {
        self.services.retain(|entry| entry.key != key);
        self.store_services();
    }

    fn store_services(&mut self) {
        self.dataplane.maps.store_services(&self.services, &self.translated).expect("the directory takes them");
    }

    /// Replaces the row of a backend, as the daemon does: at a place that is not in use.
    pub(crate) fn put_row(&mut self, backend: BackendId, row: &BackendRow) {
        // Row 0 is never written.
        self.rows = self.rows % (layout::BACKEND_ROWS - 1) + 1;
        self.dataplane.maps.put_row(backend, RowIndex(self.rows), row).expect("the row map takes it");
        self.watch(backend);
    }

    /// Makes the table of translated flows, in its smallest size, and lets replies come to, or from, these addresses.
    pub(crate) fn translate(&mut self, replies: &[IpAddr]) {
        let bits = BucketBits::new(SMALLEST).expect("a size");
        self.dataplane.nat.ensure(bits).expect("there can be a table of translated flows");
        self.translated.extend(replies.iter().map(|address| Address::from(*address)));
        self.store_services();
    }

    /// The table of translated flows.
    pub(crate) fn nat_table(&self) -> Arc<NatTable> {
        self.dataplane.nat.table().expect("it was made")
    }

    /// What becomes of a frame, and the frame then; nothing is counted, so that it can be done often. Whoever counts after that
    /// has to [`Balancer::recount`].
    pub(crate) fn run_only(&mut self, frame: &[u8]) -> (Action, Vec<u8>) {
        test_run(self.program(), frame)
    }

    /// What becomes of a frame that comes in by this interface.
    pub(crate) fn run_on(&mut self, ifindex: u32, frame: &[u8]) -> Outcome<Verdict> {
        let (action, out) = test_run_on(ifindex, self.program(), frame);
        let counted = self.count();
        let outcome = Outcome {
            action,
            verdicts: increments(&self.counted.verdicts, &counted.verdicts),
            traffic: traffic_increments(&self.counted.traffic, &counted.traffic),
            tracking: increments(&self.counted.tracking, &counted.tracking),
            flows: self.flow_table.entries(),
            frame: out,
        };
        self.counted = counted;
        outcome
    }

    /// Lets what was counted until now count for nothing.
    pub(crate) fn recount(&mut self) {
        self.counted = self.count();
    }

    /// The map of virtual routers, as another process opens it.
    pub(crate) fn virtual_macs(&self) -> VirtualMacs {
        VirtualMacs::new(self.sandbox.pins())
    }

    pub(crate) fn maps(&mut self) -> &mut Maps {
        &mut self.dataplane.maps
    }

    /// Sets the clock to `now` nanoseconds.
    pub(crate) fn set_time(&mut self, now: u64) {
        let clock = self.clock.as_mut().expect("the time can be set where it stands still");
        clock.set(0, now, 0).expect("the clock can be set");
    }

    /// The flow table that packets use, until a test says otherwise.
    pub(crate) fn flow_table(&self) -> &FlowTable {
        &self.flow_table
    }

    /// Takes `table` for the one that packets use.
    pub(crate) fn put_flow_table(&mut self, table: FlowTable) {
        self.flow_table = table;
    }

    /// Forgets all flows, as the daemon does.
    pub(crate) fn forget_flows(&self) {
        self.tables.table().clear();
    }

    /// Lets the daemon sweep the flow table.
    pub(crate) fn sweep(&self, subjects: &mut [Subject]) -> Sweep {
        sweep(&self.tables.table(), self.dataplane.nat.table().as_deref(), &self.dataplane.maps.words(), subjects)
    }

    /// The folder of pins.
    pub(crate) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Tells packets which tables there are, by the word for it.
    pub(crate) fn use_tables(&self, word: u64) {
        let map = Map::Array(self.sandbox.map(names::FLOW_TABLES_IN_USE));
        let mut map = Array::<_, u64>::try_from(map).expect("an array of one word");
        map.set(0, word, 0).expect("the word can be set");
    }

    /// Lets the QUIC server id `id` of a service, up to 15 bytes, stand for `backend`.
    pub(crate) fn put_quic_server(&self, service: ServiceId, id: &[u8], backend: BackendId) {
        let mut padded = [0; 16];
        padded[..id.len()].copy_from_slice(id);
        // Two numbers in the byte order of the host, then the service, then four zeros.
        let (numbers, []) = padded.as_chunks() else { unreachable!("16 bytes are twice 8") };
        let mut key: Vec<u8> = numbers.iter().flat_map(|bytes| u64::from_be_bytes(*bytes).to_ne_bytes()).collect();
        key.extend(service.get().to_ne_bytes());
        key.extend([0; 4]);
        let key: [u8; 24] = key.try_into().expect("24 bytes");
        let map = Map::HashMap(self.sandbox.map(names::QUIC_SERVERS));
        let mut map = HashMap::<_, [u8; 24], u32>::try_from(map).expect("a hash map");
        map.insert(key, backend.get(), 0).expect("the server can be put");
    }

    /// Expects, from now on, that the traffic of this backend goes up when the case says so, and else stays.
    pub(crate) fn watch(&mut self, backend: BackendId) {
        if !self.watched.contains(&backend) {
            self.watched.push(backend);
            self.counted = self.count();
        }
    }

    fn count(&self) -> Counted {
        let maps = &self.dataplane.maps;
        let traffic = |&backend| (backend, maps.backend_traffic(backend).expect("the counters can be read"));
        Counted {
            verdicts: maps.verdicts().expect("the counters can be read"),
            traffic: self.watched.iter().map(traffic).collect(),
            tracking: Tracking::ALL.iter().map(|event| (*event, self.count_of(*event))).collect(),
        }
    }

    fn count_of(&self, event: Tracking) -> u64 {
        self.tracking.get(&(event as u32), 0).expect("the counters can be read").iter().sum()
    }

    /// The number of the backend that `frame` is sent to, one of [`crate::backend::Backend::numbered`], if it is sent to one.
    /// Without all that [`Datapath::run`] looks at: for many packets.
    pub(crate) fn reached(&mut self, frame: &[u8]) -> Option<u8> {
        let (_, out) = test_run(self.program(), frame);
        match out[..6] {
            [0x02, 0, 0, 0, 2, number] => Some(number),
            _ => None,
        }
    }

    /// What becomes of `frame`, after packets for [`Balancer::reached`].
    pub(crate) fn verdict(&mut self, frame: &[u8]) -> Verdict {
        self.counted = self.count();
        let [(verdict, 1)] = self.run(frame).verdicts[..] else { panic!("a packet has one verdict") };
        verdict
    }

    fn program(&mut self) -> &Xdp {
        self.dataplane.program().expect("the program is loaded")
    }
}

impl Datapath for Balancer {
    type Verdict = Verdict;
    /// Rows to put, or to take away, before the run.
    type Setup = Vec<(BackendId, Option<BackendRow>)>;

    fn prepare(&mut self, setup: &Self::Setup) {
        for (backend, row) in setup {
            match row {
                Some(row) => self.put_row(*backend, row),
                None => self.dataplane.maps.remove_row(*backend),
            }
        }
    }

    fn run(&mut self, frame: &[u8]) -> Outcome<Verdict> {
        self.run_on(INGRESS_IFINDEX, frame)
    }
}

/// What the counters say.
#[derive(Default)]
struct Counted {
    verdicts: Vec<(Verdict, u64)>,
    traffic: Vec<(BackendId, Traffic)>,
    tracking: Vec<(Tracking, u64)>,
}

/// A line of a table for the balancer.
pub(crate) type Case = crate::case::Case<Balancer>;

impl Case {
    /// The frame leaves for `backend` as it has to.
    pub(crate) fn forwards(description: impl Into<String>, family: Family, backend: &Backend, frame: &Frame) -> Self {
        Self {
            description: description.into(),
            setup: vec![(BACKEND, Some(backend.row(family)))],
            frame: frame.to_bytes(),
            expected: backend.receives(frame),
        }
    }

    /// The frame goes to the kernel as it is.
    pub(crate) fn passes(description: impl Into<String>, verdict: Verdict, frame: Vec<u8>) -> Self {
        let expected = Outcome::passed(verdict, &frame);
        Self { description: description.into(), setup: Vec::new(), frame, expected }
    }
}

pub(crate) fn key(address: IpAddr, port: u16, protocol: IpNumber) -> ServiceKey {
    ServiceKey::new(Address::from(address), NetU16::new(port), protocol.0)
}

/// TCP and UDP on `port` of the virtual IPs of both families.
pub(crate) fn keys(port: u16) -> impl Iterator<Item = ServiceKey> {
    FAMILIES.into_iter().flat_map(move |family| PROTOCOLS.map(|protocol| key(family.virtual_ip(), port, protocol)))
}

fn traffic_increments(before: &[(BackendId, Traffic)], after: &[(BackendId, Traffic)]) -> Vec<(BackendId, Traffic)> {
    let difference = |(&(backend, before), &(_, after)): (&(BackendId, Traffic), &(BackendId, Traffic))| {
        (backend, Traffic { packets: after.packets - before.packets, bytes: after.bytes - before.bytes })
    };
    before.iter().zip(after).map(difference).filter(|(_, traffic)| *traffic != Traffic::default()).collect()
}

/// Creates an interface to redirect to.
fn add_other_interface() {
    let index = OTHER_IFINDEX.to_string();
    let arguments = ["link", "add", "name", "other", "index", &index, "type", "veth", "peer", "name", "peer"];
    run(Command::new("ip").args(arguments)).expect("a pair of interfaces can be created");
}
