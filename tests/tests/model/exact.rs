//! Each packet reaches what the model says, and leaves in the table what the model says. The table is so large that no two
//! flows are in each other's way.

use std::fmt;

use fastrand::Rng;
use lb_common::{Tracking, Verdict};

use crate::{
    clients::{Client, Kind, Protocol},
    datapath::{BACKENDS, Counted, Datapath, Health},
    flow_table::{Entry, State},
    history, is_long,
    rules::{Model, Slot},
};

/// Slots of each service that have clients, and clients of each.
const SLOTS: usize = 2;
const CLIENTS_OF_A_SLOT: usize = 3;
const CLIENTS: usize = Protocol::ALL.len() * SLOTS * CLIENTS_OF_A_SLOT;

#[derive(Clone, Copy, Debug)]
enum Step {
    Packet(usize, Kind),
    /// Nanoseconds.
    Pass(u64),
    /// The slot of this client.
    Slot(usize, Slot),
    Backend(u16, Health),
    /// The daemon forgets what is over.
    Sweep,
    /// The daemon makes flows of the slot of this client last that were seen once.
    Confirm(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet(client, kind) => write!(f, "client {client} sends {kind:?}"),
            Self::Pass(time) => write!(f, "{} ms pass", time / 1_000_000),
            Self::Slot(client, slot) => write!(f, "the slot of client {client} becomes {slot:?}"),
            Self::Backend(backend, health) => write!(f, "backend {backend} is {health:?}"),
            Self::Sweep => f.write_str("the table is swept"),
            Self::Confirm(client) => write!(f, "what was sighted in the slot of client {client} is confirmed"),
        }
    }
}

/// Three clients share a slot, so that what is done to it is done to flows in different states.
fn clients(random: &mut Rng) -> Vec<Client> {
    let mut clients: Vec<Client> = Vec::new();
    for protocol in Protocol::ALL {
        for _ in 0..SLOTS {
            let first = Client::with_hash(protocol, random, |_| true);
            let slot = first.slot();
            clients.push(first);
            for _ in 1..CLIENTS_OF_A_SLOT {
                clients.push(Client::with_hash(protocol, random, |hash| hash & 0x3ff == u64::from(slot)));
            }
        }
    }
    clients
}

fn random_history(random: &mut Rng, length: usize) -> Vec<Step> {
    // What the slots are in the end, as most of the changes are those that a daemon makes.
    let mut slots = [Slot::Empty; CLIENTS / CLIENTS_OF_A_SLOT];
    let mut history: Vec<Step> = (0..slots.len())
        .map(|number| {
            slots[number] = Slot::Stable(random_backend(random));
            Step::Slot(number * CLIENTS_OF_A_SLOT, slots[number])
        })
        .collect();
    history.extend((0..length).map(|_| match random.u8(..100) {
        0..74 => {
            let client = random.usize(..CLIENTS);
            Step::Packet(client, random_packet(client, random))
        }
        74..84 => Step::Pass(random_time(random)),
        84..92 => {
            let number = random.usize(..slots.len());
            slots[number] = if random.u8(..4) == 0 { random_slot(random) } else { next_slot(slots[number], random) };
            Step::Slot(number * CLIENTS_OF_A_SLOT, slots[number])
        }
        92..96 => {
            let health = [Health::Serving, Health::Serving, Health::Removed, Health::Rescheduling, Health::Resetting];
            Step::Backend(random_backend(random), health[random.usize(..health.len())])
        }
        96..99 => Step::Sweep,
        _ => Step::Confirm(random.usize(..CLIENTS)),
    }));
    history
}

fn random_packet(client: usize, random: &mut Rng) -> Kind {
    let kinds: &[Kind] = match Protocol::ALL[client / (SLOTS * CLIENTS_OF_A_SLOT)] {
        Protocol::Tcp => &[Kind::Syn, Kind::Syn, Kind::Ack, Kind::Ack, Kind::Data, Kind::Data, Kind::Fin, Kind::Rst],
        Protocol::Udp => &[Kind::Datagram],
        Protocol::Quic => &[Kind::Initial, Kind::Short, Kind::Short, Kind::Named(1), Kind::Named(2)],
    };
    kinds[random.usize(..kinds.len())]
}

/// From a millisecond to hours.
fn random_time(random: &mut Rng) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let most = [SECOND, 5 * SECOND, 40 * SECOND, 80 * SECOND, 400 * SECOND, 5 * 3600 * SECOND];
    let most = most[random.usize(..most.len())];
    random.u64(1_000_000..most)
}

fn random_backend(random: &mut Rng) -> u16 {
    random.u16(1..=BACKENDS)
}

fn random_slot(random: &mut Rng) -> Slot {
    let (one, other) = (random_backend(random), random_backend(random));
    match random.u8(..6) {
        0 => Slot::Empty,
        1 => Slot::Stable(one),
        2 => Slot::Arming(one),
        3 => Slot::Tracked(one),
        _ if one == other => Slot::Arming(one),
        _ => Slot::Moving { to: one, from: other },
    }
}

/// What the daemon would make of a slot.
fn next_slot(slot: Slot, random: &mut Rng) -> Slot {
    let other = random_backend(random);
    match slot {
        Slot::Empty => Slot::Tracked(other),
        Slot::Stable(owner) => Slot::Arming(owner),
        Slot::Arming(owner) if owner == other => Slot::Tracked(owner),
        Slot::Arming(owner) => Slot::Moving { to: other, from: owner },
        Slot::Moving { from, .. } if from == other => Slot::Tracked(from),
        Slot::Moving { from, .. } if random.bool() => Slot::Moving { to: other, from },
        Slot::Moving { to, .. } => Slot::Tracked(to),
        Slot::Tracked(owner) if random.bool() => Slot::Arming(owner),
        Slot::Tracked(owner) => Slot::Stable(owner),
    }
}

/// Less of the same.
fn simpler(step: &Step) -> Vec<Step> {
    match *step {
        Step::Packet(client, kind) if kind != Kind::Data && client < SLOTS * CLIENTS_OF_A_SLOT => {
            vec![Step::Packet(client, Kind::Data)]
        }
        Step::Pass(time) => [1_000_000, 1_000_000_000, 60_000_000_000, time / 2]
            .into_iter()
            .filter(|less| *less < time)
            .map(Step::Pass)
            .collect(),
        Step::Slot(client, Slot::Stable(owner) | Slot::Arming(owner)) => vec![Step::Slot(client, Slot::Tracked(owner))],
        _ => Vec::new(),
    }
}

struct Run<'a> {
    datapath: &'a mut Datapath,
    clients: &'a [Client],
    model: Model,
}

impl Run<'_> {
    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Packet(number, kind) => {
                let client = &self.clients[number];
                let expected = self.model.packet(number, client.protocol, client.slot(), kind);
                let reached = self.datapath.send(client, kind);
                if reached != expected {
                    return Err(format!("the packet has to reach {expected:?}, and reached {reached:?}"));
                }
            }
            Step::Pass(time) => {
                self.model.now += time;
                self.datapath.set_time(self.model.now);
            }
            Step::Slot(client, slot) => {
                let client = &self.clients[client];
                self.model.set_slot(client.protocol, client.slot(), slot);
                self.datapath.set_slot(client.protocol, client.slot(), slot.word());
            }
            Step::Backend(backend, health) => {
                self.model.set_health(backend, health);
                self.datapath.set_health(backend, health);
            }
            Step::Sweep => {
                for client in self.model.forget() {
                    self.datapath.change(self.clients[client].hash, |_| None);
                }
            }
            Step::Confirm(client) => self.confirm(client),
        }
        self.compare_flows()
    }

    fn confirm(&mut self, client: usize) {
        let of_slot = client / CLIENTS_OF_A_SLOT * CLIENTS_OF_A_SLOT;
        for client in of_slot..of_slot + CLIENTS_OF_A_SLOT {
            if let Some(known) = self.model.flows.get_mut(&client)
                && known.state == State::Sighted
            {
                known.state = State::Established;
                self.datapath
                    .change(self.clients[client].hash, |entry| Some(Entry { state: State::Established, ..entry }));
            }
        }
    }

    fn compare_flows(&self) -> Result<(), String> {
        for (number, client) in self.clients.iter().enumerate() {
            let known = self.model.flows.get(&number);
            let expected = known.map(|known| Entry::new(client.hash, known.backend, known.state, known.seen));
            let found = self.datapath.table().find(client.hash);
            if found != expected {
                return Err(format!("of client {number} the table should know {expected:?}, and knows {found:?}"));
            }
        }
        Ok(())
    }

    /// Nothing else is in the table, and everything was counted.
    fn finish(&self, before: &Counted) -> Result<(), String> {
        let entries = self.datapath.table().entries().len();
        if entries != self.model.flows.len() {
            return Err(format!("{} flows should be in the table, and {entries} are", self.model.flows.len()));
        }
        let after = self.datapath.counted();
        let expected = |before: &Counted| Counted {
            verdicts: before.verdicts.iter().map(|&(it, count)| (it, count + self.model.verdicts(it))).collect(),
            tracking: before.tracking.iter().map(|&(it, count)| (it, count + self.model.tracking(it))).collect(),
        };
        let expected = expected(before);
        if after == expected { Ok(()) } else { Err(format!("{expected:?} should be counted, and {after:?} is")) }
    }
}

fn run(datapath: &mut Datapath, clients: &[Client], history: &[Step]) -> Result<(), String> {
    datapath.reset();
    let before = datapath.counted();
    let mut run = Run { datapath, clients, model: Model::new() };
    for (number, step) in history.iter().enumerate() {
        run.step(*step).map_err(|problem| format!("at step {number}: {problem}"))?;
    }
    run.finish(&before)
}

#[test]
fn every_packet_reaches_what_the_model_says_and_leaves_what_it_says() {
    let Some(mut datapath) = Datapath::load() else { return };
    let clients = clients(&mut Rng::with_seed(1));
    let steps = if is_long() { 1_000_000 } else { 10_000 };
    history::check(steps, random_history, simpler, |history| run(&mut datapath, &clients, history));
    // So that the test tests something.
    let counted = datapath.counted();
    let all = |counts: &[u64]| counts.iter().all(|count| *count > 0);
    let translated = [Tracking::Translated, Tracking::Unknown, Tracking::Refused];
    let others = [Tracking::Affine, Tracking::Evicted, Tracking::Full, Tracking::Carried];
    let elsewhere = [&translated[..], &others].concat();
    let tracking = counted.tracking.iter().filter(|(event, _)| !elsewhere.contains(event)).map(|(_, count)| *count);
    assert!(all(&tracking.collect::<Vec<_>>()), "{counted:?}");
    let verdicts = [Verdict::Transmitted, Verdict::Reset, Verdict::DropNoBackend, Verdict::DropBackendGone];
    let verdicts = counted.verdicts.iter().filter(|(verdict, _)| verdicts.contains(verdict)).map(|(_, count)| *count);
    assert!(all(&verdicts.collect::<Vec<_>>()), "{counted:?}");
}
