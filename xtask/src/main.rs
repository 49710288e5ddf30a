//! The project's chores, as `cargo xtask COMMAND`.

mod bench;
mod cargo;
mod interrupt;
mod lab;
mod progress;
mod root;
mod run;
mod setup;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The project's chores")]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Everything is installed and built: this process was started by one that saw to it, as another user
    #[arg(long, global = true, hide = true)]
    prepared: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the project needs, and say what that is
    Setup(setup::Options),
    /// Run the balancer: in a lab of its own with real traffic, or on this machine's interface
    Run(run::Options),
    /// A lab to play with: a client, the balancer and its backends in network namespaces
    Lab(lab::Options),
    /// Check format, lints and tests
    Test(test::Options),
    /// Measure
    Bench(bench::Options),
}

fn main() -> Result<()> {
    let Cli { command, prepared } = Cli::parse();
    match command {
        Command::Setup(options) => setup::run(&options),
        Command::Run(options) => run::run(options, prepared),
        Command::Lab(options) => lab::run(options, prepared),
        Command::Test(options) => test::run(&options),
        Command::Bench(options) => bench::run(options),
    }
}
