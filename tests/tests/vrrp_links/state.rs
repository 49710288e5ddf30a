//! How an interface is, and what is reported when that changes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::{Stream, StreamExt as _};
use lb_tests::lab::{Lab, require_root, run, set_sysctl, skip_for_kernel, unique_name};
use lb_userspace::{
    neighbour::Announcer,
    vrrp::links::{self, LinkChange, Links},
};
use tokio::time::timeout;

use crate::support::{IPV4, IPV6, LEASE, SOON, address, eth0, ip, state};

#[test]
fn the_state_of_an_interface_leaves_out_addresses_of_ours_and_the_daemons() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("state")).backends(1).build()?;
    let balancer = lab.node("lb");
    balancer.namespace().block_on(async || {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        links.put(device, &[address(IPV4), address(IPV6)], LEASE)?;
        let mut daemon = Announcer::new()?;
        daemon.announce("eth0", ip("10.77.0.100")).await?;
        daemon.announce("eth0", ip("fd77::100")).await?;

        let state = state(&mut links, "eth0")?;
        ensure!(state.up && !state.xdp, "{state:?}");
        assert_eq!(state.mac, Some(balancer.mac()));
        assert_eq!(state.receiver, state.ifindex);
        assert_eq!(state.addresses, [ip("10.77.0.2"), ip("fd77::2"), ip("fe80::aff:fe4d:2")]);
        assert_eq!(links.state("eth9")?, None);
        Ok(())
    })
}

#[test]
fn an_address_that_is_not_usable_yet_is_left_out() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("tentative")).backends(1).build()?;
    let balancer = lab.node("lb");
    balancer.namespace().inside(|| {
        set_sysctl("net/ipv6/conf/eth0/accept_dad", "1")?;
        set_sysctl("net/ipv6/conf/eth0/dad_transmits", "100")?;
        balancer.ip("address add fd77::9/64 dev eth0")?;
        let state = state(&mut Links::open()?, "eth0")?;
        ensure!(!state.addresses.contains(&ip("fd77::9")), "{state:?}");
        Ok(())
    })
}

#[test]
fn an_interface_without_carrier_or_switched_off_is_down() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("down")).backends(1).build()?;
    let balancer = lab.node("lb");
    let port = |to: &str| {
        let mut command = lab.paths().namespace("switch").command("ip");
        run(command.args(["link", "set", "lb", to])).map(drop)
    };
    balancer.namespace().inside(|| {
        let mut links = Links::open()?;
        port("down")?;
        ensure!(!state(&mut links, "eth0")?.up, "there is no carrier");
        port("up")?;
        ensure!(state(&mut links, "eth0")?.up, "there is a carrier again");
        balancer.ip("link set eth0 down")?;
        ensure!(!state(&mut links, "eth0")?.up, "it is switched off");
        Ok(())
    })
}

#[test]
fn a_program_on_an_interface_is_seen() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("xdp")).backends(1).build()?;
    lab.paths().namespace("switch").inside(|| {
        let mut links = Links::open()?;
        // The lab's port of the balancer has a program.
        let (with, without) = (state(&mut links, "lb")?, state(&mut links, "client")?);
        ensure!(with.xdp && !without.xdp, "{with:?} {without:?}");
        Ok(())
    })
}

#[test]
fn the_frames_of_a_vlan_come_in_by_its_parent() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("vlan")).backends(1).build()?;
    let switch = lab.paths().namespace("switch");
    let add = ["link", "add", "link", "lb", "name", "lb.7", "type", "vlan", "id", "7"];
    match run(switch.command("ip").args(add)) {
        Err(error) if error.to_string().contains("Unknown device type") => {
            skip_for_kernel("VLAN devices (8021q)");
            return Ok(());
        }
        result => result?,
    };
    switch.inside(|| {
        let mut links = Links::open()?;
        let vlan = state(&mut links, "lb.7")?;
        ensure!(vlan.receiver == state(&mut links, "lb")?.ifindex && vlan.xdp, "{vlan:?}");
        Ok(())
    })
}

#[test]
fn changes_are_reported_but_for_virtual_addresses() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("changes")).backends(1).build()?;
    let balancer = lab.node("lb");
    balancer.namespace().block_on(async || {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        let mut changes = links::changes()?;
        links.put(device, &[address(IPV4), address(IPV6)], LEASE)?;
        links.renew(LEASE)?;
        links.take(device, &[address(IPV4), address(IPV6)])?;
        let silence = timeout(Duration::from_millis(300), changes.next()).await;
        ensure!(silence.is_err(), "{silence:?}");

        let addresses = LinkChange::Addresses { ifindex: device.ifindex };
        balancer.ip("address add 10.77.0.9/24 dev eth0")?;
        assert_eq!(next(&mut changes).await?, addresses);
        balancer.ip("address del 10.77.0.9/24 dev eth0")?;
        assert_eq!(next(&mut changes).await?, addresses);
        balancer.ip("link set eth0 mtu 1400")?;
        assert_eq!(
            next(&mut changes).await?,
            LinkChange::Interface { ifindex: device.ifindex, name: "eth0".to_owned() }
        );
        Ok(())
    })
}

async fn next(changes: &mut (impl Stream<Item = LinkChange> + Unpin)) -> Result<LinkChange> {
    timeout(SOON, changes.next()).await.context("nothing is reported")?.context("the reports ended")
}
