//! The first promise of docs/DESIGN.md: a connection stays with its backend as long as both live, whatever an operator
//! changes. Slots move by the rules of `mover.rs`; the clients of all of them want the same few ways of one bucket.
//!
//! What the design does not promise is not asked for: a connection that is closed, or silent for longer than the idle timeout; a
//! handshake that takes longer than three seconds; that a SYN which is forged in the name of a connection that the table does not
//! know, while its slot moves, is told from a new one; that a SYN that is sent twice reaches the same backend twice, if the table
//! has no room for it, or if the port had another connection a short time ago that was not closed.

use std::{collections::BTreeMap, fmt, sync::atomic::Ordering};

use fastrand::Rng;
use lb_common::Tracking;

use crate::{
    clients::{Client, Kind, Protocol},
    datapath::{BACKENDS, Datapath, Health, Reached, START},
    flow_table::{Entry, SMALLEST, State, WAYS, buckets_of},
    history, is_long,
    mover::{HANDSHAKE, Moving},
    rules::{IDLE_TIMEOUT, Slot},
};

const TCP_CLIENTS: usize = 16;
const UDP_CLIENTS: usize = 8;
const CLIENTS: usize = TCP_CLIENTS + UDP_CLIENTS;
/// The bucket that they all want.
const BUCKET: usize = 0x0f0f;
const SECOND: u64 = 1_000_000_000;
/// The daemon looks into the table every now and then.
const SWEEP: u64 = 30 * SECOND;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A SYN.
    Open(usize),
    /// Data; of a client in a handshake the ACK.
    Talk(usize),
    Close(usize, Kind),
    /// Somebody else sends a SYN in the name of a client whose connection is known.
    Forge(usize),
    /// Nanoseconds.
    Pass(u64),
    /// The slot of this client.
    Want(usize, u16),
    Die(u16),
    Revive(u16),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(client) => write!(f, "client {client} opens a connection"),
            Self::Talk(client) => write!(f, "client {client} goes on"),
            Self::Close(client, kind) => write!(f, "client {client} closes with {kind:?}"),
            Self::Forge(client) => write!(f, "a SYN is forged in the name of client {client}"),
            Self::Pass(time) => write!(f, "{} ms pass", time / 1_000_000),
            Self::Want(client, backend) => write!(f, "the slot of client {client} is wanted for backend {backend}"),
            Self::Die(backend) => write!(f, "backend {backend} dies"),
            Self::Revive(backend) => write!(f, "backend {backend} is back"),
        }
    }
}

/// How much room there is for the clients' flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Plenty,
    /// So many ways.
    Ways(usize),
}

fn clients() -> Vec<Client> {
    let mut random = Rng::with_seed(2);
    let wants_bucket = |hash| buckets_of(SMALLEST, hash).contains(&BUCKET);
    let protocols = [Protocol::Tcp; TCP_CLIENTS].into_iter().chain([Protocol::Udp; UDP_CLIENTS]);
    protocols.map(|protocol| Client::with_hash(protocol, &mut random, wants_bucket)).collect()
}

fn random_history(random: &mut Rng, length: usize) -> Vec<Step> {
    (0..length)
        .map(|_| {
            let client = random.usize(..CLIENTS);
            let backend = random.u16(1..=BACKENDS);
            match random.u8(..100) {
                0..22 => Step::Open(random.usize(..TCP_CLIENTS)),
                22..61 => Step::Talk(client),
                61..66 => Step::Forge(random.usize(..TCP_CLIENTS)),
                66..71 => Step::Close(random.usize(..TCP_CLIENTS), if random.bool() { Kind::Fin } else { Kind::Rst }),
                71..84 => Step::Pass(random_time(random)),
                84..95 => Step::Want(client, backend),
                95..97 => Step::Die(backend),
                _ => Step::Revive(backend),
            }
        })
        .collect()
}

fn random_time(random: &mut Rng) -> u64 {
    let most = [SECOND, 4 * SECOND, 40 * SECOND, 100 * SECOND, 400 * SECOND];
    let most = most[random.usize(..most.len())];
    random.u64(1_000_000..most)
}

fn simpler(step: &Step) -> Vec<Step> {
    match *step {
        Step::Pass(time) => [SECOND, HANDSHAKE, 60 * SECOND, IDLE_TIMEOUT + SWEEP, time / 2]
            .into_iter()
            .filter(|less| *less < time)
            .map(Step::Pass)
            .collect(),
        _ => Vec::new(),
    }
}

/// What a client knows of its connection.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    phase: Phase,
    /// Who has to get its packets; nobody in particular if its backend died.
    home: Option<u16>,
    last_sent: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Closed,
    Handshake {
        /// When the ACK will be sent, at the latest.
        until: u64,
        /// Nothing may be known of an earlier connection from the same port.
        is_first: bool,
    },
    Open,
}

struct World<'a> {
    datapath: &'a mut Datapath,
    clients: &'a [Client],
    room: Room,
    now: u64,
    connections: Vec<Connection>,
    slots: BTreeMap<(usize, u32), (Protocol, Moving)>,
    alive: Vec<u16>,
    /// Flows that the table has refused or evicted, and when that was last seen to be more.
    losses: u64,
    loss: u64,
}

impl<'a> World<'a> {
    fn new(datapath: &'a mut Datapath, clients: &'a [Client], room: Room) -> Self {
        datapath.reset();
        let mut slots = BTreeMap::new();
        for client in clients {
            let handshake = if client.protocol == Protocol::Tcp { HANDSHAKE } else { 0 };
            slots.insert(slot_of(client), (client.protocol, Moving::new(1, handshake)));
        }
        let losses = losses(datapath);
        let world = Self {
            datapath,
            clients,
            room,
            now: START,
            connections: vec![Connection::default(); clients.len()],
            slots,
            alive: (1..=BACKENDS).collect(),
            losses,
            loss: 0,
        };
        world.store_slots();
        world.crowd();
        world
    }

    fn store_slots(&self) {
        for ((_, number), (protocol, moving)) in &self.slots {
            self.datapath.set_slot(*protocol, *number, moving.slot.word());
        }
    }

    /// Fills all ways that are not for the clients with flows that have just been seen.
    fn crowd(&self) {
        let Room::Ways(free) = self.room else { return };
        let stranger =
            |number: usize| Entry::new(0x55_0000_0000 + number as u64, 31, State::Established, self.now).to_word();
        let words = self.datapath.table().words();
        for (number, client) in self.clients.iter().enumerate() {
            for bucket in buckets_of(SMALLEST, client.hash) {
                let kept = if bucket == BUCKET { free } else { 0 };
                for way in kept..WAYS {
                    words[bucket * WAYS + way].store(stranger(number * WAYS + way), Ordering::SeqCst);
                }
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Open(client) => self.open(client),
            Step::Talk(client) => self.talk(client),
            Step::Close(client, kind) => self.close(client, kind),
            Step::Forge(client) => self.forge(client),
            Step::Pass(time) => self.pass(time),
            Step::Want(client, backend) => {
                if self.alive.contains(&backend) {
                    let (_, moving) = self.slots.get_mut(&slot_of(&self.clients[client])).expect("clients have slots");
                    moving.want(backend, self.now);
                    self.store_slots();
                }
                Ok(())
            }
            Step::Die(backend) => {
                self.die(backend);
                Ok(())
            }
            Step::Revive(backend) => {
                if !self.alive.contains(&backend) {
                    self.alive.push(backend);
                    self.datapath.set_health(backend, Health::Serving);
                }
                Ok(())
            }
        }
    }

    fn open(&mut self, number: usize) -> Result<(), String> {
        let Connection { phase, home, .. } = self.connections[number];
        let reached = self.send(number, Kind::Syn)?;
        let is_first = match phase {
            Phase::Closed => true,
            Phase::Handshake { is_first, .. } => {
                if is_first && self.room == Room::Plenty {
                    Self::expect(number, Kind::Syn, home, reached)?;
                }
                is_first
            }
            Phase::Open => false,
        };
        let phase = Phase::Handshake { until: self.now + HANDSHAKE - SECOND / 10, is_first };
        self.connections[number] = Connection { phase, home: Some(reached), last_sent: self.now };
        Ok(())
    }

    fn talk(&mut self, number: usize) -> Result<(), String> {
        let is_silent = self.now > self.connections[number].last_sent + IDLE_TIMEOUT;
        let kind = match (self.clients[number].protocol, self.connections[number].phase) {
            (Protocol::Tcp, Phase::Closed) => return Ok(()),
            (Protocol::Tcp, Phase::Open) if is_silent => {
                self.connections[number].phase = Phase::Closed;
                return Ok(());
            }
            (Protocol::Tcp, Phase::Handshake { .. }) => Kind::Ack,
            (Protocol::Tcp, Phase::Open) => Kind::Data,
            (_, _) => Kind::Datagram,
        };
        let home = if is_silent { None } else { self.connections[number].home };
        let reached = self.send(number, kind)?;
        Self::expect(number, kind, home, reached)?;
        self.connections[number] = Connection { phase: Phase::Open, home: Some(reached), last_sent: self.now };
        Ok(())
    }

    fn close(&mut self, number: usize, kind: Kind) -> Result<(), String> {
        let Connection { phase, home, last_sent } = self.connections[number];
        if phase == Phase::Closed || self.now > last_sent + IDLE_TIMEOUT {
            return Ok(());
        }
        let reached = self.send(number, kind)?;
        Self::expect(number, kind, home, reached)?;
        self.connections[number] = Connection::default();
        Ok(())
    }

    /// Whoever gets the SYN: the connection stays.
    fn forge(&mut self, number: usize) -> Result<(), String> {
        let Connection { phase, last_sent, .. } = self.connections[number];
        let known = self.datapath.table().find(self.clients[number].hash);
        let is_established = known.is_some_and(|entry| entry.state == State::Established);
        if phase == Phase::Open && is_established && self.now <= last_sent + IDLE_TIMEOUT {
            self.send(number, Kind::Syn)?;
        }
        Ok(())
    }

    fn send(&mut self, number: usize, kind: Kind) -> Result<u16, String> {
        match self.datapath.send(&self.clients[number], kind) {
            Reached::Backend(backend) if self.alive.contains(&backend) => Ok(backend),
            other => Err(format!("{kind:?} of client {number} reached {other:?}, and {:?} are alive", self.alive)),
        }
    }

    fn expect(number: usize, kind: Kind, home: Option<u16>, reached: u16) -> Result<(), String> {
        match home {
            Some(home) if home != reached => Err(format!(
                "{kind:?} of client {number} reached backend {reached}, and its connection belongs to backend {home}"
            )),
            _ => Ok(()),
        }
    }

    fn die(&mut self, backend: u16) {
        // Somebody has to be there.
        if self.alive.len() <= 2 || !self.alive.contains(&backend) {
            return;
        }
        self.alive.retain(|other| *other != backend);
        self.datapath.set_health(backend, Health::Removed);
        for connection in &mut self.connections {
            connection.home = connection.home.filter(|home| *home != backend);
        }
        for (number, (_, moving)) in self.slots.values_mut().enumerate() {
            if moving.wanted == backend {
                moving.want(self.alive[number % self.alive.len()], self.now);
            }
            moving.lose(backend);
        }
        self.store_slots();
    }

    fn pass(&mut self, time: u64) -> Result<(), String> {
        let end = self.now + time;
        while self.now < end {
            let arming = self.slots.values().filter_map(|(_, moving)| moving.deadline());
            let handshakes = self.connections.iter().filter_map(|connection| match connection.phase {
                Phase::Handshake { until, .. } => Some(until),
                _ => None,
            });
            let next = arming.chain(handshakes).filter(|at| *at > self.now).min().unwrap_or(u64::MAX);
            self.now = next.min(self.now + SWEEP).min(end);
            self.datapath.set_time(self.now);
            self.crowd();
            self.finish_handshakes()?;
            self.daemon();
        }
        Ok(())
    }

    fn finish_handshakes(&mut self) -> Result<(), String> {
        for number in 0..TCP_CLIENTS {
            if matches!(self.connections[number].phase, Phase::Handshake { until, .. } if until <= self.now) {
                self.talk(number)?;
            }
        }
        Ok(())
    }

    /// What the daemon does from time to time: it ends what is over, settles slots, and looks which of them are clear.
    fn daemon(&mut self) {
        let losses = losses(self.datapath);
        if losses != self.losses {
            (self.losses, self.loss) = (losses, self.now);
        }
        for number in 0..self.clients.len() {
            let (now, alive) = (self.now, &self.alive);
            let is_over = |entry: Entry| is_over(entry, now) || !alive.contains(&entry.backend);
            self.datapath.change(self.clients[number].hash, |entry| (!is_over(entry)).then_some(entry));
        }
        let (now, loss) = (self.now, self.loss);
        let keys: Vec<_> = self.slots.keys().copied().collect();
        for key in keys {
            let (_, mut moving) = self.slots[&key];
            if moving.pass(now, loss) {
                self.confirm(key);
                moving.settle();
            } else if let Slot::Tracked(owner) = moving.slot
                && self.entries_of(key).all(|entry| entry.backend == owner)
            {
                moving.is_clear();
            }
            self.slots.get_mut(&key).expect("it is there").1 = moving;
        }
        self.store_slots();
    }

    fn clients_of(&self, key: (usize, u32)) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(move |client| slot_of(client) == key)
    }

    fn entries_of(&self, key: (usize, u32)) -> impl Iterator<Item = Entry> {
        self.clients_of(key).filter_map(|client| self.datapath.table().find(client.hash))
    }

    fn confirm(&self, key: (usize, u32)) {
        for client in self.clients_of(key) {
            self.datapath.change(client.hash, |entry| match entry.state {
                State::Sighted => Some(Entry { state: State::Established, ..entry }),
                _ => Some(entry),
            });
        }
    }
}

fn slot_of(client: &Client) -> (usize, u32) {
    (client.protocol as usize, client.slot())
}

/// Whether an entry has had no packet for longer than it lives, as far as its ticks tell.
fn is_over(entry: Entry, now: u64) -> bool {
    let tick = entry.state.tick();
    let [now, ..] = (now / tick).to_le_bytes();
    let idle = u64::from(now.wrapping_sub(entry.time).saturating_sub(1)) * tick;
    let lifetime = match entry.state {
        State::Opening => 60 * SECOND,
        State::Closing => 120 * SECOND,
        State::Sighted | State::Established => IDLE_TIMEOUT,
    };
    idle >= lifetime
}

/// How many flows the table has refused or evicted.
fn losses(datapath: &Datapath) -> u64 {
    let counted = datapath.counted();
    counted.of(Tracking::Full) + counted.of(Tracking::Evicted)
}

fn check(room: Room) {
    let Some(mut datapath) = Datapath::load() else { return };
    let clients = clients();
    let steps = if is_long() { 3_000_000 } else { 20_000 };
    history::check(steps, random_history, simpler, |history| {
        let mut world = World::new(&mut datapath, &clients, room);
        for (number, step) in history.iter().enumerate() {
            world.step(*step).map_err(|problem| format!("at step {number}: {problem}"))?;
        }
        Ok(())
    });
    let lost = losses(&datapath) > 0;
    assert_eq!(lost, room != Room::Plenty, "the table is full where it has to be: {:?}", datapath.counted());
}

#[test]
fn a_connection_stays_with_its_backend_while_slots_move() {
    check(Room::Plenty);
}

#[test]
fn a_connection_stays_with_its_backend_in_a_full_table() {
    check(Room::Ways(3));
}

#[test]
fn a_connection_stays_with_its_backend_where_there_is_no_room_at_all() {
    check(Room::Ways(0));
}
