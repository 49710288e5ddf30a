//! How evenly backends are loaded when connections last for times that differ by orders of magnitude: a simulation that runs the
//! functions by which the XDP program chooses; and what becomes of a backend that is slow for a while (docs/BENCHMARKS.md, "Schedulers").
//!
//! `cargo xtask bench schedulers [--connections N] [--seed N] [--json FILE] [--markdown] [--plot FILE]`

mod plot;
mod pool;
mod report;
mod simulation;
mod slow;

use std::path::PathBuf;

use clap::Parser;
use lb_tests::benchmark::Output;

use crate::report::Report;

#[derive(Parser)]
struct Options {
    /// How many connections a backend has on average
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// What the connections follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Draw the load of the most loaded one of a thousand backends over time, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

fn main() -> anyhow::Result<()> {
    let Options { connections, seed, plot, output } = Options::parse();
    let report = Report::new(simulation::run_all(connections, seed), slow::run_all(seed));
    report.print(&output);
    if let Some(path) = plot {
        plot::draw(&path, report.runs())?;
        println!("wrote {}", path.display());
    }
    output.save(&report)
}
