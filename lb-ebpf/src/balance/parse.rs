//! From the frame to the flow it belongs to. What cannot be parsed is not ours, and passes.

use aya_ebpf::programs::XdpContext;
use lb_common::{Address, Flow, NetU16, NetU32, Verdict, echo};
use lb_ebpf::{
    packet::{frame_len, is_fragment, lend, read},
    verifier::veil,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::maps;

/// A packet that could belong to a service.
#[derive(Clone, Copy)]
pub struct Packet {
    pub flow: Flow,
    /// Where the IP header starts: the length of the Ethernet header and its tags, in bytes.
    pub ip_offset: usize,
    /// Where the header of TCP, UDP or ICMP starts.
    pub l4_offset: usize,
    /// Length of the IP packet in bytes, by its own header; the frame may be longer (Ethernet padding).
    pub ip_len: u32,
    /// The DSCP and ECN bits.
    pub traffic_class: u8,
}

impl Packet {
    /// The same packet, of which the verifier knows no more than how large its parts can be: a long way that begins here is
    /// checked once, and not once for each way to parse a packet.
    #[inline(always)]
    pub fn veil(&mut self, unknown: u64) {
        self.ip_offset = veil(self.ip_offset as u64, unknown) as usize;
        self.l4_offset = veil(self.l4_offset as u64, unknown) as usize;
        self.ip_len = veil(self.ip_len.into(), unknown) as u32;
        self.bound();
    }

    /// Says to the verifier how large the parts can be; for a packet that comes out of a map.
    #[inline(always)]
    pub const fn bound(&mut self) {
        self.ip_offset &= 0x1f;
        self.l4_offset &= 0x3fff;
        self.ip_len &= 0x1_ffff;
    }
}

/// The most 802.1Q and 802.1ad tags that are looked behind.
const MAX_TAGS: usize = 2;
/// The most IPv6 extension headers that are looked behind.
const MAX_EXTENSIONS: usize = 4;

#[inline(always)]
pub fn parse(ctx: &XdpContext) -> Result<Packet, Verdict> {
    let ethernet: EthHdr = read(ctx, 0).ok_or(Verdict::PassMalformed)?;
    let ifindex = ctx.ingress_ifindex() as u32;
    if !maps::is_own_mac(ifindex, ethernet.dst_addr) && !maps::is_own_virtual_mac(ifindex, ethernet.dst_addr) {
        return Err(Verdict::PassOtherHost);
    }
    let mut ether_type = ethernet.ether_type;
    let mut ip_offset = EthHdr::LEN;
    for _ in 0..MAX_TAGS {
        if ether_type != EtherType::Ieee8021q as u16 && ether_type != EtherType::Ieee8021ad as u16 {
            break;
        }
        let tag: VlanHdr = read(ctx, ip_offset).ok_or(Verdict::PassMalformed)?;
        ether_type = tag.ether_type;
        ip_offset += VlanHdr::LEN;
    }
    if ether_type == EtherType::Ipv4 as u16 {
        ipv4(ctx, ip_offset)
    } else if ether_type == EtherType::Ipv6 as u16 {
        ipv6(ctx, ip_offset)
    } else {
        Err(Verdict::PassNotIp)
    }
}

#[inline(always)]
fn ipv4(ctx: &XdpContext, ip_offset: usize) -> Result<Packet, Verdict> {
    let header: &Ipv4Hdr = lend(ctx, ip_offset).ok_or(Verdict::PassMalformed)?;
    let header_len = usize::from(header.vihl & 0xf) * 4;
    let ip_len = usize::from(header.tot_len());
    if header.version() != 4 || header_len < Ipv4Hdr::LEN || ip_offset + ip_len > frame_len(ctx) {
        return Err(Verdict::PassMalformed);
    }
    if is_fragment(header) {
        return Err(Verdict::PassFragment);
    }
    let l4_offset = ip_offset + header_len;
    let (protocol, ports) = transport(ctx, header.proto, l4_offset, ip_offset + ip_len, true)?;
    Ok(Packet {
        flow: Flow {
            source: Address::from_v4_wire(header.src_addr),
            destination: Address::from_v4_wire(header.dst_addr),
            ports,
            protocol,
            ipv4: true,
        },
        ip_offset,
        l4_offset,
        ip_len: ip_len as u32,
        traffic_class: header.tos,
    })
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, ip_offset: usize) -> Result<Packet, Verdict> {
    let header: &Ipv6Hdr = lend(ctx, ip_offset).ok_or(Verdict::PassMalformed)?;
    let ip_len = Ipv6Hdr::LEN + usize::from(header.payload_len());
    if header.version() != 6 || ip_offset + ip_len > frame_len(ctx) {
        return Err(Verdict::PassMalformed);
    }
    let destination = Address::from_v6_wire(header.dst_addr);
    if destination.is_mapped() {
        return Err(Verdict::PassNoService);
    }
    let (next_header, l4_offset) = skip_extensions(ctx, header.next_hdr, ip_offset + Ipv6Hdr::LEN)?;
    let (protocol, ports) = transport(ctx, next_header, l4_offset, ip_offset + ip_len, false)?;
    Ok(Packet {
        flow: Flow { source: Address::from_v6_wire(header.src_addr), destination, ports, protocol, ipv4: false },
        ip_offset,
        l4_offset,
        ip_len: ip_len as u32,
        traffic_class: (u32::from_be_bytes(header.vcf) >> 20) as u8,
    })
}

/// The upper-layer protocol behind the extension headers (RFC 8200, section 4), and where it starts.
#[inline(always)]
fn skip_extensions(ctx: &XdpContext, first: u8, first_offset: usize) -> Result<(u8, usize), Verdict> {
    let mut next = first;
    let mut offset = first_offset;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            EXTENSION_HOP_BY_HOP | EXTENSION_ROUTING | EXTENSION_DESTINATION => {
                let [following, length, _, segments_left]: [u8; 4] = read(ctx, offset).ok_or(Verdict::PassMalformed)?;
                if next == EXTENSION_ROUTING && segments_left != 0 {
                    // This is not where it is going.
                    break;
                }
                next = following;
                offset += (usize::from(length) + 1) * 8;
            }
            EXTENSION_FRAGMENT => return Err(Verdict::PassFragment),
            _ => break,
        }
    }
    Ok((next, offset))
}

const EXTENSION_HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
const EXTENSION_ROUTING: u8 = IpProto::Ipv6Route as u8;
const EXTENSION_FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
const EXTENSION_DESTINATION: u8 = IpProto::Ipv6Opts as u8;

/// Protocol, source port and destination port of what starts at `offset`, in an IP packet that ends at `end`.
#[inline(always)]
fn transport(ctx: &XdpContext, number: u8, offset: usize, end: usize, ipv4: bool) -> Result<(u8, NetU32), Verdict> {
    const TCP: u8 = IpProto::Tcp as u8;
    const UDP: u8 = IpProto::Udp as u8;
    let header_len = match number {
        TCP => TcpHdr::LEN,
        UDP => UdpHdr::LEN,
        _ if number == echo::in_header(echo::REQUEST, ipv4) => return icmp(ctx, offset, end, ipv4),
        _ => return Err(Verdict::PassOtherProtocol),
    };
    if offset + header_len > end {
        return Err(Verdict::PassMalformed);
    }
    let ports = read(ctx, offset).map(NetU32::from_wire).ok_or(Verdict::PassMalformed)?;
    Ok((number, ports))
}

/// The same of an ICMP message, if it is an echo: see [`echo`]. All others are for the kernel, neighbour discovery among them.
#[inline(always)]
fn icmp(ctx: &XdpContext, offset: usize, end: usize, ipv4: bool) -> Result<(u8, NetU32), Verdict> {
    if offset + echo::HEADER_LEN > end {
        return Err(Verdict::PassMalformed);
    }
    let [first, second]: [NetU32; 2] = read(ctx, offset).ok_or(Verdict::PassMalformed)?;
    let ([kind, _], [identifier, _]) = (first.halves(), second.halves());
    let none = NetU16::new(0);
    if kind == echo::type_and_code(echo::REQUEST, ipv4) {
        Ok((echo::REQUEST, NetU32::from_halves(identifier, none)))
    } else if kind == echo::type_and_code(echo::REPLY, ipv4) {
        Ok((echo::REPLY, NetU32::from_halves(none, identifier)))
    } else {
        Err(Verdict::PassOtherProtocol)
    }
}
