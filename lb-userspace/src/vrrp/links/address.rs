//! Virtual addresses as netlink has them. Pure.

use std::{net::IpAddr, time::Duration};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo},
};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};

use super::{ADDRESS_MARK, Device, Order};
use crate::{config::VirtualAddress, neighbour::netlink};

/// What becomes of an address that is on the interface already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PutMode {
    /// It stays, and the order fails.
    Create,
    /// It gets the new lease.
    Replace,
}

/// An address that is on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) ifindex: u32,
    pub(super) address: VirtualAddress,
    /// Who put it there (`IFA_PROTO`); 0 if that is not known.
    pub(super) mark: u8,
    /// Neither tentative nor found to be a duplicate.
    pub(super) usable: bool,
}

pub(super) fn put(device: Device, address: VirtualAddress, lease: Duration, mode: PutMode) -> Order {
    let mut message = message(device.ifindex, address);
    let mut flags = AddressFlags::empty();
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_valid = seconds(lease);
    match address.address {
        IpAddr::V4(_) => lifetime.ifa_preferred = lifetime.ifa_valid,
        // Without preferred lifetime it is deprecated: reachable, but not chosen as source by this host's own connections.
        IpAddr::V6(_) => flags |= AddressFlags::Nodad | AddressFlags::Noprefixroute,
    }
    if device.virtual_mac {
        flags |= AddressFlags::Noprefixroute;
    }
    message.attributes.extend([
        AddressAttribute::Flags(flags),
        AddressAttribute::CacheInfo(lifetime),
        AddressAttribute::Protocol(ADDRESS_MARK.into()),
    ]);
    let flags = match mode {
        PutMode::Create => NLM_F_CREATE | NLM_F_EXCL,
        PutMode::Replace => NLM_F_CREATE | NLM_F_REPLACE,
    };
    Order { message: RouteNetlinkMessage::NewAddress(message), flags }
}

pub(super) fn take(ifindex: u32, address: VirtualAddress) -> Order {
    Order { message: RouteNetlinkMessage::DelAddress(message(ifindex, address)), flags: 0 }
}

/// The question for the addresses of an interface, or of all.
pub(super) fn question(ifindex: Option<u32>) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex.unwrap_or_default();
    RouteNetlinkMessage::GetAddress(message)
}

pub(super) fn read(message: &RouteNetlinkMessage) -> Option<Present> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    Some(Present {
        ifindex: message.header.index,
        address: VirtualAddress { address: netlink::local_address(message)?, prefix_length: message.header.prefix_len },
        mark: netlink::mark(message),
        usable: !message.header.flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed),
    })
}

fn message(ifindex: u32, address: VirtualAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = match address.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.prefix_len = address.prefix_length;
    message.header.index = ifindex;
    message.attributes.extend([AddressAttribute::Local(address.address), AddressAttribute::Address(address.address)]);
    message
}

/// The lease in whole seconds: zero would be no address at all.
fn seconds(lease: Duration) -> u32 {
    u32::try_from(lease.as_secs()).unwrap_or(u32::MAX - 1).max(1)
}
