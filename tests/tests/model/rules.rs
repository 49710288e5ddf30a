//! A plain model of "Just enough tracking" and "The flow table" in docs/DESIGN.md: an exact map of flows, with nothing of hashes,
//! buckets and words in it.

use std::collections::HashMap;

use lb_common::{Tracking, Verdict};

use crate::{
    clients::{Kind, Protocol},
    datapath::{Health, Reached, START},
    flow_table::State,
};

/// The states of a slot, with the backends that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Empty,
    Stable(u16),
    Arming(u16),
    Moving { to: u16, from: u16 },
    Tracked(u16),
}

impl Slot {
    /// The word in the slot table: `current` below, `previous` above it, then the bits "look up" and "remember".
    pub(crate) fn word(self) -> u32 {
        let word = |current: u16, previous: u16, bits: u32| u32::from(current) | u32::from(previous) << 15 | bits << 30;
        match self {
            Self::Empty => 0,
            Self::Stable(owner) => word(owner, owner, 0b00),
            Self::Arming(owner) => word(owner, owner, 0b11),
            Self::Moving { to, from } => word(to, from, 0b11),
            Self::Tracked(owner) => word(owner, owner, 0b01),
        }
    }
}

/// What is remembered of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) backend: u16,
    pub(crate) state: State,
    /// When it was last seen, in nanoseconds.
    pub(crate) seen: u64,
}

/// What a packet says about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Open,
    GoesOn,
    Datagram,
    Close,
}

/// Who has a flow, who is there, and what time it is.
pub(crate) struct Model {
    pub(crate) now: u64,
    slots: HashMap<(usize, u32), Slot>,
    health: HashMap<u16, Health>,
    /// By the number of the client.
    pub(crate) flows: HashMap<usize, Known>,
    verdicts: HashMap<&'static str, u64>,
    tracking: HashMap<&'static str, u64>,
}

/// How long a flow lives without a packet, in nanoseconds: nine ticks of 34.4 s.
pub(crate) const IDLE_TIMEOUT: u64 = 9 << 35;

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            now: START,
            slots: HashMap::new(),
            health: HashMap::new(),
            flows: HashMap::new(),
            verdicts: HashMap::new(),
            tracking: HashMap::new(),
        }
    }

    pub(crate) fn set_slot(&mut self, protocol: Protocol, number: u32, slot: Slot) {
        self.slots.insert((protocol as usize, number), slot);
    }

    pub(crate) fn set_health(&mut self, backend: u16, health: Health) {
        self.health.insert(backend, health);
    }

    /// How often this should have been counted.
    pub(crate) fn verdicts(&self, verdict: Verdict) -> u64 {
        self.verdicts.get(verdict.name()).copied().unwrap_or(0)
    }

    /// How often this should have been counted.
    pub(crate) fn tracking(&self, event: Tracking) -> u64 {
        self.tracking.get(event.name()).copied().unwrap_or(0)
    }

    /// A packet of a client whose flow belongs to this slot of the service of its protocol.
    pub(crate) fn packet(&mut self, client: usize, protocol: Protocol, slot: u32, kind: Kind) -> Reached {
        let slot = self.slots.get(&(protocol as usize, slot)).copied().unwrap_or(Slot::Empty);
        let backend = self.choose(client, slot, kind);
        self.deliver(backend, protocol, kind)
    }

    fn choose(&mut self, client: usize, slot: Slot, kind: Kind) -> Option<u16> {
        if let Kind::Named(server) = kind {
            let server = u16::from(server);
            if !self.is_lost(server, Signal::GoesOn) {
                return Some(server);
            }
        }
        let signal = match kind {
            Kind::Syn | Kind::Initial => Signal::Open,
            Kind::Fin | Kind::Rst => Signal::Close,
            Kind::Datagram => Signal::Datagram,
            Kind::Ack | Kind::Data | Kind::Short | Kind::Named(_) => Signal::GoesOn,
        };
        let current = match slot {
            Slot::Empty => return None,
            Slot::Stable(owner) => return Some(owner),
            Slot::Arming(owner) | Slot::Tracked(owner) | Slot::Moving { to: owner, .. } => owner,
        };
        if let Some(known) = self.flows.get(&client).copied() {
            let (known, event) = self.next(known, current, signal);
            self.flows.insert(client, known);
            self.count(event);
            return Some(known.backend);
        }
        self.count(Tracking::Miss);
        let (backend, remembered) = self.first_sight(slot, signal);
        if let Some(state) = remembered {
            self.flows.insert(client, Known { backend, state, seen: self.now });
            self.count(Tracking::Remembered);
        }
        Some(backend)
    }

    /// What becomes of a flow that is known.
    fn next(&self, known: Known, current: u16, signal: Signal) -> (Known, Tracking) {
        if signal == Signal::Open && self.is_over(known) {
            return (Known { backend: current, state: State::Opening, seen: self.now }, Tracking::Reopened);
        }
        let is_lost = known.backend != current && self.is_lost(known.backend, signal);
        let (backend, event) = if is_lost { (current, Tracking::Rescheduled) } else { (known.backend, Tracking::Hit) };
        let state = match (signal, known.state) {
            // There it is a new one.
            (Signal::Open, _) if is_lost => State::Opening,
            (Signal::Close, _) => State::Closing,
            // Of the end itself, or from before it. A client that goes on after three seconds has not ended, or still receives.
            (Signal::GoesOn, State::Closing) if self.age(known) <= 3 => return (Known { backend, ..known }, event),
            (Signal::Open, State::Opening | State::Closing) => known.state,
            // An opening one is of the same flow, or of a new one with the same ports.
            (Signal::Open | Signal::GoesOn | Signal::Datagram, _) => State::Established,
        };
        (Known { backend, state, seen: self.now }, event)
    }

    /// Where a flow goes that nobody knows, and as what it is remembered.
    fn first_sight(&self, slot: Slot, signal: Signal) -> (u16, Option<State>) {
        match slot {
            Slot::Arming(owner) if signal == Signal::Open => (owner, Some(State::Opening)),
            // It has no first packet: this may be it.
            Slot::Arming(owner) if signal == Signal::Datagram => (owner, Some(State::Sighted)),
            Slot::Moving { to, .. } if signal == Signal::Open => (to, Some(State::Opening)),
            Slot::Moving { to, from } if self.is_lost(from, signal) => (to, None),
            Slot::Moving { from, .. } if signal == Signal::Close => (from, Some(State::Closing)),
            Slot::Moving { from, .. } => (from, Some(State::Sighted)),
            Slot::Arming(owner) | Slot::Tracked(owner) | Slot::Stable(owner) => (owner, None),
            Slot::Empty => unreachable!("an empty slot has no flows"),
        }
    }

    /// Whether flows of `backend` have to go elsewhere. One that is reset stays, but what opens one is welcome elsewhere.
    fn is_lost(&self, backend: u16, signal: Signal) -> bool {
        match self.health_of(backend) {
            Health::Serving => false,
            Health::Removed | Health::Rescheduling => true,
            Health::Resetting => signal == Signal::Open,
        }
    }

    fn health_of(&self, backend: u16) -> Health {
        self.health.get(&backend).copied().unwrap_or(Health::Serving)
    }

    /// Whether somebody else may have the client's address and port by now: it was closed, or has been idle for the whole idle
    /// timeout, in ticks that have begun and ended since.
    fn is_over(&self, known: Known) -> bool {
        match known.state {
            State::Opening => false,
            State::Closing => true,
            State::Sighted | State::Established => {
                self.age(known).saturating_sub(1) * known.state.tick() >= IDLE_TIMEOUT
            }
        }
    }

    /// How many ticks have begun since the flow was seen. A count of eight bits: it starts over, and its last number stands for a
    /// flow that another CPU has seen in a tick that has not begun here.
    fn age(&self, known: Known) -> u64 {
        let tick = known.state.tick();
        match (self.now / tick - known.seen / tick) % 256 {
            255 => 0,
            age => age,
        }
    }

    fn deliver(&mut self, backend: Option<u16>, protocol: Protocol, kind: Kind) -> Reached {
        let (verdict, reached) = match backend.map(|backend| (backend, self.health_of(backend))) {
            None | Some((_, Health::Removed)) => (Verdict::DropNoBackend, Reached::Nobody),
            Some((backend, Health::Serving | Health::Rescheduling)) => {
                (Verdict::Transmitted, Reached::Backend(backend))
            }
            Some((_, Health::Resetting)) if protocol == Protocol::Tcp && kind != Kind::Rst => {
                (Verdict::Reset, Reached::ResetToClient)
            }
            Some((_, Health::Resetting)) => (Verdict::DropBackendGone, Reached::Nobody),
        };
        *self.verdicts.entry(verdict.name()).or_default() += 1;
        reached
    }

    fn count(&mut self, event: Tracking) {
        *self.tracking.entry(event.name()).or_default() += 1;
    }

    /// The clients whose flows the daemon forgets now: those that are over, and those of backends without a row.
    pub(crate) fn forget(&mut self) -> Vec<usize> {
        let is_over = |known: &Known| {
            let lifetime = match known.state {
                State::Opening => 60_000_000_000,
                State::Closing => 120_000_000_000,
                State::Sighted | State::Established => IDLE_TIMEOUT,
            };
            self.now - known.seen > lifetime || self.health_of(known.backend) == Health::Removed
        };
        let over = self.flows.iter().filter(|(_, known)| is_over(known)).map(|(client, _)| *client).collect();
        for client in &over {
            self.flows.remove(client);
        }
        over
    }
}
