//! The backends of a service in memory instead of maps. What chooses among them is the code of the datapath, and what tables and
//! rotations it has is what the daemon makes.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use fastrand::Rng;
use lb_common::{
    Answer, BackendId, Connections, FlowTime, HotLoad, Latency, Ring, Scheduler, Tally,
    choice::{Candidates, Chooser, Timed, choose, fastest},
};
use lb_userspace::{
    config::Algorithm,
    schedule::{Member, hot_load, plan, table},
};

const SLOTS: Ring = Ring { first_chunk: 0, len: 1 << 16 };
/// Behind the slots.
const ROTATION_CHUNK: u32 = 64;

/// A service with its backends.
pub(crate) struct Pool {
    slots: Vec<BackendId>,
    turns: Vec<BackendId>,
    scheduler: Scheduler,
    /// By the number of the backend, from 1 on.
    connections: Vec<Cell<Connections>>,
    latencies: Vec<Cell<Latency>>,
    hot: Cell<HotLoad>,
    now: Cell<FlowTime>,
    turn: Cell<u32>,
    random: RefCell<Rng>,
}

impl Pool {
    pub(crate) fn new(algorithm: Algorithm, weights: &[u32]) -> Self {
        let id = |index: u32| BackendId::truncate(index + 1);
        let members: Vec<Member> = (0..)
            .zip(weights)
            .map(|(index, weight)| Member {
                name: format!("10.0.{}.{}", index / 250, index % 250).into(),
                weight: *weight,
            })
            .collect();
        let plan = plan(algorithm, weights.len());
        let turns = plan.map_or_else(Vec::new, |(_, turns)| turns.rotation(weights, Scheduler::MAX_TURNS));
        let len = u32::try_from(turns.len()).expect("at most 65,536");
        let connections = [0]
            .iter()
            .chain(weights)
            .map(|weight| Cell::new(Connections { weight: *weight, ..Connections::default() }));
        Self {
            slots: table(&members, SLOTS.len).into_iter().map(id).collect(),
            turns: turns.into_iter().map(id).collect(),
            scheduler: plan.map_or(Scheduler::NONE, |(policy, _)| Scheduler::new(policy, ROTATION_CHUNK, len)),
            connections: connections.collect(),
            latencies: vec![Cell::default(); weights.len() + 1],
            hot: Cell::default(),
            now: Cell::new(FlowTime(0)),
            turn: Cell::new(0),
            random: RefCell::new(Rng::with_seed(3)),
        }
    }

    /// The backend of a new connection with this hash, which it has from now on.
    pub(crate) fn open(&self, hash: u64) -> BackendId {
        let slot = u32::try_from(hash % u64::from(SLOTS.len)).expect("below 65,536");
        let chosen = choose(self, self.scheduler, self.slots[slot as usize], slot, SLOTS);
        self.count(chosen, Tally::BEGUN);
        chosen
    }

    /// A connection of `backend` ends.
    pub(crate) fn close(&self, backend: BackendId) {
        self.count(backend, Tally::ENDED);
    }

    /// The time, in seconds.
    pub(crate) fn set_time(&self, now: f64) {
        self.now.set(FlowTime(nanoseconds(now)));
    }

    /// What the datapath does when `backend` has answered after so many seconds.
    pub(crate) fn measured(&self, backend: BackendId, answer: Answer, seconds: f64) {
        let latency = &self.latencies[backend.get() as usize];
        latency.set(latency.get().measured(answer, nanoseconds(seconds), self.now.get()));
    }

    /// What the daemon does when a probe of `backend` took so many seconds.
    pub(crate) fn probed(&self, backend: BackendId, seconds: f64) {
        let latency = &self.latencies[backend.get() as usize];
        latency.set(latency.get().probed(short(seconds)));
    }

    /// What the daemon does some times a second.
    pub(crate) fn refresh_hot_load(&self) {
        let pool: Vec<Connections> = self.connections.iter().skip(1).map(Cell::get).collect();
        self.hot.set(hot_load(&pool));
    }

    /// How many connections `backend` has.
    pub(crate) fn active(&self, backend: BackendId) -> u32 {
        self.connections[backend.get() as usize].get().tally.active()
    }

    fn count(&self, backend: BackendId, change: u64) {
        let connections = &self.connections[backend.get() as usize];
        let Connections { tally, weight, limit } = connections.get();
        let tally = Tally::from_bits(tally.to_bits().wrapping_add(change));
        connections.set(Connections { tally, weight, limit });
    }

    /// The largest load over the mean one: connections by weight.
    pub(crate) fn imbalance(&self) -> f64 {
        let backends = || self.connections.iter().skip(1).map(Cell::get);
        let load = |one: Connections| f64::from(one.tally.active()) / f64::from(one.weight);
        let connections: f64 = backends().map(|one| f64::from(one.tally.active())).sum();
        let weights: f64 = backends().map(|one| f64::from(one.weight)).sum();
        backends().map(load).fold(0.0, f64::max) / (connections / weights)
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).expect("minutes at most")
}

fn short(seconds: f64) -> u32 {
    u32::try_from(nanoseconds(seconds)).unwrap_or(u32::MAX)
}

impl Candidates for &Pool {
    fn backend_at(self, ring: Ring, index: u32) -> BackendId {
        let words = if ring.first_chunk == ROTATION_CHUNK { &self.turns } else { &self.slots };
        words[index as usize]
    }

    fn connections_of(self, backend: BackendId) -> Connections {
        self.connections[backend.get() as usize].get()
    }
}

impl Timed for &Pool {
    fn latency_of(self, backend: BackendId) -> u32 {
        self.latencies[backend.get() as usize].get().at(self.now.get())
    }

    fn hot_load(self) -> HotLoad {
        self.hot.get()
    }
}

impl Chooser for &Pool {
    fn fastest(self, ring: Ring, random: u32) -> BackendId {
        fastest(self, ring, random)
    }

    fn next_turn(self, turns: u32) -> u32 {
        let turn = self.turn.get() % turns;
        self.turn.set(turn + 1);
        turn
    }

    fn random(self) -> u32 {
        self.random.borrow_mut().u32(..)
    }
}
