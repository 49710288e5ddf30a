//! The MAC addresses of the interfaces, by which the datapath knows which frames are for this host.

use std::collections::HashMap;

use anyhow::Context as _;
use lb_common::{MacAddress, layout};
use nix::{ifaddrs::getifaddrs, net::if_::if_indextoname};

use super::Daemon;
use crate::dataplane::{Attachment, Maps};

/// MAC address by interface index.
pub(super) fn mac_addresses() -> anyhow::Result<HashMap<u32, MacAddress>> {
    let interfaces = getifaddrs().context("cannot list the interfaces")?;
    Ok(interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let link = address.as_link_addr()?;
            Some((u32::try_from(link.ifindex()).ok()?, link.addr()?))
        })
        .collect())
}

/// Tells the datapath of all interfaces that it may run on.
pub(super) fn put_mac_addresses(maps: &mut Maps) -> anyhow::Result<()> {
    for (ifindex, mac) in mac_addresses()? {
        if ifindex < layout::MAX_INTERFACES {
            match maps.put_interface(ifindex, mac) {
                // It has gone meanwhile.
                Err(_) if if_indextoname(ifindex).is_err() => {}
                put => put?,
            }
        }
    }
    Ok(())
}

impl Daemon {
    /// Puts back announced addresses that somebody took off, or that the kernel did: IPv6 addresses go when their
    /// interface goes down.
    pub(super) async fn restore_announced(&mut self) {
        for (interface, address) in self.core.announced() {
            let announcer = &mut self.executor.announcer;
            let restored = match announcer.is_present(interface, address).await {
                Ok(true) => continue,
                Ok(false) => announcer.announce(interface, address).await.map(drop),
                Err(error) => Err(error),
            };
            match restored {
                Ok(()) => log::warn!("{address} was missing on {interface}; put back and announced"),
                Err(error) => self.problems.push(format!("{address} cannot be announced: {error}")),
            }
        }
    }

    /// Notices interfaces that changed their address or went away.
    pub(super) fn refresh_interfaces(&mut self) {
        self.problems = match put_mac_addresses(&mut self.executor.dataplane.maps).and_then(|()| mac_addresses()) {
            Ok(present) => {
                let gone = |attachment: &&Attachment| !present.contains_key(&attachment.ifindex);
                let message = |attachment: &Attachment| {
                    format!("interface {} is gone; restart lbd when it is back", attachment.interface)
                };
                self.attachments.iter().filter(gone).map(message).collect()
            }
            Err(error) => vec![format!("{error:#}")],
        };
    }
}
