//! The neighbour tables of the link.

use anyhow::{Result, ensure};
use lb_tests::lab::{Lab, require_root, topology::mac_text, unique_name, wait_for};
use lb_userspace::vrrp::links::{AnnounceSocket, Links};

use crate::support::{SOON, ip, state};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x33];
const VIRTUAL_MAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 7];

#[test]
fn an_announced_address_moves_to_the_given_mac_address_as_that_of_a_router() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("announced")).backends(1).build()?;
    let (balancer, client) = (lab.node("lb"), lab.node("client"));
    let addresses = ["10.77.0.200", "fd77::200"];
    for mac in [balancer.mac(), VIRTUAL_MAC] {
        for address in addresses {
            let entry = format!("{address} lladdr {} dev eth0 nud stale", mac_text(OTHER_MAC));
            client.ip(&format!("neighbour replace {entry}"))?;
        }
        balancer.namespace().inside(|| {
            let ifindex = state(&mut Links::open()?, "eth0")?.ifindex;
            Ok(AnnounceSocket::open()?.announce(ifindex, mac, addresses.map(ip))?)
        })?;
        for address in addresses {
            wait_for("the client's new entry", SOON, || {
                let entry = client.ip(&format!("neighbour show {address}"))?;
                Ok(entry.contains(&mac_text(mac)).then_some(()))
            })?;
        }
        let entry = client.ip("neighbour show fd77::200")?;
        ensure!(entry.contains(" router "), "{entry}");
    }
    Ok(())
}

#[test]
fn an_announcement_that_cannot_be_sent_is_an_error_at_once() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("unsent")).backends(1).build()?;
    lab.node("lb").namespace().inside(|| {
        let socket = AnnounceSocket::open()?;
        let error = socket.announce(999, OTHER_MAC, [ip("10.77.0.200")]).expect_err("there is no such interface");
        ensure!(error.raw_os_error() == Some(libc::ENXIO), "{error}");
        Ok(())
    })
}
