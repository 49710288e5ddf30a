//! Showing the results.

use lb_tests::benchmark::{Distribution, Output, Table};
use serde::Serialize;

use crate::simulation::Run;

/// All results. They are the same on every machine.
#[derive(Serialize)]
pub(crate) struct Report {
    runs: Vec<Run>,
}

impl Report {
    pub(crate) fn new(runs: Vec<Run>) -> Self {
        Self { runs }
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn print(&self, output: &Output) {
        println!("{}", output.render(&self.table()));
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
