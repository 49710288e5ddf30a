//! Packets of flows that nobody has opened: random sources, as many as there can be. The work is done by `lab-agent flood`.

use std::{net::SocketAddrV4, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    Lab,
    paths::binary,
    process::Process,
    topology::{Node, mac_text},
};

/// How much longer than the rate says a flood may take: a busy machine does not keep to it.
const SLACK: u32 = 10;

/// Packets from the client. Their sources are in 198.18.0.0/15 (RFC 2544), where nobody of the lab has a route to: no answer
/// comes back, and backends drop a SYN before they remember it.
#[derive(Clone, Debug)]
pub struct Flood {
    pub target: SocketAddrV4,
    pub packet: FloodPacket,
    /// How many.
    pub count: u32,
    /// How many a second at most.
    pub rate: u32,
    /// The same seed gives the same sources, in the same order.
    pub seed: u64,
}

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodPacket {
    /// First segments of TCP connections.
    Syn,
    /// Segments in the middle of TCP connections.
    Ack,
    /// Datagrams of UDP.
    Udp,
}

impl FloodPacket {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Ack => "ack",
            Self::Udp => "udp",
        }
    }
}

impl Flood {
    fn add_arguments(&self, command: &mut Command, client: &Node, gateway: &Node) {
        let Self { target, packet, count, rate, seed } = self;
        command.args(["flood", packet.name(), "--interface", "eth0"]);
        command.args(["--from", &mac_text(client.mac()), "--gateway", &mac_text(gateway.mac())]);
        command.args(["--target", &target.to_string(), "--count", &count.to_string()]);
        command.args(["--rate", &rate.to_string(), "--seed", &seed.to_string()]);
    }
}

/// A flood under way.
#[derive(Debug)]
pub struct RunningFlood {
    process: Process,
    timeout: Duration,
}

impl RunningFlood {
    /// Whether all is sent.
    pub fn is_finished(&mut self) -> bool {
        self.process.ensure_running().is_err()
    }

    /// Waits until all is sent; returns how many packets a second that were.
    pub fn wait(mut self) -> Result<u32> {
        let status = self.process.wait(self.timeout)?;
        let log = self.process.log()?;
        ensure!(status.success(), "the flood: {status}\n{log}");
        let rate = log.lines().find_map(|line| line.strip_suffix(" packets a second")?.rsplit(' ').next());
        rate.with_context(|| format!("no rate in {log:?}"))?.parse().context("the flood's rate")
    }
}

impl Lab {
    /// Starts to send packets from the client to a virtual IP of `lb`. It ends by itself.
    pub fn start_flood(&self, flood: &Flood) -> Result<RunningFlood> {
        let mut command = self.node("client").command(binary("lab-agent")?);
        flood.add_arguments(&mut command, self.node("client"), self.node("lb"));
        let seconds = flood.count / flood.rate.max(1) + 1;
        let timeout = Duration::from_secs(u64::from(seconds * SLACK));
        Ok(RunningFlood { process: self.spawn(&format!("{}-flood", flood.packet.name()), command)?, timeout })
    }
}
