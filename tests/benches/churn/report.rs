//! Showing the results.

use lb_tests::benchmark::{Machine, Output, Table};
use serde::Serialize;

use crate::measure::Run;

/// All results.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    runs: Vec<Run>,
}

impl Report {
    pub(crate) fn new(runs: Vec<Run>) -> Self {
        Self { machine: Machine::this(), runs }
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn print(&self, output: &Output) {
        println!("{}", self.machine);
        println!("\n{}", output.render(&self.table()));
    }

    fn table(&self) -> Table {
        let header = [
            "tracking",
            "connections",
            "short-lived",
            "changes",
            "broken",
            "answers",
            "stalls",
            "hits",
            "most entries",
            "at the end",
        ];
        let mut table = Table::new(1, &header);
        for run in &self.runs {
            let mut row = vec![run.tracking.to_owned(), run.connections.to_string(), run.short_lived.to_string()];
            row.extend([run.changes, run.broken_s.len()].map(|count| count.to_string()));
            let counts = [run.answers, run.stalls, run.hits, run.most_used(), run.last_used()];
            row.extend(counts.map(|count| count.to_string()));
            table.push(row);
        }
        table
    }
}
