//! Requests through the balancer, by clients and to servers that others have written.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Lab, Limit, Load, Server, Stats, binary,
    config::{services, weight},
    require_root, require_root_and, run,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name, wait_for,
};

use crate::{
    client::{PORTS, names, owners, udp_owners},
    config::{self, Service},
    support::{Balanced, SOON, is_long, lbctl, refused, service, wait_for_shares},
};

#[test]
fn curl_and_wrk_are_answered_by_nginx_in_both_modes_and_families() -> Result<()> {
    if !require_root_and(&["nginx", "curl", "wrk"]) {
        return Ok(());
    }
    let balanced = Balanced::start(Lab::builder(&unique_name("nginx")).backends(3).server(Server::Nginx))?;
    let lab = &balanced.lab;
    let client = lab.node("client");
    // Many packets of full size, towards the backend.
    let upload = lab.paths().dir().join("upload");
    fs::write(&upload, vec![b'x'; 500_000])?;
    for service in services() {
        let (name, url) = (service.name, service.url());
        for _ in 0..5 {
            let mut curl = client.command("curl");
            let answer = run(curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time", "5", &url]))
                .context(name)?;
            let backend = String::from_utf8(answer.stdout)?;
            ensure!(["b1", "b2", "b3"].contains(&backend.trim()), "{name}: answer {backend:?}");
        }
        let mut curl = client.command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time", "20", "--output", "/dev/null"])
            .args(["--write-out", "%{size_upload}", "--data-binary"])
            .arg(format!("@{}", upload.display()))
            .arg(&url);
        let sent = String::from_utf8(run(&mut curl).context(name)?.stdout)?;
        ensure!(sent == "500000", "{name}: {sent} bytes of 500000 arrived");

        let mut wrk = client.command("wrk");
        let duration = if is_long() { "10s" } else { "1s" };
        let report = run(wrk.args(["--threads", "1", "--connections", "30", "--duration", duration, &url]))?;
        let report = String::from_utf8(report.stdout)?;
        let requests = report.split(" requests in ").next().and_then(|text| text.split_whitespace().last());
        let requests: u64 = requests.and_then(|count| count.parse().ok()).with_context(|| report.clone())?;
        ensure!(requests > 100, "{name}: {report}");
        ensure!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{name}: {report}");
    }
    for service in lab.stats()?.services {
        for backend in &service.backends {
            ensure!(backend.packets > 0, "{}: {} got nothing", service.name, backend.name);
        }
    }
    Ok(())
}

#[test]
fn requests_over_new_connections_are_shared_out_by_weight() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start(Lab::builder(&unique_name("shares")).backends(3))?;
    let lab = &balanced.lab;
    let weights = ["b1", "b2", "b3"].into_iter().enumerate().map(|(number, name)| (name, weight(number)));
    let weights: Vec<_> = weights.collect();
    let requests: u32 = if is_long() { 20_000 } else { 2000 };
    for service in services() {
        wait_for_shares(lab, service.name, &weights)?;
        let report = lab.load(&Load::new(service.url(), Limit::Requests(requests.into())))?;
        report.ensure_all_answered().context(service.name)?;
        for (name, weight) in &weights {
            let count = report.by_backend.get(*name).copied().unwrap_or(0);
            let share = f64::from(*weight) / 10.0;
            let right = f64::from(requests) * share;
            // Six standard deviations of the binomial distribution, and a slot.
            let tolerance = 6.0 * (right * (1.0 - share)).sqrt() + f64::from(requests) / 1024.0;
            let off = (f64::from(u32::try_from(count)?) - right).abs();
            ensure!(off <= tolerance, "{}: {name} has answered {count}, not {right} ± {tolerance:.0}", service.name);
        }
    }
    Ok(())
}

#[test]
fn a_flow_keeps_its_backend_and_lbctl_knows_it() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start(Lab::builder(&unique_name("flows")).backends(3))?;
    let lab = &balanced.lab;
    for service in services() {
        let owners_of_ports = owners(lab, service.address(), PORTS)?;
        ensure!(names(&owners_of_ports).len() == 3, "{}: {owners_of_ports:?}", service.name);
        ensure!(owners(lab, service.address(), PORTS)? == owners_of_ports, "{}: flows have moved", service.name);
        let client = lab.node("client");
        let client: IpAddr = if service.virtual_ip.is_ipv4() { client.ipv4().into() } else { client.ipv6().into() };
        for (port, owner) in owners_of_ports.iter().step_by(10) {
            let from = SocketAddr::new(client, *port).to_string();
            let flow: serde_json::Value = lab.lbctl_json(&["flows", service.name, "--client", &from])?;
            ensure!(flow["backend"] == owner.as_str(), "{}: {owner} has answered {from}, not {flow}", service.name);
        }
    }
    Ok(())
}

#[test]
fn udp_datagrams_come_back_from_the_virtual_ip_in_both_modes_and_families() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("dns")).backends(2).build()?;
    let modes: [(&str, IpAddr, &str, bool); 4] = [
        ("dns-l2", virtual_ipv4(0).into(), "l2-dsr", true),
        ("dns-ipip", virtual_ipv4(1).into(), "ipip", true),
        ("dns6-l2", virtual_ipv6(0).into(), "l2-dsr", false),
        ("dns6-ipip", virtual_ipv6(1).into(), "ipip", false),
    ];
    let mut services = Vec::new();
    for (name, virtual_ip, forwarding, is_ipv4) in modes {
        let address = SocketAddr::new(virtual_ip, 53);
        let mut service = Service { protocol: "udp", forwarding, ..Service::new(name, &address.to_string()) };
        for backend in lab.backends() {
            let at: IpAddr = if is_ipv4 { backend.ipv4().into() } else { backend.ipv6().into() };
            service = service.backend(backend.name(), at, 1);
        }
        services.push(service);
    }
    lab.write_config(&config::file(&lab, &services))?;
    let mut echoes = Vec::new();
    for (backend, (_, virtual_ip, ..)) in lab.backends().iter().flat_map(|node| modes.map(|mode| (node, mode))) {
        echoes.push(lab.start_udp_echo(backend.name(), SocketAddr::new(virtual_ip, 53))?);
    }
    let _decaps = lab.start_decaps()?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    for (name, virtual_ip, ..) in modes {
        let address = SocketAddr::new(virtual_ip, 53);
        let owners = udp_owners(&lab, address, PORTS).context(name)?;
        ensure!(names(&owners).len() == 2, "{name}: {owners:?}");
        ensure!(udp_owners(&lab, address, PORTS)? == owners, "{name}: flows have moved");
        let datagrams = 2 * u64::try_from(PORTS.len())?;
        let counted = service(&lab, name)?;
        ensure!(counted.packets == datagrams, "{name}: {counted:?}");
    }
    Ok(())
}

#[test]
fn a_service_of_all_ports_takes_what_no_service_of_one_port_takes() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("ports")).backends(2).build()?;
    let [b1, b2] = [lab.node("b1").ipv4(), lab.node("b2").ipv4()];
    let virtual_ip = virtual_ipv4(3);
    let all = Service::new("all", &format!("{virtual_ip}:*")).backend("b1", b1, 1).backend("b2", b2, 1);
    let all = Service { health: vec![r#"type = "tcp""#.into(), "port = 8080".into()], ..all };
    let one = Service::new("one", &format!("{virtual_ip}:8081")).backend("b2", b2, 1);
    lab.write_config(&config::file(&lab, &[all, one]))?;
    let mut servers = Vec::new();
    for backend in lab.backends() {
        let mut server = backend.command(binary("lab-agent")?);
        server.args(["backend", "--name", backend.name()]);
        server.args(["--listen", "[::]:80", "--listen", "[::]:8080", "--listen", "[::]:8081"]);
        servers.push(lab.spawn(&format!("{}-http", backend.name()), server)?);
    }
    for server in &mut servers {
        server.wait_for_log("listening on [::]:8081", SOON)?;
    }
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;

    let by_port: BTreeMap<u16, _> = [80, 8080, 8081]
        .into_iter()
        .map(|port| Ok((port, owners(&lab, SocketAddr::from((virtual_ip, port)), PORTS)?)))
        .collect::<Result<_>>()?;
    ensure!(names(&by_port[&80]).len() == 2 && names(&by_port[&8080]).len() == 2, "{by_port:?}");
    ensure!(names(&by_port[&8081]).into_iter().eq(["b2"]), "the service of port 8081: {:?}", by_port[&8081]);
    ensure!(by_port[&80] != by_port[&8080], "the destination port is part of the flow");

    let from = SocketAddr::from((lab.node("client").ipv4(), PORTS.start)).to_string();
    let flow: serde_json::Value = lab.lbctl_json(&["flows", "all", "--client", &from, "--port", "8080"])?;
    ensure!(flow["backend"] == by_port[&8080][&PORTS.start].as_str(), "{flow}");
    let message = refused(&lab, &["flows", "all", "--client", &from], 1)?;
    ensure!(message.contains("--port"), "{message}");
    ensure!(lbctl(&lab, &["service", "list"])?.contains("10.77.0.103:*/tcp"));
    Ok(())
}

#[test]
fn every_packet_that_the_interface_hands_over_has_exactly_one_verdict() -> Result<()> {
    if !require_root_and(&["ethtool", "curl"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("verdicts")).backends(2).build()?;
    // No health checks: when the clients rest, everything does.
    let backend = |service: Service, name: &str| service.backend(name, lab.node(name).ipv4(), 1);
    let web = backend(backend(Service::new("web", "10.77.0.100:80"), "b1"), "b2");
    let tunnel = backend(Service { forwarding: "ipip", ..Service::new("tunnel", "10.77.0.101:80") }, "b1");
    let empty = Service::new("empty", "10.77.0.102:80");
    lab.write_config(&config::file(&lab, &[web, tunnel, empty]))?;
    let _servers = lab.start_servers()?;
    let _decaps = lab.start_decaps()?;
    let _lbd = lab.start_lbd()?;
    wait_for("resolved backends", SOON, || {
        Ok((lab.status()?.backends == BTreeMap::from([("up".to_owned(), 3)])).then_some(()))
    })?;
    for url in ["http://10.77.0.100/", "http://10.77.0.101/"] {
        lab.load(&Load::new(url, Limit::Requests(500)))?.ensure_all_answered()?;
    }
    // To nobody, and to the balancer itself.
    let mut curl = lab.node("client").command("curl");
    let empty = curl.args(["--silent", "--max-time", "1", "http://10.77.0.102/"]).output().context("start curl")?;
    ensure!(!empty.status.success(), "a service without backends has answered");
    lab.node("client").namespace().inside(|| {
        UdpSocket::bind("0.0.0.0:0")?.send_to(b"hello", (lab.node("lb").ipv4(), 9))?;
        Ok(())
    })?;

    wait_for("as many verdicts as packets", SOON, || {
        let seen = xdp_packets(&lab)?;
        let stats = lab.stats()?;
        ensure!(stats.received == stats.verdicts.values().sum::<u64>(), "{stats:?}");
        // Otherwise a packet has come in between.
        Ok((seen == stats.received && xdp_packets(&lab)? == seen).then_some(()))
    })?;
    let stats = lab.stats()?;
    let served: u64 = stats.services.iter().map(|service| service.packets).sum();
    ensure!(stats.verdict("transmitted") == served && served >= 2 * 500 * 4, "{stats:?}");
    ensure!(stats.verdict("drop-no-backend") > 0 && stats.verdict("pass-no-service") > 0, "{stats:?}");
    for service in &stats.services {
        let sent: u64 = service.backends.iter().map(|backend| backend.packets).sum();
        ensure!(service.packets == sent, "{service:?}");
    }

    // A service keeps what a backend has carried that it no longer has.
    lbctl(&lab, &["backend", "remove", "--service", "web", "b2", "--deadline", "0s"])?;
    wait_for("the end of b2", SOON, || Ok(lab.stats()?.backend("web", "b2").is_none().then_some(())))?;
    let now = lab.stats()?;
    let packets = |stats: &Stats| stats.services.iter().map(|service| service.packets).collect::<Vec<_>>();
    ensure!(packets(&now) == packets(&stats), "{stats:?}\n{now:?}");
    Ok(())
}

/// What the balancer's interface has handed to its XDP program.
fn xdp_packets(lab: &Lab) -> Result<u64> {
    let mut ethtool: Command = lab.node("lb").command("ethtool");
    let output = String::from_utf8(run(ethtool.args(["-S", "eth0"]))?.stdout)?;
    let queues = output.lines().filter_map(|line| line.trim().split_once(": "));
    let counts = queues.filter(|(name, _)| name.starts_with("rx_queue_") && name.ends_with("_xdp_packets"));
    counts.map(|(_, count)| Ok(count.parse::<u64>()?)).sum()
}

#[test]
fn two_labs_balance_at_once_and_know_nothing_of_each_other() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let [one, other] = [1, 2].map(|backends| Balanced::web("pair", backends));
    let (one, mut other) = (one?, other?);
    let url = "http://10.77.0.100/";
    let load = Load { rate: Some(300), ..Load::new(url, Limit::None) };
    let running = one.lab.start_load(&load)?;
    let report = other.lab.load(&Load::new(url, Limit::Requests(500)))?;
    report.ensure_all_answered()?;
    ensure!(report.by_backend.contains_key("b2"), "{report:?}");
    // The end of one is not the end of the other.
    other.kill_lbd()?;
    drop(other);
    crate::support::wait_for_requests(&running, 200)?;
    let report = running.finish()?;
    report.ensure_all_answered()?;
    ensure!(report.by_backend.keys().eq(["b1"]), "{report:?}");
    ensure!(service(&one.lab, "web")?.backends.len() == 1);
    Ok(())
}
