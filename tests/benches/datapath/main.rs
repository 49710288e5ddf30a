//! Nanoseconds per packet of the XDP programs (docs/BENCHMARKS.md, "Method").
//!
//! `cargo xtask bench datapath [--json FILE] [--markdown]`

mod cases;
mod frames;
mod measure;
mod report;
mod services;

use std::{fs, path::PathBuf};

use clap::Parser;

#[derive(Parser)]
struct Options {
    /// Write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print a Markdown table.
    #[arg(long)]
    markdown: bool,
    /// What cargo hands to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "the benchmark loads eBPF programs: run it as root");
    let machine = report::Machine::this();
    measure::stay_on_one_cpu(machine.cpus)?;
    let mut results = cases::run()?;
    results.push(measure::table_build());
    let report = report::Report::new(machine, results);
    println!("{}", if options.markdown { report.markdown() } else { report.table() });
    if let Some(path) = options.json {
        fs::write(&path, report.json()?)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
