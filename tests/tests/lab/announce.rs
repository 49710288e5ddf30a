//! Virtual IPs on the balancer's interface, and `lbd unload`, which takes everything away.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb_tests::lab::{
    Lab, require_root,
    topology::{mac_text, virtual_ipv4, virtual_ipv6},
    unique_name, wait_for,
};
use nix::sys::signal::Signal;

use crate::{
    client::{PORTS, owners},
    config::{self, Service},
    support::{Balanced, SOON, ip, unload, web},
};

/// Whether the balancer has the address.
fn has_address(lab: &Lab, address: &str) -> Result<bool> {
    let addresses = ip(lab, "lb", &["address", "show", "dev", "eth0"])?;
    Ok(addresses.split_whitespace().any(|word| word == address))
}

#[test]
fn a_virtual_ip_outlives_lbd_and_goes_with_unload_which_leaves_no_pins() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::start(Lab::builder(&unique_name("unload")).backends(1))?;
    let present = |lab: &Lab| -> Result<Vec<bool>> {
        ["10.77.0.100/32", "fd77::100/128"].into_iter().map(|address| has_address(lab, address)).collect()
    };
    let attached = |lab: &Lab| -> Result<bool> { Ok(ip(lab, "lb", &["link", "show", "eth0"])?.contains("prog/xdp")) };
    ensure!(present(&balanced.lab)? == [true, true] && attached(&balanced.lab)?);

    let refused = unload(&balanced.lab)?;
    let message = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && message.contains("another lbd runs"), "{message}");
    ensure!(present(&balanced.lab)? == [true, true] && attached(&balanced.lab)?, "a refused unload has unloaded");

    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        balanced.lbd.kill(signal)?;
        balanced.lbd.wait(SOON)?;
        ensure!(present(&balanced.lab)? == [true, true] && attached(&balanced.lab)?, "gone after {signal}");
        owners(&balanced.lab, web(), PORTS)?;
        balanced.start_lbd()?;
    }
    balanced.kill_lbd()?;
    let unloaded = unload(&balanced.lab)?;
    ensure!(unloaded.status.success(), "{}", String::from_utf8_lossy(&unloaded.stderr));
    ensure!(present(&balanced.lab)? == [false, false], "a virtual IP is left");
    ensure!(!balanced.lab.paths().pins().exists(), "pins are left");
    wait_for("the end of the program", SOON, || Ok((!attached(&balanced.lab)?).then_some(())))?;
    ensure!(unload(&balanced.lab)?.status.success(), "there is nothing to do, which is no error");

    balanced.start_lbd()?;
    balanced.lab.wait_until_healthy(SOON)?;
    owners(&balanced.lab, web(), PORTS)?;
    Ok(())
}

#[test]
fn the_client_learns_where_the_virtual_ip_is_by_gratuitous_arp_and_neighbour_advertisement() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("garp")).backends(1).build()?;
    let addresses: [IpAddr; 2] = [virtual_ipv4(0).into(), virtual_ipv6(0).into()];
    // Another node had the addresses before.
    let old = mac_text(lab.node("b1").mac());
    for address in addresses {
        let address = address.to_string();
        ip(&lab, "client", &["neigh", "replace", &address, "lladdr", &old, "dev", "eth0", "nud", "stale"])?;
    }
    let services = [Service::new("four", "10.77.0.100:80"), Service::new("six", "[fd77::100]:80")];
    lab.write_config(&config::file(&lab, &services))?;
    let _lbd = lab.start_lbd()?;
    // The client sends nothing: nobody has asked.
    let new = mac_text(lab.node("lb").mac());
    for address in addresses {
        wait_for(&format!("{address} at {new}"), SOON, || {
            let entry = ip(&lab, "client", &["neigh", "show", &address.to_string(), "dev", "eth0"])?;
            Ok(entry.contains(&new).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn an_address_that_the_operator_put_there_stays_when_lbd_goes() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("theirs")).backends(1).build()?;
    ip(&lab, "lb", &["address", "add", "10.77.0.100/24", "dev", "eth0"])?;
    let services = [Service::web(lab.backends())];
    let mut balanced = Balanced::with(lab, &services)?;
    balanced.lbd.wait_for_log("is not ours", SOON)?;
    balanced.kill_lbd()?;
    ensure!(unload(&balanced.lab)?.status.success());
    ensure!(has_address(&balanced.lab, "10.77.0.100/24")?, "an address of the operator's is gone");
    Ok(())
}

#[test]
fn a_service_that_is_not_announced_leaves_the_interface_alone() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("quiet")).backends(1).build()?;
    let services = [Service { announce: false, ..Service::web(lab.backends()) }];
    let balanced = Balanced::with(lab, &services)?;
    ensure!(!has_address(&balanced.lab, "10.77.0.100/32")?);
    // Another host's route to it leads here.
    ip(&balanced.lab, "client", &["route", "add", "10.77.0.100/32", "via", "10.77.0.2"])?;
    owners(&balanced.lab, web(), PORTS)?;
    Ok(())
}

#[test]
fn a_virtual_ip_that_somebody_takes_off_or_a_link_flap_does_comes_back() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start(Lab::builder(&unique_name("restore")).backends(1))?;
    let lab = &balanced.lab;
    let back = |address: &str| wait_for(address, SOON, || Ok(has_address(lab, address)?.then_some(())));
    ip(lab, "lb", &["address", "delete", "10.77.0.100/32", "dev", "eth0"])?;
    ensure!(!has_address(lab, "10.77.0.100/32")?);
    back("10.77.0.100/32")?;
    // The kernel takes IPv6 addresses off an interface that goes down.
    ip(lab, "lb", &["link", "set", "eth0", "down"])?;
    ip(lab, "lb", &["link", "set", "eth0", "up"])?;
    back("fd77::100/128")?;
    ensure!(balanced.lbd.log()?.contains("10.77.0.100 was missing on eth0"));
    Ok(())
}
