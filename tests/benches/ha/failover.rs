//! A master that dies or stops: how long nobody answers.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::{
    benchmark::Distribution,
    lab::{
        Kind, Lab, ProbeReport, Process, unique_name,
        vrrp::{Instance, Version, VirtualAddress},
    },
};
use serde::Serialize;

use crate::pair::{Fault, NODES, Pair, SPEAKERS, of_node, start_echo, start_pairs, virtual_ip};

/// How the nodes speak.
struct Protocol {
    version: Version,
    interval: Duration,
    /// No case is tried more often than this.
    most_trials: u16,
}

const PROTOCOLS: [Protocol; 3] = [
    Protocol { version: Version::V3, interval: Duration::from_millis(100), most_trials: u16::MAX },
    Protocol { version: Version::V3, interval: Duration::from_millis(10), most_trials: u16::MAX },
    // A trial takes ten seconds.
    Protocol { version: Version::V2, interval: Duration::from_secs(1), most_trials: 3 },
];

/// All trials of a case with one speaker.
#[derive(Serialize)]
pub(crate) struct Failover {
    #[serde(skip)]
    pub(crate) fault: Fault,
    #[serde(skip)]
    pub(crate) interval: Duration,
    pub(crate) case: String,
    pub(crate) speaker: &'static str,
    /// The longest that the protocol has the next node wait.
    pub(crate) bound_ms: f64,
    /// The longest time without an answer in each trial.
    pub(crate) gaps_ms: Distribution,
    /// The longest time that the client itself took from one datagram to the next, in any trial.
    pub(crate) longest_pause_ms: f64,
}

impl Protocol {
    fn name(&self) -> String {
        let version = match self.version {
            Version::V2 => "v2",
            Version::V3 => "v3",
        };
        format!("{version}/{}ms", self.interval.as_millis())
    }

    fn instance(&self) -> Instance {
        let addresses = vec![VirtualAddress::on_the_switch(virtual_ip())];
        Instance { version: self.version, interval: self.interval, ..Instance::new("VI_1", 51, addresses) }
    }
}

/// Both speakers take turns, each in a lab of its own.
pub(crate) fn run(trials: u16) -> Result<Vec<Failover>> {
    let labs = [lab()?, lab()?];
    let _echoes = labs.iter().map(start_echoes).collect::<Result<Vec<_>>>()?;
    let mut results = Vec::new();
    for protocol in &PROTOCOLS {
        let trials = trials.min(protocol.most_trials);
        let instance = protocol.instance();
        let mut pairs = start_pairs(&labs, std::slice::from_ref(&instance))?;
        for fault in [Fault::Kill, Fault::Stop] {
            let case = format!("{}/{}", fault.name(), protocol.name());
            results.extend(take_turns(&case, fault, &instance, trials, &mut pairs)?);
        }
    }
    Ok(results)
}

fn lab() -> Result<Lab> {
    Lab::builder(&unique_name("bench")).nodes(2).backends(1).build()
}

fn start_echoes(lab: &Lab) -> Result<Vec<Process>> {
    NODES.into_iter().map(|node| start_echo(lab, node)).collect()
}

fn take_turns(
    case: &str,
    fault: Fault,
    instance: &Instance,
    trials: u16,
    pairs: &mut [Pair<'_>],
) -> Result<Vec<Failover>> {
    let mut reports = vec![Vec::new(); pairs.len()];
    for trial in 1..=trials {
        for ((pair, reports), kind) in pairs.iter_mut().zip(&mut reports).zip(SPEAKERS) {
            let what = format!("{case}, trial {trial} of {trials}, {}", kind.name());
            let report = pair.try_fault(fault).with_context(|| what.clone())?;
            eprintln!("{what}: {:.1} ms", report.longest_gap_ms);
            reports.push(report);
        }
    }
    let bound = fault.bound(&of_node(std::slice::from_ref(instance), 1)[0]);
    let result = |(kind, reports): (Kind, Vec<ProbeReport>)| Failover {
        fault,
        interval: instance.interval,
        case: case.to_owned(),
        speaker: kind.name(),
        bound_ms: bound.as_secs_f64() * 1e3,
        gaps_ms: Distribution::new(reports.iter().map(|report| report.longest_gap_ms).collect()),
        longest_pause_ms: reports.iter().map(|report| report.longest_pause_ms).fold(0.0, f64::max),
    };
    Ok(SPEAKERS.into_iter().zip(reports).map(result).collect())
}
