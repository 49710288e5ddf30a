//! One service whose slots are all alike, and what is in the maps before a packet comes.

use std::sync::atomic::Ordering;

use etherparse::IpNumber;
use lb_common::{BackendId, BackendRow, Condition, Service, SlotWord, Verdict, layout};

use crate::{
    backend::Backend,
    case::{Datapath, Outcome},
    fixture::{Balancer, HASH_KEY, NOW, keys},
    flow_table::{Entry, FlowTable},
    frame::Frame,
    oracle::flow_hash,
    packet::{Packet, flags},
    world::{Family, SERVICE, SERVICE_PORT},
};

/// The backend of new flows.
pub(super) const CURRENT: u16 = 1;
/// The backend that had the slot before, where that is another one.
pub(super) const PREVIOUS: u16 = 2;
/// A backend of the service that the slot does not name.
pub(super) const THIRD: u16 = 3;

/// The states of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Empty,
    Stable,
    Arming,
    Moving,
    Tracked,
}

impl Slot {
    /// Its word: who has the slot now and who had it before, in 15 bits each, whether to look up, whether to remember.
    pub(super) const fn word(self) -> u32 {
        const LOOK_UP: u32 = 1 << 30;
        const REMEMBER: u32 = 1 << 31;
        let current = CURRENT as u32;
        let unmoved = current << 15 | current;
        match self {
            Self::Empty => 0,
            Self::Stable => unmoved,
            Self::Arming => REMEMBER | LOOK_UP | unmoved,
            Self::Moving => REMEMBER | LOOK_UP | (PREVIOUS as u32) << 15 | current,
            Self::Tracked => LOOK_UP | unmoved,
        }
    }
}

/// How a backend is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    WithoutRow,
    Rescheduling,
    Resetting,
}

/// Something in the flow table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    /// In the first or in the second choice of the packet's flow.
    pub(super) choice: usize,
    pub(super) way: usize,
    pub(super) entry: Entry,
}

/// What is in the maps.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) slot: Slot,
    pub(super) gone: Option<(u16, Gone)>,
    pub(super) flows: Vec<Placed>,
    /// What the table that is being replaced knows of the packet's flow.
    pub(super) old: Option<Entry>,
    /// The hash of the packet's flow.
    pub(super) hash: u64,
    /// In nanoseconds.
    pub(super) now: u64,
}

impl Scene {
    /// All backends are there, and no flow is known.
    pub(super) fn new(slot: Slot, packet: &Packet) -> Self {
        Self { slot, gone: None, flows: Vec::new(), old: None, hash: hash_of(packet), now: NOW }
    }

    /// With this entry for the packet's flow.
    #[must_use]
    pub(super) fn knowing(self, entry: Entry) -> Self {
        // The first, the last, and some in between.
        let (choice, way) = [(0, 0), (0, 7), (1, 0), (1, 7), (0, 3)][usize::from(entry.time % 5)];
        Self { flows: vec![Placed { choice, way, entry }], ..self }
    }

    #[must_use]
    pub(super) fn without(self, backend: u16, how: Gone) -> Self {
        Self { gone: Some((backend, how)), ..self }
    }

    /// What is in the flow table, in the order in which it is compared.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.flows.iter().map(|placed| placed.entry).collect();
        entries.sort_unstable();
        entries
    }
}

/// The balancer with that service.
pub(super) struct Tracker {
    pub(super) balancer: Balancer,
    pub(super) service: Service,
    /// A table that the one of the balancer replaces.
    pub(super) old_table: Option<FlowTable>,
}

impl Tracker {
    pub(super) fn new() -> Option<Self> {
        let mut balancer = Balancer::empty()?;
        let service = balancer.put_slots(SERVICE, &vec![SlotWord::EMPTY; layout::MIN_SLOTS as usize]);
        balancer.put_services(keys(SERVICE_PORT), service);
        Some(Self { balancer, service, old_table: None })
    }

    fn put_rows(&mut self, gone: Option<(u16, Gone)>) {
        for backend in [CURRENT, PREVIOUS, THIRD] {
            let condition = match gone {
                Some((gone, Gone::Rescheduling)) if gone == backend => Condition::RESCHEDULE,
                Some((gone, Gone::Resetting)) if gone == backend => Condition::RESET,
                _ => Condition::SERVING,
            };
            self.balancer.put_row(id(backend), &row(backend, condition));
            if gone == Some((backend, Gone::WithoutRow)) {
                self.balancer.maps().remove_row(id(backend));
            }
        }
    }
}

impl Datapath for Tracker {
    type Verdict = Verdict;
    type Setup = Scene;

    fn prepare(&mut self, scene: &Scene) {
        for slot in 0..layout::MIN_SLOTS {
            self.balancer.maps().store_slot(&self.service, slot, SlotWord::from_bits(scene.slot.word()));
        }
        self.put_rows(scene.gone);
        self.balancer.set_time(scene.now);
        let table = self.balancer.flow_table();
        table.clear();
        for Placed { choice, way, entry } in &scene.flows {
            table.ways_of(scene.hash)[*choice][*way].store(entry.to_word(), Ordering::SeqCst);
        }
        if let Some(old) = &self.old_table {
            old.clear();
            let word = scene.old.map_or(0, Entry::to_word);
            old.ways_of(scene.hash)[1][5].store(word, Ordering::SeqCst);
        }
    }

    fn run(&mut self, frame: &[u8]) -> Outcome<Verdict> {
        let old = self.old_table.as_ref().map(FlowTable::entries);
        let outcome = self.balancer.run(frame);
        assert_eq!(old, self.old_table.as_ref().map(FlowTable::entries), "packets leave the old table as it is");
        outcome
    }
}

pub(super) type Case = crate::case::Case<Tracker>;

/// The row of a backend of the service, which is reached by `l2-dsr`.
pub(super) fn row(backend: u16, condition: Condition) -> BackendRow {
    BackendRow { condition, ..numbered(backend).row(Family::V4) }
}

pub(super) fn numbered(backend: u16) -> Backend {
    Backend::numbered(backend.try_into().expect("a small number"))
}

pub(super) fn id(backend: u16) -> BackendId {
    BackendId::truncate(backend.into())
}

pub(super) fn hash_of(packet: &Packet) -> u64 {
    flow_hash(HASH_KEY, &packet.to_bytes())
}

pub(super) fn frame(packet: &Packet) -> Frame {
    let family = if packet.source.is_ipv4() { Family::V4 } else { Family::V6 };
    family.frame(packet.to_bytes())
}

/// The kinds of packets that differ in what they say about their flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Syn,
    Ack,
    Data,
    Fin,
    Rst,
    Udp,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [Self::Syn, Self::Ack, Self::Data, Self::Fin, Self::Rst, Self::Udp];

    pub(super) fn packet(self, family: Family) -> Packet {
        let (flags, payload) = match self {
            Self::Udp => return family.packet(IpNumber::UDP),
            Self::Syn => (flags::SYN, ""),
            Self::Ack => (flags::ACK, ""),
            Self::Data => (flags::ACK | flags::PSH, "data"),
            Self::Fin => (flags::ACK | flags::FIN, ""),
            Self::Rst => (flags::RST, ""),
        };
        segment(family, flags, payload)
    }
}

/// A TCP segment with these flags.
pub(super) fn segment(family: Family, flags: u8, payload: &str) -> Packet {
    let mut packet = family.packet(IpNumber::TCP);
    packet.segment.flags = flags;
    packet.segment.acknowledgment = if flags & flags::ACK == 0 { 0 } else { 0x8765_4321 };
    packet.payload = payload.as_bytes().to_vec();
    packet
}
