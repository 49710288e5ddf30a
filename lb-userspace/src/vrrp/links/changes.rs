//! What the kernel reports about interfaces and addresses.

use std::future::ready;

use futures_util::{Stream, StreamExt as _};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
};

use super::{ADDRESS_MARK, LinkError};
use crate::neighbour::netlink;

/// Something changed; [`super::Links::state`] says how it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// An interface came, went, or is another way.
    Interface {
        /// Its index.
        ifindex: u32,
        /// Its name.
        name: String,
    },
    /// Addresses of an interface that are not of VRRP.
    Addresses {
        /// Its index.
        ifindex: u32,
    },
    /// Reports were lost: anything may have changed.
    Everything,
}

/// What the kernel reports from now on, about the network namespace of the calling thread. It ends if the socket does. To be
/// called on a Tokio runtime.
pub fn changes() -> Result<impl Stream<Item = LinkChange> + Unpin, LinkError> {
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups).map_err(LinkError::Open)?;
    drop(handle);
    tokio::spawn(connection);
    Ok(messages.filter_map(|(message, _)| ready(change(message))))
}

fn change(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<LinkChange> {
    use RouteNetlinkMessage as Message;
    match message.payload {
        NetlinkPayload::InnerMessage(Message::NewLink(link) | Message::DelLink(link)) => {
            Some(LinkChange::Interface { ifindex: link.header.index, name: name(&link) })
        }
        NetlinkPayload::InnerMessage(Message::NewAddress(address) | Message::DelAddress(address)) => {
            (netlink::mark(&address) != ADDRESS_MARK).then_some(LinkChange::Addresses { ifindex: address.header.index })
        }
        NetlinkPayload::Overrun(_) => Some(LinkChange::Everything),
        _ => None,
    }
}

fn name(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}
