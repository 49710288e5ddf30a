//! Answering a segment of a connection whose backend is gone with a reset, as the backend would do that does not know it
//! (RFC 9293, section 3.5.2).

use aya_ebpf::programs::XdpContext;
use lb_common::{Address, NetU16, NetU32, Verdict, checksum::Sum};
use lb_ebpf::{
    packet::{move_tail, read, write},
    tcp::{ACK, FIN, RST, SYN},
};
use network_types::{
    eth::EthHdr,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
};

use crate::parse::Packet;

const TTL: u8 = 64;
const TCP: u8 = IpProto::Tcp as u8;

/// Turns the packet into its answer, to be sent from where it came. The tags before the IP header stay.
#[inline(always)]
pub fn answer(ctx: &mut XdpContext, packet: &Packet) -> Verdict {
    answer_or(ctx, packet, Verdict::DropBackendGone)
}

/// The same; what is no segment, or itself a reset, is not answered, and `otherwise` becomes of it.
#[inline(never)]
pub fn answer_or(ctx: &mut XdpContext, packet: &Packet, otherwise: Verdict) -> Verdict {
    if packet.flow.protocol != TCP {
        return otherwise;
    }
    // What the verifier knew of these numbers it has forgotten on the way through memory.
    let packet = &Packet { ip_offset: packet.ip_offset & 0x1f, l4_offset: packet.l4_offset & 0x3fff, ..*packet };
    // Before anything behind it: the compiler would leave out the check that the verifier wants to see.
    let Some(ethernet) = read::<EthHdr>(ctx, 0) else { return Verdict::DropInternal };
    let Some(segment) = Segment::read(ctx, packet) else { return Verdict::DropInternal };
    if segment.flags & RST != 0 {
        return otherwise;
    }
    write_answer(ctx, packet, &ethernet, &segment).map_or(Verdict::DropInternal, |()| Verdict::Reset)
}

struct Segment {
    sequence: NetU32,
    acknowledgment: NetU32,
    flags: u8,
    /// What it takes up in the sequence space.
    len: u32,
}

impl Segment {
    #[inline(always)]
    fn read(ctx: &XdpContext, packet: &Packet) -> Option<Self> {
        let [sequence, acknowledgment, word]: [NetU32; 3] = read(ctx, packet.l4_offset + 4)?;
        let [length, flags, ..] = word.to_wire();
        let header_len = (u32::from(length >> 4) * 4).max(TcpHdr::LEN as u32);
        let end = packet.ip_offset as u32 + packet.ip_len;
        let payload = end.saturating_sub(packet.l4_offset as u32 + header_len);
        let len = payload + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        Some(Self { sequence, acknowledgment, flags, len })
    }
}

#[inline(always)]
fn write_answer(ctx: &mut XdpContext, packet: &Packet, ethernet: &EthHdr, segment: &Segment) -> Option<()> {
    write(
        ctx,
        0,
        EthHdr { dst_addr: ethernet.src_addr, src_addr: ethernet.dst_addr, ether_type: ethernet.ether_type },
    )?;
    let (from, to) = (packet.flow.destination, packet.flow.source);
    let tcp_offset = packet.ip_offset + if packet.flow.ipv4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN };
    if packet.flow.ipv4 {
        write(ctx, packet.ip_offset, ipv4(from, to))?;
    } else {
        write(ctx, packet.ip_offset, ipv6(from, to))?;
    }
    write(ctx, tcp_offset, tcp(packet, segment, from, to))?;
    move_tail(ctx, tcp_offset + TcpHdr::LEN)
}

#[inline(always)]
fn ipv4(from: Address, to: Address) -> [NetU32; 5] {
    let ([.., source], [.., destination]) = (from.words(), to.words());
    let first = NetU32::new(0x4500_0000 | (Ipv4Hdr::LEN + TcpHdr::LEN) as u32);
    let dont_fragment = NetU32::new(0x4000);
    let ttl_and_protocol = u32::from(TTL) << 24 | u32::from(TCP) << 16;
    let sum = Sum::default()
        .words(first)
        .words(dont_fragment)
        .words(NetU32::new(ttl_and_protocol))
        .words(source)
        .words(destination);
    [first, dont_fragment, NetU32::new(ttl_and_protocol | u32::from(sum.finish().get())), source, destination]
}

#[inline(always)]
fn ipv6(from: Address, to: Address) -> [NetU32; 10] {
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (from.words(), to.words());
    let length_and_hops = (TcpHdr::LEN as u32) << 16 | u32::from(TCP) << 8 | u32::from(TTL);
    [NetU32::new(6 << 28), NetU32::new(length_and_hops), s0, s1, s2, s3, d0, d1, d2, d3]
}

#[inline(always)]
fn tcp(packet: &Packet, segment: &Segment, from: Address, to: Address) -> [NetU32; 5] {
    let [client_port, service_port] = packet.flow.ports.halves();
    let ports = NetU32::new(u32::from(service_port.get()) << 16 | u32::from(client_port.get()));
    let (sequence, acknowledgment, flags) = if segment.flags & ACK != 0 {
        (segment.acknowledgment, NetU32::new(0), RST)
    } else {
        (NetU32::new(0), NetU32::new(segment.sequence.get().wrapping_add(segment.len)), RST | ACK)
    };
    let length_and_flags = NetU32::new(5 << 28 | u32::from(flags) << 16);
    let pseudo_header = addresses(from, packet.flow.ipv4)
        .add(addresses(to, packet.flow.ipv4))
        .word(NetU16::new(u16::from(TCP)))
        .word(NetU16::new(TcpHdr::LEN as u16));
    let sum = pseudo_header.words(ports).words(sequence).words(acknowledgment).words(length_and_flags);
    [ports, sequence, acknowledgment, length_and_flags, NetU32::new(u32::from(sum.finish().get()) << 16)]
}

/// The sum of an address as it stands in the pseudo-header.
#[inline(always)]
fn addresses(address: Address, ipv4: bool) -> Sum {
    let [a, b, c, d] = address.words();
    let low = Sum::default().words(d);
    if ipv4 { low } else { low.words(a).words(b).words(c) }
}
