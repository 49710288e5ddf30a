//! Virtual routers with a MAC address of their own.

use std::{fs, net::IpAddr};

use anyhow::{Result, ensure};
use lb_common::VirtualRouter;
use lb_tests::lab::{Lab, Node, require_root, set_sysctl, topology::mac_text, unique_name};
use lb_userspace::vrrp::links::Links;

use crate::support::{IPV4, IPV6, LEASE, address, ip, listen, reaches, state};

const ROUTER: VirtualRouter = VirtualRouter { ipv6: false, id: 7 };
const ROUTER6: VirtualRouter = VirtualRouter { ipv6: true, id: 7 };

#[test]
fn a_virtual_router_is_at_its_own_mac_address_and_the_interface_at_the_other() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("vmac")).backends(1).build()?;
    let (balancer, client) = (lab.node("lb"), lab.node("client"));
    let _listener = listen(balancer)?;
    let routers = [(ROUTER, IPV4, IpAddr::from(balancer.ipv4())), (ROUTER6, IPV6, balancer.ipv6().into())];
    balancer.namespace().inside(|| {
        // As a distribution may have it.
        set_sysctl("net/ipv4/conf/all/rp_filter", "1")?;
        let mut links = Links::open()?;
        for (router, virtual_address, own_address) in routers {
            let device = links.create_virtual_mac("eth0", router)?;
            links.put(device, &[address(virtual_address)], LEASE)?;
            // Who answers first may differ from time to time, if two do.
            for _ in 0..5 {
                client.ip("neighbour flush dev eth0")?;
                ensure_at(client, address(virtual_address).address, router.mac())?;
                ensure_at(client, own_address, balancer.mac())?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_link_local_virtual_address_is_reached() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("linklocal")).backends(1).build()?;
    let (balancer, client) = (lab.node("lb"), lab.node("client"));
    let _listener = listen(balancer)?;
    balancer.namespace().inside(|| {
        let mut links = Links::open()?;
        let device = links.create_virtual_mac("eth0", ROUTER6)?;
        links.put(device, &[address("fe80::200/64")], LEASE)?;
        let addresses = balancer.ip(&format!("-6 address show dev vrrp6.7.{}", state(&mut links, "eth0")?.ifindex))?;
        ensure!(addresses.matches("inet6").count() == 1, "addresses of its own: {addresses}");
        ensure_at(client, ip("fe80::200"), ROUTER6.mac())
    })
}

#[test]
fn devices_are_found_again_and_leave_nothing_behind() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("vmacs")).backends(1).build()?;
    let balancer = lab.node("lb");
    let arp_settings = || {
        ["arp_ignore", "arp_announce"]
            .map(|name| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/eth0/{name}")).ok())
    };
    let [free, restricted] = [["0\n", "0\n"], ["1\n", "2\n"]].map(|values| values.map(|value| Some(value.to_owned())));
    balancer.namespace().inside(|| {
        let before = (balancer.ip("link show")?, balancer.ip("-6 route show table all")?);
        let mut links = Links::open()?;
        let device = links.create_virtual_mac("eth0", ROUTER)?;
        assert_eq!(links.create_virtual_mac("eth0", ROUTER)?, device);
        let other = links.create_virtual_mac("eth0", ROUTER6)?;
        // After a crash.
        assert_eq!(Links::open()?.create_virtual_mac("eth0", ROUTER)?, device);

        let mac = mac_text(ROUTER.mac());
        let shown = balancer.ip(&format!("-d link show vrrp.7.{}", state(&mut links, "eth0")?.ifindex))?;
        ensure!(shown.contains(&mac) && shown.contains("macvlan mode bridge") && shown.contains("@eth0"), "{shown}");
        assert_eq!(arp_settings(), restricted);
        links.remove_virtual_mac(device)?;
        assert_eq!(arp_settings(), restricted, "the other device is there still");
        links.remove_virtual_mac(other)?;
        assert_eq!(arp_settings(), free);
        links.remove_virtual_mac(other)?;
        assert_eq!((balancer.ip("link show")?, balancer.ip("-6 route show table all")?), before);
        Ok(())
    })
}

#[test]
fn a_device_of_somebody_elses_is_left_alone() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("vmacname")).backends(1).build()?;
    let balancer = lab.node("lb");
    balancer.namespace().inside(|| {
        let mut links = Links::open()?;
        let name = format!("vrrp.7.{}", state(&mut links, "eth0")?.ifindex);
        balancer.ip(&format!("link add {name} link eth0 type macvlan mode bridge"))?;
        let error = links.create_virtual_mac("eth0", ROUTER).expect_err("the name is taken").to_string();
        ensure!(error.contains(&name), "{error}");
        let error = links.create_virtual_mac("eth9", ROUTER).expect_err("there is no eth9").to_string();
        ensure!(error.contains("cannot find interface eth9: No such device"), "{error}");
        Ok(())
    })
}

/// Connects, and looks where on the link that was.
fn ensure_at(client: &Node, address: IpAddr, mac: [u8; 6]) -> Result<()> {
    ensure!(reaches(client, address)?, "{address} does not answer");
    let entry = client.ip(&format!("neighbour show {address}"))?;
    ensure!(entry.contains(&mac_text(mac)), "{address} is not at {}: {entry}", mac_text(mac));
    Ok(())
}
