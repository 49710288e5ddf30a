//! The balancer beside its rivals in network namespaces (docs/BENCHMARKS.md, "veth").
//!
//! `cargo xtask bench veth [--only TEXT] [--json FILE] [--markdown] [--plots FOLDER]`

mod modes;
mod packets;
mod plot;
mod report;
mod targets;
mod tcp;

use std::path::PathBuf;

use clap::Parser;
use lb_tests::benchmark::{Machine, Output};

use crate::report::Report;

#[derive(Parser)]
struct Options {
    /// Measure only the cases with this in their name, and what they are compared with
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Draw the results into this folder, as SVG
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

fn main() -> anyhow::Result<()> {
    let Options { only, plots, output } = Options::parse();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the benchmark builds network namespaces: run it as root");
    let machine = Machine::this();
    let packets = packets::run(&only, machine.cpus)?;
    let tcp = tcp::run(&only)?;
    anyhow::ensure!(!packets.is_empty() || !tcp.is_empty(), "there is no case with {only:?} in its name");
    let report = Report::new(machine, packets, tcp);
    report.print(&output);
    if let Some(folder) = plots {
        plot::draw(&folder, &report)?;
    }
    output.save(&report)
}
