//! Benchmarks.

use std::path::{self, PathBuf};

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
}

#[derive(Debug, Args)]
struct Datapath {
    /// Write the results to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print Markdown tables
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let What::Datapath(datapath) = options.what;
    setup::ensure(Level::Run)?;
    let mut command = cargo::command();
    command.args(root::cargo_runner()).args(["bench", "--package", "lb-tests", "--bench", "datapath", "--"]);
    if let Some(file) = datapath.json {
        // The benchmark runs in another folder.
        command.arg("--json").arg(path::absolute(file)?);
    }
    if datapath.markdown {
        command.arg("--markdown");
    }
    cargo::run(&mut command)
}
