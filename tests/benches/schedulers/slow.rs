//! What a service makes of a backend that becomes ten times slower, and recovers.

use std::{cmp::Reverse, collections::BinaryHeap};

use fastrand::Rng;
use lb_common::{Answer, BackendId};
use lb_userspace::config::Algorithm;
use serde::Serialize;

use crate::pool::Pool;

/// How many new connections come for each backend in a second, and how long they last, in seconds on average.
const RATE: f64 = 100.0;
const HOLDING: f64 = 0.5;
/// How long the kernel of a backend takes for a connection, in seconds, however slow its application is.
const HANDSHAKE: f64 = 0.000_1;
/// How long a backend takes to reply to what is asked by a connection then, while it has those that are its share, in seconds.
const REPLY: f64 = 0.001;
/// How many times longer one of them takes, and from when to when, in seconds.
const TIMES_SLOWER: f64 = 10.0;
pub(crate) const SLOW_FROM: f64 = 5.0;
pub(crate) const SLOW_UNTIL: f64 = 12.0;
const END: f64 = 24.0;
/// How long it is counted who gets new connections, in seconds.
pub(crate) const WINDOW: f64 = 0.5;
/// How often the daemon says which load is high, in seconds.
const HOT_REFRESH: f64 = 0.25;
/// The slow one.
const SLOW: BackendId = BackendId::truncate(1);

/// Where latencies come from.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub(crate) enum Source {
    /// The datapath sees both directions.
    Datapath,
    /// Each backend is probed every so many seconds.
    Probes(f64),
}

/// Services, with how many backends they have.
const CASES: [(Algorithm, Source, u32); 6] = [
    (Algorithm::LeastResponseTime, Source::Datapath, 2),
    (Algorithm::LeastResponseTime, Source::Datapath, 4),
    (Algorithm::LeastResponseTime, Source::Datapath, 10),
    (Algorithm::LeastResponseTime, Source::Datapath, 100),
    (Algorithm::LeastResponseTime, Source::Probes(1.0), 10),
    (Algorithm::LeastConnections, Source::Datapath, 10),
];

/// What became of one service.
#[derive(Serialize)]
pub(crate) struct SlowRun {
    pub(crate) algorithm: Algorithm,
    pub(crate) source: Source,
    pub(crate) backends: u32,
    /// How many of the new connections the slow backend has got in each window, over how many its even share would be.
    pub(crate) shares: Vec<f64>,
}

pub(crate) fn run_all(seed: u64) -> Vec<SlowRun> {
    CASES.iter().map(|(algorithm, source, backends)| run(*algorithm, *source, *backends, seed)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begin,
    /// The backend has taken a connection, whose request takes so many seconds: positive numbers are in the order of their bits.
    Accept(BackendId, u64),
    /// The backend replies to what came that many seconds ago.
    Reply(BackendId, u64),
    End(BackendId),
    Probe(BackendId),
    RefreshHotLoad,
}

struct Simulation {
    pool: Pool,
    source: Source,
    backends: u32,
    random: Rng,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    begun: Vec<(u32, u32)>,
}

fn run(algorithm: Algorithm, source: Source, backends: u32, seed: u64) -> SlowRun {
    let mut simulation = Simulation {
        pool: Pool::new(algorithm, &vec![1; backends as usize]),
        source,
        backends,
        random: Rng::with_seed(seed),
        events: BinaryHeap::new(),
        begun: vec![(0, 0); window_of(END)],
    };
    simulation.at(0.0, Event::RefreshHotLoad);
    simulation.at(0.0, Event::Begin);
    if let Source::Probes(interval) = source {
        (1..=backends).for_each(|id| {
            let first = interval * simulation.random.f64();
            simulation.at(first, Event::Probe(BackendId::truncate(id)));
        });
    }
    while let Some(Reverse((bits, event))) = simulation.events.pop()
        && f64::from_bits(bits) < END
    {
        simulation.handle(event, f64::from_bits(bits));
    }
    let share = |(slow, all): (u32, u32)| f64::from(slow) * f64::from(backends) / f64::from(all.max(1));
    SlowRun { algorithm, source, backends, shares: simulation.begun.into_iter().map(share).collect() }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
fn window_of(time: f64) -> usize {
    (time / WINDOW) as usize
}

impl Simulation {
    fn at(&mut self, time: f64, event: Event) {
        self.events.push(Reverse((time.to_bits(), event)));
    }

    fn handle(&mut self, event: Event, now: f64) {
        self.pool.set_time(now);
        match event {
            Event::Begin => {
                let backend = self.pool.open(self.random.u64(..));
                let (slow, all) = &mut self.begun[window_of(now)];
                *slow += u32::from(backend == SLOW);
                *all += 1;
                let [takes, lasts] = [self.reply_time(backend, now), HOLDING * self.exponential()];
                self.at(now + HANDSHAKE, Event::Accept(backend, takes.to_bits()));
                self.at(now + lasts, Event::End(backend));
                let pause = self.exponential() / (RATE * f64::from(self.backends));
                self.at(now + pause, Event::Begin);
            }
            Event::Accept(backend, takes) => {
                self.measured(backend, Answer::Handshake, HANDSHAKE);
                self.at(now + f64::from_bits(takes), Event::Reply(backend, takes));
            }
            Event::Reply(backend, took) => self.measured(backend, Answer::Reply, f64::from_bits(took)),
            Event::End(backend) => self.pool.close(backend),
            Event::Probe(backend) => {
                let (took, jitter) = (self.reply_time(backend, now), 0.9 + 0.2 * self.random.f64());
                self.pool.probed(backend, took);
                if let Source::Probes(interval) = self.source {
                    self.at(now + interval * jitter, Event::Probe(backend));
                }
            }
            Event::RefreshHotLoad => {
                self.pool.refresh_hot_load();
                self.at(now + HOT_REFRESH, Event::RefreshHotLoad);
            }
        }
    }

    /// What the datapath does, if it sees both directions.
    fn measured(&self, backend: BackendId, answer: Answer, took: f64) {
        if self.source == Source::Datapath {
            self.pool.measured(backend, answer, took);
        }
    }

    /// How long a backend takes to reply: longer with more connections, and half of it by chance.
    fn reply_time(&mut self, backend: BackendId, now: f64) -> f64 {
        let is_slow = backend == SLOW && (SLOW_FROM..SLOW_UNTIL).contains(&now);
        let by_load = 0.5 + 0.5 * f64::from(self.pool.active(backend)) / (RATE * HOLDING);
        let by_chance = 0.5 + 0.5 * self.exponential();
        REPLY * if is_slow { TIMES_SLOWER } else { 1.0 } * by_load * by_chance
    }

    /// Of a distribution with the mean 1.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.random.f64()).ln()
    }
}
