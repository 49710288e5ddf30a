//! Nanoseconds per packet of the XDP programs (docs/BENCHMARKS.md, "Method").
//!
//! `cargo xtask bench datapath [--only TEXT] [--json FILE] [--markdown]`

mod cases;
mod frames;
mod measure;
mod report;
mod services;
mod slots;

use clap::Parser;
use lb_tests::benchmark::{Machine, Output};

#[derive(Parser)]
struct Options {
    /// Measure only the cases with this in their name, and the floors
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    #[command(flatten)]
    output: Output,
}

fn main() -> anyhow::Result<()> {
    let Options { only, output } = Options::parse();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the benchmark loads eBPF programs: run it as root");
    let machine = Machine::this();
    measure::stay_on_one_cpu(machine.cpus)?;
    let mut results = cases::run(&only)?;
    results.push(measure::table_build());
    let report = report::Report { machine, cases: results };
    println!("{}\n\n{}", report.machine, output.render(&report.table()));
    output.save(&report)
}
