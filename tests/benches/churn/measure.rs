//! The same trial for each way to track flows.

use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::{
    churn::{Settings, Stage, Trial},
    lab::now_ms,
};
use serde::Serialize;

/// What is compared; the first one is the default.
const TRACKING: [&str; 3] = ["when-needed", "never", "always"];

/// Long enough for all slots to settle, and for the flow table to be swept.
const REST: Duration = Duration::from_secs(90);

/// What came of one way to track flows.
#[derive(Serialize)]
pub(crate) struct Run {
    pub(crate) tracking: &'static str,
    pub(crate) connections: u32,
    pub(crate) changes: usize,
    /// Connections that were opened and closed again meanwhile.
    pub(crate) short_lived: u64,
    /// When connections broke: seconds since the first change.
    pub(crate) broken_s: Vec<f64>,
    pub(crate) answers: u64,
    /// Answers later than the kernel's shortest retransmission timeout.
    pub(crate) stalls: u64,
    /// How many packets found their flow in the table.
    pub(crate) hits: u64,
    /// How full the flow table was.
    pub(crate) used: Vec<Used>,
}

/// How many entries of the flow table were in use at a time.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Used {
    /// Seconds since the first change.
    pub(crate) at_s: f64,
    pub(crate) entries: u64,
}

impl Run {
    /// The most entries that were in use at any time.
    pub(crate) fn most_used(&self) -> u64 {
        self.used.iter().map(|used| used.entries).max().unwrap_or_default()
    }

    /// The entries that were in use at the end.
    pub(crate) fn last_used(&self) -> u64 {
        self.used.last().map(|used| used.entries).unwrap_or_default()
    }
}

/// One after the other: they would take each other's time.
pub(crate) fn run(connections: u32, changes: usize, seed: u64) -> Result<Vec<Run>> {
    let trial = Trial { connections, changes, deaths: false, seed, rest: REST };
    TRACKING.into_iter().map(|tracking| measure(&trial, tracking).context(tracking)).collect()
}

fn measure(trial: &Trial, tracking: &'static str) -> Result<Run> {
    eprintln!("{tracking}: {} connections, {} changes", trial.connections, trial.changes);
    let stage = Stage::start("bench-churn", Settings { tracking, ..Settings::default() })?;
    let mut used = Vec::new();
    let (outcome, stage) = trial.run(stage, |driver| {
        let flows = driver.stage().lab().status()?.flow_table.flows;
        used.extend(flows.map(|flows| (now_ms(), flows)));
        Ok(())
    })?;
    let seconds = |ms: u64| Duration::from_millis(ms.saturating_sub(outcome.started_ms)).as_secs_f64();
    Ok(Run {
        tracking,
        connections: trial.connections,
        changes: outcome.changes,
        short_lived: outcome.counts.short_lived,
        broken_s: outcome.judgement.broken.iter().map(|broken| seconds(broken.broken_ms)).collect(),
        answers: outcome.counts.answers,
        stalls: outcome.counts.stalls,
        hits: stage.tracking()?.hits,
        used: used.into_iter().map(|(ms, entries)| Used { at_s: seconds(ms), entries }).collect(),
    })
}
