//! Services that translate addresses and ports: backends need nothing, or a route.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Lab, Limit, Load, Node, Server, require_root, require_root_and, set_sysctl,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name, wait_for,
};

use crate::{
    client::{PORTS, names, ping, requests_and_an_upload, udp_owners},
    config::{self, Service},
    support::{Balanced, SOON, lbctl, refused, service, wait_for_state},
};

/// Name, virtual IP, mode, and whether the backends' addresses are IPv4.
fn modes() -> [(&'static str, IpAddr, &'static str, bool); 6] {
    let (v4, v6) = (|index| virtual_ipv4(index).into(), |index| virtual_ipv6(index).into());
    [
        ("full44", v4(0), "full-nat", true),
        ("full66", v6(0), "full-nat", false),
        ("full46", v4(1), "full-nat", false),
        ("full64", v6(1), "full-nat", true),
        ("nat44", v4(2), "nat", true),
        ("nat66", v6(2), "nat", false),
    ]
}

fn address_of(node: &Node, is_ipv4: bool) -> IpAddr {
    if is_ipv4 { node.ipv4().into() } else { node.ipv6().into() }
}

/// Services of `protocol` on `port`, one for each mode, with all backends.
fn services(lab: &Lab, protocol: &'static str, port: u16) -> Vec<Service> {
    let of = |(name, virtual_ip, forwarding, is_ipv4): (&str, IpAddr, &'static str, bool)| {
        let new = Service::new(name, &SocketAddr::new(virtual_ip, port).to_string());
        let new = Service { protocol, forwarding, tracking: "always", ..new };
        lab.backends().iter().fold(new, |service, node| service.backend(node.name(), address_of(node, is_ipv4), 1))
    };
    modes().map(of).into()
}

/// Lets replies to the client go by the balancer, as `nat` needs it.
pub(crate) fn route_back(lab: &Lab) -> Result<()> {
    let (client, lb) = (lab.node("client"), lab.node("lb"));
    for backend in lab.backends() {
        backend.ip(&format!("route add {}/32 via {}", client.ipv4(), lb.ipv4()))?;
        backend.ip(&format!("route add {}/128 via {}", client.ipv6(), lb.ipv6()))?;
    }
    Ok(())
}

#[test]
fn requests_and_uploads_get_through_in_every_mode_and_family() -> Result<()> {
    if !require_root_and(&["nginx", "curl"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat")).backends(2).server(Server::Nginx).build()?;
    route_back(&lab)?;
    let checked: Vec<Service> = services(&lab, "tcp", 80).into_iter().map(Service::checked).collect();
    let balanced = Balanced::with(lab, &checked)?;
    let lab = &balanced.lab;
    for (name, virtual_ip, ..) in modes() {
        let address = SocketAddr::new(virtual_ip, 80);
        requests_and_an_upload(lab, address).context(name)?;
        ensure!(service(lab, name)?.packets > 500, "{name} has not gone through the balancer");
    }
    Ok(())
}

#[test]
fn datagrams_come_back_in_every_mode_and_family() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat-udp")).backends(2).build()?;
    route_back(&lab)?;
    let services = services(&lab, "udp", 53);
    lab.write_config(&config::file(&lab, &services))?;
    let mut echoes = Vec::new();
    for backend in lab.backends() {
        for is_ipv4 in [true, false] {
            echoes.push(lab.start_udp_echo(backend.name(), SocketAddr::new(address_of(backend, is_ipv4), 53))?);
        }
    }
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    for (name, virtual_ip, ..) in modes() {
        let owners = udp_owners(&lab, SocketAddr::new(virtual_ip, 53), PORTS).context(name)?;
        ensure!(names(&owners).into_iter().eq(["b1", "b2"]), "{name}: {owners:?}");
    }
    Ok(())
}

/// Answers on a port of a node with a name, to each connection, until the test ends; a line for each line.
fn name_server(node: &Node, port: u16, name: &'static str) -> Result<()> {
    let listener = node.namespace().inside(|| Ok(TcpListener::bind((node.ipv4(), port))?))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut byte = [0; 1];
                while matches!(stream.read(&mut byte), Ok(1)) {
                    if writeln!(stream, "{name}").is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(())
}

/// A connection from the client.
struct Connection(TcpStream);

impl Connection {
    fn open(lab: &Lab, to: SocketAddr) -> Result<Self> {
        let stream = lab.node("client").namespace().inside(|| Ok(TcpStream::connect_timeout(&to, SOON)?))?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(Self(stream))
    }

    /// Who answers.
    fn ask(&mut self) -> Result<String> {
        self.0.write_all(b"?")?;
        let mut answer = String::new();
        let mut byte = [0; 1];
        while self.0.read(&mut byte)? == 1 && byte != *b"\n" {
            answer.push(byte[0].into());
        }
        Ok(answer)
    }
}

/// Two servers on one host: with `full-nat` a backend is an address and a port.
#[test]
fn two_servers_on_one_host_are_two_backends() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat-ports")).backends(1).build()?;
    let host = &lab.backends()[0];
    name_server(host, 8080, "one")?;
    name_server(host, 8081, "two")?;
    let vip = SocketAddr::from((virtual_ipv4(0), 7000));
    let web = Service { forwarding: "full-nat", tracking: "always", ..Service::new("web", &vip.to_string()) };
    let [one, two] = [8080, 8081].map(|port| SocketAddr::from((host.ipv4(), port)));
    let web = web.backend("one", one, 1).backend("two", two, 1);
    lab.write_config(&config::file(&lab, &[web]))?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    let ask = |lab: &Lab| -> Result<BTreeSet<String>> { (0..40).map(|_| Connection::open(lab, vip)?.ask()).collect() };
    ensure!(ask(&lab)? == BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    // Each can be named by its address and port.
    lbctl(&lab, &["backend", "disable", &two.to_string()])?;
    wait_for_state(&lab, "web", "two", "disabled")?;
    ensure!(ask(&lab)? == BTreeSet::from(["one".to_owned()]));
    lbctl(&lab, &["backend", "enable", "two"])?;
    lbctl(&lab, &["backend", "remove", "one", "--deadline", "0s"])?;
    wait_for("only two has new connections", SOON, || {
        Ok((ask(&lab)? == BTreeSet::from(["two".to_owned()])).then_some(()))
    })
}

#[test]
fn connections_outlive_a_restart_a_drain_and_a_removal() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat-restart")).backends(2).build()?;
    let [b1, b2] = [&lab.backends()[0], &lab.backends()[1]];
    name_server(b1, 8080, "b1")?;
    name_server(b2, 8080, "b2")?;
    let vip = SocketAddr::from((virtual_ipv4(0), 7000));
    let web = Service { forwarding: "full-nat", tracking: "always", ..Service::new("web", &vip.to_string()) };
    let web = [b1, b2].iter().fold(web, |web, node| web.backend(node.name(), SocketAddr::from((node.ipv4(), 8080)), 1));
    lab.write_config(&config::file(&lab, &[web]))?;
    let mut lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    let mut connections: Vec<(String, Connection)> = Vec::new();
    for _ in 0..40 {
        let mut connection = Connection::open(&lab, vip)?;
        connections.push((connection.ask()?, connection));
    }
    let mut check = |when: &str| -> Result<()> {
        for (owner, connection) in &mut connections {
            let answer = connection.ask().with_context(|| format!("{when}: a connection of {owner}"))?;
            ensure!(answer == *owner, "{when}: {answer} answers on a connection of {owner}");
        }
        Ok(())
    };
    check("at first")?;
    lbd.kill(nix::sys::signal::Signal::SIGKILL)?;
    lbd.wait(SOON)?;
    check("without lbd")?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    check("after a restart")?;
    lbctl(&lab, &["backend", "drain", "b1"])?;
    check("while b1 drains")?;
    ensure!(Connection::open(&lab, vip)?.ask()? == "b2", "b1 drains");
    lbctl(&lab, &["backend", "remove", "b1"])?;
    check("when b1 is removed")?;
    let flows = lbctl(&lab, &["backend", "list"])?;
    println!("{flows}");
    Ok(())
}

/// A backend remembers a closed connection for a minute, and makes whoever opens another one on the same four numbers wait for a second
/// if the time stamps do not go on. On kernels whose time stamps do not depend on the port they always do, and nobody waits.
#[test]
fn clients_that_use_their_ports_again_do_not_wait_for_each_others_closed_connections() -> Result<()> {
    const REQUESTS: u64 = 9000;
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat-reuse")).backends(3).build()?;
    let to = SocketAddr::from((virtual_ipv4(0), 80));
    let web = Service { forwarding: "full-nat", ..Service::new("web", &to.to_string()) };
    let web = lab.backends().iter().fold(web, |web, node| web.backend(node.name(), node.ipv4(), 1));
    let balanced = Balanced::with(lab, &[web.scheduled("least-connections").checked()])?;
    let lab = &balanced.lab;
    // Each comes again after three seconds, and has another backend two times of three.
    lab.node("client").namespace().inside(|| set_sysctl("net/ipv4/ip_local_port_range", "20000 23999"))?;
    let before = lab.syn_retransmissions()?;
    let load = Load::new(format!("http://{to}/"), Limit::Requests(REQUESTS));
    let report = lab.load(&Load { rate: Some(1300), ..load })?;
    // The kernel of a backend resets a few in a million, where its packets come by two CPUs: see docs/BENCHMARKS.md.
    ensure!(report.failures <= 1, "{:?}", report.errors);
    let repeated = lab.syn_retransmissions()? - before;
    println!("{repeated} of {REQUESTS} connections waited");
    // Were the port of a closed connection given to the next that asks, twice as many at least would wait.
    ensure!(repeated <= REQUESTS / 1000, "{repeated} of {REQUESTS} connections waited");
    Ok(())
}

/// Its check succeeds all the while: that comes from the balancer's own address.
#[test]
fn a_backend_whose_replies_go_another_way_is_told_of_until_they_come() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat-astray")).backends(1).build()?;
    let host = &lab.backends()[0];
    name_server(host, 7000, "b1")?;
    let vip = SocketAddr::from((virtual_ipv4(0), 7000));
    let health = ["type = \"tcp\"", "interval = \"100ms\""].map(str::to_owned).into();
    let web = Service { forwarding: "nat", tracking: "always", health, ..Service::new("web", &vip.to_string()) };
    lab.write_config(&config::file(&lab, &[web.backend("b1", host.ipv4(), 1)]))?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    let reason = "no connection is answered, though its check succeeds";
    let is_told = || -> Result<bool> {
        let places = [lbctl(&lab, &["status"])?, lbctl(&lab, &["backend", "list"])?];
        Ok(places.iter().all(|text| text.contains(reason)))
    };
    ensure!(!is_told()?, "there was no connection yet");
    ensure!(Connection::open(&lab, vip).is_err(), "the client has an answer from the backend's own address");
    wait_for("the operator is told", SOON, || Ok(is_told()?.then_some(())))?;
    let flows = lbctl(&lab, &["flows", "web"])?;
    ensure!(flows.contains("opening") && flows.contains(&format!("{}:7000", host.ipv4())), "{flows}");

    route_back(&lab)?;
    let mut connection = Connection::open(&lab, vip)?;
    ensure!(connection.ask()? == "b1");
    wait_for("it is over", SOON, || Ok((!lbctl(&lab, &["status"])?.contains(reason)).then_some(())))?;
    Ok(())
}

#[test]
fn translated_flows_are_listed_with_all_their_addresses_and_counted_by_their_source() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat-list")).backends(1).build()?;
    let host = &lab.backends()[0];
    name_server(host, 8080, "b1")?;
    let vip = SocketAddr::from((virtual_ipv4(0), 7000));
    let web = Service { forwarding: "full-nat", tracking: "always", ..Service::new("web", &vip.to_string()) };
    let target = SocketAddr::from((host.ipv4(), 8080));
    lab.write_config(&config::file(&lab, &[web.backend("b1", target, 1)]))?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    let mut connection = Connection::open(&lab, vip)?;
    ensure!(connection.ask()? == "b1");
    let client = connection.0.local_addr()?;

    let flows: serde_json::Value = serde_json::from_str(&lbctl(&lab, &["flows", "web", "--output", "json"])?)?;
    let [flow] = &flows["translated"].as_array().context("a list")?[..] else { anyhow::bail!("{flows}") };
    ensure!(flow["client"] == client.to_string() && flow["destination"] == vip.to_string(), "{flow}");
    ensure!(flow["target"] == target.to_string() && flow["state"] == "established", "{flow}");
    let source: SocketAddr = flow["source"].as_str().context("a text")?.parse()?;
    ensure!(source.ip() == lab.node("lb").ipv4() && (1024..=32_767).contains(&source.port()), "{flow}");
    let one = lbctl(&lab, &["flows", "web", "--client", &client.to_string()])?;
    ensure!(one.contains(&format!("as {source} -> {target}: established")), "{one}");
    let unknown = SocketAddr::new(client.ip(), client.port() ^ 1);
    let unknown = lbctl(&lab, &["flows", "web", "--client", &unknown.to_string()])?;
    ensure!(
        unknown.contains("what opens no connection is answered with a reset; if it begins now, to b1"),
        "{unknown}"
    );
    let none = lbctl(&lab, &["flows", "web", "--state", "time-wait"])?;
    ensure!(none.contains("no flow matches"), "{none}");

    let used = format!("1 of 31744 of {} in use to {target}/tcp", source.ip());
    for command in ["status", "stats"] {
        wait_for(command, SOON, || Ok(lbctl(&lab, &[command])?.contains(&used).then_some(())))?;
    }
    ensure!(lbctl(&lab, &["status"])?.contains("1 of 262144 entries in use"), "the table has the flow");
    Ok(())
}

/// The flows that `lbctl` lists with these arguments.
fn listed(lab: &Lab, arguments: &[&str]) -> Result<Vec<serde_json::Value>> {
    let mut flows: serde_json::Value = lab.lbctl_json(&[&["flows"], arguments].concat())?;
    Ok(flows["translated"].take().as_array().context("a list")?.clone())
}

#[test]
fn flows_are_found_by_client_and_slot_whatever_picks_their_slots_and_backends() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat-slots")).backends(2).build()?;
    let service = |name: &str, index, keys: &[&str]| {
        let address = SocketAddr::from((virtual_ipv4(index), 53));
        let new = Service { protocol: "udp", forwarding: "full-nat", ..Service::new(name, &address.to_string()) };
        let new = Service { tracking: "always", keys: keys.iter().map(|key| (*key).to_owned()).collect(), ..new };
        lab.backends().iter().fold(new, |service, node| service.backend(node.name(), node.ipv4(), 1))
    };
    let single = service("single", 0, &["algorithm = \"round-robin\"", "one_packet = true", "idle_timeout = \"1m\""]);
    let source = service("source", 1, &["algorithm = \"source-hash\""]);
    lab.write_config(&config::file(&lab, &[single, source]))?;
    let mut echoes = Vec::new();
    for backend in lab.backends() {
        echoes.push(lab.start_udp_echo(backend.name(), SocketAddr::from((backend.ipv4(), 53)))?);
    }
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;

    // Each port asks both backends.
    let [single, source] = [0, 1].map(|index| SocketAddr::from((virtual_ipv4(index), 53)));
    wait_for("an answer of both backends to port 300", SOON, || {
        udp_owners(&lab, single, 300..301)?;
        let flow: serde_json::Value = lab.lbctl_json(&["flows", "single", "--client", "10.77.0.1:300"])?;
        let backends: BTreeSet<_> =
            flow["translated"].as_array().context("a list")?.iter().map(|flow| flow["backend"].to_string()).collect();
        ensure!(
            flow["one_packet"] == true && flow["backend"].is_null() && flow["new_flow_by"] == "round-robin",
            "{flow}"
        );
        let slot = flow["slot"].to_string();
        let in_slot = listed(&lab, &["single", "--slot", &slot])?;
        ensure!(in_slot.len() == backends.len(), "in slot {slot}: {in_slot:?}");
        Ok((backends.len() == 2).then_some(()))
    })?;
    let said = lbctl(&lab, &["flows", "single", "--client", "10.77.0.1:300"])?;
    ensure!(said.contains("each datagram as round-robin decides") && said.contains(" of b2: replied"), "{said}");

    // All ports of a client have one slot.
    udp_owners(&lab, source, 300..310)?;
    let flow: serde_json::Value = lab.lbctl_json(&["flows", "source", "--client", "10.77.0.1:9999"])?;
    let slot = flow["slot"].as_u64().context("a number")?;
    ensure!(listed(&lab, &["source", "--slot", &slot.to_string()])?.len() == 10, "slot {slot}");
    ensure!(listed(&lab, &["source", "--slot", &(slot ^ 1).to_string()])?.is_empty());
    // Translated flows are no entries of the flow table.
    wait_for("a census", SOON, || {
        let flows = lab.status()?.flow_table.flows;
        ensure!(flows.unwrap_or_default() == 0, "{flows:?} entries in the flow table");
        Ok(flows.map(drop))
    })
}

#[test]
fn pings_are_listed_with_their_identifiers_answered_or_not() -> Result<()> {
    const IDENTIFIER: u16 = 4242;
    if !require_root_and(&["ping"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nat-ping")).backends(1).build()?;
    let host = &lab.backends()[0];
    let ignores = |value| host.namespace().inside(|| set_sysctl("net/ipv4/icmp_echo_ignore_all", value));
    let vip: IpAddr = virtual_ipv4(0).into();
    let pings = Service { protocol: "icmp", forwarding: "full-nat", ..Service::new("pings", &vip.to_string()) };
    let pings = Service { tracking: "always", ..pings }.backend("b1", host.ipv4(), 1);
    lab.write_config(&config::file(&lab, &[pings]))?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    let flow = || -> Result<serde_json::Value> {
        let mut flows: serde_json::Value =
            serde_json::from_str(&lbctl(&lab, &["flows", "pings", "--output", "json"])?)?;
        ensure!(flows["total"] == 1, "{flows}");
        Ok(flows["translated"][0].take())
    };

    ignores("1")?;
    let mut unanswered = lab.node("client").command("ping");
    unanswered.args(["-c", "1", "-W", "1", "-e", &IDENTIFIER.to_string(), &vip.to_string()]);
    ensure!(!unanswered.output()?.status.success(), "nobody can have answered");
    ensure!(flow()?["state"] == "unreplied", "{}", flow()?);
    ignores("0")?;
    ping(&lab, vip, IDENTIFIER, 3)?;

    let client = SocketAddr::new(lab.node("client").ipv4().into(), IDENTIFIER);
    let flow = flow()?;
    ensure!(flow["state"] == "replied" && flow["client"] == client.to_string(), "{flow}");
    ensure!(flow["destination"] == format!("{vip}:0") && flow["target"] == format!("{}:0", host.ipv4()), "{flow}");
    let source: SocketAddr = flow["source"].as_str().context("a text")?.parse()?;
    ensure!(source.ip() == lab.node("lb").ipv4() && (1024..=32_767).contains(&source.port()), "{flow}");
    let one = lbctl(&lab, &["flows", "pings", "--client", &client.to_string()])?;
    ensure!(one.contains(&format!("as {source}")) && one.contains("replied"), "{one}");
    let port = refused(&lab, &["flows", "pings", "--client", &client.to_string(), "--port", "1"], 1)?;
    ensure!(port.contains("has no ports"), "{port}");

    for command in [&["service", "list"][..], &["service", "show", "pings"]] {
        let text = lbctl(&lab, command)?;
        ensure!(text.contains(&format!("{vip}/icmp")), "{text}");
    }
    let used = format!("1 of 31744 of {} in use to {}/icmp", source.ip(), host.ipv4());
    wait_for("the identifier counts", SOON, || Ok(lbctl(&lab, &["stats"])?.contains(&used).then_some(())))?;
    ensure!(service(&lab, "pings")?.packets == 4, "one was not answered, three were");
    Ok(())
}
