//! The datapath as the daemon sees it: loading and attaching the programs, pinning what has to outlive the daemon, and
//! the maps.

mod attach;
mod bpf;
mod clients;
mod connections;
mod decap;
mod error;
mod flow_tables;
mod latencies;
mod mapped;
mod maps;
mod migrate;
mod nat;
pub mod object;
mod pins;
mod programs;
mod virtual_macs;
mod words;

use std::{path::Path, sync::Arc};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData},
    programs::Xdp,
};
use lb_common::{
    HashKey,
    flow_table::BucketBits,
    layout::{self, names},
};

pub use attach::{AttachMode, Attachment, interface_index};
pub use clients::AffinityClients;
pub use connections::Connections;
pub use decap::{Decap, Network};
pub use error::DataplaneError;
pub use flow_tables::{FlowTable, FlowTables, ListedFlow, Opened, Sweep, flow_time, flows, sweep};
pub use latencies::Latencies;
pub use maps::Maps;
pub use migrate::{Downgraded, downgrade};
pub use nat::{NatSweep, NatTable, NatTables, NatUsage, sweep_nat};
pub use pins::Pins;
pub use virtual_macs::VirtualMacs;
pub use words::Words;

use self::{
    flow_tables::{Places, flow_table_pins},
    programs::Programs,
};

/// How much the eBPF programs log. Off, the verifier removes the logging code, so it costs nothing.
pub type LogLevel = Option<log::Level>;

/// The loaded balancing program and its maps.
pub struct Dataplane {
    ebpf: Ebpf,
    /// The maps.
    pub maps: Maps,
    /// The table of translated flows.
    pub nat: NatTables,
    pins: Pins,
    /// The table of clients that the program of before goes on to use, where this one has another.
    clients_before: Option<AffinityClients>,
    programs: Programs,
}

impl Dataplane {
    /// Loads the program; the maps are those pinned in `pins`, as an earlier daemon left them, also one of the layout before, or
    /// new ones that are pinned there. The table of clients that stay with their servers has room for `clients`.
    pub fn load(pins: &Path, hash_key: HashKey, clients: u32, log_level: LogLevel) -> Result<Self, DataplaneError> {
        Self::load_with(pins, hash_key, clients, log_level, false)
    }

    /// For tests: as [`Dataplane::load`], with a clock that stands still. What the array holds is the time, in nanoseconds.
    pub fn load_with_test_clock(pins: &Path, hash_key: HashKey) -> Result<(Self, Array<MapData, u64>), DataplaneError> {
        let mut dataplane = Self::load_with(pins, hash_key, layout::AFFINITY_CLIENTS, None, true)?;
        let clock = maps::take(&mut dataplane.ebpf, names::TEST_CLOCK)?;
        Ok((dataplane, clock))
    }

    fn load_with(
        pins: &Path,
        hash_key: HashKey,
        clients: u32,
        log_level: LogLevel,
        use_test_clock: bool,
    ) -> Result<Self, DataplaneError> {
        let pins = Pins::create(pins)?;
        migrate::upgrade(&pins)?;
        let clients_before = AffinityClients::resize(&pins.maps(), clients)?;
        let key = hash_key.to_words();
        let mut ebpf = EbpfLoader::new()
            .default_map_pin_directory(pins.maps())
            .map_pin_path(names::FLOW_TABLES, pins.maps().join(names::FLOW_TABLES))
            .map_pin_path(names::NAT_INDICES, pins.maps().join(names::NAT_INDICES))
            .map_pin_path(names::NAT_RECORDS, pins.maps().join(names::NAT_RECORDS))
            .map_max_entries(names::AFFINITY_CLIENTS, clients)
            .override_global(names::HASH_KEY, &key[..], true)
            .override_global(names::USE_TEST_CLOCK, &u8::from(use_test_clock), true)
            .override_global(aya_log::LEVEL, &aya_level(log_level), true)
            .load(object::BALANCE)
            .map_err(DataplaneError::Load)?;
        program_of(&mut ebpf, names::BALANCE)?.load().map_err(DataplaneError::Verify)?;
        let programs = Programs::put(&mut ebpf, &pins.maps())?;
        let maps = Maps::take_from(&mut ebpf)?;
        let nat = open_nat(&mut ebpf, &pins, maps.connections())?;
        Ok(Self { ebpf, maps, nat, pins, clients_before, programs })
    }

    /// Takes in the clients that have come to the program of before since this one was loaded, when it is attached everywhere. Where the
    /// table of clients has got another size, how large it was.
    pub fn take_in_clients(&mut self) -> Result<Option<u32>, DataplaneError> {
        let Some(before) = self.clients_before.take() else { return Ok(None) };
        self.maps.affinity_clients().take_in(&before)?;
        before.size().map(Some)
    }

    /// The flow table: the one that an earlier daemon left, or a new one. It has `size` in the end, unless its flows would not
    /// fit. Flows without a packet for `idle_ticks` give their way to others, see [`lb_common::flow_table::idle_ticks`].
    pub fn open_flow_tables(
        &mut self,
        size: BucketBits,
        idle_ticks: u8,
    ) -> Result<(FlowTables, Opened), DataplaneError> {
        let outer = take_outer(&mut self.ebpf, names::FLOW_TABLES)?;
        let in_use = maps::map_array(&mut self.ebpf, names::FLOW_TABLES_IN_USE, size_of::<lb_common::FlowTables>())?;
        let connections = self.maps.connections();
        FlowTables::open(Places { outer, in_use, folder: self.pins.maps(), connections }, size, idle_ticks)
    }

    /// The balancing program.
    pub fn program(&mut self) -> Result<&mut Xdp, DataplaneError> {
        program_of(&mut self.ebpf, names::BALANCE)
    }

    /// A reader of what the program logs, for a program that was loaded with a log level.
    pub fn logger(&mut self) -> Result<aya_log::EbpfLogger<&'static dyn log::Log>, aya_log::Error> {
        aya_log::EbpfLogger::init(&mut self.ebpf)
    }
}

fn open_nat(ebpf: &mut Ebpf, pins: &Pins, connections: Arc<Connections>) -> Result<NatTables, DataplaneError> {
    let indices = take_outer(ebpf, names::NAT_INDICES)?;
    let records = take_outer(ebpf, names::NAT_RECORDS)?;
    // Array maps round each element up to 8 bytes.
    let word = maps::map_array(ebpf, names::NAT_TABLE, size_of::<u64>())?;
    NatTables::open(indices, records, word, &pins.maps(), connections)
}

fn take_outer(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, DataplaneError> {
    match ebpf.take_map(name) {
        Some(Map::ArrayOfMaps(outer)) => Ok(outer),
        _ => Err(DataplaneError::Missing { name }),
    }
}

fn program_of<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, DataplaneError> {
    ebpf.program_mut(name).ok_or(DataplaneError::Missing { name })?.try_into().map_err(DataplaneError::Verify)
}

/// aya-log counts levels from 1, errors, to 5, traces; 0 is off.
pub(super) fn aya_level(level: LogLevel) -> u8 {
    level.map_or(0, |level| level as u8)
}
