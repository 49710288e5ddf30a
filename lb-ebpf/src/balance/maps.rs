//! The maps, and the accessors that need to know how they are laid out.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use aya_ebpf::{
    EbpfContext as _, Global,
    btf_maps::{self, ArrayOfMaps},
    helpers::generated::{bpf_check_mtu, bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::{btf_map, map},
    maps::{Array, DevMap, HashMap, LruHashMap, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use lb_common::{
    Address, Affinity, AffinityClient, AffinityEntry, BackendId, BackendRow, Condition, Connections, Directory,
    FlowEntry, FlowTables, FlowTime, HashKey, HotLoad, Latency, MacAddress, NetU16, NetU32, Policy, QuicServer, Ring,
    RowIndex, Scheduler, ServerOf, ServiceId, SlotWord, Tally, Tracking, Traffic, Verdict, VirtualRouter,
    flow_table::{self, Bucket, BucketBits},
    layout::{self, INNER_MAP, MMAPABLE},
    mac_word,
    nat::{NatRecord, NatSource, NatState, NatTable, RecordIndex, Ways},
};
use lb_ebpf::verifier::{below, veil};

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
static PROGRAMS: ProgramArray = ProgramArray::pinned(1, 0);
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

/// What is known of the connections of backends.
#[inline(always)]
pub fn connections() -> Option<AllConnections> {
    CONNECTIONS.get_ptr_mut(0).map(|all| AllConnections(all.cast()))
}

/// The connections of all backends, in a map that others change at the same time.
#[derive(Clone, Copy)]
pub struct AllConnections(*mut Connections);

impl AllConnections {
    #[inline(always)]
    fn place(self, backend: BackendId) -> *mut Connections {
        // SAFETY: the map has a place for each number that is below that of the ids.
        unsafe { self.0.add(below::<{ BackendId::COUNT }>(backend.get())) }
    }

    /// Those of `backend`: each number whole, and of about the same time.
    #[inline(always)]
    pub fn of(self, backend: BackendId) -> Connections {
        let place = self.place(backend);
        // SAFETY: the fields lie in a map that lives as long as the program.
        let (tally, weight, limit) =
            unsafe { (&raw const (*place).tally, &raw const (*place).weight, &raw const (*place).limit) };
        Connections { tally: load(tally), weight: load(weight), limit: load(limit) }
    }

    #[inline(always)]
    fn add(self, backend: BackendId, change: u64) {
        // SAFETY: the map lives as long as the program, and the tally, an aligned word, is changed by atomic instructions only.
        unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>((&raw mut (*self.place(backend)).tally).cast(), change);
        }
    }
}

/// How long backends take to answer.
#[inline(always)]
pub fn latencies() -> Option<AllLatencies> {
    LATENCIES.get_ptr_mut(0).map(|all| AllLatencies(all.cast()))
}

/// The latencies of all backends, in a map that others change at the same time.
#[derive(Clone, Copy)]
pub struct AllLatencies(*mut u64);

impl AllLatencies {
    #[inline(always)]
    fn place(self, backend: BackendId) -> *mut u64 {
        // SAFETY: the map has a place for each number that is below that of the ids.
        unsafe { self.0.add(below::<{ BackendId::COUNT }>(backend.get())) }
    }

    /// That of `backend`.
    #[inline(always)]
    pub fn of(self, backend: BackendId) -> Latency {
        Latency::from_bits(load(self.place(backend)))
    }

    #[inline(always)]
    fn store(self, backend: BackendId, latency: Latency) {
        // SAFETY: the word lies in a map that lives as long as the program, and an aligned word is stored whole.
        unsafe { self.place(backend).write_volatile(latency.to_bits()) };
    }
}

/// The load above which the backends of `service` are hot.
#[inline(always)]
pub fn hot_load(service: ServiceId) -> HotLoad {
    HOT_LOADS.get_ptr(service.get()).map_or(HotLoad::default(), |word| HotLoad(load(word)))
}

/// The present as [`note_answer`] takes it, if it matters to a new flow of `service` how long backends take to answer, else zero.
#[inline(always)]
pub fn begin_to_wait(service: ServiceId) -> u32 {
    if scheduler(service).policy() == Policy::FASTEST { exact_time() as u32 | 1 } else { 0 }
}

/// Takes note that `backend` has answered to what was sent to it at `since`, if somebody has begun to wait then.
///
/// A function of its own, so that the verifier follows it once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_answer(backend: u32, since: u32) -> u32 {
    let Some(all) = latencies() else { return 0 };
    if since == 0 {
        return 0;
    }
    let backend = BackendId::truncate(backend);
    let waited = (exact_time() as u32).wrapping_sub(since);
    // What others measure at the same moment may be lost: see `Latency`.
    all.store(backend, all.of(backend).measured(waited, now()));
    0
}

/// The same for who has no numbers.
#[inline(always)]
pub fn answered(backend: BackendId, since: u32) {
    note_answer(backend.get(), since);
}

/// The exact monotonic clock, in nanoseconds.
#[inline(always)]
fn exact_time() -> u64 {
    if USE_TEST_CLOCK.load() != 0 {
        return now().0;
    }
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_ns() }
}

/// Counts that an active connection is no more `from`'s, and is `to`'s.
///
/// A function of its own, so that the verifier follows it once for each change of an entry.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn count_connection(from: u32, to: u32) -> u32 {
    let (from, to) = (BackendId::truncate(from), BackendId::truncate(to));
    let Some(all) = connections() else { return 0 };
    if from != BackendId::NONE {
        all.add(from, Tally::ENDED);
    }
    if to != BackendId::NONE {
        all.add(to, Tally::BEGUN);
    }
    0
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

/// How the clients of `service` stay with their servers.
#[inline(always)]
pub fn affinity(service: ServiceId) -> Affinity {
    AFFINITIES.get_ptr(service.get()).map_or(Affinity::NONE, |word| Affinity::from_bits(load(word)))
}

/// What is known of a client. Its place may become another client's at any time.
#[inline(always)]
pub fn affinity_client(client: &AffinityClient) -> Option<MapClient> {
    AFFINITY_CLIENTS.get_ptr_mut(client).map(MapClient)
}

/// Remembers which server a client has. If there is no room, it has none.
#[inline(always)]
pub fn put_affinity_client(client: &AffinityClient, entry: &AffinityEntry) {
    let _ = AFFINITY_CLIENTS.insert(client, entry, 0);
}

/// The backend that takes new flows for a server.
#[inline(always)]
pub fn affinity_backend(server: &ServerOf) -> Option<BackendId> {
    // SAFETY: values are never changed in place; a copy of one that goes at this moment is the one of before.
    unsafe { AFFINITY_SERVERS.get(server) }.copied()
}

/// What is known of a client, in a map that others change at the same time: whoever reads a mixture of two finds some server of his
/// service, or none.
#[derive(Clone, Copy)]
pub struct MapClient(*mut AffinityEntry);

impl MapClient {
    #[inline(always)]
    pub fn get(self) -> AffinityEntry {
        // SAFETY: the entry lies in a map that lives as long as the program; any bytes are one.
        unsafe { self.0.read_volatile() }
    }

    /// Writes down that a new flow has come.
    #[inline(always)]
    pub fn see(self, now: FlowTime) {
        // SAFETY: the entry lies in a map that lives as long as the program, and an aligned word is stored whole.
        unsafe { (&raw mut (*self.0).seen).write_volatile(now.0) };
    }
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

/// How large the table of translated flows is, if there is one.
#[inline(always)]
pub fn nat_bits() -> Option<BucketBits> {
    NAT_TABLE.get_ptr(0).map(load)?.bits()
}

/// A bucket of an index of translated flows.
#[inline(always)]
pub fn nat_bucket(index: u32, bucket: u32, unknown: u64) -> Option<NatBucket> {
    NAT_INDICES.get_value_ptr_mut(index, &bucket).map(|bucket| NatBucket(MapBucket(bucket, FlowTime(unknown))))
}

/// A translated flow.
#[inline(always)]
pub fn nat_record(index: RecordIndex) -> Option<MapRecord> {
    NAT_RECORDS.get_value_ptr_mut(0, &index.0).map(MapRecord)
}

/// A source of translated flows.
#[inline(always)]
pub fn nat_source(number: u16) -> Option<&'static NatSource> {
    NAT_SOURCES.get(u32::from(number))
}

/// The virtual IP of a service.
#[inline(always)]
pub fn virtual_address(service: u16) -> Option<&'static Address> {
    VIRTUAL_ADDRESSES.get(u32::from(service))
}

/// The link-layer address of an interface, in half a word and a word.
#[inline(always)]
pub fn own_mac(ifindex: u16) -> Option<(NetU16, NetU32)> {
    let [a, b, c, d, e, f, ..] = INTERFACES.get(u32::from(ifindex))?.to_ne_bytes();
    Some((NetU16::from_wire([a, b]), NetU32::from_wire([c, d, e, f])))
}

/// A record in a map, which others change at the same time.
#[derive(Clone, Copy)]
pub struct MapRecord(*mut NatRecord);

impl MapRecord {
    #[inline(always)]
    pub fn state(self) -> NatState {
        // SAFETY: the record lies in a map that lives as long as the program.
        NatState::from_bits(load(unsafe { &raw const (*self.0).state }.cast()))
    }

    /// The hash of the client's packets, as it is at this moment.
    #[inline(always)]
    pub fn hash(self) -> u64 {
        // SAFETY: as for `state`.
        load(unsafe { &raw const (*self.0).hash })
    }

    /// The place in the reverse index, as it is at this moment.
    #[inline(always)]
    pub fn reverse(self) -> RecordIndex {
        // SAFETY: as for `state`.
        load(unsafe { &raw const (*self.0).reverse })
    }

    /// Compare-and-swap of the state; whether it was `old`. Whoever makes the change counts it: so the numbers of active connections
    /// are exact.
    #[inline(always)]
    pub fn replace_state(self, old: NatState, new: NatState) -> bool {
        // SAFETY: as for `state`; it is changed by atomic instructions only.
        let (_, replaced) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                (&raw mut (*self.0).state).cast(),
                old.to_bits(),
                new.to_bits(),
            )
        };
        if replaced && old.holder() != new.holder() {
            count_connection(old.holder().get(), new.holder().get());
        }
        replaced
    }

    /// The record, to be read: what of it changes while it is alive is the state, for which there is [`MapRecord::state`], and words
    /// of which each stands for itself.
    #[inline(always)]
    pub fn get(self) -> &'static NatRecord {
        // SAFETY: the record lies in a map that lives as long as the program; whoever writes the rest of it has claimed its
        // place, and nobody reads it before it is alive.
        unsafe { &*self.0 }
    }

    /// Changes the record as `write` says: one of ours that is not yet alive, or words of which each stands for itself.
    #[inline(always)]
    pub fn update(self, write: impl FnOnce(&mut NatRecord)) {
        // SAFETY: as for `get`; nothing that is read at the same time has to fit to what is written.
        write(unsafe { &mut *self.0 });
    }
}

/// A bucket of an index of translated flows.
#[derive(Clone, Copy)]
pub struct NatBucket(MapBucket);

impl Ways for NatBucket {
    #[inline(always)]
    fn load(&self, way: usize) -> u64 {
        load(self.0.way(way))
    }

    #[inline(always)]
    fn replace(&self, way: usize, old: u64, new: u64) -> bool {
        self.0.swap(way, FlowEntry::from_bits(old), FlowEntry::from_bits(new))
    }

    #[inline(always)]
    fn veil(&self, value: usize) -> usize {
        Bucket::veil(&self.0, value)
    }
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

/// Goes on in the program that translates. It returns only if that is not there, with what becomes of the packet then.
#[inline(always)]
pub fn go_on_in_translate(ctx: &XdpContext) -> Verdict {
    // SAFETY: the program takes the same context, and nothing of this one is needed any more.
    unsafe { PROGRAMS.tail_call(ctx, 0) };
    Verdict::DropInternal
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
