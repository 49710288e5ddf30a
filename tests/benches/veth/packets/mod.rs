//! Packets a second, and what each of them costs, of 64 bytes.

mod path;
mod station;

use anyhow::{Context as _, Result, ensure};
use lb_tests::benchmark::{Distribution, Standing};
use serde::Serialize;

pub(crate) use self::{
    path::Network,
    station::{Port, load},
};
use self::{
    path::{Kind, Path},
    station::Sample,
};

/// Samples per case. They are taken in rounds, path after path, so that a drift of the machine meets all alike.
const ROUNDS: usize = 7;

/// More must not be lost on the way.
const LOSS_LIMIT: f64 = 0.01;

/// How many flows the packets belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Flows {
    One,
    Many,
    /// Each packet is the first of its flow.
    New,
}

impl Flows {
    pub(crate) const ALL: [Self; 3] = [Self::One, Self::Many, Self::New];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::One => "1 flow",
            Self::Many => "50,000 flows",
            Self::New => "new flows",
        }
    }

    const fn count(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Many => 50_000,
            Self::New => 0,
        }
    }

    /// Packets per sample. As many new flows have to find room in the table of conntrack.
    const fn packets(self) -> u32 {
        match self {
            Self::One | Self::Many => 1 << 18,
            Self::New => 1 << 17,
        }
    }
}

/// What was found of one path.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PathResult {
    pub(crate) network: Network,
    pub(crate) path: String,
    pub(crate) flows: Flows,
    /// Packets a second, and nanoseconds of the CPU for the whole way of a packet. The first path is the bare one.
    pub(crate) standing: Standing,
    /// The largest part of what was sent.
    pub(crate) lost: f64,
}

/// Measures the paths with `only` in the name of a case, beside the path itself.
pub(crate) fn run(only: &str, cpus: usize) -> Result<Vec<PathResult>> {
    let mut results = Vec::new();
    for network in Network::ALL {
        let is_wanted =
            |kind: Kind, flows: Flows| format!("packets/{}/{}/{kind}", network.name(), flows.name()).contains(only);
        let is_in = |kind: Kind, flows| matches!(kind, Kind::Reflector) || is_wanted(kind, flows);
        let kinds = Kind::all();
        let flows: Vec<_> =
            Flows::ALL.into_iter().filter(|flows| kinds.iter().any(|kind| is_wanted(*kind, *flows))).collect();
        let needed = kinds.iter().filter(|kind| flows.iter().any(|flows| is_in(**kind, *flows)));
        // Interrupts prefer the first CPU.
        let start = |kind: &Kind| Path::new(network, *kind, cpus - 1).with_context(|| kind.to_string());
        let mut paths = needed.map(start).collect::<Result<Vec<_>>>()?;
        for flows in flows {
            let mut chosen: Vec<_> = paths.iter_mut().filter(|path| is_in(path.kind, flows)).collect();
            eprintln!("packets: {}, {}", network.name(), flows.name());
            results.extend(of_group(network, flows, measure(&mut chosen, flows)?));
        }
    }
    Ok(results)
}

/// The samples of each path.
fn measure(paths: &mut [&mut Path], flows: Flows) -> Result<Vec<(String, Vec<Sample>)>> {
    let mut samples: Vec<_> = paths.iter().map(|path| (path.kind.to_string(), Vec::new())).collect();
    for round in 0..=ROUNDS {
        for (path, (name, samples)) in paths.iter_mut().zip(&mut samples) {
            let sample = path.send(flows).with_context(|| name.clone())?;
            // The first round only fills caches and tables.
            if round > 0 {
                let Sample { sent, arrived, .. } = sample;
                ensure!(sample.lost() <= LOSS_LIMIT, "{name}: of {sent} frames only {arrived} have arrived");
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}

fn of_group(network: Network, flows: Flows, group: Vec<(String, Vec<Sample>)>) -> Vec<PathResult> {
    let turns: Vec<_> = group.iter().map(|(_, samples)| samples.iter().map(Sample::turn).collect()).collect();
    let standings = Standing::of_all(&turns).into_iter();
    let result = |((path, samples), standing): ((String, Vec<Sample>), _)| {
        let lost = Distribution::new(samples.iter().map(Sample::lost).collect()).max();
        PathResult { network, path, flows, standing, lost }
    };
    group.into_iter().zip(standings).map(result).collect()
}
