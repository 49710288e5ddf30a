//! The same traffic in every mode and family: requests, datagrams, pings, streams by iperf3 both ways, and connections that last.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::lab::{
    Hold, Lab, Limit, Load, Node, Process, require_root_and, run,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name,
};

use crate::{
    client::{PORTS, names, owners, ping, udp_owners},
    config::{self, Service},
    support::{SOON, lbctl, service},
};

/// How packets get to backends, and whether those have IPv4 addresses. Each mode has a virtual IP of its own.
#[derive(Clone, Copy)]
struct Mode {
    forwarding: &'static str,
    virtual_ip: IpAddr,
    over_ipv4: bool,
}

/// All modes for clients of one family: where the backends' addresses do not matter, or cannot be of the other family, just one.
fn modes(ipv4: bool) -> Vec<Mode> {
    let forwardings = ["l2-dsr", "ipip", "ipip", "gue", "gue", "full-nat", "full-nat", "nat"];
    let same_family = [true, true, false, true, false, true, false, true];
    let mode = |((index, forwarding), same): ((u8, &'static str), bool)| Mode {
        forwarding,
        virtual_ip: if ipv4 { virtual_ipv4(index).into() } else { virtual_ipv6(index).into() },
        over_ipv4: same == ipv4,
    };
    (0..).zip(forwardings).zip(same_family).map(mode).collect()
}

const HTTP: u16 = 80;
const DATAGRAMS: u16 = 53;
const STREAMS: u16 = 5201;
const LASTING: u16 = 7000;
/// What stands for the port of pings.
const NO_PORT: u16 = 0;

/// Of pings. So many flows that each of two backends has some.
const IDENTIFIERS: Range<u16> = 300..330;

/// The arguments of a stream of datagrams.
const UDP_STREAM: [&str; 7] = ["--udp", "--bytes", "1M", "--bitrate", "40M", "--length", "1200"];

impl Mode {
    fn name(&self) -> String {
        let family = |ipv4| if ipv4 { '4' } else { '6' };
        format!("{}-{}-over-{}", self.forwarding, family(self.virtual_ip.is_ipv4()), family(self.over_ipv4))
    }

    fn is_translated(&self) -> bool {
        self.forwarding.ends_with("nat")
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.virtual_ip, port)
    }

    /// The backend's own address.
    fn backend(&self, node: &Node) -> IpAddr {
        if self.over_ipv4 { node.ipv4().into() } else { node.ipv6().into() }
    }

    /// Where servers on a backend get the packets.
    fn served_at(&self, node: &Node) -> IpAddr {
        if self.is_translated() { self.backend(node) } else { self.virtual_ip }
    }

    fn service(&self, protocol: &'static str, port: u16, backends: &[Node]) -> Service {
        let new = Service::new(&format!("{}-{protocol}-{port}", self.name()), &self.at(port).to_string());
        let tracking = if self.is_translated() { "always" } else { new.tracking };
        let new = Service { protocol, forwarding: self.forwarding, tracking, ..new };
        backends.iter().fold(new, |service, node| service.backend(node.name(), self.backend(node), 1))
    }

    /// A stream's control connection and its data are two flows, so they have one backend only.
    fn services(&self, backends: &[Node]) -> Vec<Service> {
        vec![
            self.service("tcp", HTTP, backends),
            self.service("udp", DATAGRAMS, backends),
            self.service("icmp", NO_PORT, backends),
            self.service("tcp", LASTING, backends),
            self.service("tcp", STREAMS, &backends[..1]),
            self.service("udp", STREAMS, &backends[..1]),
        ]
    }

    fn requests(&self, lab: &Lab) -> Result<()> {
        let owners = owners(lab, self.at(HTTP), PORTS)?;
        ensure!(names(&owners).into_iter().eq(["b1", "b2"]), "{owners:?}");
        lab.load(&Load::new(format!("http://{}/", self.at(HTTP)), Limit::Requests(300)))?.ensure_all_answered()
    }

    fn datagrams(&self, lab: &Lab) -> Result<()> {
        let owners = udp_owners(lab, self.at(DATAGRAMS), PORTS)?;
        ensure!(names(&owners).into_iter().eq(["b1", "b2"]), "{owners:?}");
        ensure!(udp_owners(lab, self.at(DATAGRAMS), PORTS)? == owners, "flows have moved");
        Ok(())
    }

    /// Pings with many identifiers: all are answered, some by each backend, and none by the balancer, which has the address, too.
    fn pings(&self, lab: &Lab) -> Result<()> {
        const COUNT: usize = 2;
        for identifier in IDENTIFIERS {
            ping(lab, self.virtual_ip, identifier, COUNT)?;
        }
        let stats = service(lab, &format!("{}-icmp-{NO_PORT}", self.name()))?;
        let packets: Vec<u64> = stats.backends.iter().map(|backend| backend.packets).collect();
        let all = (IDENTIFIERS.len() * COUNT) as u64;
        ensure!(packets.iter().all(|packets| *packets > 0) && packets.iter().sum::<u64>() == all, "{packets:?}");
        Ok(())
    }

    /// A stream each way by TCP, and by UDP.
    fn streams(&self, lab: &Lab) -> Result<()> {
        for kind in [&["--bytes", "8M"][..], &["--bytes", "8M", "--reverse"]] {
            let bytes = self.stream(lab, kind)?["end"]["sum_received"]["bytes"].as_u64();
            // What is still on its way when the client has written all is not reported.
            ensure!(bytes.is_some_and(|bytes| bytes >= 1 << 20), "{kind:?}: {bytes:?} bytes have arrived");
        }
        for reverse in [None, Some("--reverse")] {
            let kind: Vec<&str> = UDP_STREAM.into_iter().chain(reverse).collect();
            let sum = self.stream(lab, &kind)?["end"]["sum"].take();
            let [sent, lost] = ["packets", "lost_packets"].map(|key| sum[key].as_u64().unwrap_or(0));
            ensure!(sent > 800 && lost < sent / 20, "{kind:?}: {sum}");
        }
        Ok(())
    }

    /// What the client of iperf3 reports, with a server of its own.
    fn stream(&self, lab: &Lab, arguments: &[&str]) -> Result<serde_json::Value> {
        let node = &lab.backends()[0];
        let (address, port) = (self.served_at(node).to_string(), STREAMS.to_string());
        let mut server = node.command("iperf3");
        server.args(["--server", "--one-off", "--forceflush", "--bind", &address, "--port", &port]);
        let mut server = lab.spawn("iperf3", server)?;
        server.wait_for_log("Server listening", SOON)?;
        let mut client = lab.node("client").command("iperf3");
        client.args(["--json", "--connect-timeout", "5000", "--port", &port, "--client"]);
        let report = run(client.arg(self.virtual_ip.to_string()).args(arguments))?;
        let report: serde_json::Value = serde_json::from_slice(&report.stdout)?;
        if let Some(error) = report["error"].as_str() {
            bail!("{arguments:?}: {error}");
        }
        Ok(report)
    }
}

/// Lets what backends send to the client from their own addresses go by the balancer, as `nat` needs it, and what they send from a
/// virtual IP the direct way.
fn route_translated_back(lab: &Lab) -> Result<()> {
    const TABLE: u8 = 77;
    let (client, lb) = (lab.node("client"), lab.node("lb"));
    for backend in lab.backends() {
        backend.ip(&format!("route add {}/32 via {} table {TABLE}", client.ipv4(), lb.ipv4()))?;
        backend.ip(&format!("route add {}/128 via {} table {TABLE}", client.ipv6(), lb.ipv6()))?;
        backend.ip(&format!("rule add from {} lookup {TABLE}", backend.ipv4()))?;
        backend.ip(&format!("-6 rule add from {} lookup {TABLE}", backend.ipv6()))?;
    }
    Ok(())
}

/// Servers of datagrams at every address that a backend has for `modes`.
fn start_echoes(lab: &Lab, modes: &[Mode]) -> Result<Vec<Process>> {
    let places = lab.backends().iter().flat_map(|node| modes.iter().map(|mode| (node.name(), mode.served_at(node))));
    let places: BTreeSet<_> = places.collect();
    places.into_iter().map(|(name, address)| lab.start_udp_echo(name, SocketAddr::new(address, DATAGRAMS))).collect()
}

fn every_mode_carries_everything(ipv4: bool) -> Result<()> {
    if !require_root_and(&["iperf3", "ping"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name(if ipv4 { "modes4" } else { "modes6" })).backends(2).build()?;
    route_translated_back(&lab)?;
    let modes = modes(ipv4);
    let services: Vec<Service> = modes.iter().flat_map(|mode| mode.services(lab.backends())).collect();
    lab.write_config(&config::file(&lab, &services))?;
    let _servers = lab.start_servers()?;
    let _echoes = start_echoes(&lab, &modes)?;
    let mut hold_servers = Vec::new();
    for node in lab.backends() {
        hold_servers.push(lab.start_hold_server(node.name(), LASTING)?);
    }
    let _decaps = lab.start_decaps()?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    for mode in &modes {
        let name = mode.name();
        let hold = lab.start_hold(&Hold::new(mode.at(LASTING), 30)).context(name.clone())?;
        hold.wait_until_open(30, SOON).with_context(|| name.clone())?;
        mode.requests(&lab).context(name.clone())?;
        mode.datagrams(&lab).context(name.clone())?;
        mode.pings(&lab).context(name.clone())?;
        // Its connections stay where they are, and go on.
        let lasting = format!("{name}-tcp-{LASTING}");
        lbctl(&lab, &["backend", "drain", "b2", "--service", &lasting])?;
        mode.streams(&lab).context(name.clone())?;
        let report = hold.finish().context(name.clone())?;
        ensure!(report.open() == 30 && report.broken.is_empty(), "{name}: {report:?}");
    }
    Ok(())
}

#[test]
fn every_mode_carries_everything_for_clients_of_ipv4() -> Result<()> {
    every_mode_carries_everything(true)
}

#[test]
fn every_mode_carries_everything_for_clients_of_ipv6() -> Result<()> {
    every_mode_carries_everything(false)
}
