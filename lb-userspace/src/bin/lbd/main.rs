//! The load balancer's daemon.

mod decap;
mod downgrade;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use lb_userspace::{
    config::{Config, LoadError},
    daemon,
    model::counted,
    vrrp,
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
        /// Leave VRRP to an `lbd vrrp` that is started elsewhere, by systemd for example.
        #[arg(long)]
        no_vrrp: bool,
    },
    /// Speak VRRP for the [[vrrp]] sections of the configuration, in processes of their own, which no restart of the daemon
    /// concerns. `lbd run` starts it, unless told not to. Ends on SIGTERM and SIGINT, and hands over before.
    Vrrp {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/lb/lb.toml")]
        config: PathBuf,
    },
    /// The process that `lbd vrrp` watches.
    #[command(hide = true)]
    VrrpSpeaker {
        #[arg(long)]
        config: PathBuf,
        /// Instances that died as master.
        #[arg(long)]
        bury: Vec<String>,
        /// The descriptor of the watcher's lock.
        #[arg(long)]
        lock: Option<i32>,
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
    /// Prepare the maps for the lbd of before the last change of their layout, which then takes over. No daemon may run. Packets
    /// go on all the while; connections that are not where their slot is now do not.
    Downgrade {
        /// The configuration file, which says where the pins are.
        #[arg(long, value_name = "FILE", default_value = "/etc/lb/lb.toml")]
        config: PathBuf,
        /// Where the pins are, whatever the configuration says or how broken it is.
        #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
        pins: Option<PathBuf>,
    },
    /// On a backend: take the outer headers off packets that the balancer tunnelled (forwarding = "ipip" or "gue"). Ends
    /// on SIGTERM and SIGINT, and detaches.
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
        Command::Run { config, ebpf_log, no_vrrp } => daemon::run(daemon::Options { config, ebpf_log, no_vrrp }).await,
        Command::Vrrp { config } => vrrp::watcher::run(config).await,
        Command::VrrpSpeaker { config, bury, lock } => {
            vrrp::speaker::run(vrrp::speaker::Options { config, bury, lock }).await
        }
        Command::Check { config } => {
            let loaded = Config::load(&config)?;
            for warning in loaded.warnings() {
                log::warn!("{warning}");
            }
            let Config { services, interfaces, vrrp, .. } = loaded;
            let parts = [(interfaces.len(), "interface"), (services.len(), "service"), (vrrp.len(), "VRRP instance")];
            let parts = parts.map(|(count, noun)| counted(count as u64, noun));
            println!("{}: valid, {}", config.display(), parts.join(", "));
            Ok(())
        }
        Command::Unload { pins: Some(pins), .. } => daemon::unload(&pins, None).await,
        Command::Unload { config, pins: None } => {
            let Config { node, .. } = Config::load(&config)?;
            daemon::unload(&node.pins, Some(&node.state)).await
        }
        Command::Downgrade { pins: Some(pins), .. } => downgrade::run(&pins),
        Command::Downgrade { config, pins: None } => downgrade::run(&Config::load(&config)?.node.pins),
        Command::Decap(options) => decap::run(options).await,
    }
}
