//! The way of the packets, with or without a balancer on it: by a link of its own to the backend, which is the shortest that there is, or
//! by the lab's switch, as clients' packets go.
//!
//! ```text
//!   lb                        b1                       client        lb          b1
//!  ┌──────┐          ┌─────────────────────────┐      ┌─┴─────┐  ┌───┴───┐  ┌────┴───┐
//!  │ eth1 ├──────────┤ eth1  made, and counted │      │ made  │  │       │  │ counted│
//!  └──────┘          └─────────────────────────┘      └─┬─────┘  └───┬───┘  └────┬───┘
//!                                                       └────── the switch ──────┘
//! ```

use std::{
    fmt::{self, Write as _},
    mem,
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use aya::{Ebpf, EbpfLoader};
use lb_common::{
    NetU32, bench,
    live::{self, Arrival, Stream},
};
use lb_tests::lab::{
    Lab, Node, Process, Stats,
    config::{Forwarding, node_config},
    rivals::{self, Dnat, Source},
    topology::virtual_ipv4,
    unique_name, wait_for,
};
use lb_userspace::dataplane::object;
use serde::Serialize;

use super::{
    Flows,
    station::{self, Port, Sample, Station},
};
use crate::modes::{MODES, Mode, SOURCES};

const IPIP: u32 = 4;
const UDP: u32 = 17;

const SOON: Duration = Duration::from_secs(10);

/// After so long `lbd` has looked for flows that are over, and has found those that are to be over soon: it does so every 2 s.
const FORGOTTEN: Duration = Duration::from_secs(6);
/// For a service whose flows are to be over soon, or not between two samples.
const OVER_SOON: &str = "unreplied_timeout = \"2s\"\n";
const OVER_LATE: &str = "unreplied_timeout = \"10m\"\n";

/// How packets get to the balancer, and from it to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Network {
    Link,
    Switch,
}

impl Network {
    pub(crate) const ALL: [Self; 2] = [Self::Link, Self::Switch];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Switch => "switch",
        }
    }

    const fn device(self) -> &'static str {
        match self {
            Self::Link => "eth1",
            Self::Switch => "eth0",
        }
    }

    /// Frames come from the first, and arrive at any.
    fn ports(self, lab: &Lab) -> Vec<Port> {
        let nodes: &[_] = match self {
            Self::Link => &["b1"],
            Self::Switch => &["client", "b1"],
        };
        nodes.iter().map(|node| Port::of(lab.node(node), self.device())).collect()
    }

    fn address(self, node: &Node) -> Ipv4Addr {
        match self {
            Self::Link => node.second_ipv4(),
            Self::Switch => node.ipv4(),
        }
    }
}

/// What does the forwarding.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A program that swaps the MAC addresses: the path itself.
    Reflector,
    Balancer(Mode),
    /// The kernel's routing, as what nftables adds to.
    Routing,
    /// Translates what `nat` or `full-nat` does.
    Nftables(Source),
}

const NFTABLES: [Source; 2] = [Source::Client, Source::Pool(SOURCES[0], SOURCES[1])];

impl Kind {
    /// The path itself first.
    pub(crate) fn all() -> Vec<Self> {
        let balancers = MODES.into_iter().map(Self::Balancer);
        let nftables = NFTABLES.into_iter().map(Self::Nftables);
        [Self::Reflector].into_iter().chain(balancers).chain([Self::Routing]).chain(nftables).collect()
    }

    /// What arrives at the backend, whose address is `backend`.
    fn arrival(self, backend: Ipv4Addr) -> Arrival {
        let (destination, protocol) = match self {
            Self::Reflector => (virtual_ip(), UDP),
            Self::Balancer(mode) => match mode.forwarding {
                Forwarding::L2Dsr => (virtual_ip(), UDP),
                Forwarding::Ipip => (backend, IPIP),
                Forwarding::Gue | Forwarding::Nat | Forwarding::FullNat => (backend, UDP),
            },
            Self::Routing | Self::Nftables(_) => (backend, UDP),
        };
        Arrival { destination: NetU32::new(destination.to_bits()), protocol }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reflector => "reflector",
            Self::Balancer(mode) => mode.name,
            Self::Routing => "routing",
            Self::Nftables(Source::Client) => "nftables, nat",
            Self::Nftables(_) => "nftables, full-nat",
        })
    }
}

fn virtual_ip() -> Ipv4Addr {
    virtual_ipv4(0)
}

/// A lab with a balancer, or something in its place.
pub(crate) struct Path {
    pub(crate) kind: Kind,
    network: Network,
    station: Station,
    frame: [u8; Stream::FRAME_LEN],
    /// What `lbd` said before.
    stats: Stats,
    /// When the last frames were sent, if each was the first of its flow.
    last_new: Option<Instant>,
    /// Ends before the lab does.
    _lbd: Option<Process>,
    /// Programs that are attached as long as they are loaded.
    _programs: Vec<Ebpf>,
    lab: Lab,
}

impl Path {
    /// All of it is on one CPU.
    pub(crate) fn new(network: Network, kind: Kind, cpu: usize) -> Result<Self> {
        let lab = Lab::builder(&unique_name("bench-veth")).backends(1).build()?;
        if network == Network::Link {
            lab.add_link("b1")?;
        }
        let (ports, backend) = (network.ports(&lab), network.address(lab.node("b1")));
        let station = Station::new(&ports, cpu, kind.arrival(backend))?;
        let port = Port::of(lab.node("lb"), network.device());
        let destination = if matches!(kind, Kind::Routing) { backend } else { virtual_ip() };
        let frame = station::frame(ports[0].mac()?, port.mac()?, destination)?;
        let programs = attach_programs(&lab, network, kind, &port)?;
        let lbd = start(&lab, network, kind, backend)?;
        Ok(Self {
            kind,
            network,
            station,
            frame,
            stats: Stats::default(),
            last_new: None,
            _lbd: lbd,
            _programs: programs,
            lab,
        })
    }

    /// Sends frames, and has those that have arrived checked against what else is known of them.
    pub(crate) fn send(&mut self, flows: Flows) -> Result<Sample> {
        if flows == Flows::New {
            self.forget()?;
        }
        let sample = self.station.send(&self.frame, flows.count(), flows.packets())?;
        self.last_new = (flows == Flows::New).then(Instant::now);
        match self.kind {
            Kind::Balancer(mode) => self.check_forwarded(mode, flows, &sample)?,
            Kind::Nftables(_) => self.check_tracked(flows, &sample)?,
            Kind::Reflector | Kind::Routing => {}
        }
        Ok(sample)
    }

    /// Has all flows forgotten, so that no table runs full of new ones.
    fn forget(&self) -> Result<()> {
        match self.kind {
            Kind::Nftables(_) => rivals::forget_flows(self.lab.node("lb")),
            Kind::Balancer(mode) if mode.translates() => self.wait_until_forgotten(mode),
            Kind::Balancer(_) | Kind::Reflector | Kind::Routing => Ok(()),
        }
    }

    /// Flows are over when their time is: this makes it short.
    fn wait_until_forgotten(&self, mode: Mode) -> Result<()> {
        if self.last_new.is_none() {
            write_config(&self.lab, mode, self.network, OVER_SOON)?;
            let reloaded = self.lab.lbctl(&["reload"])?;
            ensure!(reloaded.status.success(), "lbctl reload: {}", String::from_utf8_lossy(&reloaded.stderr));
        }
        // What is said of the flows is as old as the last look at them.
        let since = self.last_new.unwrap_or_else(Instant::now);
        thread::sleep(FORGOTTEN.saturating_sub(since.elapsed()));
        wait_for("the end of all translated flows", SOON, || {
            let table = self.lab.status()?.flow_table;
            Ok((table.flows == Some(0)).then_some(()))
        })?;
        Ok(())
    }

    /// The balancer's own counters have to say the same.
    fn check_forwarded(&mut self, mode: Mode, flows: Flows, sample: &Sample) -> Result<()> {
        let before = mem::replace(&mut self.stats, self.lab.stats()?);
        let packets = |stats: &Stats| stats.service(Mode::SERVICE).map_or(0, |service| service.packets);
        let forwarded = packets(&self.stats) - packets(&before);
        let Sample { sent, arrived, .. } = *sample;
        ensure!(
            (arrived..=sent).contains(&forwarded),
            "of {sent} frames {arrived} have arrived, but lbd has counted {forwarded}"
        );
        if mode.translates() {
            let translated = self.stats.tracking.translated - before.tracking.translated;
            let is_right = match flows {
                // They may have been there before.
                Flows::One | Flows::Many => translated <= flows.count().into(),
                Flows::New => (arrived..=sent).contains(&translated),
            };
            ensure!(is_right, "lbd has made {translated} flows of {arrived} frames");
        }
        Ok(())
    }

    /// A rule that does not apply would be fast.
    fn check_tracked(&self, flows: Flows, sample: &Sample) -> Result<()> {
        let tracked = rivals::tracked_flows(self.lab.node("lb"))?;
        let expected = if flows == Flows::New { sample.arrived } else { flows.count().into() };
        ensure!(tracked >= expected, "nftables has {tracked} flows in its table, not {expected}");
        Ok(())
    }
}

/// All programs but the counter, and `lbd`'s. A veth takes frames from its peer's XDP only while it has a program of its own.
fn attach_programs(lab: &Lab, network: Network, kind: Kind, balancer: &Port) -> Result<Vec<Ebpf>> {
    let noop = (object::BENCH, bench::names::NOOP);
    let mut programs = Vec::new();
    if network == Network::Switch {
        let port = Port { namespace: lab.paths().namespace("switch"), device: "client" };
        programs.push(attach(&port, noop)?);
    }
    match (kind, network) {
        (Kind::Reflector, _) => programs.push(attach(balancer, (object::LIVE, live::names::REFLECT))?),
        (Kind::Routing | Kind::Nftables(_), Network::Link) => programs.push(attach(balancer, noop)?),
        (Kind::Balancer(_), _) | (Kind::Routing | Kind::Nftables(_), Network::Switch) => {}
    }
    Ok(programs)
}

fn attach(port: &Port, (object, program): (&[u8], &str)) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(object)?;
    port.attach(station::load(&mut ebpf, program)?)?;
    Ok(ebpf)
}

/// Sets up what forwards, but for programs.
fn start(lab: &Lab, network: Network, kind: Kind, backend: Ipv4Addr) -> Result<Option<Process>> {
    match kind {
        Kind::Reflector => {}
        Kind::Balancer(mode) => return Ok(Some(start_lbd(lab, mode, network)?)),
        Kind::Routing => start_kernel(lab)?,
        Kind::Nftables(source) => {
            start_kernel(lab)?;
            let backends = vec![backend];
            Dnat { protocol: "udp", virtual_ip: virtual_ip(), backends, source }.apply(lab.node("lb"))?;
            rivals::keep_unreplied_flows(lab.node("lb"))?;
        }
    }
    Ok(None)
}

/// Lets the kernel forward, which sends nothing by XDP.
fn start_kernel(lab: &Lab) -> Result<()> {
    lab.take_xdp_from_port("lb")?;
    rivals::let_forward(lab.node("lb"))
}

fn start_lbd(lab: &Lab, mode: Mode, network: Network) -> Result<Process> {
    write_config(lab, mode, network, OVER_LATE)?;
    let lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    Ok(lbd)
}

fn write_config(lab: &Lab, mode: Mode, network: Network, nat: &str) -> Result<()> {
    let mut config = node_config(lab.balancer("lb"));
    if network == Network::Link {
        let _ = write!(config, "\n[[interface]]\nname = \"{}\"\nxdp = \"native\"\n", network.device());
    }
    let backends = [network.address(lab.node("b1"))].into_iter();
    config += &mode.service("udp", SocketAddr::from((virtual_ip(), 80)), backends, nat);
    lab.write_config(&config)
}
