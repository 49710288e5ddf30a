//! How the next hop of a target is found, and the reasons why there is none.

use anyhow::{Result, ensure};
use lb_tests::lab::{Lab, require_root, skip_for_kernel, topology::mac_text, unique_name};
use lb_userspace::{
    config::Gateway,
    neighbour::{Gateways, Unresolved},
};

use crate::{
    support::{OTHER_MAC, address, ip, on_balancer, wait_for_entry},
    watch::Watch,
};

#[test]
fn hosts_on_the_link_resolve_and_are_kept_fresh_while_they_are_targets() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("fresh")).backends(1).build()?;
    let (balancer, peer) = (lab.node("lb"), lab.node("b1"));
    on_balancer(&lab, async || {
        let mut watch = Watch::start(&["10.77.0.11", "fd77::11"]);
        for (target, own) in [("10.77.0.11", "10.77.0.2"), ("fd77::11", "fd77::2")] {
            let egress = watch.egress(target).await?;
            assert_eq!(egress.interface, "eth0", "{target}");
            assert_eq!(egress.source_mac, balancer.mac(), "{target}");
            assert_eq!(egress.destination_mac, peer.mac(), "{target}");
            assert_eq!((egress.vlan, egress.mtu), (None, 1600), "{target}");
            assert_eq!(egress.preferred_source, Some(address(own)), "{target}");
        }

        let managed = |entry: &str| entry.contains("managed");
        let left_alone = |entry: &str| entry.contains(&mac_text(peer.mac())) && !managed(entry);
        wait_for_entry(balancer, "10.77.0.11", managed).await?;
        wait_for_entry(balancer, "fd77::11", managed).await?;
        watch.set_targets(&["fd77::11"]);
        wait_for_entry(balancer, "10.77.0.11", left_alone).await?;
        watch.stop().await?;
        let entry = ip(balancer, "neighbour show fd77::11")?;
        ensure!(left_alone(&entry), "after the end of the resolver: {entry}");
        Ok(())
    })
}

#[test]
fn an_entry_that_the_operator_made_is_used_and_not_touched() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("permanent")).backends(1).build()?;
    let balancer = lab.node("lb");
    let entry = format!("10.77.0.11 lladdr {} dev eth0 nud permanent", mac_text(OTHER_MAC));
    ip(balancer, &format!("neighbour add {entry}"))?;
    on_balancer(&lab, async || {
        let mut watch = Watch::start(&["10.77.0.11"]);
        watch.until_mac("10.77.0.11", OTHER_MAC).await?;
        watch.stop().await?;
        let entry = ip(balancer, "neighbour show 10.77.0.11")?;
        ensure!(entry.contains("PERMANENT") && !entry.contains("managed"), "{entry}");
        Ok(())
    })
}

#[test]
fn a_gateway_of_either_family_gives_the_mac_address_and_the_route_its_mtu() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("gateway")).backends(1).build()?;
    let balancer = lab.node("lb");
    ip(balancer, "route add 192.0.2.0/24 via 10.77.0.11 mtu 1400")?;
    ip(balancer, "route add 198.51.100.0/24 via inet6 fd77::11")?;
    ip(balancer, "route add 2001:db8::/32 via fd77::11 mtu 1300")?;
    on_balancer(&lab, async || {
        let targets = ["192.0.2.9", "198.51.100.9", "2001:db8::9"];
        let mut watch = Watch::start(&targets);
        for (target, mtu) in targets.into_iter().zip([1400, 1600, 1300]) {
            let egress = watch.egress(target).await?;
            assert_eq!(egress.destination_mac, lab.node("b1").mac(), "{target}");
            assert_eq!(egress.mtu, mtu, "{target}");
        }
        Ok(())
    })
}

#[test]
fn a_vlan_transmits_tagged_on_its_parent_and_a_vlan_inside_is_refused() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("vlan")).backends(1).build()?;
    for node in [lab.node("lb"), lab.node("b1")] {
        match ip(node, "link add link eth0 name eth0.7 type vlan id 7") {
            Err(error) if error.to_string().contains("Unknown device type") => {
                skip_for_kernel("VLAN devices (8021q)");
                return Ok(());
            }
            added => added?,
        };
        let [_, _, _, host] = node.ipv4().octets();
        ip(node, "link add link eth0.7 name inner type vlan id 8")?;
        ip(node, &format!("address add 10.7.0.{host}/24 dev eth0.7"))?;
        ip(node, &format!("address add 10.8.0.{host}/24 dev inner"))?;
        ip(node, "link set eth0.7 up")?;
        ip(node, "link set inner up")?;
    }
    on_balancer(&lab, async || {
        let mut watch = Watch::start(&["10.77.0.11", "10.7.0.11", "10.8.0.11"]);
        let parent = watch.egress("10.77.0.11").await?;
        let vlan = watch.egress("10.7.0.11").await?;
        assert_eq!(vlan.ifindex, parent.ifindex);
        assert_eq!((vlan.interface.as_str(), vlan.vlan), ("eth0.7", Some(7)));
        assert_eq!(vlan.destination_mac, lab.node("b1").mac());
        watch.until_unresolved("10.8.0.11", "VLAN inside a VLAN").await
    })
}

#[test]
fn an_address_of_this_host_is_local_for_as_long_as_it_is_here() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("local")).backends(1).build()?;
    let (balancer, peer) = (lab.node("lb"), lab.node("b1"));
    on_balancer(&lab, async || {
        let mut watch = Watch::start(&["10.77.0.2", "fd77::2", "10.77.0.11"]);
        watch.until_local("10.77.0.2").await?;
        watch.until_local("fd77::2").await?;
        watch.until_mac("10.77.0.11", peer.mac()).await?;
        ip(balancer, "address add 10.77.0.11/32 dev lo")?;
        watch.until_local("10.77.0.11").await?;
        ip(balancer, "address delete 10.77.0.11/32 dev lo")?;
        watch.until_mac("10.77.0.11", peer.mac()).await
    })
}

#[test]
fn a_fixed_gateway_stands_for_all_that_leaves_by_its_interface() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("fixed")).backends(1).build()?;
    let gateways = |gateway| Gateways::from([("eth0".to_owned(), gateway)]);
    on_balancer(&lab, async || {
        // Nobody has the first, and the second is the balancer's own.
        let mut watch = Watch::start_with(gateways(Gateway::Mac(OTHER_MAC)), &["10.77.0.99", "10.77.0.2"]);
        watch.until_mac("10.77.0.99", OTHER_MAC).await?;
        watch.until_local("10.77.0.2").await?;
        let entry = ip(lab.node("lb"), "neighbour show 10.77.0.99")?;
        ensure!(entry.is_empty(), "the target itself was asked for: {entry}");

        watch.set_gateways(gateways(Gateway::Address(address("fd77::11"))));
        watch.until_mac("10.77.0.99", lab.node("b1").mac()).await?;
        watch.set_gateways(Gateways::new());
        watch.until("10.77.0.99", |last| matches!(last, Err(Unresolved::NoAnswer { .. }))).await
    })
}
