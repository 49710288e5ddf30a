//! What a hundred virtual routers cost on a node where nothing happens.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_tests::{
    cpu,
    lab::{
        Lab, unique_name,
        vrrp::{Instance, VirtualAddress},
    },
};
use serde::Serialize;

use crate::pair::{Pair, SPEAKERS, start_pairs};

/// How many virtual routers there are.
const ROUTERS: u8 = 100;

const INTERVAL: Duration = Duration::from_millis(100);

/// Until the last announcements of a new master are sent.
const SETTLE: Duration = Duration::from_secs(7);

const DURATION: Duration = Duration::from_secs(10);

/// What it costs one node.
#[derive(Serialize)]
pub(crate) struct Crowd {
    pub(crate) case: String,
    pub(crate) speaker: &'static str,
    /// All processes of the speaker together, in per cent of one core.
    pub(crate) cpu_percent: f64,
}

fn instances() -> Vec<Instance> {
    let instance = |number| {
        let address = VirtualAddress { ip: Ipv4Addr::new(10, 79, 0, number).into(), prefix_length: 32 };
        Instance { interval: INTERVAL, ..Instance::new(&format!("VI_{number}"), number, vec![address]) }
    };
    (1..=ROUTERS).map(instance).collect()
}

/// All four nodes are measured in the same seconds.
pub(crate) fn run() -> Result<Vec<Crowd>> {
    let labs = [lab()?, lab()?];
    eprintln!("starting {ROUTERS} instances");
    let mut pairs = start_pairs(&labs, &instances())?;
    thread::sleep(SETTLE);
    eprintln!("measuring {ROUTERS} instances");
    let started = Instant::now();
    let before = cpu_times(&mut pairs)?;
    thread::sleep(DURATION);
    let after = cpu_times(&mut pairs)?;
    let took = started.elapsed();
    let mut results = Vec::new();
    for ((kind, before), after) in SPEAKERS.into_iter().zip(before).zip(after) {
        for ((state, before), after) in ["master", "backup"].into_iter().zip(before).zip(after) {
            let case = format!("{ROUTERS} instances/{}ms/{state}", INTERVAL.as_millis());
            let cpu_percent = after.saturating_sub(before).as_secs_f64() / took.as_secs_f64() * 100.0;
            results.push(Crowd { case, speaker: kind.name(), cpu_percent });
        }
    }
    Ok(results)
}

fn lab() -> Result<Lab> {
    Lab::builder(&unique_name("bench-crowd")).nodes(2).backends(1).build()
}

/// Of the master and the backup of each pair.
fn cpu_times(pairs: &mut [Pair<'_>]) -> Result<Vec<[Duration; 2]>> {
    pairs
        .iter_mut()
        .map(|pair| {
            let [one, two] = pair.speakers()?.map(|speaker| cpu::process(speaker.process().id()));
            Ok([one?, two?])
        })
        .collect()
}
