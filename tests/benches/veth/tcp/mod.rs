//! HTTP over TCP: how many connections and requests a second, how late the answers are, and what each costs.

mod contender;

use anyhow::{Context as _, Result};
use lb_tests::benchmark::{Distribution, Standing};
use serde::Serialize;

use self::contender::{Contender, Kind, Load, Sample};

/// Samples per case. They are taken in rounds, contender after contender, so that a drift of the machine meets all alike.
const ROUNDS: usize = 5;

/// Names of cases. In all of those about connections, each request has one of its own.
pub(crate) const CONNECTIONS: &str = "connections";
pub(crate) const ONE_CONNECTION: &str = "one connection at a time";
pub(crate) const ONE_REQUEST: &str = "one request at a time";
/// As the first, and what the balancer's node takes of it is told.
pub(crate) const BY_NODE: &str = "connections, by node";

/// Names of contenders.
pub(crate) const RELAY: &str = "relay";
pub(crate) const RELAY_BOTH_WAYS: &str = "relay, both ways";

const MANY: u32 = 16;

const CONNECT: Load = Load { at_once: MANY, requests: 15_000, keep_alive: false, on_one_cpu: false, by_node: false };

/// What is asked. What is done by node comes last: the devices stay like that.
const CASES: [(&str, Load); 5] = [
    (CONNECTIONS, CONNECT),
    ("requests", Load { requests: 40_000, keep_alive: true, ..CONNECT }),
    (ONE_CONNECTION, Load { at_once: 1, requests: 8000, on_one_cpu: true, ..CONNECT }),
    (ONE_REQUEST, Load { at_once: 1, requests: 30_000, keep_alive: true, on_one_cpu: true, ..CONNECT }),
    (BY_NODE, Load { by_node: true, ..CONNECT }),
];

/// What was found of one contender in one case.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TcpResult {
    pub(crate) case: &'static str,
    pub(crate) contender: String,
    /// Requests a second, and microseconds of all CPUs for each, by what the processes and the kernel's threads have run. The first
    /// contender is none at all.
    pub(crate) standing: Standing,
    /// The same by how busy the machine was.
    pub(crate) machine: Standing,
    /// Microseconds of the balancer's node for each request, where that was told: the median.
    pub(crate) node_us: Option<f64>,
    /// The medians of all turns.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Requests without an answer, in all turns.
    pub(crate) failed: u64,
}

/// Measures the contenders with `only` in the name of a case, beside none at all.
pub(crate) fn run(only: &str) -> Result<Vec<TcpResult>> {
    let is_wanted = |kind: Kind, case: &str| format!("tcp/{case}/{kind}").contains(only);
    let is_in = |kind: Kind, case: &str| matches!(kind, Kind::Direct) || is_wanted(kind, case);
    let kinds = Kind::all();
    let cases = CASES.into_iter().filter(|(case, _)| kinds.iter().any(|kind| is_wanted(*kind, case)));
    let cases: Vec<_> = cases.collect();
    let needed = kinds.iter().filter(|kind| cases.iter().any(|(case, _)| is_in(**kind, case)));
    let start = |kind: &Kind| Contender::new(*kind).with_context(|| kind.to_string());
    let mut contenders = needed.map(start).collect::<Result<Vec<_>>>()?;
    let mut results = Vec::new();
    for (case, load) in cases {
        let mut chosen: Vec<_> = contenders.iter_mut().filter(|contender| is_in(contender.kind, case)).collect();
        let samples = measure(&mut chosen, case, load)?;
        results.extend(of_group(case, samples));
    }
    Ok(results)
}

/// The samples of each contender.
fn measure(contenders: &mut [&mut Contender], case: &str, load: Load) -> Result<Vec<(String, Vec<Sample>)>> {
    eprintln!("tcp: {case}");
    let mut samples: Vec<_> = contenders.iter().map(|contender| (contender.kind.to_string(), Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (contender, (name, samples)) in contenders.iter_mut().zip(&mut samples) {
            samples.push(contender.ask(load).with_context(|| format!("{case}, {name}"))?);
        }
    }
    Ok(samples)
}

fn of_group(case: &'static str, group: Vec<(String, Vec<Sample>)>) -> Vec<TcpResult> {
    let standings = |turn: fn(&Sample) -> _| {
        let turns: Vec<_> = group.iter().map(|(_, samples)| samples.iter().map(turn).collect()).collect();
        Standing::of_all(&turns)
    };
    let (standings, machines) = (standings(Sample::turn), standings(Sample::machine_turn));
    let result = |(((contender, samples), standing), machine): (((String, Vec<Sample>), _), _)| {
        let median =
            |figure: fn(&Sample) -> f64| Distribution::new(samples.iter().map(figure).collect()).percentile(50);
        let [p50_us, p99_us] = [median(|sample| sample.report.p50_us), median(|sample| sample.report.p99_us)];
        let node_us: Option<Vec<_>> = samples.iter().map(Sample::node_us).collect();
        let node_us = node_us.map(|figures| Distribution::new(figures).percentile(50));
        let failed = samples.iter().map(|sample| sample.report.failures()).sum();
        TcpResult { case, contender, standing, machine, node_us, p50_us, p99_us, failed }
    };
    group.into_iter().zip(standings).zip(machines).map(result).collect()
}
