//! Where the addresses of an instance are put, and announced.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    links::{AnnounceSocket, Device, Links},
    router::{Member, Router},
    socket::AdvertSocket,
};

/// So long an address stays without renewal: the kernel takes it off by itself when everything of ours has been killed.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// The addresses of this node's instances on their devices.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) links: Links,
    announcer: AnnounceSocket,
}

impl Places {
    pub(super) fn new(links: Links, announcer: AnnounceSocket, _pins: &Path) -> Self {
        Self { links, announcer }
    }

    /// Takes off what is ours and belongs to no instance that holds its addresses: an earlier speaker has left it.
    pub(super) fn sweep(&mut self, router: &Router) -> anyhow::Result<()> {
        for (ifindex, address) in self.links.ours()? {
            let held = router
                .members()
                .iter()
                .any(|member| member.instance().holds_addresses() && member.config().addresses.contains(&address));
            if !held {
                log::warn!("taking {address} off interface {ifindex}: an earlier run has left it");
                self.links.take(Device { ifindex, virtual_mac: false }, &[address])?;
            }
        }
        Ok(())
    }

    /// Puts the addresses of an instance on its device.
    pub(super) fn acquire(&mut self, member: &Member) -> anyhow::Result<()> {
        let (device, _) = place(member)?;
        self.links.put(device, &member.config().addresses, LEASE).with_context(|| {
            format!("{}: cannot put the addresses on {}", member.config().name, member.config().interface)
        })
    }

    /// Tells the link where the addresses are, so many times.
    pub(super) fn announce(&mut self, member: &Member, times: u8) -> anyhow::Result<()> {
        let (device, mac) = place(member)?;
        // A device without a MAC address has no link to tell.
        let Some(mac) = mac else { return Ok(()) };
        let addresses: Vec<IpAddr> = member.config().addresses.iter().map(|entry| entry.address).collect();
        for _ in 0..times {
            self.announcer
                .announce(device.ifindex, mac, addresses.iter().copied())
                .with_context(|| format!("{}: cannot announce the addresses", member.config().name))?;
        }
        Ok(())
    }

    /// Takes the addresses off.
    pub(super) fn release(&mut self, member: &Member, _now: Instant) -> anyhow::Result<()> {
        let Ok((device, _)) = place(member) else {
            // With the interface, the addresses are gone.
            return Ok(());
        };
        self.links.take(device, &member.config().addresses)?;
        Ok(())
    }

    /// The socket by which an instance advertises, if it is not that of its interface.
    pub(super) fn sender(&self, _member: &Member) -> Option<&AdvertSocket> {
        None
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        None
    }

    pub(super) fn on_time(&mut self, _now: Instant) {}

    /// Takes away what only this process needs.
    pub(super) fn end(&mut self) {}
}

/// The device of an instance's addresses, and the MAC address that they have.
fn place(member: &Member) -> anyhow::Result<(Device, Option<[u8; 6]>)> {
    let config = member.config();
    let link = member.link().with_context(|| format!("{}: interface {} is missing", config.name, config.interface))?;
    Ok((Device { ifindex: link.ifindex, virtual_mac: false }, link.mac))
}
