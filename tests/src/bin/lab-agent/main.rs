//! What runs on the lab's nodes: servers, clients, and the guard that cleans up.

mod ask;
mod backend;
mod flood;
mod hold;
mod hold_server;
mod inject;
mod load;
mod open_files;
mod packet_socket;
mod probe;
mod udp_echo;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lb_tests::lab::{Paths, guard};

#[derive(Debug, Parser)]
#[command(about = "Servers and clients for the network-namespace lab")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve HTTP: the backend's name on any path, `ok` on /healthz
    Backend(backend::Options),
    /// Send each UDP datagram back, with the node's name in front
    UdpEcho(udp_echo::Options),
    /// Send HTTP requests, and count who answered
    Load(load::Options),
    /// Send HTTP requests with as little work as possible, and take the time of each
    Ask(ask::Options),
    /// Send UDP datagrams at a steady pace, and find out when there was no answer
    Probe(probe::Options),
    /// Answer each line with the backend's name, on any number of connections
    HoldServer(hold_server::Options),
    /// Hold TCP connections open, and find out which of them break
    Hold(hold::Options),
    /// Send frames as they are given
    Inject(inject::Options),
    /// Send packets of flows that nobody has opened, from random sources
    Flood(flood::Options),
    /// Wait for the end of standard input, then take a lab down
    #[command(hide = true)]
    Guard { lab: String },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Backend(options) => backend::run(options),
        Command::UdpEcho(options) => udp_echo::run(options),
        Command::Load(options) => load::run(&options),
        Command::Ask(options) => ask::run(&options),
        Command::Probe(options) => probe::run(&options),
        Command::HoldServer(options) => hold_server::run(options),
        Command::Hold(options) => hold::run(&options),
        Command::Inject(options) => inject::run(&options),
        Command::Flood(options) => flood::run(&options),
        Command::Guard { lab } => guard(&Paths::new(&lab)?),
    }
}
