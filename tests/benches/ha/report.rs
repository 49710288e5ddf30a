//! Showing the results.

use std::process::Command;

use anyhow::{Context as _, Result};
use lb_tests::benchmark::{Machine, Output, Table};
use serde::Serialize;

use crate::{crowd::Crowd, failover::Failover, hand_over::HandOver};

/// All results of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    /// Its version.
    keepalived: String,
    failovers: Vec<Failover>,
    hand_overs: Vec<HandOver>,
    crowd: Vec<Crowd>,
}

impl Report {
    pub(crate) fn new(failovers: Vec<Failover>, hand_overs: Vec<HandOver>, crowd: Vec<Crowd>) -> Result<Self> {
        Ok(Self { machine: Machine::this(), keepalived: keepalived_version()?, failovers, hand_overs, crowd })
    }

    pub(crate) fn failovers(&self) -> &[Failover] {
        &self.failovers
    }

    pub(crate) fn print(&self, output: &Output) {
        println!("{}, {}", self.machine, self.keepalived);
        for table in [self.failover_table(), self.hand_over_table(), self.crowd_table()] {
            println!("\n{}", output.render(&table));
        }
    }

    fn failover_table(&self) -> Table {
        let header = ["case", "speaker", "trials", "p50", "p90", "p99", "maximum", "bound", "client paused"];
        let mut table = Table::new(2, &header);
        for failover in &self.failovers {
            let gaps = &failover.gaps_ms;
            table.push(vec![
                failover.case.clone(),
                failover.speaker.to_owned(),
                gaps.figures().len().to_string(),
                milliseconds(gaps.percentile(50)),
                milliseconds(gaps.percentile(90)),
                milliseconds(gaps.percentile(99)),
                milliseconds(gaps.max()),
                milliseconds(failover.bound_ms),
                milliseconds(failover.longest_pause_ms),
            ]);
        }
        table
    }

    fn hand_over_table(&self) -> Table {
        let header = ["case", "trials", "packets", "lost", "succession p50", "p99", "maximum", "skew"];
        let mut table = Table::new(1, &header);
        for hand_over in &self.hand_overs {
            let successions = &hand_over.successions_ms;
            table.push(vec![
                hand_over.case.clone(),
                hand_over.trials.to_string(),
                hand_over.sent.to_string(),
                hand_over.lost.to_string(),
                milliseconds(successions.percentile(50)),
                milliseconds(successions.percentile(99)),
                milliseconds(successions.max()),
                milliseconds(hand_over.skew_ms),
            ]);
        }
        table
    }

    fn crowd_table(&self) -> Table {
        let mut table = Table::new(2, &["case", "speaker", "CPU"]);
        for Crowd { case, speaker, cpu_percent } in &self.crowd {
            table.push(vec![case.clone(), (*speaker).to_owned(), format!("{cpu_percent:.2} %")]);
        }
        table
    }
}

fn milliseconds(milliseconds: f64) -> String {
    format!("{milliseconds:.1} ms")
}

/// Such as `keepalived 2.2.7`.
fn keepalived_version() -> Result<String> {
    let output = Command::new("keepalived").arg("--version").output().context("start keepalived")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let version =
        said.split_ascii_whitespace().nth(1).with_context(|| format!("keepalived --version says {said:?}"))?;
    Ok(format!("keepalived {}", version.trim_start_matches('v')))
}
