//! Everything that must hold before a change goes in.

use std::{process::Command, time::Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    cargo, root,
    setup::{self, Level},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this; leave format and lints out
    filter: Option<String>,
    /// Run the tests that take minutes, too
    #[arg(long)]
    long: bool,
}

/// All crates but the one that is for the bpf target.
const HOST: [&str; 3] = ["--workspace", "--exclude", "lb-ebpf"];

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Level::Test)?;
    let started = Instant::now();
    let mut steps = Vec::new();
    if options.filter.is_none() {
        steps.push(("format", format()));
        steps.push(("lints", lints()));
        steps.push(("lints of lb-ebpf", ebpf_lints()));
    }
    steps.push(("build", build()));
    steps.push(("tests", tests(options)));

    let mut failed = Vec::new();
    let count = steps.len();
    for (name, mut command) in steps {
        println!("\n==> {name}");
        if let Err(error) = cargo::run(&mut command) {
            println!("{error:#}");
            failed.push(name);
        }
    }
    let seconds = started.elapsed().as_secs();
    if !failed.is_empty() {
        bail!("failed, of {count} steps: {} ({seconds} s)", failed.join(", "));
    }
    println!("all {count} steps passed ({seconds} s)");
    Ok(())
}

fn format() -> Command {
    let mut command = cargo::command();
    command.args(["fmt", "--all", "--check"]);
    command
}

fn lints() -> Command {
    let mut command = cargo::command();
    command.arg("clippy").args(HOST).args(["--all-targets", "--", "--deny", "warnings"]);
    command
}

fn ebpf_lints() -> Command {
    let mut command = cargo::command();
    command
        .args(["clippy", "--package", "lb-ebpf", "--release", "--no-deps"])
        .args(["--target", "bpfel-unknown-none", "-Zbuild-std=core"])
        .args(["--", "--deny", "warnings"])
        // As in the build script of `lb-userspace`, which builds the programs.
        .env("RUSTC_BOOTSTRAP", "1");
    command
}

fn build() -> Command {
    let mut command = cargo::command();
    command.arg("build").args(HOST);
    command
}

fn tests(options: &Options) -> Command {
    let mut command = cargo::command();
    command.args(root::cargo_runner()).args(["test", "--no-fail-fast"]).args(HOST).args(&options.filter);
    if options.long {
        command.env("LB_LONG", "1");
    }
    command
}
