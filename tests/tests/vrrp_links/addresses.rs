//! Virtual addresses: put, renewed, taken, and gone when nobody renews them.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::lab::{Lab, Node, require_root, unique_name, wait_for};
use lb_userspace::{
    config::VirtualAddress,
    vrrp::links::{Device, Links},
};

use crate::support::{IPV4, IPV6, LEASE, SOON, address, eth0, ip, listen, reaches};

const TWO_SECONDS: Duration = Duration::from_secs(2);

fn both() -> [VirtualAddress; 2] {
    [address(IPV4), address(IPV6)]
}

#[test]
fn an_address_that_is_put_is_there_for_the_time_of_its_lease() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("put")).backends(1).build()?;
    let (balancer, client) = (lab.node("lb"), lab.node("client"));
    let _listener = listen(balancer)?;
    balancer.namespace().inside(|| {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        links.put(device, &both(), LEASE)?;
        for address in both() {
            // The first packets may be lost while neighbours learn of each other.
            wait_for(&format!("{address} to answer"), SOON, || Ok(reaches(client, address.address)?.then_some(())))?;
        }
        let shown = shown(balancer, IPV4)?;
        ensure!(shown.contains("valid_lft 300sec preferred_lft 300sec"), "{shown}");
        ensure!(shown.contains("secondary"), "{shown}");
        let shown = self::shown(balancer, IPV6)?;
        ensure!(shown.contains("valid_lft 300sec preferred_lft 0sec"), "{shown}");
        ensure!(shown.contains("deprecated") && !shown.contains("tentative"), "a source of our own packets: {shown}");
        ensure!(shown.contains("noprefixroute"), "{shown}");
        Ok(())
    })
}

#[test]
fn an_address_that_is_not_renewed_goes_by_itself() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("lease")).backends(1).build()?;
    let balancer = lab.node("lb");
    balancer.namespace().inside(|| {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        links.put(device, &both(), TWO_SECONDS)?;
        let until = Instant::now() + 2 * TWO_SECONDS;
        let mut renewed = Instant::now();
        while Instant::now() < until {
            sleep(Duration::from_millis(500));
            let ours = links.ours()?.len();
            ensure!(ours == 2, "only {ours} addresses live on, though they are renewed");
            links.renew(TWO_SECONDS)?;
            renewed = Instant::now();
        }
        let mut gone = [None; 2];
        wait_for("the end of the leases", SOON, || {
            let ours = links.ours()?;
            for (gone, address) in gone.iter_mut().zip(both()) {
                if !ours.contains(&(device.ifindex, address)) {
                    gone.get_or_insert_with(|| renewed.elapsed());
                }
            }
            Ok(gone.iter().all(Option::is_some).then_some(()))
        })?;
        println!("with a lease of {TWO_SECONDS:?}, IPv4 and IPv6 are gone after {gone:?}");
        ensure!(gone.iter().flatten().all(|&after| after > TWO_SECONDS / 2), "before the lease ends: {gone:?}");
        Ok(())
    })
}

#[test]
fn an_address_that_is_taken_is_gone_and_may_be_taken_twice() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("take")).backends(1).build()?;
    lab.node("lb").namespace().inside(|| {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        links.take(device, &both())?;
        // Twice is once.
        links.put(device, &both(), LEASE)?;
        links.put(device, &both(), LEASE)?;
        assert_eq!(links.ours()?, both().map(|address| (device.ifindex, address)));
        links.take(device, &both())?;
        assert_eq!(links.ours()?, []);
        links.take(device, &both())?;
        links.renew(LEASE)?;
        assert_eq!(links.ours()?, [], "what was taken is not renewed");
        Ok(())
    })
}

#[test]
fn addresses_of_an_earlier_run_are_found_renewed_and_taken() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("again")).backends(1).build()?;
    let balancer = lab.node("lb");
    balancer.namespace().inside(|| {
        let mut earlier = Links::open()?;
        let device = eth0(&mut earlier)?;
        earlier.put(device, &both(), Duration::from_secs(100))?;
        drop(earlier);

        let mut links = Links::open()?;
        assert_eq!(links.ours()?, both().map(|address| (device.ifindex, address)));
        links.put(device, &both()[..1], LEASE)?;
        let shown = shown(balancer, IPV4)?;
        ensure!(shown.contains("valid_lft 300sec"), "{shown}");
        links.take(device, &both())?;
        assert_eq!(links.ours()?, []);
        Ok(())
    })
}

#[test]
fn an_address_that_somebody_removed_is_put_back_by_the_next_renewal() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("back")).backends(1).build()?;
    let balancer = lab.node("lb");
    balancer.namespace().inside(|| {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        links.put(device, &both(), LEASE)?;
        for address in [IPV4, IPV6] {
            balancer.ip(&format!("address del {address} dev eth0"))?;
        }
        links.renew(LEASE)?;
        assert_eq!(links.ours()?.len(), 2);
        Ok(())
    })
}

#[test]
fn an_address_that_is_not_ours_stays_as_it_is() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("theirs")).backends(1).build()?;
    let balancer = lab.node("lb");
    let theirs = [address("10.77.0.2/24"), address("fd77::2/64")];
    balancer.namespace().inside(|| {
        let before = addresses_and_routes(balancer)?;
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        links.put(device, &theirs, Duration::from_secs(1))?;
        links.renew(Duration::from_secs(1))?;
        assert_eq!(addresses_and_routes(balancer)?, before);
        links.take(device, &theirs)?;
        assert_eq!(addresses_and_routes(balancer)?, before);
        Ok(())
    })
}

#[test]
fn when_virtual_addresses_go_everything_is_as_it_was() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("traceless")).backends(1).build()?;
    let balancer = lab.node("lb");
    let elsewhere = ["10.99.0.1/24", "10.77.0.201/32", "fd99::1/64", "fd77::201/128", "fe80::1/64"].map(address);
    balancer.namespace().inside(|| {
        let before = addresses_and_routes(balancer)?;
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        let all = [&both()[..], &elsewhere].concat();
        links.put(device, &all, LEASE)?;
        links.renew(LEASE)?;
        links.take(device, &all)?;
        assert_eq!(addresses_and_routes(balancer)?, before, "taken");

        links.put(device, &all, Duration::from_secs(1))?;
        wait_for("the end of the leases", SOON, || Ok(links.ours()?.is_empty().then_some(())))?;
        assert_eq!(addresses_and_routes(balancer)?, before, "gone by themselves");
        Ok(())
    })
}

#[test]
fn addresses_of_one_prefix_do_not_go_together() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("secondary")).backends(1).build()?;
    // No address of the interface is of this prefix: the first virtual one is the primary address.
    let [first, second] = ["10.99.0.1/24", "10.99.0.2/24"].map(address);
    lab.node("lb").namespace().inside(|| {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        links.put(device, &[first, second], LEASE)?;
        links.take(device, &[first])?;
        assert_eq!(links.ours()?, [(device.ifindex, second)]);
        Ok(())
    })
}

#[test]
fn of_several_addresses_those_that_the_kernel_takes_are_put_and_another_is_named() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("refused")).backends(1).build()?;
    lab.node("lb").namespace().inside(|| {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        let error =
            links.put(device, &[address("ff02::1/64"), address(IPV6)], LEASE).expect_err("a group is no address");
        ensure!(error.to_string().contains("cannot put ff02::1/64 on interface"), "{error}");
        assert_eq!(links.ours()?, [(device.ifindex, address(IPV6))]);

        let nowhere = Device { ifindex: 999, virtual_mac: false };
        let error = links.put(nowhere, &both(), LEASE).expect_err("there is no such interface");
        ensure!(error.to_string().contains("cannot put 10.77.0.200/24 on interface 999: No such device"), "{error}");
        links.take(nowhere, &both())?;
        Ok(())
    })
}

fn shown(node: &Node, address: &str) -> Result<String> {
    let (address, _) = address.split_once('/').expect("a prefix length");
    node.ip(&format!("address show dev eth0 to {}", ip(address)))
}

/// Everything that `ip` shows of addresses and routes.
fn addresses_and_routes(node: &Node) -> Result<String> {
    let mut shown = node.ip("address show dev eth0")?;
    for family in ["-4", "-6"] {
        shown += &node.ip(&format!("{family} route show table all"))?;
    }
    Ok(shown)
}
