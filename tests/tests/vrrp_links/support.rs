//! What the tests of several files need.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use lb_tests::lab::Node;
use lb_userspace::{
    config::VirtualAddress,
    vrrp::links::{Device, LinkState, Links},
};
use nix::net::if_::if_nametoindex;

/// What takes milliseconds on an idle machine may take this long on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Longer than any test takes.
pub(crate) const LEASE: Duration = Duration::from_mins(5);
/// Long enough for an answer on this machine, where none is expected.
const SILENCE: Duration = Duration::from_millis(500);
const PORT: u16 = 8080;

/// Virtual addresses that no node of the lab has.
pub(crate) const IPV4: &str = "10.77.0.200/24";
pub(crate) const IPV6: &str = "fd77::200/64";

/// `address/prefix length`.
pub(crate) fn address(text: &str) -> VirtualAddress {
    let (address, prefix_length) = text.split_once('/').expect("the tests' addresses have a prefix length");
    VirtualAddress { address: ip(address), prefix_length: prefix_length.parse().expect("a number of bits") }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("the tests' addresses are well-formed")
}

/// The state of an interface that is there.
pub(crate) fn state(links: &mut Links, interface: &str) -> Result<LinkState> {
    links.state(interface)?.with_context(|| format!("there is no {interface}"))
}

/// The balancer's `eth0`.
pub(crate) fn eth0(links: &mut Links) -> Result<Device> {
    Ok(Device { ifindex: state(links, "eth0")?.ifindex, virtual_mac: false })
}

/// A listener on all addresses of a node, of both families.
pub(crate) fn listen(node: &Node) -> Result<TcpListener> {
    node.namespace().inside(|| Ok(TcpListener::bind(("::", PORT))?))
}

/// Whether `node` can connect to the [`listen`]er that has the address.
pub(crate) fn reaches(node: &Node, address: IpAddr) -> Result<bool> {
    node.namespace().inside(|| match TcpStream::connect_timeout(&socket_address(address)?, SILENCE) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable) => Ok(false),
        Err(error) => Err(error.into()),
    })
}

/// Whether the host that has the address says to `node`, by ICMP, that nobody listens there.
pub(crate) fn refuses(node: &Node, address: IpAddr) -> Result<bool> {
    node.namespace().inside(|| {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.connect(socket_address(address)?)?;
        socket.send(b"is anybody there?")?;
        match socket.recv(&mut []) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
            Ok(_) => bail!("somebody listens at {address}"),
        }
    })
}

fn socket_address(address: IpAddr) -> Result<SocketAddr> {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            Ok(SocketAddrV6::new(address, PORT, 0, if_nametoindex("eth0")?).into())
        }
        address => Ok(SocketAddr::new(address, PORT)),
    }
}
