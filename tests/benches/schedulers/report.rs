//! Showing the results.

use lb_tests::benchmark::{Distribution, Output, Table};
use serde::Serialize;

use crate::{
    simulation::Run,
    slow::{SlowRun, Source, WINDOW},
};

/// All results. They are the same on every machine.
#[derive(Serialize)]
pub(crate) struct Report {
    runs: Vec<Run>,
    slow: Vec<SlowRun>,
}

impl Report {
    pub(crate) fn new(runs: Vec<Run>, slow: Vec<SlowRun>) -> Self {
        Self { runs, slow }
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn print(&self, output: &Output) {
        println!("{}\n\n{}", output.render(&self.table()), output.render(&self.slow_table()));
    }

    /// The part of its even share that the slow backend gets, over time.
    fn slow_table(&self) -> Table {
        let title = |run: &SlowRun| match run.source {
            Source::Datapath => format!("{}, {}", run.algorithm, run.backends),
            Source::Probes(seconds) => format!("{}, {}, probed each {seconds} s", run.algorithm, run.backends),
        };
        let titles: Vec<String> = self.slow.iter().map(title).collect();
        let header: Vec<&str> = ["from, s"].into_iter().chain(titles.iter().map(String::as_str)).collect();
        let mut table = Table::new(0, &header);
        let windows = self.slow.first().map_or(0, |run| run.shares.len());
        for (window, start) in (0..windows).zip((0..).map(|number| f64::from(number) * WINDOW)) {
            let shares = self.slow.iter().map(|run| format!("{:.2}", run.shares[window]));
            table.push([format!("{start:.1}")].into_iter().chain(shares).collect());
        }
        table
    }

    fn table(&self) -> Table {
        let header = ["backends", "weights", "algorithm", "connections", "max/mean, median", "p99", "worst"];
        let mut table = Table::new(3, &header);
        for run in &self.runs {
            let weights: Vec<String> = run.weights.iter().map(u32::to_string).collect();
            let imbalances = Distribution::new(run.imbalances.iter().map(|(_, imbalance)| *imbalance).collect());
            let mut row = vec![run.backends.to_string(), weights.join(", "), run.algorithm.to_string()];
            row.push(run.connections.to_string());
            row.extend([50, 99, 100].map(|percent| format!("{:.2}", imbalances.percentile(percent))));
            table.push(row);
        }
        table
    }
}
