//! Failover of `lbd vrrp` beside that of keepalived (docs/BENCHMARKS.md, "Failover").
//!
//! `cargo xtask bench ha [--trials N] [--json FILE] [--markdown] [--plot FILE]`

mod crowd;
mod failover;
mod hand_over;
mod pair;
mod plot;
mod report;

use std::path::PathBuf;

use clap::Parser;
use lb_tests::benchmark::Output;

use crate::report::Report;

#[derive(Parser)]
struct Options {
    /// How often each case is tried with each speaker
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    trials: u16,
    /// Draw the distribution of the gaps, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

fn main() -> anyhow::Result<()> {
    let Options { trials, plot, output } = Options::parse();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the benchmark builds network namespaces: run it as root");
    let report = Report::new(failover::run(trials)?, hand_over::run(trials)?, crowd::run()?)?;
    report.print(&output);
    if let Some(path) = plot {
        plot::draw(&path, report.failovers())?;
        println!("wrote {}", path.display());
    }
    output.save(&report)
}
