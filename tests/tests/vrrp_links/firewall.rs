//! What reaches this host without accept mode.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb_tests::lab::{Lab, require_root_and, topology::mac_text, unique_name};
use lb_userspace::vrrp::{firewall, links::Links};

use crate::support::{IPV4, IPV6, LEASE, address, eth0, listen, reaches, refuses};

#[test]
fn blocked_addresses_answer_neighbour_discovery_only() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("blocked")).backends(1).build()?;
    let (balancer, client) = (lab.node("lb"), lab.node("client"));
    let _listener = listen(balancer)?;
    let addresses = [address(IPV4), address(IPV6)];
    let blocked = addresses.map(|address| address.address);
    balancer.namespace().block_on(async || {
        // Before they are there.
        firewall::block(&blocked).await?;
        let mut links = Links::open()?;
        let device = eth0(&mut links)?;
        links.put(device, &addresses, LEASE)?;
        for address in blocked {
            ensure!(!reaches(client, address)?, "{address} takes connections");
            ensure!(!refuses(client, address)?, "{address} says that nobody listens");
            let entry = client.ip(&format!("neighbour show {address}"))?;
            ensure!(entry.contains(&mac_text(balancer.mac())), "{address} is not found on the link: {entry}");
        }
        for address in [IpAddr::from(balancer.ipv4()), balancer.ipv6().into()] {
            ensure!(reaches(client, address)? && refuses(client, address)?, "our own address {address} is blocked");
        }

        // Another set in the place of the first.
        firewall::block(&blocked[..1]).await?;
        ensure!(!reaches(client, blocked[0])?, "{} takes connections", blocked[0]);
        ensure!(reaches(client, blocked[1])?, "{} is still blocked", blocked[1]);

        firewall::clear().await?;
        for address in blocked {
            ensure!(reaches(client, address)? && refuses(client, address)?, "{address} is still blocked");
        }
        // Twice is once.
        firewall::clear().await?;
        Ok(())
    })
}
