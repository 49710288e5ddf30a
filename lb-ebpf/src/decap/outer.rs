//! The outer header, and whether what it holds is what it says.

use aya_ebpf::programs::XdpContext;
use lb_common::{Address, DecapVerdict, NetU16, NetU32, checksum::Sum, gue};
use lb_ebpf::packet::{frame_len, is_fragment, lend, read};
use network_types::{
    eth::EtherType,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
};

/// An IP packet that may hold another one.
pub struct Outer {
    pub source: Address,
    pub destination: Address,
    /// Length of the header in bytes.
    pub header_len: usize,
    /// Length of what is behind it, in bytes, by the header.
    pub payload_len: usize,
    /// The protocol of what is behind it: [`IPV4`], [`IPV6`] or [`gue::UDP`].
    pub protocol: u8,
    /// ECN bits.
    pub ecn: u8,
}

pub const IPV4: u8 = IpProto::Ipv4 as u8;
pub const IPV6: u8 = IpProto::Ipv6 as u8;

/// The outer header at `ip_offset`, if it is one.
#[inline(always)]
pub fn parse(ctx: &XdpContext, ether_type: u16, ip_offset: usize) -> Result<Outer, DecapVerdict> {
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
fn ipv4(ctx: &XdpContext, ip_offset: usize) -> Result<Outer, DecapVerdict> {
    let header: &Ipv4Hdr = lend(ctx, ip_offset).ok_or(DecapVerdict::PassNotTunnel)?;
    let protocol = tunnel_protocol(header.proto)?;
    if header.vihl != WITHOUT_OPTIONS || is_fragment(header) {
        return Err(DecapVerdict::PassForKernel);
    }
    Ok(Outer {
        source: Address::from_v4_wire(header.src_addr),
        destination: Address::from_v4_wire(header.dst_addr),
        header_len: Ipv4Hdr::LEN,
        payload_len: usize::from(header.tot_len()).saturating_sub(Ipv4Hdr::LEN),
        protocol,
        ecn: header.ecn(),
    })
}

#[inline(always)]
fn ipv6(ctx: &XdpContext, ip_offset: usize) -> Result<Outer, DecapVerdict> {
    let header: &Ipv6Hdr = lend(ctx, ip_offset).ok_or(DecapVerdict::PassNotTunnel)?;
    let [source, destination] = [header.src_addr, header.dst_addr].map(Address::from_v6_wire);
    if source.is_mapped() || destination.is_mapped() {
        return Err(DecapVerdict::PassNotTunnel);
    }
    Ok(Outer {
        source,
        destination,
        header_len: Ipv6Hdr::LEN,
        payload_len: usize::from(header.payload_len()),
        protocol: tunnel_protocol(header.next_hdr)?,
        ecn: header.ecn(),
    })
}

/// RFC 2003 and RFC 2473 number the inner protocols alike.
#[inline(always)]
const fn tunnel_protocol(protocol: u8) -> Result<u8, DecapVerdict> {
    match protocol {
        IPV4 | IPV6 | gue::UDP => Ok(protocol),
        _ => Err(DecapVerdict::PassNotTunnel),
    }
}

/// Whether the header at `ip_offset` is intact, and the frame has as much behind it as it says.
#[inline(always)]
pub fn is_sound(ctx: &XdpContext, outer: &Outer, ip_offset: usize) -> bool {
    ip_offset + outer.header_len + outer.payload_len <= frame_len(ctx)
        && (outer.header_len != Ipv4Hdr::LEN || has_ipv4_checksum(ctx, ip_offset) == Some(true))
}

#[inline(always)]
fn has_ipv4_checksum(ctx: &XdpContext, offset: usize) -> Option<bool> {
    let [a, b, c, d, e]: [NetU32; 5] = read(ctx, offset)?;
    Some(Sum::default().words(a).words(b).words(c).words(d).words(e).finish() == NetU16::new(0))
}
