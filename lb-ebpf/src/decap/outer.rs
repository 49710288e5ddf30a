//! The outer header, and whether what it holds is what it says.

use aya_ebpf::programs::XdpContext;
use lb_common::{Address, DecapVerdict, NetU16, NetU32, checksum::Sum};
use lb_ebpf::packet::{frame_len, is_fragment, lend, read};
use network_types::{
    eth::EtherType,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
};

/// An IP-in-IP packet.
pub struct Tunnel {
    pub source: Address,
    pub destination: Address,
    /// Length of the outer header in bytes.
    pub header_len: usize,
    /// Length of what is behind it, in bytes, by the header.
    pub payload_len: usize,
    /// ECN bits of the outer header.
    pub ecn: u8,
    /// The kind of the inner packet: IPv4 or IPv6.
    pub inner: EtherType,
}

/// The outer header at `ip_offset`, if it is one.
#[inline(always)]
pub fn parse(ctx: &XdpContext, ether_type: u16, ip_offset: usize) -> Result<Tunnel, DecapVerdict> {
    if ether_type == EtherType::Ipv4 as u16 {
        ipv4(ctx, ip_offset)
    } else if ether_type == EtherType::Ipv6 as u16 {
        ipv6(ctx, ip_offset)
    } else {
        Err(DecapVerdict::PassNotTunnel)
    }
}

/// Version and header length of an IPv4 header without options.
const WITHOUT_OPTIONS: u8 = 0x45;

#[inline(always)]
fn ipv4(ctx: &XdpContext, ip_offset: usize) -> Result<Tunnel, DecapVerdict> {
    let header: &Ipv4Hdr = lend(ctx, ip_offset).ok_or(DecapVerdict::PassNotTunnel)?;
    let inner = inner_kind(header.proto)?;
    if header.vihl != WITHOUT_OPTIONS || is_fragment(header) {
        return Err(DecapVerdict::PassForKernel);
    }
    Ok(Tunnel {
        source: Address::from_v4_wire(header.src_addr),
        destination: Address::from_v4_wire(header.dst_addr),
        header_len: Ipv4Hdr::LEN,
        payload_len: usize::from(header.tot_len()).saturating_sub(Ipv4Hdr::LEN),
        ecn: header.ecn(),
        inner,
    })
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, ip_offset: usize) -> Result<Tunnel, DecapVerdict> {
    let header: &Ipv6Hdr = lend(ctx, ip_offset).ok_or(DecapVerdict::PassNotTunnel)?;
    let [source, destination] = [header.src_addr, header.dst_addr].map(Address::from_v6_wire);
    if source.is_mapped() || destination.is_mapped() {
        return Err(DecapVerdict::PassNotTunnel);
    }
    Ok(Tunnel {
        source,
        destination,
        header_len: Ipv6Hdr::LEN,
        payload_len: usize::from(header.payload_len()),
        ecn: header.ecn(),
        inner: inner_kind(header.next_hdr)?,
    })
}

/// Whether the outer header is intact, and what it holds is what it says. The inner packet's own checks are left to
/// the kernel, which gets it next.
#[inline(always)]
pub fn is_sound(ctx: &XdpContext, tunnel: &Tunnel, ip_offset: usize) -> bool {
    let inner_offset = ip_offset + tunnel.header_len;
    inner_offset + tunnel.payload_len <= frame_len(ctx)
        && (tunnel.header_len != Ipv4Hdr::LEN || has_ipv4_checksum(ctx, ip_offset) == Some(true))
        && inner_fits(ctx, tunnel, inner_offset) == Some(true)
}

#[inline(always)]
fn has_ipv4_checksum(ctx: &XdpContext, offset: usize) -> Option<bool> {
    let [a, b, c, d, e]: [NetU32; 5] = read(ctx, offset)?;
    Some(Sum::default().words(a).words(b).words(c).words(d).words(e).finish() == NetU16::new(0))
}

/// Whether the inner packet is of the kind that the outer header names, and ends where that does or before.
#[inline(always)]
fn inner_fits(ctx: &XdpContext, tunnel: &Tunnel, offset: usize) -> Option<bool> {
    let fits = if tunnel.inner == EtherType::Ipv4 {
        let header: &Ipv4Hdr = lend(ctx, offset)?;
        let len = usize::from(header.tot_len());
        header.version() == 4 && len >= Ipv4Hdr::LEN && len <= tunnel.payload_len
    } else {
        let header: &Ipv6Hdr = lend(ctx, offset)?;
        header.version() == 6 && Ipv6Hdr::LEN + usize::from(header.payload_len()) <= tunnel.payload_len
    };
    Some(fits)
}

/// RFC 2003 and RFC 2473 number the inner protocols alike.
#[inline(always)]
fn inner_kind(protocol: u8) -> Result<EtherType, DecapVerdict> {
    const IPV4: u8 = IpProto::Ipv4 as u8;
    const IPV6: u8 = IpProto::Ipv6 as u8;
    match protocol {
        IPV4 => Ok(EtherType::Ipv4),
        IPV6 => Ok(EtherType::Ipv6),
        _ => Err(DecapVerdict::PassNotTunnel),
    }
}
