//! Connections that come and go.

use std::{cmp::Reverse, collections::BinaryHeap};

use fastrand::Rng;
use lb_common::BackendId;
use lb_userspace::config::Algorithm;
use serde::Serialize;

use crate::pool::Pool;

/// The algorithms that are compared, each with the same connections.
const ALGORITHMS: [Algorithm; 5] = [
    Algorithm::LeastConnections,
    Algorithm::LeastResponseTime,
    Algorithm::WeightedRoundRobin,
    Algorithm::Random,
    Algorithm::Maglev,
];
/// How many backends there are: up to 64 all are compared.
const BACKENDS: [u32; 4] = [10, 64, 100, 1000];
/// Their weights, in turn.
const WEIGHTINGS: [&[u32]; 2] = [&[1], &[1, 2, 3]];

/// When it begins to be looked at how loaded backends are, and when it ends, in mean holding times.
const WARM: f64 = 10.0;
const END: f64 = 20.0;
/// How often that is looked at in a mean holding time.
const LOOKS: f64 = 20.0;
/// The shape of the Pareto distribution of holding times: their mean is finite, and their variance is not.
const SHAPE: f64 = 1.5;

/// One algorithm with so many backends.
#[derive(Serialize)]
pub(crate) struct Run {
    pub(crate) backends: u32,
    /// The weights, in turn.
    pub(crate) weights: &'static [u32],
    pub(crate) algorithm: Algorithm,
    /// How many connections there were in all.
    pub(crate) connections: u64,
    /// When it was looked, in mean holding times, and the largest load over the mean one then.
    pub(crate) imbalances: Vec<(f64, f64)>,
}

/// Everything, with so many connections for each backend at a time.
pub(crate) fn run_all(connections: u32, seed: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    for backends in BACKENDS {
        for weights in WEIGHTINGS {
            runs.extend(ALGORITHMS.map(|algorithm| run(algorithm, backends, weights, connections, seed)));
        }
    }
    runs
}

fn run(algorithm: Algorithm, backends: u32, weights: &'static [u32], connections: u32, seed: u64) -> Run {
    let pool = Pool::new(algorithm, &weights.iter().copied().cycle().take(backends as usize).collect::<Vec<_>>());
    let mut trace = Trace::new(f64::from(backends * connections), seed);
    let (mut count, mut imbalances, mut next_look) = (0, Vec::new(), WARM);
    let mut ends: BinaryHeap<Reverse<(u64, BackendId)>> = BinaryHeap::new();
    while trace.now < END {
        let Connection { begin, end, hash } = trace.next();
        // Positive numbers are in the order of their bits.
        while let Some(Reverse((ended, backend))) = ends.peek().copied()
            && f64::from_bits(ended) <= begin
        {
            ends.pop();
            pool.close(backend);
        }
        ends.push(Reverse((end.to_bits(), pool.open(hash))));
        count += 1;
        if begin >= next_look {
            imbalances.push((begin, pool.imbalance()));
            next_look += 1.0 / LOOKS;
        }
    }
    Run { backends, weights, algorithm, connections: count, imbalances }
}

struct Connection {
    begin: f64,
    end: f64,
    hash: u64,
}

/// Connections that come at random, so many in a mean holding time, and last for times of a Pareto distribution with the mean 1.
struct Trace {
    random: Rng,
    rate: f64,
    now: f64,
}

impl Trace {
    fn new(rate: f64, seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), rate, now: 0.0 }
    }

    fn next(&mut self) -> Connection {
        // Neither is zero.
        let [pause, rank] = [0; 2].map(|_| 1.0 - self.random.f64());
        self.now -= pause.ln() / self.rate;
        let shortest = (SHAPE - 1.0) / SHAPE;
        Connection { begin: self.now, end: self.now + shortest * rank.powf(-1.0 / SHAPE), hash: self.random.u64(..) }
    }
}
