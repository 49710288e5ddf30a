//! What the daemon takes for what it does (docs/BENCHMARKS.md, "Daemon").
//!
//! `cargo xtask bench daemon [--json FILE] [--markdown]`

mod changes;
mod tables;

use clap::Parser;
use lb_tests::benchmark::{Distribution, Machine, Output, Table};
use serde::Serialize;

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    output: Output,
}

/// One line of the table: milliseconds.
#[derive(Serialize)]
struct CaseResult {
    name: String,
    samples: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

impl CaseResult {
    fn new(name: impl Into<String>, milliseconds: Vec<f64>) -> Self {
        let samples = milliseconds.len();
        let times = Distribution::new(milliseconds);
        Self { name: name.into(), samples, p50: times.percentile(50), p99: times.percentile(99), max: times.max() }
    }
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    cases: Vec<CaseResult>,
}

fn main() -> anyhow::Result<()> {
    let Options { output } = Options::parse();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the benchmark builds network namespaces: run it as root");
    let mut cases = tables::run()?;
    cases.extend(changes::run()?);
    let report = Report { machine: Machine::this(), cases };
    let mut table = Table::new(1, &["case", "samples", "p50", "p99", "maximum"]);
    for case in &report.cases {
        let milliseconds = |time: f64| format!("{time:.2} ms");
        let times = [case.p50, case.p99, case.max].map(milliseconds);
        table.push([vec![case.name.clone(), case.samples.to_string()], times.into()].concat());
    }
    println!("{}\n\n{}", report.machine, output.render(&table));
    output.save(&report)
}
