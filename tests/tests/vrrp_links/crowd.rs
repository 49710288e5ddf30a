//! A hundred virtual routers at once: what takes how long.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use anyhow::Result;
use lb_tests::lab::{Lab, require_root, unique_name};
use lb_userspace::{
    config::VirtualAddress,
    vrrp::links::{AnnounceSocket, Links},
};

use crate::support::{LEASE, eth0};

#[test]
fn a_hundred_virtual_routers_take_over_at_once() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("crowd")).backends(1).build()?;
    let balancer = lab.node("lb");
    let routers: Vec<[VirtualAddress; 2]> = (0..100_u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let ipv4 = Ipv4Addr::new(10, 78, high, low + 1);
            let ipv6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, number + 1);
            [
                VirtualAddress { address: ipv4.into(), prefix_length: 32 },
                VirtualAddress { address: ipv6.into(), prefix_length: 128 },
            ]
        })
        .collect();
    balancer.namespace().inside(|| {
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        let socket = AnnounceSocket::open()?;
        let timed = |what: &str, work: &mut dyn FnMut() -> Result<()>| {
            let start = Instant::now();
            work()?;
            println!("{what}: {:?}", start.elapsed());
            anyhow::Ok(())
        };
        timed("put one by one", &mut || {
            routers.iter().try_for_each(|addresses| Ok(links.put(device, addresses, LEASE)?))
        })?;
        timed("announced", &mut || {
            routers.iter().try_for_each(|addresses| {
                let addresses = addresses.iter().map(|address| address.address);
                Ok(socket.announce(device.ifindex, balancer.mac(), addresses)?)
            })
        })?;
        assert_eq!(links.ours()?.len(), 200);
        timed("renewed", &mut || Ok(links.renew(LEASE)?))?;
        timed("state read", &mut || {
            links.state("eth0")?;
            Ok(())
        })?;
        let all = routers.concat();
        timed("taken at once", &mut || Ok(links.take(device, &all)?))?;
        assert_eq!(links.ours()?, []);
        timed("put at once", &mut || Ok(links.put(device, &all, LEASE)?))?;
        assert_eq!(links.ours()?.len(), 200);
        Ok(())
    })
}
