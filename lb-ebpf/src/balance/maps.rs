//! The maps, and the accessors that need to know how they are laid out.

use core::intrinsics::{AtomicOrdering, atomic_cxchg};

use aya_ebpf::{
    EbpfContext as _, Global,
    btf_maps::{self, ArrayOfMaps},
    helpers::generated::{bpf_check_mtu, bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns},
    macros::{btf_map, map},
    maps::{Array, DevMap, HashMap, LruHashMap, PerCpuArray},
    programs::XdpContext,
};
use lb_common::{
    Address, AffinityClient, AffinityEntry, BackendId, BackendRow, Condition, Connections, Directory, FlowEntry,
    FlowTables, FlowTime, HashKey, MacAddress, NetU16, NetU32, QuicServer, Ring, RowIndex, Scheduler, ServerOf,
    ServiceId, SlotWord, Tracking, Traffic, Verdict, VirtualRouter,
    flow_table::{self, Bucket},
    layout::{self, INNER_MAP, MMAPABLE},
    mac_word,
    nat::{NatRecord, NatSource, NatTable},
};
use lb_ebpf::verifier::veil;

use self::connections::count_connection;
pub use self::{
    affinity::{affinity, affinity_backend, affinity_client, put_affinity_client},
    connections::{
        AllConnections, AllLatencies, connections, exact_time, goes_by_latency, hot_load, latencies, measured,
    },
    nat::{MapRecord, NatBucket, nat_bits, nat_bucket, nat_record, nat_source, nat_wait, virtual_address},
};

mod affinity;
mod connections;
mod nat;

/// Takes memory for entries when they are made (`BPF_F_NO_PREALLOC`).
const NO_PREALLOC: u32 = 1;

#[unsafe(no_mangle)]
static HASH_KEY: Global<HashKey> = Global::new(HashKey::from_bytes([0; 16]));

/// Whether [`TEST_CLOCK`] says what time it is.
#[unsafe(no_mangle)]
static USE_TEST_CLOCK: Global<u8> = Global::new(0);

#[map]
static DIRECTORIES: Array<Directory> = Array::pinned(layout::DIRECTORIES, MMAPABLE);
#[map]
static DIRECTORY_IN_USE: Array<u32> = Array::pinned(1, MMAPABLE);
#[map]
static SLOTS: Array<[u32; layout::CHUNK_SLOTS as usize]> = Array::pinned(layout::SLOT_CHUNKS, MMAPABLE);
#[map]
static SCHEDULERS: Array<u64> = Array::pinned(layout::MAX_SERVICES, MMAPABLE);
/// By backend id. In one element, so that it is found once for all backends that are compared.
#[map]
static CONNECTIONS: Array<[Connections; BackendId::COUNT as usize]> = Array::pinned(1, MMAPABLE);
/// By backend id, in one element for the same reason.
#[map]
static LATENCIES: Array<[u64; BackendId::COUNT as usize]> = Array::pinned(1, MMAPABLE);
#[map]
static HOT_LOADS: Array<u64> = Array::pinned(layout::MAX_SERVICES, MMAPABLE);
/// The turn of each service's rotation that is next on this CPU.
#[map]
static TURNS: PerCpuArray<u32> = PerCpuArray::with_max_entries(layout::MAX_SERVICES, 0);
#[map]
static ROW_OF: Array<RowIndex> = Array::pinned(BackendId::COUNT, MMAPABLE);
#[map]
static ROWS: Array<BackendRow> = Array::pinned(layout::BACKEND_ROWS, 0);
/// The inner maps are made by the daemon, in the size that the configuration asks for.
#[btf_map]
static FLOW_TABLES: ArrayOfMaps<
    btf_maps::Array<[u64; flow_table::WAYS], { 1 << flow_table::MIN_BUCKET_BITS }, { (MMAPABLE | INNER_MAP) as usize }>,
    { layout::FLOW_TABLES as usize },
> = ArrayOfMaps::new();
#[map]
static FLOW_TABLES_IN_USE: Array<FlowTables> = Array::pinned(1, MMAPABLE);
/// The inner maps are made by the daemon, when the first service needs them.
#[btf_map]
static NAT_INDICES: ArrayOfMaps<
    btf_maps::Array<[u64; flow_table::WAYS], { 1 << flow_table::MIN_BUCKET_BITS }, { (MMAPABLE | INNER_MAP) as usize }>,
    { layout::NAT_INDICES as usize },
> = ArrayOfMaps::new();
#[btf_map]
static NAT_RECORDS: ArrayOfMaps<
    btf_maps::Array<
        NatRecord,
        { flow_table::WAYS << flow_table::MIN_BUCKET_BITS },
        { (MMAPABLE | INNER_MAP) as usize },
    >,
    1,
> = ArrayOfMaps::new();
#[map]
static NAT_TABLE: Array<NatTable> = Array::pinned(1, MMAPABLE);
#[map]
static NAT_SOURCES: Array<NatSource> = Array::pinned(layout::NAT_SOURCES, 0);
#[map]
static VIRTUAL_ADDRESSES: Array<Address> = Array::pinned(layout::MAX_SERVICES, 0);
#[map]
static QUIC_SERVERS: HashMap<QuicServer, BackendId> = HashMap::pinned(BackendId::COUNT, NO_PREALLOC);
#[map]
static AFFINITIES: Array<u64> = Array::pinned(layout::MAX_SERVICES, MMAPABLE);
/// Who is not seen for long gives way to others.
#[map]
static AFFINITY_CLIENTS: LruHashMap<AffinityClient, AffinityEntry> = LruHashMap::pinned(layout::AFFINITY_CLIENTS, 0);
#[map]
static AFFINITY_SERVERS: HashMap<ServerOf, BackendId> = HashMap::pinned(BackendId::COUNT, NO_PREALLOC);
#[map]
static TEST_CLOCK: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
static INTERFACES: Array<u64> = Array::pinned(layout::MAX_INTERFACES, 0);
/// The interface on which this node is master of a virtual router; zero: on none.
#[map]
static VIRTUAL_MACS: Array<u32> = Array::pinned(layout::VIRTUAL_ROUTERS, 0);
#[map]
static EGRESS: DevMap = DevMap::pinned(layout::MAX_INTERFACES, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::pinned(Verdict::COUNT as u32, 0);
#[map]
static TRACKING: PerCpuArray<u64> = PerCpuArray::pinned(Tracking::COUNT as u32, 0);
/// What the backends that a service no longer has have carried: the daemon's own note, kept as long as the other counters.
#[map]
static RETIRED_TRAFFIC: Array<Traffic> = Array::pinned(layout::MAX_SERVICES, 0);
#[map]
static BACKEND_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(BackendId::COUNT, 0);

#[inline(always)]
pub fn hash_key() -> HashKey {
    HASH_KEY.load()
}

/// Whether a frame to `destination` that came in by the interface `ifindex` is addressed to this host.
#[inline(always)]
pub fn is_own_mac(ifindex: u32, destination: MacAddress) -> bool {
    INTERFACES.get(ifindex).is_some_and(|known| *known != 0 && *known == mac_word(destination))
}

/// Whether a frame to `destination` that came in by the interface `ifindex` is addressed to a virtual router that this node
/// is master of, there.
#[inline(always)]
pub fn is_own_virtual_mac(ifindex: u32, destination: MacAddress) -> bool {
    let Some(router) = VirtualRouter::with_mac(destination) else {
        return false;
    };
    VIRTUAL_MACS.get_ptr(router.index()).is_some_and(|master_on| load(master_on) == ifindex)
}

/// Reads a word that others may be storing: once, and whole.
#[inline(always)]
fn load<T: Copy>(word: *const T) -> T {
    const { assert!(size_of::<T>() <= size_of::<u64>(), "more is not read whole") };
    // SAFETY: the word lies in a map that lives as long as the program, and an aligned word is stored whole.
    unsafe { word.read_volatile() }
}

/// The directory in use.
#[inline(always)]
pub fn directory() -> Option<&'static Directory> {
    DIRECTORIES.get(load(DIRECTORY_IN_USE.get_ptr(0)?))
}

/// The slot word `index` of chunk `chunk`.
#[inline(always)]
pub fn slot(chunk: u32, index: usize) -> Option<SlotWord> {
    SLOTS.get(chunk)?.get(index).map(|bits| SlotWord::from_bits(load(bits)))
}

/// How new flows of `service` get their backends.
#[inline(always)]
pub fn scheduler(service: ServiceId) -> Scheduler {
    SCHEDULERS.get_ptr(service.get()).map_or(Scheduler::NONE, |word| Scheduler::from_bits(load(word)))
}

/// The next of `turns` turns of a service's rotation, as this CPU counts.
#[inline(always)]
pub fn next_turn(service: ServiceId, turns: u32) -> u32 {
    let Some(next) = TURNS.get_ptr_mut(service.get()) else { return 0 };
    // SAFETY: the number belongs to this CPU, and XDP programs do not interrupt each other on one CPU.
    unsafe {
        let turn = match *next {
            0 => first_turn(turns),
            turn if turn < turns => turn,
            // It was the last, or the rotation has become shorter.
            _ => 0,
        };
        *next = turn + 1;
        turn
    }
}

/// Where this CPU begins in a rotation: the first one with the first turn, and the others far from each other, as each may have but
/// few flows.
#[inline(always)]
fn first_turn(turns: u32) -> u32 {
    /// 2^32 divided by the golden ratio: multiples of it leave no large gap.
    const STEP: u32 = 0x9e37_79b9;
    // SAFETY: the helper takes nothing and returns a number.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    ((u64::from(cpu.wrapping_mul(STEP)) * u64::from(turns)) >> 32) as u32
}

/// A chunk of the slot array.
#[inline(always)]
pub fn chunk(number: u32) -> Option<Chunk> {
    SLOTS.get(number).map(Chunk)
}

/// A chunk of the slot array, which the daemon changes at the same time.
#[derive(Clone, Copy)]
pub struct Chunk(&'static [u32; layout::CHUNK_SLOTS as usize]);

impl Chunk {
    /// The backend at a place, whatever the number says.
    #[inline(always)]
    pub fn backend_at(self, index: u32) -> BackendId {
        const MASK: usize = layout::CHUNK_SLOTS as usize - 1;
        self.0.get(index as usize & MASK).map_or(BackendId::NONE, |bits| SlotWord::from_bits(load(bits)).current())
    }
}

/// The backend at this place of a ring.
#[inline(always)]
pub fn backend_at(ring: Ring, index: u32) -> BackendId {
    let (chunk, index) = ring.locate(index);
    slot(chunk, index).map_or(BackendId::NONE, SlotWord::current)
}

/// The row of `backend`, if the daemon gave it one.
#[inline(always)]
pub fn row(backend: BackendId) -> Option<&'static BackendRow> {
    let index = load(ROW_OF.get_ptr(backend.get())?);
    if index == RowIndex::NONE {
        return None;
    }
    ROWS.get(index.0)
}

/// Whether `backend` takes the packets of the flows that it has. Without a row its flows go elsewhere.
#[inline(always)]
pub fn condition(backend: BackendId) -> Condition {
    row(backend).map_or(Condition::RESCHEDULE, |row| row.condition)
}

/// The backend with that server id.
#[inline(always)]
pub fn quic_server(server: &QuicServer) -> Option<BackendId> {
    // SAFETY: values are never changed in place; a copy of one that goes at this moment is the one of before.
    unsafe { QUIC_SERVERS.get(server) }.copied()
}

/// Which flow tables are in use.
#[inline(always)]
pub fn flow_tables() -> FlowTables {
    FLOW_TABLES_IN_USE.get_ptr(0).map_or(FlowTables::default(), load)
}

/// A bucket of the flow table at `place`.
#[inline(always)]
pub fn bucket(place: u32, bucket: u32, now: FlowTime) -> Option<MapBucket> {
    FLOW_TABLES.get_value_ptr_mut(place, &bucket).map(|bucket| MapBucket(bucket, now))
}

/// The link-layer address of an interface, in half a word and a word.
#[inline(always)]
pub fn own_mac(ifindex: u16) -> Option<(NetU16, NetU32)> {
    let [a, b, c, d, e, f, ..] = INTERFACES.get(u32::from(ifindex))?.to_ne_bytes();
    Some((NetU16::from_wire([a, b]), NetU32::from_wire([c, d, e, f])))
}

/// A bucket in a map, which others change at the same time; with the time, of which the verifier knows nothing.
#[derive(Clone, Copy)]
pub struct MapBucket(*mut [u64; flow_table::WAYS], FlowTime);

impl MapBucket {
    /// A way, whatever the number says.
    #[inline(always)]
    fn way(self, way: usize) -> *mut u64 {
        // SAFETY: the number is below that of the ways.
        unsafe { self.0.cast::<u64>().add(way & (flow_table::WAYS - 1)) }
    }
}

impl Bucket for MapBucket {
    #[inline(always)]
    fn load(&self, way: usize) -> FlowEntry {
        FlowEntry::from_bits(load(self.way(way)))
    }

    #[inline(always)]
    fn swap(&self, way: usize, old: FlowEntry, new: FlowEntry) -> bool {
        // SAFETY: the map lives as long as the program, and its words are changed by atomic instructions only.
        let (_, replaced) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                self.way(way),
                old.to_bits(),
                new.to_bits(),
            )
        };
        replaced
    }

    #[inline(always)]
    fn hand_over(&self, from: BackendId, to: BackendId) {
        count_connection(from.get(), to.get());
    }

    #[inline(always)]
    fn veil(&self, value: usize) -> usize {
        veil(value as u64, self.1.0) as usize
    }
}

/// The time of the coarse monotonic clock, which costs a load where the exact one costs a counter of the processor.
#[inline(always)]
pub fn now() -> FlowTime {
    if USE_TEST_CLOCK.load() != 0 {
        return FlowTime(TEST_CLOCK.get_ptr(0).map_or(0, load));
    }
    // SAFETY: the helper takes nothing and returns a number.
    FlowTime(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Whether the interface `ifindex` takes an IP packet of `len` bytes.
#[inline(always)]
pub fn takes_packet_of(ctx: &XdpContext, ifindex: u32, len: u32) -> bool {
    let mut len = len;
    // SAFETY: the context is the one that the kernel gave to this run of the program; the helper reads and writes one number.
    unsafe { bpf_check_mtu(ctx.as_ptr(), ifindex, &raw mut len, 0, 0) == 0 }
}

/// Sends the packet from the interface `ifindex` when the program is done; `false` if that interface is no egress.
#[inline(always)]
pub fn redirect(ifindex: u32) -> bool {
    EGRESS.redirect(ifindex, 0).is_ok()
}

#[inline(always)]
pub fn count_verdict(verdict: Verdict) {
    count(VERDICTS.get_ptr_mut(verdict as u32));
}

#[inline(always)]
pub fn count_tracking(event: Tracking) {
    count(TRACKING.get_ptr_mut(event as u32));
}

#[inline(always)]
fn count(counter: Option<*mut u64>) {
    if let Some(counter) = counter {
        // SAFETY: the counter belongs to this CPU, and XDP programs do not interrupt each other on one CPU.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub fn count_traffic(backend: BackendId, bytes: u32) {
    if let Some(traffic) = BACKEND_TRAFFIC.get_ptr_mut(backend.get()) {
        // SAFETY: the counter belongs to this CPU, and XDP programs do not interrupt each other on one CPU.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += u64::from(bytes);
        }
    }
}
