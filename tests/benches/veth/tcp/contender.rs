//! A lab with a balancer, one of its rivals, or nothing between client and backends.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{Ebpf, EbpfLoader, maps::Array};
use lb_common::{
    NetU32,
    live::{Hop, names},
};
use lb_tests::{
    benchmark::Turn,
    cpu,
    lab::{
        Ask, AskReport, DeviceThreads, Lab, Node, Process, Server,
        config::{Forwarding, node_config},
        rivals::{self, Dnat, Source},
        set_sysctl,
        topology::virtual_ipv4,
        unique_name, wait_for,
    },
};

use lb_userspace::dataplane::object;

use super::{RELAY, RELAY_BOTH_WAYS};
use crate::{
    modes::{MODES, Mode, sources},
    packets::{Port, load},
};

const BACKENDS: usize = 2;
const PORT: u16 = 80;
/// A larger part of the requests must not fail. A few in a million do, by the kernel of the backends: see docs/BENCHMARKS.md.
const FAILURE_LIMIT: f64 = 0.001;

const SOON: Duration = Duration::from_secs(20);

/// What hands connections to backends.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Nothing: the client asks the backends in turn.
    Direct,
    /// A program that only exchanges MAC addresses, also those of the backends' packets if it goes both ways: the way itself.
    Relay {
        both_ways: bool,
    },
    Balancer(Mode),
    Haproxy,
    Nginx,
    /// Translates what `nat` or `full-nat` does.
    Nftables(Source),
}

impl Kind {
    /// Nothing first. Says loudly what is missing.
    pub(crate) fn all() -> Vec<Self> {
        let balancers = MODES.into_iter().map(Self::Balancer);
        let rivals = [Self::Haproxy, Self::Nginx, Self::Nftables(Source::Client), Self::Nftables(Source::Node)];
        let rivals = rivals.into_iter().filter(|rival| rival.is_there());
        let ways = [Self::Direct, Self::Relay { both_ways: false }, Self::Relay { both_ways: true }];
        ways.into_iter().chain(balancers).chain(rivals).collect()
    }

    fn is_there(self) -> bool {
        let is_there = match self {
            Self::Direct | Self::Relay { .. } | Self::Balancer(_) => true,
            Self::Haproxy => rivals::version("haproxy", "-v").is_some(),
            Self::Nginx => std::path::Path::new(rivals::NGINX_STREAM).exists(),
            Self::Nftables(_) => rivals::version("nft", "-v").is_some(),
        };
        if !is_there {
            eprintln!("\n*** {self} IS MISSING HERE: `cargo xtask setup bench` installs it ***\n");
        }
        is_there
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Direct => "direct",
            Self::Relay { both_ways: false } => RELAY,
            Self::Relay { both_ways: true } => RELAY_BOTH_WAYS,
            Self::Balancer(mode) => mode.name,
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx stream",
            Self::Nftables(Source::Client) => "nftables, nat",
            Self::Nftables(_) => "nftables, full-nat",
        })
    }
}

/// How the client asks.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) at_once: u32,
    pub(crate) requests: u32,
    pub(crate) keep_alive: bool,
    /// Client, servers and what is between them share one CPU, so that none of them waits for an idle one to wake up. They have all CPUs
    /// if not.
    pub(crate) on_one_cpu: bool,
    /// Each device has threads of its own, so that it can be told what has run on the balancer's node. From then on it has.
    pub(crate) by_node: bool,
}

/// What came of the same requests in one turn.
pub(crate) struct Sample {
    pub(crate) report: AskReport,
    /// What client, servers, balancer and the kernel's threads have run.
    busy: Duration,
    /// What of it the balancer's node has, if that was to be told.
    node: Option<Duration>,
    /// What the whole machine was busy with.
    machine: Duration,
}

impl Sample {
    /// Requests a second, and microseconds for each.
    pub(crate) fn turn(&self) -> Turn {
        self.turn_of(self.busy)
    }

    /// The same, with all that the machine did.
    pub(crate) fn machine_turn(&self) -> Turn {
        self.turn_of(self.machine)
    }

    /// Microseconds of the balancer's node for each request.
    pub(crate) fn node_us(&self) -> Option<f64> {
        self.node.map(|busy| self.turn_of(busy).cost)
    }

    fn turn_of(&self, busy: Duration) -> Turn {
        let answers = count(self.report.answers());
        Turn { rate: answers / self.report.seconds, cost: busy.as_secs_f64() * 1e6 / answers }
    }
}

/// One that is up.
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    targets: Vec<SocketAddr>,
    softirqs: cpu::SoftirqThreads,
    /// Packets that `lbd` says it has forwarded.
    forwarded: u64,
    /// Of the balancer's device, and of all others.
    devices: Option<(DeviceThreads, DeviceThreads)>,
    /// It is attached as long as it is loaded.
    _relay: Option<Ebpf>,
    /// What is between client and servers, if there is a process for it. It ends before the lab does, as the servers do.
    balancer: Option<Process>,
    servers: Vec<Process>,
    lab: Lab,
}

impl Contender {
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        let lab = Lab::builder(&unique_name("bench-veth")).backends(BACKENDS).server(Server::Nginx).build()?;
        let mut servers = lab.start_servers()?;
        if !matches!(kind, Kind::Balancer(_) | Kind::Relay { .. }) {
            lab.take_xdp_from_port("lb")?;
        }
        let mut relay = None;
        let backends: Vec<_> = lab.backends().iter().map(|node| SocketAddr::from((node.ipv4(), PORT))).collect();
        let target = SocketAddr::from((virtual_ip(), PORT));
        let balancer = match kind {
            Kind::Direct => None,
            Kind::Relay { both_ways } => {
                relay = Some(start_relay(&lab, both_ways)?);
                None
            }
            Kind::Balancer(mode) => {
                servers.extend(prepare_backends(&lab, mode)?);
                Some(start_lbd(&lab, mode)?)
            }
            Kind::Haproxy => {
                prepare_proxy(lab.node("lb"))?;
                Some(lab.balancer("lb").spawn_haproxy(target, &backends)?)
            }
            Kind::Nginx => {
                prepare_proxy(lab.node("lb"))?;
                Some(lab.balancer("lb").spawn_nginx_stream(target, &backends)?)
            }
            Kind::Nftables(source) => {
                start_nftables(&lab, source)?;
                None
            }
        };
        let targets = if matches!(kind, Kind::Direct) { backends } else { vec![target] };
        let softirqs = cpu::SoftirqThreads::find()?;
        let mut contender =
            Self { kind, targets, softirqs, forwarded: 0, devices: None, _relay: relay, balancer, servers, lab };
        contender.wait_until_answering()?;
        Ok(contender)
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.servers.iter_mut().chain(&mut self.balancer)
    }

    fn wait_until_answering(&mut self) -> Result<()> {
        let ask = Ask { targets: self.targets.clone(), at_once: 1, requests: 100, keep_alive: false, cpu: None };
        wait_for(&format!("answers by way of {}", self.kind), SOON, || {
            self.processes().try_for_each(Process::ensure_running)?;
            Ok(self.lab.ask(&ask).ok().filter(|report| report.errors.is_empty()))
        })?;
        Ok(())
    }

    /// Makes all requests, and has the answers checked against what else is known of them.
    pub(crate) fn ask(&mut self, load: Load) -> Result<Sample> {
        let Load { at_once, requests, keep_alive, on_one_cpu, by_node } = load;
        if by_node && self.devices.is_none() {
            self.devices = Some(self.lab.thread_devices()?);
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        // Interrupts prefer the first.
        let last = cpus - 1;
        let allowed = if on_one_cpu { last..cpus } else { 0..cpus };
        self.processes().try_for_each(|process| cpu::confine(process.id(), allowed.clone()))?;
        let ask = Ask { targets: self.targets.clone(), at_once, requests, keep_alive, cpu: on_one_cpu.then_some(last) };
        let (machine, node_before, before) = (cpu::Machine::now()?, self.node_busy()?, self.busy()?);
        let report = self.lab.ask(&ask)?;
        let (after, node_after, machine) = (self.busy()?, self.node_busy()?, machine.busy_since()?);
        self.check_failures(&report)?;
        if !keep_alive {
            ensure!(report.by_backend.len() == BACKENDS, "not all backends have answered: {:?}", report.by_backend);
        }
        self.check_forwarded(load)?;
        self.check_tracked()?;
        let client = Duration::from_secs_f64(report.cpu_ns / 1e9);
        let node = node_after.zip(node_before).map(|(after, before)| after.saturating_sub(before));
        Ok(Sample { report, busy: client + after.saturating_sub(before), node, machine })
    }

    /// Says what went wrong.
    fn check_failures(&self, report: &AskReport) -> Result<()> {
        if !report.errors.is_empty() {
            eprintln!("by way of {}: {:?}", self.kind, report.errors);
        }
        let (answers, failures) = (count(report.answers()), count(report.failures()));
        ensure!(
            failures <= (answers + failures) * FAILURE_LIMIT,
            "{failures} requests have failed: {:?}",
            report.errors
        );
        Ok(())
    }

    /// What all but the client has run until now.
    fn busy(&self) -> Result<Duration> {
        let processes = self.servers.iter().chain(&self.balancer);
        let processes: Duration = processes.map(|process| cpu::process(process.id())).sum::<Result<_>>()?;
        let devices = match &self.devices {
            Some((balancer, others)) => balancer.time()? + others.time()?,
            None => Duration::ZERO,
        };
        Ok(processes + devices + self.softirqs.time()?)
    }

    /// What the balancer's process and its device have run until now, if that can be told.
    fn node_busy(&self) -> Result<Option<Duration>> {
        let Some((devices, _)) = &self.devices else { return Ok(None) };
        let process = self.balancer.as_ref().map_or(Ok(Duration::ZERO), |process| cpu::process(process.id()))?;
        Ok(Some(process + devices.time()?))
    }

    /// Each request is a packet at least, and each connection three more, of which the answers are none: their way is another one.
    fn check_forwarded(&mut self, load: Load) -> Result<()> {
        if !matches!(self.kind, Kind::Balancer(_)) {
            return Ok(());
        }
        let stats = self.lab.stats()?;
        let packets = stats.service(Mode::SERVICE).context("lbd has no such service")?.packets;
        let forwarded = packets - self.forwarded;
        self.forwarded = packets;
        let least = u64::from(load.requests) * if load.keep_alive { 1 } else { 4 };
        ensure!(forwarded >= least, "lbd has forwarded {forwarded} packets, not {least} at least");
        Ok(())
    }

    fn check_tracked(&self) -> Result<()> {
        if matches!(self.kind, Kind::Nftables(_)) {
            ensure!(rivals::tracked_flows(self.lab.node("lb"))? > 0, "nftables has no flow in its table");
        }
        Ok(())
    }
}

fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn virtual_ip() -> Ipv4Addr {
    virtual_ipv4(0)
}

/// Gives the backends, and the balancer, what they need for a mode; returns the programs that do it.
fn prepare_backends(lab: &Lab, mode: Mode) -> Result<Vec<Process>> {
    match mode.forwarding {
        Forwarding::L2Dsr => {}
        Forwarding::Ipip | Forwarding::Gue => return lab.start_decaps(),
        Forwarding::Nat => lead_back(lab)?,
        Forwarding::FullNat => {
            for source in sources() {
                lab.node("lb").ip(&format!("address add {source}/32 dev eth0"))?;
            }
        }
    }
    Ok(Vec::new())
}

fn start_lbd(lab: &Lab, mode: Mode) -> Result<Process> {
    let backends = lab.backends().iter().map(Node::ipv4);
    let service = mode.service("tcp", SocketAddr::from((virtual_ip(), PORT)), backends, "");
    lab.write_config(&(node_config(lab.balancer("lb")) + &service))?;
    let lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    Ok(lbd)
}

fn start_relay(lab: &Lab, both_ways: bool) -> Result<Ebpf> {
    hold_virtual_ip(lab.node("lb"))?;
    let mut ebpf = EbpfLoader::new().load(object::LIVE)?;
    let mut hops: Array<_, Hop> = ebpf.take_map(names::HOPS).context("no map for the hops")?.try_into()?;
    let to = |address: Ipv4Addr, node: &Node| Hop {
        destination: NetU32::new(address.to_bits()),
        mac: node.mac(),
        ..Hop::default()
    };
    for (number, backend) in (0..).zip(lab.backends()) {
        hops.set(number, to(virtual_ip(), backend), 0)?;
    }
    if both_ways {
        let client = lab.node("client");
        hops.set(Hop::COUNT - 1, to(client.ipv4(), client), 0)?;
        lead_back(lab)?;
    }
    Port::of(lab.node("lb"), "eth0").attach(load(&mut ebpf, names::RELAY)?)?;
    Ok(ebpf)
}

fn start_nftables(lab: &Lab, source: Source) -> Result<()> {
    let node = lab.node("lb");
    hold_virtual_ip(node)?;
    rivals::let_forward(node)?;
    if source == Source::Client {
        lead_back(lab)?;
    }
    let backends = lab.backends().iter().map(Node::ipv4).collect();
    Dnat { protocol: "tcp", virtual_ip: virtual_ip(), backends, source }.apply(node)
}

/// Lets the backends answer by way of the balancer.
fn lead_back(lab: &Lab) -> Result<()> {
    let (client, balancer) = (lab.node("client").ipv4(), lab.node("lb").ipv4());
    lab.backends().iter().try_for_each(|node| node.ip(&format!("route add {client}/32 via {balancer}")).map(drop))
}

/// What a proxy has on a machine of its own.
fn prepare_proxy(node: &Node) -> Result<()> {
    hold_virtual_ip(node)?;
    node.namespace().inside(|| {
        set_sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        set_sysctl("net/ipv4/tcp_tw_reuse", "1")
    })
}

fn hold_virtual_ip(node: &Node) -> Result<()> {
    node.ip(&format!("address add {}/32 dev eth0", virtual_ip())).map(drop)
}
