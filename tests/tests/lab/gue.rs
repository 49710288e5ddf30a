//! Services whose packets reach their backends in Generic UDP Encapsulation, opened by `lbd decap`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Lab, Server, binary, require_root, require_root_and,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name,
};
use nix::{setsockopt_impl, sockopt_impl, sys::socket::setsockopt};

use crate::{
    client::{PORTS, names, owners, requests_and_an_upload, udp_owners},
    config::{self, Service},
    support::{Balanced, SOON, lbctl, service},
};

/// Name, virtual IP, and whether the backends' addresses are IPv4: all four combinations.
fn combinations() -> [(&'static str, IpAddr, bool); 4] {
    let (v4, v6) = (|index| virtual_ipv4(index).into(), |index| virtual_ipv6(index).into());
    [("4in4", v4(0), true), ("4in6", v4(1), false), ("6in4", v6(0), true), ("6in6", v6(1), false)]
}

/// `of`, with all backends.
fn with_backends(lab: &Lab, of: Service, over_ipv4: bool) -> Service {
    lab.backends().iter().fold(of, |service, backend| {
        let address: IpAddr = if over_ipv4 { backend.ipv4().into() } else { backend.ipv6().into() };
        service.backend(backend.name(), address, 1)
    })
}

/// TCP services on port 80, one for each combination.
fn web_services(lab: &Lab, gue_port: Option<u16>) -> Vec<Service> {
    let web = |(name, virtual_ip, over_ipv4): (&str, IpAddr, bool)| {
        let web = Service::new(name, &SocketAddr::new(virtual_ip, 80).to_string()).checked();
        with_backends(lab, Service { forwarding: "gue", gue_port, ..web }, over_ipv4)
    };
    combinations().map(web).into()
}

#[test]
fn requests_and_uploads_of_full_size_get_through_in_every_combination_of_families() -> Result<()> {
    if !require_root_and(&["nginx", "curl", "tcpdump"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("gue")).backends(2).server(Server::Nginx).build()?;
    let services = web_services(&lab, None);
    let decaps = lab.start_decaps()?;
    let balanced = Balanced::with(lab, &services)?;
    let lab = &balanced.lab;
    let capture = lab.start_capture("switch", "udp dst port 6080")?;
    for (name, virtual_ip, _) in combinations() {
        let address = SocketAddr::new(virtual_ip, 80);
        requests_and_an_upload(lab, address).context(name)?;
        ensure!(service(lab, name)?.packets > 500, "{name} has not gone through the balancer");
    }
    // Frames pass the bridge when they go to another port: from the balancer to the backends.
    let ports: BTreeSet<_> = capture.finish()?.iter().map(|captured| source_port(&captured.frame)).collect();
    ensure!(ports.len() > 100, "{} source ports for hundreds of flows", ports.len());
    ensure!(ports.iter().all(|port| *port >= 49_152), "{ports:?}");
    let shown = lbctl(lab, &["service", "show", "4in6"])?;
    ensure!(shown.contains("gue to port 6080"), "{shown}");
    drop(decaps);
    Ok(())
}

/// The UDP source port of an untagged frame without IP options.
fn source_port(frame: &[u8]) -> u16 {
    let offset = if frame[12..14] == [0x08, 0x00] { 14 + 20 } else { 14 + 40 };
    u16::from_be_bytes([frame[offset], frame[offset + 1]])
}

#[test]
fn datagrams_get_through_with_and_without_a_checksum() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("gue-udp")).backends(2).build()?;
    let services = combinations().map(|(name, virtual_ip, over_ipv4)| {
        let dns = Service::new(name, &SocketAddr::new(virtual_ip, 53).to_string());
        with_backends(&lab, Service { protocol: "udp", forwarding: "gue", ..dns }, over_ipv4)
    });
    lab.write_config(&config::file(&lab, &services))?;
    let mut echoes = Vec::new();
    for backend in lab.backends() {
        for (_, virtual_ip, _) in combinations() {
            echoes.push(lab.start_udp_echo(backend.name(), SocketAddr::new(virtual_ip, 53))?);
        }
    }
    let _decaps = lab.start_decaps()?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    for (name, virtual_ip, _) in combinations() {
        let address = SocketAddr::new(virtual_ip, 53);
        let owners = udp_owners(&lab, address, PORTS).context(name)?;
        ensure!(names(&owners).into_iter().eq(["b1", "b2"]), "{name}: {owners:?}");
        if virtual_ip.is_ipv4() {
            without_checksum(&lab, address).context(name)?;
        }
    }
    Ok(())
}

sockopt_impl!(NoChecksum, SetOnly, libc::SOL_SOCKET, libc::SO_NO_CHECK, bool);

/// Sends datagrams without a checksum (`SO_NO_CHECK`), of odd and even lengths, and waits for each to come back.
fn without_checksum(lab: &Lab, service: SocketAddr) -> Result<()> {
    lab.node("client").namespace().inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        setsockopt(&socket, NoChecksum, &true)?;
        socket.set_read_timeout(Some(SOON))?;
        socket.connect(service)?;
        for len in [0, 1, 2, 3, 500, 511, 512, 1201, 1471, 1472] {
            socket.send(&vec![b'x'; len])?;
            let mut buffer = [0; 2000];
            let received = socket.recv(&mut buffer).with_context(|| format!("answer to {len} bytes"))?;
            ensure!(received >= len, "{received} bytes back of {len}");
        }
        Ok(())
    })
}

#[test]
fn another_port_than_gues_own_works_where_both_ends_have_it() -> Result<()> {
    const PORT: u16 = 19_523;
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("gue-port")).backends(1).build()?;
    let services = web_services(&lab, Some(PORT));
    let mut decap = lab.node("b1").command(binary("lbd")?);
    decap.args(["decap", "--interface", "eth0", "--gue-port", &PORT.to_string()]);
    let mut decap = lab.spawn("b1-decap", decap)?;
    decap.wait_for_log("decapsulating on eth0", SOON)?;
    let balanced = Balanced::with(lab, &services)?;
    let lab = &balanced.lab;
    for (name, virtual_ip, _) in combinations() {
        let owners = owners(lab, SocketAddr::new(virtual_ip, 80), PORTS).context(name)?;
        ensure!(names(&owners).into_iter().eq(["b1"]), "{name}: {owners:?}");
    }
    let shown = lbctl(lab, &["service", "show", "6in6"])?;
    ensure!(shown.contains(&format!("gue to port {PORT}")), "{shown}");
    decap.ensure_running()
}
