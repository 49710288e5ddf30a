//! What tracking saves, and what it costs: the same connections and the same changes, with flows tracked when needed, never, and
//! always (docs/BENCHMARKS.md, "Churn").
//!
//! `cargo xtask bench churn [--connections N] [--changes N] [--seed N] [--json FILE] [--markdown] [--plot FILE]`

mod measure;
mod plot;
mod report;

use std::path::PathBuf;

use clap::Parser;
use lb_tests::benchmark::Output;

use crate::report::Report;

#[derive(Parser)]
struct Options {
    /// How many connections are held
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How many changes are made
    #[arg(long, value_name = "N", default_value_t = 300)]
    changes: usize,
    /// What the changes follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Draw the broken connections and the used entries over time, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

fn main() -> anyhow::Result<()> {
    let Options { connections, changes, seed, plot, output } = Options::parse();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the benchmark builds network namespaces: run it as root");
    let report = Report::new(measure::run(connections, changes, seed)?);
    report.print(&output);
    if let Some(path) = plot {
        plot::draw(&path, report.runs())?;
        println!("wrote {}", path.display());
    }
    output.save(&report)
}
