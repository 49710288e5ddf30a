//! Raw sockets for advertisements, one for each device and address family.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    task::{Context, Poll},
};

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, recvmsg, sendmsg, setsockopt,
    sockopt::{Ipv6RecvHopLimit, Ipv6RecvPacketInfo},
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::{
    packet::{GROUP_V4, GROUP_V6, PROTOCOL},
    router::Packet,
};

/// RFC 9568, sections 5.1.1.3 and 5.1.2.3.
const TTL: u8 = 255;
/// Internet control (CS6), as keepalived marks its advertisements.
const TRAFFIC_CLASS: u32 = 0xc0;
/// The kernel's priority of control traffic in queues (`TC_PRIO_CONTROL`).
const QUEUE_PRIORITY: u32 = 7;
/// Of `linux/in6.h`; the C library does not have it.
const IPV6_FREEBIND: i32 = 78;
/// More than any advertisement has: 255 IPv6 addresses, headers, a seal.
const BUFFER: usize = 8192;
/// So many packets are read at once; then others have their turn.
const BATCH: usize = 256;

/// A packet with the buffer that it lies in.
#[derive(Debug)]
pub struct Received {
    ifindex: u32,
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    payload: Vec<u8>,
}

impl Received {
    /// As the router takes it.
    pub fn packet(&self) -> Packet<'_> {
        let Self { ifindex, source, destination, ttl, payload } = self;
        Packet { ifindex: *ifindex, source: *source, destination: *destination, ttl: *ttl, payload }
    }
}

/// Sends advertisements by one device, and receives them.
#[derive(Debug)]
pub struct AdvertSocket {
    socket: AsyncFd<Socket>,
    ifindex: u32,
    ipv4: bool,
}

impl AdvertSocket {
    /// Opens one on a device, in the network namespace of the calling thread, on a Tokio runtime. It needs `CAP_NET_RAW`.
    ///
    /// `listen`: whether to join the group; otherwise it only sends.
    pub fn open(device: &str, ifindex: u32, ipv4: bool, listen: bool) -> io::Result<Self> {
        let protocol = Some(Protocol::from(i32::from(PROTOCOL)));
        let domain = if ipv4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, protocol)?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(device.as_bytes()))?;
        set_priority(&socket)?;
        if ipv4 {
            socket.set_tos_v4(TRAFFIC_CLASS)?;
            socket.set_ttl_v4(TTL.into())?;
            socket.set_multicast_ttl_v4(TTL.into())?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_header_included_v4(false)?;
            set_multicast_interface_v4(&socket, ifindex)?;
            if listen {
                socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(ifindex))?;
            }
        } else {
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
            socket.set_unicast_hops_v6(TTL.into())?;
            socket.set_multicast_hops_v6(TTL.into())?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_if_v6(ifindex)?;
            setsockopt(&socket, Ipv6RecvHopLimit, &true)?;
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
            // A virtual router's device has no link-local address: the source is that of the interface which it is on.
            set_option(socket.as_fd(), libc::IPPROTO_IPV6, IPV6_FREEBIND, &1_i32)?;
            if listen {
                socket.join_multicast_v6(&GROUP_V6, ifindex)?;
            }
        }
        // SAFETY: the socket owns its descriptor, always the same one, and closes it when it is dropped with the `AsyncFd`.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket, ifindex, ipv4 })
    }

    /// Sends one IP payload from one of this host's addresses.
    pub fn send(&self, source: IpAddr, destination: IpAddr, payload: &[u8]) -> io::Result<()> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: self.ifindex.cast_signed(),
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
                self.send_message(payload, ControlMessage::Ipv4PacketInfo(&info), &to)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    ipi6_ifindex: self.ifindex,
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, self.ifindex));
                self.send_message(payload, ControlMessage::Ipv6PacketInfo(&info), &to)
            }
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        }
    }

    fn send_message(&self, payload: &[u8], info: ControlMessage<'_>, to: &impl SockaddrLike) -> io::Result<()> {
        let descriptor = self.socket.get_ref().as_raw_fd();
        sendmsg(descriptor, &[IoSlice::new(payload)], &[info], MsgFlags::MSG_DONTWAIT, Some(to))?;
        Ok(())
    }

    /// Reads what has come, a batch at most, without waiting. What cannot be read is passed over.
    pub fn drain(&self, into: &mut Vec<Received>) {
        for _ in 0..BATCH {
            match self.receive() {
                Ok(Some(received)) => into.push(received),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    /// Ready when a packet has come, which is then in `into`.
    pub fn poll_receive(&self, context: &mut Context<'_>, into: &mut Vec<Received>) -> Poll<io::Result<()>> {
        while let Poll::Ready(guard) = self.socket.poll_read_ready(context) {
            let Ok(received) = guard?.try_io(|_| self.receive()) else { continue };
            if let Some(received) = received? {
                into.push(received);
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// `None` is a packet without the headers that it should have.
    fn receive(&self) -> io::Result<Option<Received>> {
        let mut buffer = [0; BUFFER];
        if self.ipv4 {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let descriptor = self.socket.get_ref().as_raw_fd();
            let length = recvmsg::<()>(descriptor, &mut parts, None, MsgFlags::MSG_DONTWAIT)?.bytes;
            return Ok(ipv4(&buffer[..length], self.ifindex));
        }
        let mut space = nix::cmsg_space!(libc::c_int, libc::in6_pktinfo);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let descriptor = self.socket.get_ref().as_raw_fd();
        let message = recvmsg::<SockaddrIn6>(descriptor, &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
        let (mut ttl, mut destination) = (None, None);
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::Ipv6HopLimit(hops) => ttl = u8::try_from(hops).ok(),
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
                }
                _ => {}
            }
        }
        let (source, length) = (message.address.map(|address| address.ip()), message.bytes);
        let (Some(source), Some(destination), Some(ttl)) = (source, destination, ttl) else { return Ok(None) };
        let payload = buffer[..length].to_vec();
        Ok(Some(Received {
            ifindex: self.ifindex,
            source: source.into(),
            destination: destination.into(),
            ttl,
            payload,
        }))
    }
}

/// A raw IPv4 socket gives the header, too. The kernel has checked its length and checksum.
fn ipv4(packet: &[u8], ifindex: u32) -> Option<Received> {
    let header_len = usize::from(packet.first()? & 0xf) * 4;
    let address = |offset: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = packet.get(offset..offset + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    Some(Received {
        ifindex,
        ttl: *packet.get(8)?,
        source: address(12)?,
        destination: address(16)?,
        payload: packet.get(header_len..)?.to_vec(),
    })
}

fn set_priority(socket: &Socket) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_PRIORITY, &QUEUE_PRIORITY)
}

/// `socket2` takes an address here, and an interface may have several or none.
fn set_multicast_interface_v4(socket: &Socket, ifindex: u32) -> io::Result<()> {
    let request = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: ifindex.cast_signed(),
    };
    set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)
}

fn set_option<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the kernel reads `length` bytes at `value`, which is that long and lives until the call is over.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
