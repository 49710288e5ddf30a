//! Changes of neighbours, routes and interfaces: each is reported, none is missed.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::lab::{Lab, require_root, run, set_sysctl, topology::mac_text, unique_name};
use tokio::time::{Instant, sleep};

use crate::{
    support::{OTHER_MAC, ip, on_balancer, wait_for_entry},
    watch::Watch,
};

#[test]
fn a_neighbour_that_changes_its_mac_address_leaves_and_returns_is_reported() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("moves")).backends(1).build()?;
    let peer = lab.node("b1");
    on_balancer(&lab, async || {
        // The kernel notices within some seconds when a neighbour is silent, not after a minute.
        for (name, value) in [
            ("base_reachable_time_ms", "500"),
            ("delay_first_probe_time", "1"),
            ("interval_probe_time_ms", "1000"),
            ("retrans_time_ms", "100"),
        ] {
            set_sysctl(&format!("net/ipv4/neigh/eth0/{name}"), value)?;
        }
        let mut watch = Watch::start(&["10.77.0.11"]);
        watch.until_mac("10.77.0.11", peer.mac()).await?;
        ip(peer, &format!("link set eth0 address {}", mac_text(OTHER_MAC)))?;
        watch.until_mac("10.77.0.11", OTHER_MAC).await?;
        ip(peer, "address delete 10.77.0.11/24 dev eth0")?;
        watch.until_unresolved("10.77.0.11", "10.77.0.11 on eth0 does not answer").await?;
        ip(peer, "address add 10.77.0.11/24 dev eth0")?;
        watch.until_mac("10.77.0.11", OTHER_MAC).await
    })
}

#[test]
fn a_flush_of_the_neighbour_table_does_not_unresolve_a_host_that_answers() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("flush")).backends(1).build()?;
    let (balancer, peer) = (lab.node("lb"), lab.node("b1"));
    on_balancer(&lab, async || {
        let mut watch = Watch::start(&["10.77.0.11"]);
        watch.until_mac("10.77.0.11", peer.mac()).await?;
        ip(balancer, "neighbour delete 10.77.0.11 dev eth0")?;
        let kept_again = |entry: &str| entry.contains(&mac_text(peer.mac())) && entry.contains("managed");
        wait_for_entry(balancer, "10.77.0.11", kept_again).await?;
        // Long enough for a report of it.
        sleep(Duration::from_millis(200)).await;
        watch.ensure_no_news()
    })
}

#[test]
fn changes_of_routes_and_rules_are_followed() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("routes")).backends(1).build()?;
    let (balancer, peer) = (lab.node("lb"), lab.node("b1"));
    on_balancer(&lab, async || {
        let mut watch = Watch::start(&["192.0.2.9", "2001:db8::9"]);
        watch.until_unresolved("192.0.2.9", "no route").await?;
        watch.until_unresolved("2001:db8::9", "no route").await?;
        ip(balancer, "route add default via 10.77.0.11")?;
        ip(balancer, "route add default via fd77::11")?;
        watch.until_mac("192.0.2.9", peer.mac()).await?;
        watch.until_mac("2001:db8::9", peer.mac()).await?;
        for (kind, reason) in
            [("unreachable", "is unreachable"), ("blackhole", "is a blackhole"), ("prohibit", "is prohibited")]
        {
            ip(balancer, &format!("route replace {kind} 192.0.2.0/24"))?;
            ip(balancer, &format!("route add {kind} 2001:db8::/32"))?;
            watch.until_unresolved("192.0.2.9", reason).await?;
            watch.until_unresolved("2001:db8::9", reason).await?;
            ip(balancer, &format!("route delete {kind} 2001:db8::/32"))?;
        }
        ip(balancer, "route replace 192.0.2.0/24 dev lo")?;
        watch.until_unresolved("192.0.2.9", "lo is not supported").await?;
        ip(balancer, "route delete 192.0.2.0/24")?;
        watch.until_mac("192.0.2.9", peer.mac()).await?;
        ip(balancer, "rule add to 192.0.2.0/24 prohibit")?;
        watch.until_unresolved("192.0.2.9", "is prohibited").await
    })
}

#[test]
fn a_change_whose_notification_was_lost_is_found_without_waiting_for_the_recheck() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("overrun")).backends(1).build()?;
    let mut commands: Vec<_> =
        (0..20_000).map(|n| format!("route add blackhole 172.16.{}.{}/32\n", n / 250, n % 250)).collect();
    commands.push("route add 192.0.2.0/24 via 10.77.0.11\n".to_owned());
    let batch = lab.paths().dir().join("routes");
    fs::write(&batch, commands.concat())?;
    on_balancer(&lab, async || {
        let mut watch = Watch::start(&["192.0.2.9"]);
        watch.until_unresolved("192.0.2.9", "no route").await?;
        // This blocks the resolver's only thread: it reads nothing meanwhile, and its socket overruns.
        run(lab.node("lb").command("ip").arg("-batch").arg(&batch))?;
        let start = Instant::now();
        watch.until_mac("192.0.2.9", lab.node("b1").mac()).await?;
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(5), "it was found after {took:?}");
        Ok(())
    })
}

#[test]
fn an_interface_that_goes_down_and_up_is_followed() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("carrier")).backends(1).build()?;
    let (balancer, peer) = (lab.node("lb"), lab.node("b1"));
    // The other end of the balancer's link.
    let port = |state| run(lab.paths().namespace("switch").command("ip").args(["link", "set", "lb", state]));
    on_balancer(&lab, async || {
        let mut watch = Watch::start(&["10.77.0.11"]);
        watch.until_mac("10.77.0.11", peer.mac()).await?;
        port("down")?;
        watch.until_unresolved("10.77.0.11", "eth0 is down or has no carrier").await?;
        port("up")?;
        watch.until_mac("10.77.0.11", peer.mac()).await?;
        ip(balancer, "link set eth0 down")?;
        watch.until_unresolved("10.77.0.11", "no route").await?;
        ip(balancer, "link set eth0 up")?;
        watch.until_mac("10.77.0.11", peer.mac()).await
    })
}
