//! Virtual IPs on the interface, and in the neighbour tables of the link. The client stands for the link's other hosts.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb_tests::lab::{Lab, require_root, set_sysctl, topology::mac_text, unique_name};
use lb_userspace::neighbour::{Announcer, Placement};
use tokio::time::sleep;

use crate::support::{OTHER_MAC, address, ip, on_balancer, wait_for_entry};

#[test]
fn an_announced_address_moves_to_us_in_the_neighbour_tables_of_the_link() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("moved")).backends(1).build()?;
    let (balancer, client) = (lab.node("lb"), lab.node("client"));
    let addresses = ["10.77.0.100", "fd77::100"];
    for address in addresses {
        let entry = format!("{address} lladdr {} dev eth0 nud stale", mac_text(OTHER_MAC));
        ip(client, &format!("neighbour add {entry}"))?;
    }
    on_balancer(&lab, async || {
        let mut announcer = Announcer::new()?;
        for announced in addresses {
            let placement = announcer.announce("eth0", address(announced)).await?;
            assert_eq!(placement, Placement::Ours);
            wait_for_entry(client, announced, |entry| entry.contains(&mac_text(balancer.mac()))).await?;
        }
        Ok(())
    })
}

#[test]
fn an_announced_ipv6_address_is_usable_at_once_and_no_source() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("flags")).backends(1).build()?;
    on_balancer(&lab, async || {
        // The lab does without duplicate address detection; an operator's host does not.
        set_sysctl("net/ipv6/conf/eth0/accept_dad", "1")?;
        Announcer::new()?.announce("eth0", address("fd77::100")).await?;
        let shown = ip(lab.node("lb"), "address show dev eth0 to fd77::100")?;
        ensure!(!shown.contains("tentative"), "not usable yet: {shown}");
        ensure!(shown.contains("deprecated"), "a source of our own packets: {shown}");
        Ok(())
    })
}

#[test]
fn addresses_of_an_earlier_run_are_found_announced_again_and_withdrawn() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("again")).backends(1).build()?;
    let addresses = [address("10.77.0.100"), address("fd77::100")];
    on_balancer(&lab, async || {
        let mut earlier = Announcer::new()?;
        for address in addresses {
            earlier.announce("eth0", address).await?;
        }
        drop(earlier);

        let mut announcer = Announcer::new()?;
        assert_eq!(announcer.announced("eth0").await?, addresses);
        for address in addresses {
            assert_eq!(announcer.announce("eth0", address).await?, Placement::Ours);
            announcer.withdraw("eth0", address).await?;
        }
        let shown = ip(lab.node("lb"), "address show dev eth0")?;
        ensure!(!shown.contains("10.77.0.100/") && !shown.contains("fd77::100/"), "{shown}");
        // Twice is once.
        announcer.withdraw("eth0", addresses[0]).await?;
        Ok(())
    })
}

#[test]
fn an_address_that_is_not_ours_is_announced_and_stays() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("theirs")).backends(1).build()?;
    on_balancer(&lab, async || {
        let mut announcer = Announcer::new()?;
        for address in [address("10.77.0.2"), address("fd77::2")] {
            let placement = announcer.announce("eth0", address).await?;
            assert_eq!(placement, Placement::AlreadyPresent);
            announcer.withdraw("eth0", address).await?;
        }
        let ours = announcer.announced("eth0").await?;
        ensure!(ours.is_empty(), "{ours:?}");
        let shown = ip(lab.node("lb"), "address show dev eth0")?;
        ensure!(shown.contains("10.77.0.2/24") && shown.contains("fd77::2/64"), "{shown}");
        Ok(())
    })
}

#[test]
fn an_interface_that_is_missing_is_named() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("missing")).backends(1).build()?;
    on_balancer(&lab, async || {
        let announced = Announcer::new()?.announce("eth9", address("10.77.0.100")).await;
        let error = announced.expect_err("there is no eth9").to_string();
        ensure!(error.contains("find interface eth9"), "{error}");
        Ok(())
    })
}

#[test]
fn no_frame_claims_an_address_after_it_was_withdrawn() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("withdrawn")).backends(1).build()?;
    let client = lab.node("client");
    on_balancer(&lab, async || {
        let mut announcer = Announcer::new()?;
        announcer.announce("eth0", address("10.77.0.100")).await?;
        sleep(Duration::from_millis(100)).await;
        announcer.withdraw("eth0", address("10.77.0.100")).await?;
        // Another node takes it over. Announcements go on for a second.
        let other = mac_text(OTHER_MAC);
        ip(client, &format!("neighbour replace 10.77.0.100 lladdr {other} dev eth0 nud stale"))?;
        sleep(Duration::from_millis(1500)).await;
        let entry = ip(client, "neighbour show 10.77.0.100")?;
        ensure!(entry.contains(&other), "{entry}");
        Ok(())
    })
}
