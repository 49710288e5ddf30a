//! Names and sizes of the maps.
//!
//! The maps are pinned, so they outlive the daemon; a change of anything in this crate that shows in a map needs a new
//! [`VERSION`], which names the folder of the pins.

/// Version of the map layout.
pub const VERSION: u32 = 5;

/// Lets the daemon map an array into its memory (`BPF_F_MMAPABLE` of linux/bpf.h).
pub const MMAPABLE: u32 = 1 << 10;
/// Lets tables of different sizes stand in one map of maps (`BPF_F_INNER_MAP`).
pub const INNER_MAP: u32 = 1 << 12;

/// Slots in one chunk: 4 KiB, one page of the memory-mapped slot array.
pub const CHUNK_SLOTS: u32 = 1024;
/// Chunks in the slot array: 4,194,304 slots in 16 MiB.
pub const SLOT_CHUNKS: u32 = 4096;
/// The smallest slot table.
pub const MIN_SLOTS: u32 = 1 << 10;
/// The largest slot table.
pub const MAX_SLOTS: u32 = 1 << 16;

/// Service ids, the unused zero among them.
pub const MAX_SERVICES: u32 = 1 << 14;
/// Places for services in the directory: four for each, so that one is found at once.
pub const DIRECTORY_PLACES: usize = 4 * MAX_SERVICES as usize;
/// Directories: the one in use, and the one that is written next.
pub const DIRECTORIES: u32 = 2;
/// Rows: two for each backend id, so that there is always an old one and a new one.
pub const BACKEND_ROWS: u32 = 2 * crate::BackendId::COUNT;
/// Interface indices that the datapath can tell apart.
pub const MAX_INTERFACES: u32 = 1 << 14;
/// Flow tables: the one in use, and one that is being replaced.
pub const FLOW_TABLES: u32 = 2;
/// Arrays of words by place in the table of translated flows: the forward index, the reverse one, and since when clients wait.
pub const NAT_INDICES: u32 = 3;
/// Source addresses that flows can be given.
pub const NAT_SOURCES: u32 = 1 << 10;
/// Clients of which it is remembered which server they have, unless the daemon is told otherwise: some 7 MiB.
pub const AFFINITY_CLIENTS: u32 = 1 << 16;
/// Places for virtual routers: one for each identifier in each address family.
pub const VIRTUAL_ROUTERS: u32 = 2 << 8;

/// Names of the maps and programs in the eBPF objects.
pub mod names {
    /// The balancing program.
    pub const BALANCE: &str = "balance";
    /// The decapsulating program.
    pub const DECAP: &str = "decap";

    /// The two directories of services.
    pub const DIRECTORIES: &str = "DIRECTORIES";
    /// Which directory is in use.
    pub const DIRECTORY_IN_USE: &str = "DIRECTORY_IN_USE";
    /// Chunks of slots.
    pub const SLOTS: &str = "SLOTS";
    /// Backend id → how many connections it has, in one element.
    pub const CONNECTIONS: &str = "CONNECTIONS";
    /// Backend id → how long it takes to answer, in one element.
    pub const LATENCIES: &str = "LATENCIES";
    /// Service id → the load above which its backends are hot.
    pub const HOT_LOADS: &str = "HOT_LOADS";
    /// Service id → how its new flows get their backends.
    pub const SCHEDULERS: &str = "SCHEDULERS";
    /// Backend id → row.
    pub const ROW_OF: &str = "ROW_OF";
    /// Rows.
    pub const ROWS: &str = "ROWS";
    /// Interface index → its MAC address.
    pub const INTERFACES: &str = "INTERFACES";
    /// Virtual router → the interface on which this node is its master.
    pub const VIRTUAL_MACS: &str = "VIRTUAL_MACS";
    /// Interface index → device to redirect to.
    pub const EGRESS: &str = "EGRESS";
    /// The flow tables.
    pub const FLOW_TABLES: &str = "FLOW_TABLES";
    /// Which of them are in use.
    pub const FLOW_TABLES_IN_USE: &str = "FLOW_TABLES_IN_USE";
    /// What became of flows that were looked up.
    pub const TRACKING: &str = "TRACKING";
    /// The program that goes on where addresses are translated.
    pub const TRANSLATE: &str = "translate";
    /// Programs that go on where [`BALANCE`] does not: the first and only one is [`TRANSLATE`].
    pub const PROGRAMS: &str = "PROGRAMS";

    /// The two indices of translated flows, and since when their clients wait for an answer.
    pub const NAT_INDICES: &str = "NAT_INDICES";
    /// The translated flows.
    pub const NAT_RECORDS: &str = "NAT_RECORDS";
    /// How large their table is.
    pub const NAT_TABLE: &str = "NAT_TABLE";
    /// The source addresses that translated flows are given.
    pub const NAT_SOURCES: &str = "NAT_SOURCES";
    /// Service id → virtual IP.
    pub const VIRTUAL_ADDRESSES: &str = "VIRTUAL_ADDRESSES";
    /// Service id → how its clients stay with their servers.
    pub const AFFINITIES: &str = "AFFINITIES";
    /// Client → its server.
    pub const AFFINITY_CLIENTS: &str = "AFFINITY_CLIENTS";
    /// Service and server → the backend that takes its new flows.
    pub const AFFINITY_SERVERS: &str = "AFFINITY_SERVERS";
    /// QUIC server id → backend.
    pub const QUIC_SERVERS: &str = "QUIC_SERVERS";
    /// The time, for a program that was loaded with [`USE_TEST_CLOCK`].
    pub const TEST_CLOCK: &str = "TEST_CLOCK";
    /// Whether the program reads the time from [`TEST_CLOCK`], a constant that is set when it is loaded.
    pub const USE_TEST_CLOCK: &str = "USE_TEST_CLOCK";
    /// Packets per verdict.
    pub const VERDICTS: &str = "VERDICTS";
    /// Traffic per service id that backends have carried which the service no longer has.
    pub const RETIRED_TRAFFIC: &str = "RETIRED_TRAFFIC";
    /// Traffic per backend id.
    pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
    /// The hash key, in words, a constant that is set when the program is loaded.
    pub const HASH_KEY: &str = "HASH_KEY";

    /// Outer destinations that the decapsulating program answers to.
    pub const TUNNEL_ADDRESSES: &str = "TUNNEL_ADDRESSES";
    /// Outer sources that it takes packets from.
    pub const TUNNEL_SOURCES: &str = "TUNNEL_SOURCES";
    /// The UDP port on which it takes GUE, a constant that is set when it is loaded.
    pub const GUE_PORT: &str = "GUE_PORT";
    /// Packets per verdict of the decapsulating program.
    pub const DECAP_VERDICTS: &str = "DECAP_VERDICTS";
}
