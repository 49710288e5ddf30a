//! The loaded program, its maps, and its clock.

use std::{net::IpAddr, sync::atomic::Ordering};

use aya::{
    maps::{Array, HashMap, Map, MapData},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    Address, BackendId, BackendRow, Condition, Encapsulation, HashKey, MacAddress, NetU16, QuicIds, RowIndex, Service,
    ServiceEntry, ServiceId, ServiceKey, SlotWord, Tracking, Verdict,
    flow_table::BucketBits,
    layout::{self, names},
};
use lb_userspace::dataplane::Dataplane;

use crate::{
    clients::{Client, Kind, Protocol, ROTATION, VIRTUAL_IP, VIRTUAL_IP_V6},
    flow_table::{Entry, FlowTable, SMALLEST},
    sandbox::Sandbox,
};

/// The key of the flow hash.
pub(crate) const HASH_KEY: [u8; 16] = *b"a key for models";
/// Of the balancer's interface.
pub(crate) const OWN_MAC: MacAddress = [2, 0, 0, 0, 0, 1];
/// Of the router that the clients' packets come from.
pub(crate) const ROUTER_MAC: MacAddress = [2, 0, 0, 0, 0, 2];
/// How long flows live without a packet, in ticks of 34.4 s: more than 309 s.
const IDLE_TICKS: u8 = 9;
/// The interface that test runs come in by: the loopback device of the network namespace.
const IFINDEX: u16 = 1;
/// Backends have the numbers from 1 to this.
pub(crate) const BACKENDS: u16 = 5;
/// What the clock shows at first, in nanoseconds.
pub(crate) const START: u64 = 1_000_000_000_000_000;

/// Whether a backend takes packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Serving,
    /// It has no row.
    Removed,
    Rescheduling,
    Resetting,
}

/// Who got a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    Backend(u16),
    /// The client, as a reset.
    ResetToClient,
    Nobody,
}

/// How often it was counted what became of packets and flows, in the order of the counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) verdicts: Vec<(Verdict, u64)>,
    pub(crate) tracking: Vec<(Tracking, u64)>,
}

impl Counted {
    /// How often this was counted.
    pub(crate) fn of(&self, event: Tracking) -> u64 {
        self.tracking
            .iter()
            .find_map(|(it, count)| (*it == event).then_some(*count))
            .expect("every event has a counter")
    }
}

/// The program, with a service of 1,024 slots for each protocol.
pub(crate) struct Datapath {
    dataplane: Dataplane,
    clock: Array<MapData, u64>,
    table: FlowTable,
    rows: u32,
    _sandbox: Sandbox,
}

impl Datapath {
    /// `None`, and a loud notice, without root.
    pub(crate) fn load() -> Option<Self> {
        let sandbox = Sandbox::enter()?;
        let (mut dataplane, clock) =
            Dataplane::load_with_test_clock(sandbox.pins(), HashKey::from_bytes(HASH_KEY)).expect("the program loads");
        let bits = BucketBits::new(SMALLEST).expect("a size");
        dataplane.open_flow_tables(bits, IDLE_TICKS).expect("there can be a flow table");
        dataplane.maps.put_interface(IFINDEX.into(), OWN_MAC).expect("the interface map takes it");
        dataplane.maps.store_services(&services(), &[]).expect("the directory takes them");
        put_quic_servers(&sandbox);
        let table = FlowTable::open(&sandbox, 0, SMALLEST);
        let mut datapath = Self { dataplane, clock, table, rows: 0, _sandbox: sandbox };
        datapath.reset();
        Some(datapath)
    }

    /// As at the beginning: every backend is there, no slot has an owner, no flow is known.
    pub(crate) fn reset(&mut self) {
        self.set_time(START);
        self.table.clear();
        for protocol in Protocol::ALL {
            for slot in 0..layout::MIN_SLOTS {
                self.set_slot(protocol, slot, 0);
            }
        }
        for backend in 1..=BACKENDS {
            self.set_health(backend, Health::Serving);
        }
    }

    pub(crate) fn set_time(&mut self, now: u64) {
        self.clock.set(0, now, 0).expect("the clock can be set");
    }

    /// Stores a slot word as it is.
    pub(crate) fn set_slot(&self, protocol: Protocol, slot: u32, word: u32) {
        self.dataplane.maps.store_slot(&service(protocol), slot, SlotWord::from_bits(word));
    }

    pub(crate) fn set_health(&mut self, backend: u16, health: Health) {
        let id = BackendId::truncate(backend.into());
        let condition = match health {
            Health::Serving => Condition::SERVING,
            Health::Removed => return self.dataplane.maps.remove_row(id),
            Health::Rescheduling => Condition::RESCHEDULE,
            Health::Resetting => Condition::RESET,
        };
        let row = BackendRow {
            encapsulation: Encapsulation::NONE,
            egress_ifindex: IFINDEX,
            mtu: 1500,
            condition,
            destination_mac: mac_of(backend),
            source_mac: OWN_MAC,
            ..BackendRow::default()
        };
        // Row 0 is never written; the one in use is not overwritten.
        self.rows = self.rows % 100 + 1;
        self.dataplane.maps.put_row(id, RowIndex(self.rows), &row).expect("the row map takes it");
    }

    /// Lets a packet through the program.
    pub(crate) fn send(&mut self, client: &Client, kind: Kind) -> Reached {
        send(self.parts().0, &client.frame(kind))
    }

    /// The program and the flow table, for several threads.
    pub(crate) fn parts(&mut self) -> (&Xdp, &FlowTable) {
        (self.dataplane.program().expect("the program is loaded"), &self.table)
    }

    pub(crate) const fn table(&self) -> &FlowTable {
        &self.table
    }

    /// Does with the entry of a flow what the daemon does: changes it, or takes it out.
    pub(crate) fn change(&self, hash: u64, change: impl Fn(Entry) -> Option<Entry>) {
        for way in self.table.ways_of(hash).into_iter().flatten() {
            let word = way.load(Ordering::SeqCst);
            let Some(entry) = Entry::of_word(word).filter(|entry| entry.tag == crate::flow_table::tag(hash)) else {
                continue;
            };
            let new = change(entry).map_or(0, Entry::to_word);
            way.compare_exchange(word, new, Ordering::SeqCst, Ordering::SeqCst).expect("nobody else changes it");
        }
    }

    pub(crate) fn counted(&self) -> Counted {
        let maps = &self.dataplane.maps;
        let counters = "the counters can be read";
        Counted { verdicts: maps.verdicts().expect(counters), tracking: maps.tracking().expect(counters) }
    }
}

/// Runs `program` on `frame`.
pub(crate) fn send(program: &Xdp, frame: &[u8]) -> Reached {
    let mut out = [0; 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let action = program.test_run(options).expect("the kernel runs the program").return_value;
    let to: MacAddress = out[..6].try_into().expect("six bytes");
    match (action, to) {
        // XDP_DROP and XDP_TX in linux/bpf.h.
        (1, _) => Reached::Nobody,
        (3, ROUTER_MAC) => Reached::ResetToClient,
        (3, [2, 0, 0, 0, 2, number]) => Reached::Backend(number.into()),
        other => panic!("{other:?} is nothing that becomes of a packet"),
    }
}

fn mac_of(backend: u16) -> MacAddress {
    [2, 0, 0, 0, 2, backend.try_into().expect("few backends")]
}

/// Each has chunk of slots of its own.
fn service(protocol: Protocol) -> Service {
    let (number, quic) = match protocol {
        Protocol::Tcp => (1, QuicIds::NONE),
        Protocol::Udp => (2, QuicIds::NONE),
        Protocol::Quic => (3, QuicIds::new(ROTATION, 1).expect("there are such ids")),
    };
    let id = ServiceId::new(number).expect("a small number is an id");
    Service { id, first_chunk: number, slot_mask: layout::MIN_SLOTS - 1, quic, ..Service::default() }
}

fn services() -> Vec<ServiceEntry> {
    let addresses = [IpAddr::V4(VIRTUAL_IP), IpAddr::V6(VIRTUAL_IP_V6)];
    let key = |address: IpAddr, protocol: Protocol| {
        let number = if protocol == Protocol::Tcp { 6 } else { 17 };
        ServiceKey::new(Address::from(address), NetU16::new(protocol.port()), number)
    };
    let entry =
        |protocol| addresses.map(|address| ServiceEntry { key: key(address, protocol), service: service(protocol) });
    Protocol::ALL.into_iter().flat_map(entry).collect()
}

/// The server id of a backend is its number, in one byte.
fn put_quic_servers(sandbox: &Sandbox) {
    let map = Map::HashMap(sandbox.map(names::QUIC_SERVERS));
    let mut map = HashMap::<_, [u8; 24], u32>::try_from(map).expect("a hash map");
    for backend in 1..=BACKENDS {
        // The id, filled up to 16 bytes, as two numbers; the service; zeros.
        let id = (u64::from(backend) << 56).to_ne_bytes();
        let service = service(Protocol::Quic).id.get().to_ne_bytes();
        let mut key = [0; 24];
        key[..8].copy_from_slice(&id);
        key[16..20].copy_from_slice(&service);
        map.insert(key, u32::from(backend), 0).expect("the server can be put");
    }
}
