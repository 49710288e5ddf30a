//! Where the addresses of an instance are put, and announced: on its interface, or on a device with the virtual router's MAC
//! address.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use lb_common::{MacAddress, VirtualRouter};

use super::{
    instance::State,
    links::{AnnounceSocket, Device, LinkError, LinkState, Links},
    router::{Member, Router},
    socket::AdvertSocket,
};
use crate::{
    config::{VirtualAddress, Vrrp},
    dataplane::VirtualMacs,
};

/// So long an address stays without renewal: the kernel takes it off by itself when everything of ours has been killed.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// How long a former master forwards what still comes for the virtual router's MAC address. Without such an address there is no
/// end to that: the datapath does not ask who is master.
const LINGER: Duration = Duration::from_secs(1);

/// The addresses of this node's instances on their devices.
#[derive(Debug)]
pub(super) struct Places {
    links: Links,
    announcer: AnnounceSocket,
    datapath: VirtualMacs,
    /// The devices of virtual routers, by the interface that they are on.
    devices: HashMap<(u32, VirtualRouter), VirtualDevice>,
    /// The virtual routers whose frames the datapath takes for some time yet, and until when.
    lingering: HashMap<VirtualRouter, Instant>,
}

#[derive(Debug)]
struct VirtualDevice {
    device: Device,
    /// Advertisements leave by it, so that they have its MAC address (RFC 9568, section 7.2).
    sender: AdvertSocket,
}

impl VirtualDevice {
    /// Whether nobody has removed it.
    fn is_there(&self) -> bool {
        nix::net::if_::if_indextoname(self.device.ifindex).is_ok()
    }
}

impl Places {
    /// `pins`: where the datapath is.
    pub(super) fn new(links: Links, announcer: AnnounceSocket, pins: &Path) -> Self {
        Self { links, announcer, datapath: VirtualMacs::new(pins), devices: HashMap::new(), lingering: HashMap::new() }
    }

    /// How an interface is; `None` if there is no such interface.
    pub(super) fn link(&mut self, interface: &str) -> Result<Option<LinkState>, LinkError> {
        self.links.state(interface)
    }

    /// Makes what an instance needs before it can be master, on the interface that it has now.
    pub(super) fn prepare(&mut self, member: &Member) -> anyhow::Result<()> {
        let (config, Some(link)) = (member.config(), member.link()) else { return Ok(()) };
        let key = (link.ifindex, virtual_router(config));
        if !config.virtual_mac || self.devices.get(&key).is_some_and(VirtualDevice::is_there) {
            return Ok(());
        }
        let device = self.links.create_virtual_mac(&config.interface, key.1)?;
        let name = nix::net::if_::if_indextoname(device.ifindex)?;
        let sender = AdvertSocket::open(&name.to_string_lossy(), device.ifindex, config.is_ipv4(), false)
            .with_context(|| format!("cannot open a socket for advertisements on {}", name.to_string_lossy()))?;
        self.devices.insert(key, VirtualDevice { device, sender });
        Ok(())
    }

    /// Takes off what is ours and belongs to no instance that holds its addresses: an earlier run has left it, or the
    /// configuration does not have it any more.
    pub(super) fn sweep(&mut self, router: &Router) -> anyhow::Result<()> {
        // Another VRRP process of this host may have others.
        let is_known = |(_, address): &(u32, VirtualAddress)| {
            router.members().iter().any(|member| member.config().addresses.contains(address))
        };
        let left = self.links.ours()?.into_iter().filter(is_known).chain(self.links.placed());
        for (ifindex, address) in left.collect::<BTreeSet<_>>() {
            let held = router
                .members()
                .iter()
                .any(|member| member.instance().holds_addresses() && member.config().addresses.contains(&address));
            if !held {
                log::warn!("taking {address} off interface {ifindex}: it belongs to no instance that is master here");
                self.links.take(Device { ifindex, virtual_mac: false }, &[address])?;
            }
        }
        let is_used = |&(ifindex, virtual_router): &(u32, VirtualRouter)| {
            router.members().iter().any(|member| {
                let uses = |link: &LinkState| {
                    link.ifindex == ifindex && self::virtual_router(member.config()) == virtual_router
                };
                member.config().virtual_mac && member.link().is_some_and(uses)
            })
        };
        for (_, VirtualDevice { device, .. }) in self.devices.extract_if(|key, _| !is_used(key)) {
            self.links.remove_virtual_mac(device)?;
        }
        Ok(())
    }

    /// Puts the addresses of an instance on its device.
    pub(super) fn acquire(&mut self, member: &Member) -> anyhow::Result<()> {
        let config = member.config();
        let (device, _) = self.place(member)?;
        self.tell_datapath(member)?;
        self.links
            .put(device, &config.addresses, LEASE)
            .with_context(|| format!("{}: cannot put the addresses on {}", config.name, config.interface))
    }

    /// Tells the link where the addresses are, so many times.
    pub(super) fn announce(&mut self, member: &Member, times: u8) -> anyhow::Result<()> {
        let (device, mac) = self.place(member)?;
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
    pub(super) fn release(&mut self, member: &Member, now: Instant) -> anyhow::Result<()> {
        let config = member.config();
        if config.virtual_mac {
            self.lingering.insert(virtual_router(config), now + LINGER);
        }
        let Ok((device, _)) = self.place(member) else {
            // With the interface, the addresses are gone.
            return Ok(());
        };
        self.links.take(device, &config.addresses)?;
        Ok(())
    }

    /// The socket by which an instance advertises, if it is not that of its interface.
    pub(super) fn sender(&self, member: &Member) -> Option<&AdvertSocket> {
        self.device(member).map(|device| &device.sender)
    }

    /// Renews the leases of the addresses, and tells the datapath again: it may be a new one.
    pub(super) fn renew(&mut self, router: &Router) -> anyhow::Result<()> {
        for member in router.members().iter().filter(|member| member.instance().state() == State::Master) {
            self.tell_datapath(member)?;
        }
        self.links.renew(LEASE)?;
        Ok(())
    }

    /// When [`Places::on_time`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.lingering.values().min().copied()
    }

    /// Ends what has lingered long enough.
    pub(super) fn on_time(&mut self, now: Instant) {
        for (router, _) in self.lingering.extract_if(|_, until| *until <= now) {
            if let Err(error) = self.datapath.set(router, None) {
                log::error!("{error}");
            }
        }
    }

    /// Takes away what only this process needs.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        for (_, VirtualDevice { device, .. }) in self.devices.drain() {
            self.links.remove_virtual_mac(device)?;
        }
        for (router, _) in self.lingering.drain() {
            self.datapath.set(router, None)?;
        }
        Ok(())
    }

    /// Has the datapath take frames to the virtual router's MAC address.
    fn tell_datapath(&mut self, member: &Member) -> anyhow::Result<()> {
        if let (true, Some(link)) = (member.config().virtual_mac, member.link()) {
            let router = virtual_router(member.config());
            self.lingering.remove(&router);
            self.datapath.set(router, Some(link.receiver))?;
        }
        Ok(())
    }

    /// The device of an instance's addresses, and the MAC address that they have.
    fn place(&self, member: &Member) -> anyhow::Result<(Device, Option<MacAddress>)> {
        let config = member.config();
        let link =
            member.link().with_context(|| format!("{}: interface {} is missing", config.name, config.interface))?;
        if !config.virtual_mac {
            return Ok((Device { ifindex: link.ifindex, virtual_mac: false }, link.mac));
        }
        let device = self.device(member).with_context(|| format!("{}: its device is missing", config.name))?;
        Ok((device.device, Some(virtual_router(config).mac())))
    }

    fn device(&self, member: &Member) -> Option<&VirtualDevice> {
        let config = member.config();
        config.virtual_mac.then(|| self.devices.get(&(member.link()?.ifindex, virtual_router(config))))?
    }
}

fn virtual_router(config: &Vrrp) -> VirtualRouter {
    VirtualRouter { ipv6: !config.is_ipv4(), id: config.router_id }
}
