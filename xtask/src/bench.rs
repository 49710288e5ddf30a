//! Benchmarks.

use std::{
    path::{self, PathBuf},
    process::Command,
};

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::{
    cargo, root,
    setup::{self, Level},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Time the XDP programs, packet by packet
    Datapath(Datapath),
    /// Fail over, with our VRRP and with keepalived, and see how long nobody answers
    Ha(Ha),
    /// Time what the daemon does: changes, sweeps and resizes of the flow table
    Daemon(Output),
    /// Send packets and HTTP through the balancer and its rivals, and see what each of them takes
    Veth(Veth),
    /// Change the backends of a service with live connections, with flows tracked when needed, never, and always
    Churn(Churn),
    /// Simulate how evenly each algorithm loads up to a thousand backends
    Schedulers(Schedulers),
}

#[derive(Debug, Args)]
struct Schedulers {
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

#[derive(Debug, Args)]
struct Veth {
    /// Measure only the cases with this in their name, and what they are compared with
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Draw the results into this folder, as SVG
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Churn {
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

#[derive(Debug, Args)]
struct Ha {
    /// How often each case is tried with each speaker
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    trials: u16,
    /// Draw the distribution of the gaps, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Datapath {
    /// Measure only the cases with this in their name, and the floors
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Output {
    /// Write the results to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print Markdown tables
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn run(options: Options) -> Result<()> {
    match options.what {
        What::Datapath(Datapath { only, output }) => {
            setup::ensure(Level::Run)?;
            let mut command = bench("datapath");
            command.arg("--only").arg(only);
            cargo::run(output.tell(&mut command)?)
        }
        What::Daemon(output) => {
            setup::ensure(Level::Test)?;
            cargo::build_release()?;
            cargo::run(output.tell(&mut bench("daemon"))?)
        }
        What::Ha(Ha { trials, plot, output }) => {
            setup::ensure(Level::Test)?;
            cargo::build_release()?;
            let mut command = bench("ha");
            command.arg("--trials").arg(trials.to_string());
            tell_path(&mut command, "--plot", plot)?;
            cargo::run(output.tell(&mut command)?)
        }
        What::Veth(Veth { only, plots, output }) => {
            setup::ensure(Level::Bench)?;
            cargo::build_release()?;
            let mut command = bench("veth");
            command.arg("--only").arg(only);
            tell_path(&mut command, "--plots", plots)?;
            cargo::run(output.tell(&mut command)?)
        }
        What::Churn(Churn { connections, changes, seed, plot, output }) => {
            setup::ensure(Level::Test)?;
            cargo::build_release()?;
            let mut command = bench("churn");
            command.arg("--connections").arg(connections.to_string());
            command.arg("--changes").arg(changes.to_string());
            command.arg("--seed").arg(seed.to_string());
            tell_path(&mut command, "--plot", plot)?;
            cargo::run(output.tell(&mut command)?)
        }
        What::Schedulers(Schedulers { connections, seed, plot, output }) => {
            setup::ensure(Level::Run)?;
            let mut command = cargo::command();
            command.args(["bench", "--package", "lb-tests", "--bench", "schedulers", "--"]);
            command.arg("--connections").arg(connections.to_string());
            command.arg("--seed").arg(seed.to_string());
            tell_path(&mut command, "--plot", plot)?;
            cargo::run(output.tell(&mut command)?)
        }
    }
}

/// The benchmark runs in another folder.
fn tell_path(command: &mut Command, option: &str, path: Option<PathBuf>) -> Result<()> {
    if let Some(path) = path {
        command.arg(option).arg(path::absolute(path)?);
    }
    Ok(())
}

fn bench(name: &str) -> Command {
    let mut command = cargo::command();
    command.args(root::cargo_runner()).args(["bench", "--package", "lb-tests", "--bench", name, "--"]);
    command
}

impl Output {
    fn tell(self, command: &mut Command) -> Result<&mut Command> {
        tell_path(command, "--json", self.json)?;
        if self.markdown {
            command.arg("--markdown");
        }
        Ok(command)
    }
}
