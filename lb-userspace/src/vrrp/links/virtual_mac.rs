//! The devices that have the MAC address of a virtual router.
//!
//! Each is a macvlan device on the interface of the virtual router, called `vrrp.<VRID>.<number of that interface>`, or
//! `vrrp6.…` for IPv6. It is there all the time; the virtual addresses are on it while this node is master.

use std::{collections::HashSet, fs, io, net::Ipv6Addr, path::PathBuf};

use lb_common::VirtualRouter;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode},
};
use rtnetlink::{
    LinkMacVlan, LinkUnspec, RouteMessageBuilder,
    packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL},
};

use super::{Device, LinkError, Links, Order, ipv4_setting, ipv6_setting, is_absent, set, set_ipv4};

/// An interface that virtual routers' devices are on.
#[derive(Debug, Default)]
pub(super) struct Parent {
    /// The indices of the devices.
    devices: HashSet<u32>,
    /// The settings that were changed, and what they were.
    before: Vec<(PathBuf, String)>,
}

impl Links {
    /// Makes the device that has the MAC address of a virtual router on `interface`, and switches it on; one that an
    /// earlier run left is used.
    ///
    /// IPv4: from now on the interface speaks in ARP of its own addresses only (`arp_ignore`, `arp_announce`). It would say
    /// that the virtual addresses are at its own MAC address.
    pub fn create_virtual_mac(&mut self, interface: &str, router: VirtualRouter) -> Result<Device, LinkError> {
        let refused = |what: &str| LinkError::refused(format!("{what} interface {interface}"));
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(interface.to_owned()));
        let parent = self.link(question, format!("find interface {interface}"))?;
        let parent = parent.ok_or_else(|| refused("find")(io::Error::from_raw_os_error(libc::ENODEV)))?.header.index;

        let name = device_name(router, parent);
        // Not private: frames of the other nodes have the same source address, and a private device would keep those to
        // itself that are for the interface, too.
        let created = LinkMacVlan::new(&name, parent, MacVlanMode::Bridge).address(router.mac().to_vec()).build();
        let created = self.one_order(RouteNetlinkMessage::NewLink(created), NLM_F_CREATE | NLM_F_EXCL)?;
        if let Err(source) = created
            && source.raw_os_error() != Some(libc::EEXIST)
        {
            return Err(LinkError::refused(format!("create {name} on {interface}"))(source));
        }
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.clone()));
        let device = self.link(question, format!("find interface {name}"))?;
        let Some(device) = device.filter(|device| is_device_of(device, parent, router)) else {
            return Err(LinkError::ForeignDevice(name));
        };
        let ifindex = device.header.index;

        configure(&name, router)?;
        let parent = self.parents.entry(parent).or_default();
        parent.devices.insert(ifindex);
        if !router.ipv6 {
            parent.before.extend(keep_to_own_addresses(interface)?);
        }
        let up = LinkUnspec::new_with_index(ifindex).up().build();
        self.one_order(RouteNetlinkMessage::SetLink(up), 0)?
            .map_err(LinkError::refused(format!("switch on {name}")))?;
        if router.ipv6 {
            self.route_link_local(ifindex)?;
        }
        Ok(Device { ifindex, virtual_mac: true })
    }

    /// Removes a device of [`Links::create_virtual_mac`] and the addresses on it. With the last one on an interface, that
    /// interface has its settings back.
    pub fn remove_virtual_mac(&mut self, device: Device) -> Result<(), LinkError> {
        let Device { ifindex, .. } = device;
        self.placed.retain(|(on, _)| on.ifindex != ifindex);
        let removed = LinkUnspec::new_with_index(ifindex).build();
        match self.one_order(RouteNetlinkMessage::DelLink(removed), 0)? {
            Err(source) if !is_absent(&source) => {
                return Err(LinkError::refused(format!("remove interface {ifindex}"))(source));
            }
            _ => {}
        }
        for parent in self.parents.values_mut() {
            parent.devices.remove(&ifindex);
        }
        for (_, parent) in self.parents.extract_if(.., |_, parent| parent.devices.is_empty()) {
            for (path, value) in parent.before {
                match fs::write(&path, &value) {
                    // The interface is gone, too.
                    Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(LinkError::Setting { path, value, source }),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    /// Without an address of its own the device lacks the route by which link-local virtual addresses answer.
    fn route_link_local(&mut self, ifindex: u32) -> Result<(), LinkError> {
        /// As the kernel's own routes (`IP6_RT_PRIO_ADDRCONF`).
        const METRIC: u32 = 256;
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64)
            .output_interface(ifindex)
            .priority(METRIC)
            .build();
        match self.one_order(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE | NLM_F_APPEND)? {
            Err(source) if source.raw_os_error() != Some(libc::EEXIST) => {
                Err(LinkError::refused(format!("add the route to fe80::/64 by interface {ifindex}"))(source))
            }
            _ => Ok(()),
        }
    }

    fn one_order(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<io::Result<()>, LinkError> {
        let results = self.requests.order(&[Order { message, flags }])?;
        Ok(results.into_iter().collect())
    }
}

fn device_name(router: VirtualRouter, parent: u32) -> String {
    let family = if router.ipv6 { "6" } else { "" };
    format!("vrrp{family}.{}.{parent}", router.id)
}

fn is_device_of(device: &LinkMessage, parent: u32, router: VirtualRouter) -> bool {
    let has = |attribute| device.attributes.contains(&attribute);
    let is_macvlan = device.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::MacVlan)),
        _ => false,
    });
    is_macvlan && has(LinkAttribute::Link(parent)) && has(LinkAttribute::Address(router.mac().to_vec()))
}

/// What the device has to be like before it is switched on.
fn configure(name: &str, router: VirtualRouter) -> Result<(), LinkError> {
    if router.ipv6 {
        set(ipv6_setting(name, "disable_ipv6"), "0")?;
        // No address but the virtual ones: neither a link-local one of its own…
        set(ipv6_setting(name, "addr_gen_mode"), "1")?;
        // …nor what routers hand out.
        return set(ipv6_setting(name, "accept_ra"), "0");
    }
    set_ipv4(name, "arp_ignore", "1")?;
    // Loose: the route back to whoever sends to a virtual address is by the interface, not by the device. A zero would not do
    // where the setting for all interfaces is strict, since the greater of the two counts.
    set_ipv4(name, "rp_filter", "2")?;
    match set(ipv6_setting(name, "disable_ipv6"), "1") {
        // A kernel without IPv6.
        Err(LinkError::Setting { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Lets an interface answer ARP requests for its own addresses only, and ask in their name only. Returns what is news, and how
/// it was before.
fn keep_to_own_addresses(interface: &str) -> Result<Vec<(PathBuf, String)>, LinkError> {
    let mut before = Vec::new();
    for (name, least) in [("arp_ignore", 1), ("arp_announce", 2)] {
        let path = ipv4_setting(interface, name);
        let value = fs::read_to_string(&path).unwrap_or_default();
        // Greater values restrict it more.
        if value.trim().parse::<u8>().is_ok_and(|value| value >= least) {
            continue;
        }
        set(path.clone(), &least.to_string())?;
        before.push((path, value));
    }
    Ok(before)
}
