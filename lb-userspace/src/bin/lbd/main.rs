//! The load balancer's daemon.

mod decap;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use lb_userspace::{
    config::{Config, LoadError},
    daemon,
};

/// XDP load balancer: the daemon, and what belongs to running it.
#[derive(Parser)]
#[command(name = "lbd", version, arg_required_else_help = true)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Balance, as the configuration says. Ends on SIGTERM and SIGINT, and packets go on to be forwarded; SIGHUP reads
    /// the configuration again.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/lb/lb.toml")]
        config: PathBuf,
        /// Let the eBPF program log (slow): error, warn, info, debug or trace.
        #[arg(long, value_name = "LEVEL")]
        ebpf_log: Option<log::Level>,
    },
    /// Check a configuration file and change nothing.
    Check {
        /// The configuration file.
        #[arg(value_name = "FILE", default_value = "/etc/lb/lb.toml")]
        config: PathBuf,
    },
    /// Stop forwarding: detach the program, free its maps, take the announced addresses off. No daemon may run.
    Unload {
        /// The configuration file, which says where the pins are.
        #[arg(long, value_name = "FILE", default_value = "/etc/lb/lb.toml")]
        config: PathBuf,
        /// Where the pins are, whatever the configuration says or how broken it is.
        #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
        pins: Option<PathBuf>,
    },
    /// On a backend: take the outer header off packets that the balancer tunnelled (forwarding = "ipip"). Ends on
    /// SIGTERM and SIGINT, and detaches.
    Decap(decap::Options),
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(Options::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lbd: {error:#}");
            let invalid = error.downcast_ref::<LoadError>().is_some();
            ExitCode::from(if invalid { 3 } else { 1 })
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { config, ebpf_log } => daemon::run(daemon::Options { config, ebpf_log }).await,
        Command::Check { config } => {
            let Config { services, interfaces, vrrp, .. } = Config::load(&config)?;
            println!(
                "{}: valid, {} interfaces, {} services, {} VRRP instances",
                config.display(),
                interfaces.len(),
                services.len(),
                vrrp.len()
            );
            Ok(())
        }
        Command::Unload { pins: Some(pins), .. } => daemon::unload(&pins).await,
        Command::Unload { config, pins: None } => daemon::unload(&Config::load(&config)?.node.pins).await,
        Command::Decap(options) => decap::run(options).await,
    }
}
