//! The kernel's routes, links, neighbours and addresses over rtnetlink, in our own types.

use std::{fmt::Display, future::ready, io, net::IpAddr, time::Duration};

use futures_util::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo},
    link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, VlanProtocol},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState as Nud,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType, RouteVia},
};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
};
use thiserror::Error;

use super::{
    PROTOCOL,
    resolve::{Change, Link, Neighbour, NeighbourKey, NeighbourState, Prefix, Refusal, Route, Unresolved, Vlan},
};
use crate::vrrp::links::ADDRESS_MARK;

/// The kernel answers at once; without this an answer that cannot be decoded would be awaited for ever.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    #[error("the kernel's notifications ended")]
    Closed,
    #[error("the kernel did not answer when asked to {0}")]
    NoAnswer(String),
    #[error("cannot {what}: {source}")]
    Refused { what: String, source: io::Error },
    #[error("cannot {what}: {source}")]
    Request { what: String, source: rtnetlink::Error },
}

impl Error {
    /// Whether the next question may have an answer all the same.
    pub(super) fn is_for_one_target(&self) -> bool {
        matches!(self, Self::NoAnswer(_) | Self::Refused { .. } | Self::Request { .. })
    }

    /// The kernel's reason, a number of `errno(3)`.
    fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// A netlink socket for questions and orders.
#[derive(Debug)]
pub(super) struct Netlink(Handle);

impl Netlink {
    pub(super) fn open() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    pub(super) async fn links(&self) -> Result<Vec<(u32, Link)>, Error> {
        let links = collect("list the interfaces", self.0.link().get().execute()).await?;
        Ok(links.iter().map(link).collect())
    }

    pub(super) async fn link_by_name(&self, name: &str) -> Result<(u32, Link), Error> {
        let what = format!("find interface {name}");
        let request = self.0.link().get().match_name(name);
        let links = collect(&what, request.execute()).await?;
        links.first().map(link).ok_or(Error::NoAnswer(what))
    }

    /// The route that a packet of this host to `target` takes. The kernel picks one path of several.
    pub(super) async fn route(&self, target: IpAddr) -> Result<Result<Route, Unresolved>, Error> {
        let what = format!("look up the route to {target}");
        let question = match target {
            IpAddr::V4(address) => {
                RouteMessageBuilder::<std::net::Ipv4Addr>::new().destination_prefix(address, 32).build()
            }
            IpAddr::V6(address) => {
                RouteMessageBuilder::<std::net::Ipv6Addr>::new().destination_prefix(address, 128).build()
            }
        };
        match collect(&what, self.0.route().get(question).execute()).await {
            Ok(routes) => routes.first().map(|message| route(target, message)).ok_or(Error::NoAnswer(what)),
            Err(error) => match error.errno().and_then(|errno| refusal(target, errno)) {
                Some(unresolved) => Ok(Err(unresolved)),
                None => Err(error),
            },
        }
    }

    /// The entry of the neighbour table, kept fresh by the kernel from now on.
    pub(super) async fn keep(&self, key: NeighbourKey) -> Result<Option<Neighbour>, Error> {
        let entry = self.neighbour(key).await?;
        if entry.is_some_and(|entry| entry.managed || matches!(entry.state, NeighbourState::Fixed(_))) {
            return Ok(entry);
        }
        self.use_neighbour(key, NeighbourExtFlags::Managed).await?;
        self.neighbour(key).await
    }

    /// Takes [`Netlink::keep`] back: the entry stays, for others, and ages.
    pub(super) async fn release(&self, key: NeighbourKey) -> Result<(), Error> {
        match self.neighbour(key).await? {
            Some(entry) if entry.managed && entry.ours => self.use_neighbour(key, NeighbourExtFlags::empty()).await,
            _ => Ok(()),
        }
    }

    /// Makes the kernel look the neighbour up as if a packet were waiting (`NTF_USE`). Kernels before
    /// 5.16 know no managed entries, and ignore that attribute: they get by with this at each change.
    async fn use_neighbour(&self, key: NeighbourKey, flags: NeighbourExtFlags) -> Result<(), Error> {
        let mut request =
            self.0.neighbours().add(key.ifindex, key.address).state(Nud::None).flags(NeighbourFlags::Use).replace();
        request
            .message_mut()
            .attributes
            .extend([NeighbourAttribute::ExtFlags(flags), NeighbourAttribute::Protocol(RouteProtocol::from(PROTOCOL))]);
        let what = format!("use neighbour {} of interface {}", key.address, key.ifindex);
        match within(what, request.execute()).await {
            // No reason to stop: the entry says how it stands, or that there is none does.
            Err(error @ Error::Refused { .. }) => {
                log::debug!("{error}");
                Ok(())
            }
            result => result,
        }
    }

    async fn neighbour(&self, key: NeighbourKey) -> Result<Option<Neighbour>, Error> {
        let mut question = NeighbourMessage::default();
        question.header.family = family(key.address);
        question.header.ifindex = key.ifindex;
        question.attributes.push(NeighbourAttribute::Destination(key.address.into()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(question));
        // One entry: rtnetlink's own request is for the whole table.
        request.header.flags = NLM_F_REQUEST;

        let what = format!("look up neighbour {} of interface {}", key.address, key.ifindex);
        let answers = match self.0.clone().request(request) {
            Ok(answers) => answers.map(|answer| match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry)) => Ok(entry),
                NetlinkPayload::Error(error) => Err(rtnetlink::Error::NetlinkError(error)),
                _ => Err(rtnetlink::Error::UnexpectedMessage(answer)),
            }),
            Err(source) => return Err(Error::Request { what, source }),
        };
        match collect(&what, answers).await {
            Ok(entries) => Ok(entries.first().map(neighbour)),
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The addresses of an interface, and whether each bears our [`PROTOCOL`].
    pub(super) async fn addresses(&self, ifindex: u32) -> Result<Vec<(IpAddr, bool)>, Error> {
        let what = format!("list the addresses of interface {ifindex}");
        let request = self.0.address().get().set_link_index_filter(ifindex);
        let messages = collect(&what, request.execute()).await?;
        Ok(messages.iter().filter_map(|message| Some((local_address(message)?, mark(message) == PROTOCOL))).collect())
    }

    /// Puts one address on an interface, marked as ours, with the longest prefix.
    pub(super) async fn add_address(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let mut request = self.0.address().add(ifindex, address, host_prefix(address));
        let message = request.message_mut();
        message.attributes.push(AddressAttribute::Protocol(PROTOCOL.into()));
        if address.is_ipv6() {
            message.header.flags |= AddressHeaderFlags::Nodad;
            // Deprecated, that is: reachable, but not chosen as source address by this host's own connections.
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        let what = format!("add {address} to interface {ifindex}");
        within(what, request.execute()).await
    }

    pub(super) async fn delete_address(&self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.index = ifindex;
        message.header.prefix_len = host_prefix(address);
        message.attributes.push(AddressAttribute::Local(address));
        let what = format!("remove {address} from interface {ifindex}");
        within(what, self.0.address().del(message).execute()).await
    }
}

/// What the kernel reports from now on. It ends if the socket does.
pub(super) fn changes() -> Result<impl Stream<Item = Change> + Unpin, Error> {
    // A socket of its own: when it overruns, no answer to a question is among what is lost.
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv6Rule,
    ])
    .map_err(Error::Open)?;
    drop(handle);
    tokio::spawn(connection);
    Ok(messages.filter_map(|(message, _)| ready(change(message))))
}

async fn collect<T>(what: &str, answers: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<Vec<T>, Error> {
    within(what, answers.try_collect()).await
}

async fn within<T>(what: impl Display, answer: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, Error> {
    let what = what.to_string();
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(rtnetlink::Error::NetlinkError(message))) => Err(Error::Refused { what, source: message.to_io() }),
        Ok(Err(source)) => Err(Error::Request { what, source }),
        Err(_) => Err(Error::NoAnswer(what)),
    }
}

fn change(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Change> {
    use RouteNetlinkMessage as Message;
    match message.payload {
        // No next hop depends on a virtual address; each is renewed every second.
        NetlinkPayload::InnerMessage(Message::NewAddress(address) | Message::DelAddress(address))
            if mark(&address) == ADDRESS_MARK =>
        {
            None
        }
        NetlinkPayload::InnerMessage(
            Message::NewNeighbour(entry) | Message::DelNeighbour(entry),
        ) => neighbour_key(&entry).map(Change::Neighbour),
        NetlinkPayload::InnerMessage(Message::NewRoute(route) | Message::DelRoute(route)) => {
            prefix(&route).map(Change::Route)
        }
        NetlinkPayload::InnerMessage(
            Message::NewLink(_)
            | Message::DelLink(_)
            | Message::NewAddress(_)
            | Message::DelAddress(_)
            | Message::NewRule(_)
            | Message::DelRule(_),
        )
        // Notifications were lost.
        | NetlinkPayload::Overrun(_) => Some(Change::Everything),
        _ => None,
    }
}

fn prefix(message: &RouteMessage) -> Option<Prefix> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    Some(Prefix { address: address.unwrap_or(unspecified), length: message.header.destination_prefix_length })
}

fn route(target: IpAddr, message: &RouteMessage) -> Result<Route, Unresolved> {
    let refused = |refusal| Err(Unresolved::Refused { target, refusal });
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Ok(Route::Local),
        RouteType::Unreachable => return refused(Refusal::Unreachable),
        RouteType::BlackHole => return refused(Refusal::Blackhole),
        RouteType::Prohibit => return refused(Refusal::Prohibited),
        _ => return Err(Unresolved::NotUnicast(target)),
    }
    let (mut interface, mut next_hop, mut mtu, mut preferred_source) = (None, target, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => next_hop = ip(address).unwrap_or(target),
            RouteAttribute::Via(RouteVia::Inet(address)) => next_hop = (*address).into(),
            RouteAttribute::Via(RouteVia::Inet6(address)) => next_hop = (*address).into(),
            RouteAttribute::PrefSource(address) => preferred_source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::EncapType(_) => return Err(Unresolved::Encapsulated(target)),
            _ => {}
        }
    }
    Ok(Route::Via { ifindex: interface.ok_or(Unresolved::NoRoute(target))?, next_hop, mtu, preferred_source })
}

/// What the errors of `RTM_GETROUTE` mean: IPv4 answers with the error that a packet would meet
/// (`fib_props` in the kernel's `net/ipv4/fib_semantics.c`).
fn refusal(target: IpAddr, errno: i32) -> Option<Unresolved> {
    let refusal = match errno {
        libc::ENETUNREACH => return Some(Unresolved::NoRoute(target)),
        libc::EHOSTUNREACH => Refusal::Unreachable,
        libc::EINVAL => Refusal::Blackhole,
        libc::EACCES => Refusal::Prohibited,
        _ => return None,
    };
    Some(Unresolved::Refused { target, refusal })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match *address {
        RouteAddress::Inet(address) => Some(address.into()),
        RouteAddress::Inet6(address) => Some(address.into()),
        _ => None,
    }
}

/// What a message says about a link, and its index.
pub(crate) fn link(message: &LinkMessage) -> (u32, Link) {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        resolves: !flags.contains(LinkFlags::Noarp),
        vlan: None,
    };
    let (mut parent, mut elsewhere) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(address) if message.header.link_layer_type == LinkLayerType::Ether => {
                link.mac = address.as_slice().try_into().ok();
            }
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::LinkInfo(infos) => link.vlan = infos.iter().find_map(vlan),
            _ => {}
        }
    }
    if let Some(vlan) = &mut link.vlan {
        vlan.parent = parent.filter(|_| !elsewhere);
    }
    (message.header.index, link)
}

fn vlan(info: &LinkInfo) -> Option<Vlan> {
    let LinkInfo::Data(InfoData::Vlan(data)) = info else {
        return None;
    };
    Some(Vlan {
        id: data.iter().find_map(|item| match item {
            InfoVlan::Id(id) => Some(*id),
            _ => None,
        })?,
        customer: !data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)),
        parent: None,
    })
}

fn neighbour_key(message: &NeighbourMessage) -> Option<NeighbourKey> {
    message.attributes.iter().find_map(|attribute| {
        let address = match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => (*address).into(),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => (*address).into(),
            _ => return None,
        };
        Some(NeighbourKey { ifindex: message.header.ifindex, address })
    })
}

fn neighbour(message: &NeighbourMessage) -> Neighbour {
    let (mut mac, mut managed, mut ours) = (None, false, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(address) => {
                mac = address.as_slice().try_into().ok();
            }
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            NeighbourAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
            _ => {}
        }
    }
    let state = match (message.header.state, mac) {
        (Nud::Failed, _) => NeighbourState::NoAnswer,
        (Nud::Reachable | Nud::Stale | Nud::Delay | Nud::Probe, Some(mac)) => NeighbourState::Resolved(mac),
        (Nud::Permanent | Nud::Noarp, Some(mac)) => NeighbourState::Fixed(mac),
        _ => NeighbourState::Resolving,
    };
    Neighbour { state, managed, ours }
}

/// This host's address in a message.
pub(crate) fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            // The only one in IPv6; the other end's, where both are given.
            AddressAttribute::Address(address) => peer = Some(*address),
            _ => {}
        }
    }
    local.or(peer)
}

/// Who put an address on its interface (`IFA_PROTO`); 0 if that is not known.
pub(crate) fn mark(message: &AddressMessage) -> u8 {
    let mark = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(mark) => Some(u8::from(*mark)),
        _ => None,
    });
    mark.unwrap_or_default()
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::Parseable;

    use super::*;

    /// One attribute: length, type, value, padding to four bytes.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).expect("a short value");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `struct ifinfomsg` and attributes as in `linux/if_link.h`, of a VLAN device with index 5.
    fn vlan_link(protocol: u16, more: &[u8]) -> Link {
        let flags: u32 = 0x1_0043; // LOWER_UP, RUNNING, BROADCAST, UP
        let data = [
            attribute(1, &7_u16.to_ne_bytes()),    // IFLA_VLAN_ID
            attribute(5, &protocol.to_be_bytes()), // IFLA_VLAN_PROTOCOL
        ]
        .concat();
        let info = [attribute(1, b"vlan\0"), attribute(2, &data)].concat();
        let message = [
            &[0, 0, 1, 0, 5, 0, 0, 0][..],
            &flags.to_ne_bytes(),
            &[0; 4],
            &attribute(3, b"eth0.7\0"),
            &attribute(4, &1496_u32.to_ne_bytes()),
            &attribute(1, &[2, 0, 0, 0, 0, 7]),
            &attribute(5, &3_u32.to_ne_bytes()), // IFLA_LINK
            &attribute(18, &info),
            more,
        ]
        .concat();
        let message = LinkMessage::parse(&message).expect("a link message");
        let (index, link) = link(&message);
        assert_eq!(index, 5);
        link
    }

    #[test]
    fn an_address_of_vrrp_that_comes_or_goes_is_no_change() {
        use RouteNetlinkMessage as Message;

        let report = |message: Message| change(NetlinkMessage::from(message)).is_some();
        let mut address = AddressMessage::default();
        address.attributes.push(AddressAttribute::Local(IpAddr::from([10, 0, 0, 100])));
        assert!(report(Message::NewAddress(address.clone())) && report(Message::DelAddress(address.clone())));
        address.attributes.push(AddressAttribute::Protocol(PROTOCOL.into()));
        assert!(report(Message::NewAddress(address.clone())) && report(Message::DelAddress(address.clone())));
        address.attributes.pop();
        address.attributes.push(AddressAttribute::Protocol(ADDRESS_MARK.into()));
        assert!(!report(Message::NewAddress(address.clone())) && !report(Message::DelAddress(address)));
    }

    #[test]
    fn a_vlan_device_is_read_with_its_tag_and_its_parent() {
        let link = vlan_link(0x8100, &[]);
        assert_eq!(
            link,
            Link {
                name: "eth0.7".to_owned(),
                mac: Some([2, 0, 0, 0, 0, 7]),
                mtu: 1496,
                up: true,
                resolves: true,
                vlan: Some(Vlan { id: 7, customer: true, parent: Some(3) }),
            }
        );
    }

    #[test]
    fn a_service_tag_and_a_parent_elsewhere_are_noticed() {
        let service = vlan_link(0x88a8, &[]).vlan.expect("a VLAN");
        assert!(!service.customer);
        let in_namespace_0 = attribute(37, &0_u32.to_ne_bytes()); // IFLA_LINK_NETNSID
        let elsewhere = vlan_link(0x8100, &in_namespace_0).vlan.expect("a VLAN");
        assert_eq!(elsewhere.parent, None);
    }
}
