//! Where backends may be, and how the program is attached to the balancer's interfaces.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Lab, Limit, Load, binary,
    config::services,
    require_root,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name, wait_for,
};

use crate::{
    client::{PORTS, names, owners},
    config::{self, Service},
    support::{Balanced, SOON, ip, lbctl, service, unload, wait_for_shares, wait_for_state, web},
};

#[test]
fn a_backend_that_nobody_is_gets_nothing_until_it_appears() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("nobody")).backends(2).build()?;
    // How often the kernel asks again for a neighbour that did not answer.
    let asks_again = "/proc/sys/net/ipv4/neigh/eth0/interval_probe_time_ms";
    lab.node("lb").namespace().inside(|| Ok(fs::write(asks_again, "500")?))?;
    let web_config =
        Service { health: Vec::new(), ..Service::web(&lab.backends()[..1]) }.backend("b9", "10.77.0.60", 10);
    lab.write_config(&config::file(&lab, &[web_config]))?;
    let _servers = lab.start_servers()?;
    let mut lbd = lab.start_lbd()?;
    wait_for_state(&lab, "web", "b1", "up")?;
    wait_for("the reason", SOON, || {
        let stats = lab.stats()?;
        let b9 = stats.backend("web", "b9").context("b9")?;
        let reason = b9.reason.as_deref().unwrap_or_default();
        Ok((b9.state == "unresolved" && reason.contains("10.77.0.60 on eth0 does not answer")).then_some(()))
    })?;
    wait_for_shares(&lab, "web", &[("b1", 10), ("b9", 0)])?;
    ensure!(names(&owners(&lab, web(), PORTS)?).into_iter().eq(["b1"]));
    ensure!(lab.status()?.backends == BTreeMap::from([("unresolved".into(), 1), ("up".into(), 1)]));
    let listed = lbctl(&lab, &["backend", "list"])?;
    ensure!(listed.contains("unresolved: neighbour 10.77.0.60 on eth0 does not answer"), "{listed}");

    ip(&lab, "b2", &["address", "add", "10.77.0.60/24", "dev", "eth0"])?;
    wait_for_state(&lab, "web", "b9", "up")?;
    wait_for_shares(&lab, "web", &[("b1", 10), ("b9", 10)])?;
    ensure!(names(&owners(&lab, web(), PORTS)?).into_iter().eq(["b1", "b2"]));
    lbd.ensure_running()
}

#[test]
fn a_backend_that_changes_its_mac_address_is_found_again() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("new-mac")).backends(1).build()?;
    let unchecked = Service { health: Vec::new(), ..Service::web(lab.backends()) };
    let balanced = Balanced::with(lab, &[unchecked])?;
    let lab = &balanced.lab;
    owners(lab, web(), PORTS)?;
    ip(lab, "b1", &["link", "set", "dev", "eth0", "address", "02:00:0a:4d:99:99"])?;
    // Any packet of the backend's to the balancer makes its kernel ask for the address, and so tell its own.
    ip(lab, "b1", &["neigh", "flush", "dev", "eth0"])?;
    lab.node("b1").namespace().inside(|| {
        std::net::UdpSocket::bind("10.77.0.11:0")?.send_to(b"hello", (lab.node("lb").ipv4(), 9))?;
        Ok(())
    })?;
    wait_for("the new address", SOON, || {
        Ok(lbctl(lab, &["backend", "list"])?.contains("02:00:0a:4d:99:99").then_some(()))
    })?;
    owners(lab, web(), PORTS)?;
    Ok(())
}

#[test]
fn backends_on_another_interface_of_the_balancer_get_their_packets_in_both_modes_and_families() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("second")).backends(2).build()?;
    lab.add_link("b2")?;
    let (b1, b2) = (lab.node("b1"), lab.node("b2"));
    let modes: [(&str, IpAddr, &str, [IpAddr; 2]); 4] = [
        ("l2", virtual_ipv4(0).into(), "l2-dsr", [b1.ipv4().into(), b2.second_ipv4().into()]),
        ("ipip", virtual_ipv4(1).into(), "ipip", [b1.ipv4().into(), b2.second_ipv4().into()]),
        ("l2-6", virtual_ipv6(0).into(), "l2-dsr", [b1.ipv6().into(), b2.second_ipv6().into()]),
        ("ipip-6", virtual_ipv6(1).into(), "ipip", [b1.ipv6().into(), b2.second_ipv6().into()]),
    ];
    let services = modes.map(|(name, virtual_ip, forwarding, [near, far])| {
        let address = SocketAddr::new(virtual_ip, 80).to_string();
        Service { forwarding, ..Service::new(name, &address).checked() }.backend("b1", near, 1).backend("b2", far, 1)
    });
    let mut decaps = lab.start_decaps()?;
    // A veth takes redirected packets only while it has an XDP program, which this is, too.
    let mut decap = b2.command(binary("lbd")?);
    decap.args(["decap", "--interface", "eth1"]);
    let mut decap = lab.spawn("b2-decap-eth1", decap)?;
    decap.wait_for_log("decapsulating on eth1", SOON)?;
    decaps.push(decap);
    let balanced = Balanced::with(lab, &services)?;
    let lab = &balanced.lab;
    for (name, virtual_ip, ..) in modes {
        let owners = owners(lab, SocketAddr::new(virtual_ip, 80), PORTS).context(name)?;
        ensure!(names(&owners).into_iter().eq(["b1", "b2"]), "{name}: {owners:?}");
    }
    let stats = lab.stats()?;
    let sent = |name: &str| {
        let backends = stats.services.iter().flat_map(|service| &service.backends);
        backends.filter(|backend| backend.name == name).map(|backend| backend.packets).sum::<u64>()
    };
    ensure!(stats.verdict("redirected") == sent("b2") && stats.verdict("transmitted") == sent("b1"), "{stats:?}");
    let listed = lbctl(lab, &["backend", "list"])?;
    ensure!(listed.contains("on eth0") && listed.contains("on eth1"), "{listed}");
    drop(decaps);
    Ok(())
}

#[test]
fn a_backend_on_the_balancers_own_host_gets_its_packets_as_they_are() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("local")).backends(1).build()?;
    let (b1, lb) = (lab.node("b1"), lab.node("lb"));
    let services = [
        Service::web(lab.backends()).backend("lb", lb.ipv4(), 10),
        Service { forwarding: "ipip", ..Service::new("six", "[fd77::100]:80").checked() }
            .backend("b1", b1.ipv6(), 1)
            .backend("lb", lb.ipv6(), 1),
    ];
    let mut here = lb.command(binary("lab-agent")?);
    here.args(["backend", "--name", "lb", "--listen", "[::]:80"]);
    let mut here = lab.spawn("lb-http", here)?;
    here.wait_for_log("listening on", SOON)?;
    let _decaps = lab.start_decaps()?;
    let balanced = Balanced::with(lab, &services)?;
    let lab = &balanced.lab;
    for address in [web(), SocketAddr::from((virtual_ipv6(0), 80))] {
        let owners = owners(lab, address, PORTS)?;
        ensure!(names(&owners).into_iter().eq(["b1", "lb"]), "{address}: {owners:?}");
    }
    let stats = lab.stats()?;
    let local: u64 = ["web", "six"].iter().filter_map(|name| Some(stats.backend(name, "lb")?.packets)).sum();
    ensure!(local > 0 && stats.verdict("local") == local, "{stats:?}");
    ensure!(lbctl(lab, &["backend", "list"])?.contains("this host"));
    Ok(())
}

#[test]
fn in_generic_mode_all_services_balance_and_status_says_generic() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("generic")).backends(2).build()?;
    let native = fs::read_to_string(lab.paths().config())?;
    lab.write_config(&native.replace("xdp = \"native\"", "xdp = \"generic\""))?;
    let _servers = lab.start_servers()?;
    let _decaps = lab.start_decaps()?;
    let lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    let mode = |expected: &str| -> Result<()> {
        let status = lab.status()?;
        ensure!(status.interfaces.len() == 1 && status.interfaces[0].mode == expected, "{status:?}");
        ensure!(lbctl(&lab, &["status"])?.contains(&format!("eth0 ({expected} mode)")));
        let link = ip(&lab, "lb", &["link", "show", "dev", "eth0"])?;
        ensure!(link.contains("xdpgeneric") == (expected == "generic"), "{link}");
        Ok(())
    };
    mode("generic")?;
    for service in services() {
        lab.load(&Load::new(service.url(), Limit::Requests(200)))?.ensure_all_answered().context(service.name)?;
    }
    ensure!(lab.stats()?.verdict("transmitted") > 6 * 200 * 4, "{:?}", lab.stats()?);

    // The other mode takes the place of this one.
    drop(lbd);
    lab.write_config(&native)?;
    let _lbd = lab.start_lbd()?;
    mode("native")?;
    for service in services() {
        owners(&lab, service.address(), PORTS).context(service.name)?;
    }
    Ok(())
}

#[test]
fn auto_is_native_where_the_driver_can_and_generic_where_it_cannot() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("auto")).backends(1).build()?;
    // A macvlan has no native XDP.
    ip(&lab, "lb", &["link", "add", "slow0", "link", "eth0", "type", "macvlan", "mode", "bridge"])?;
    ip(&lab, "lb", &["link", "set", "slow0", "up"])?;
    let two = "xdp = \"auto\"\n\n[[interface]]\nname = \"slow0\"\nxdp = \"auto\"\n";
    let file = config::file(&lab, &[]).replace("xdp = \"native\"\n", two);
    lab.write_config(&file)?;
    let mut lbd = lab.start_lbd()?;
    let modes: Vec<_> =
        lab.status()?.interfaces.into_iter().map(|interface| (interface.interface, interface.mode)).collect();
    let expected = [("eth0", "native"), ("slow0", "generic")].map(|(name, mode)| (name.to_owned(), mode.to_owned()));
    ensure!(modes == expected, "{modes:?}");
    let warning = lbd.wait_for_log("slower", SOON)?;
    ensure!(warning.contains("WARN") && warning.contains("slow0"), "{warning}");
    drop(lbd);
    ensure!(unload(&lab)?.status.success());
    let is_off = || -> Result<bool> { Ok(!ip(&lab, "lb", &["link", "show", "dev", "slow0"])?.contains("prog/xdp")) };
    wait_for("the end of the program", SOON, || Ok(is_off()?.then_some(())))?;

    // What cannot be had is refused where it is asked for by name.
    lab.write_config(&file.replace("name = \"slow0\"\nxdp = \"auto\"", "name = \"slow0\"\nxdp = \"native\""))?;
    let mut lbd = lab.spawn_lbd()?;
    ensure!(lbd.wait(SOON)?.code() == Some(1));
    let log = lbd.log()?;
    ensure!(log.contains("slow0 in native mode") && log.contains("xdp = \"generic\" or \"auto\""), "{log}");
    Ok(())
}

#[test]
fn an_interface_that_is_not_there_is_refused_by_name() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("no-eth7")).backends(1).build()?;
    for services in [vec![], vec![Service::web(lab.backends())]] {
        lab.write_config(&config::file(&lab, &services).replace("\"eth0\"", "\"eth7\""))?;
        let mut lbd = lab.spawn_lbd()?;
        let status = lbd.wait(SOON)?;
        ensure!(status.code() == Some(1), "{status}");
        let log = lbd.log()?;
        ensure!(log.contains("there is no interface \"eth7\"; `ip link` lists them"), "{log}");
    }
    // Once the file is right, nothing of the attempts stands in the way.
    let services = [Service::web(lab.backends())];
    Balanced::with(lab, &services)?;
    Ok(())
}

#[test]
fn an_interface_with_another_xdp_program_is_refused_and_that_program_stays() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("taken")).backends(1).build()?;
    let mut other = lab.node("lb").command(binary("lbd")?);
    other.args(["decap", "--interface", "eth0"]);
    let mut other = lab.spawn("other", other)?;
    other.wait_for_log("decapsulating on eth0", SOON)?;
    let program = || ip(&lab, "lb", &["link", "show", "dev", "eth0"]);
    let before = program()?;
    ensure!(before.contains("prog/xdp"), "{before}");
    for mode in ["native", "generic", "auto"] {
        let file = config::file(&lab, &[]).replace("\"native\"", &format!("{mode:?}"));
        lab.write_config(&file)?;
        let mut lbd = lab.spawn_lbd()?;
        let status = lbd.wait(SOON)?;
        let log = lbd.log()?;
        ensure!(status.code() == Some(1), "{mode}: {status}");
        ensure!(
            log.contains("cannot attach to eth0") && log.contains("another XDP program is attached"),
            "{mode}: {log}"
        );
        ensure!(program()? == before, "{mode}: {}", program()?);
    }
    drop(other);
    let _lbd = lab.start_lbd()?;
    Ok(())
}
