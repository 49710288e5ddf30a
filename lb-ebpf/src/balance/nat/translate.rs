//! Writing other addresses and ports into a packet, also those of the other family (RFC 7915), and sending it on.

use core::ptr;

use aya_ebpf::programs::XdpContext;
use lb_common::{
    Address, Flow, NetU16, NetU32, Verdict,
    checksum::Sum,
    echo,
    nat::{NatRecord, NatTarget, Side},
    translate::{EchoMessage, Endpoints, checksum, udp_checksum},
};
use lb_ebpf::{
    packet::{move_head, read, write},
    sum,
    verifier::veil,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vlan::VlanHdr,
};

use super::{Known, TCP};
use crate::{
    maps::{self, MapRecord},
    parse::Packet,
};

/// Where a packet goes.
struct Way<'a> {
    /// What it is to have for addresses and ports. The addresses are left where they are, since the stack is small.
    source: &'a Address,
    destination: &'a Address,
    ports: NetU32,
    /// Destination and source address of the Ethernet header: in words, since the verifier does not allow what the compiler makes of
    /// the bytes.
    macs: [NetU32; 3],
    /// The VLAN tag; zero: none.
    vlan: NetU16,
    ifindex: u16,
    /// The largest IP packet that the way takes, in bytes; zero: what its interface takes.
    mtu: u16,
}

impl Way<'_> {
    #[inline(always)]
    fn ipv4(&self) -> bool {
        reload(self.destination).is_mapped()
    }

    /// Whether an IP packet of `len` bytes is not too large.
    #[inline(always)]
    fn takes(&self, ctx: &XdpContext, len: u32) -> bool {
        /// Every link takes as much, so that what is small need not be asked about: hosts have to (RFC 791, section 3.1).
        const SMALL: u32 = 576;
        match self.mtu {
            0 => len <= SMALL || maps::takes_packet_of(ctx, u32::from(self.ifindex), len),
            mtu => len <= u32::from(mtu),
        }
    }

    #[inline(always)]
    fn endpoints(&self) -> Endpoints {
        let (source, destination) = (reload(self.source), reload(self.destination));
        Endpoints { source, destination, ports: self.ports, ipv4: destination.is_mapped() }
    }
}

/// Reads an address, so that the compiler does not keep what it read before on the stack, which is small.
#[inline(always)]
fn reload(address: &Address) -> Address {
    // SAFETY: it is a reference.
    unsafe { ptr::from_ref(address).read_volatile() }
}

/// Sends the packet of `sender` on as its flow says; what becomes of it.
#[inline(always)]
pub fn send(ctx: &mut XdpContext, packet: &Packet, flow: &Known, sender: Side) -> Result<Verdict, Verdict> {
    let way = match sender {
        Side::Client => to_backend(packet, flow),
        Side::Backend => to_client(flow.record),
    };
    let verdict = translate(ctx, packet, &way.ok_or(Verdict::DropInternal)?)?;
    if sender == Side::Client {
        maps::count_traffic(flow.record.state().backend(), packet.ip_len);
    }
    Ok(verdict)
}

/// How a client's packet goes on.
#[inline(always)]
fn to_backend<'a>(packet: &'a Packet, flow: &Known) -> Option<Way<'a>> {
    let row = flow.row;
    let (known, target) = (flow.record.get(), NatTarget::of(&row.outer));
    Some(Way {
        source: match known.source {
            NatRecord::NO_SOURCE => &packet.flow.source,
            number => &maps::nat_source(number)?.address,
        },
        destination: &row.address,
        ports: NetU32::from_halves(known.source_port, target.port_for(packet.flow.destination_port())),
        macs: row.macs(),
        vlan: row.vlan,
        ifindex: row.egress_ifindex,
        mtu: row.mtu,
    })
}

/// How a backend's packet goes on.
#[inline(always)]
fn to_client(record: MapRecord) -> Option<Way<'static>> {
    let known = record.get();
    let [client_port, service_port] = known.ports.halves();
    let ((start, end), own) = (known.neighbour.mac(), maps::own_mac(known.ifindex)?);
    Some(Way {
        source: maps::virtual_address(known.service)?,
        destination: &known.client,
        ports: NetU32::from_halves(service_port, client_port),
        macs: [start, NetU32::from_halves(end, own.0), own.1],
        vlan: known.neighbour.vlan(),
        ifindex: known.ifindex,
        mtu: 0,
    })
}

#[inline(always)]
fn translate(ctx: &mut XdpContext, packet: &Packet, way: &Way<'_>) -> Result<Verdict, Verdict> {
    let old = Endpoints {
        source: packet.flow.source,
        destination: packet.flow.destination,
        ports: packet.flow.ports,
        ipv4: packet.flow.ipv4,
    };
    let header_len = packet.l4_offset - packet.ip_offset;
    let new_header_len = match (old.ipv4, way.ipv4()) {
        (true, true) | (false, false) => header_len,
        (false, true) => Ipv4Hdr::LEN,
        (true, false) if header_len > Ipv4Hdr::LEN && has_source_route(ctx, packet) => {
            return Err(Verdict::DropUntranslatable);
        }
        (true, false) => Ipv6Hdr::LEN,
    };
    let new_len = packet.ip_len + new_header_len as u32 - header_len as u32;
    if !way.takes(ctx, new_len) {
        return Err(Verdict::DropTooBig);
    }
    if echo::is_echo(packet.flow.protocol) {
        let new = way.endpoints();
        if !echo_message(ctx, packet, new.sum_of_echo(), new.ports, new.ipv4) {
            return Err(Verdict::DropInternal);
        }
    } else {
        transport(ctx, packet, &old, &way.endpoints())?;
    }
    let link_len = if way.vlan == NetU16::default() { EthHdr::LEN } else { EthHdr::LEN + VlanHdr::LEN };
    let frame = Frame { link_len, delta: packet.l4_offset as i32 - (link_len + new_header_len) as i32 };
    match (old.ipv4, way.ipv4()) {
        (true, true) => ipv4(ctx, packet, &frame, way)?,
        (false, false) => ipv6(ctx, packet, &frame, way)?,
        (true, false) => ipv4_to_ipv6(ctx, packet, &frame, way, new_len)?,
        (false, true) => ipv6_to_ipv4(ctx, packet, &frame, way, new_len)?,
    }
    link(ctx, way).ok_or(Verdict::DropInternal)?;
    let ifindex = u32::from(way.ifindex);
    if ifindex == ctx.ingress_ifindex() as u32 {
        Ok(Verdict::Transmitted)
    } else if maps::redirect(ifindex) {
        Ok(Verdict::Redirected)
    } else {
        Err(Verdict::DropInternal)
    }
}

/// How the new frame lies to the old one.
struct Frame {
    /// Bytes before its IP header.
    link_len: usize,
    /// How far its start moves back.
    delta: i32,
}

impl Frame {
    #[inline(always)]
    fn make_room(&self, ctx: &mut XdpContext) -> Option<()> {
        if self.delta == 0 { Some(()) } else { move_head(ctx, self.delta) }
    }
}

/// Ports and checksum of the TCP or UDP header.
#[inline(always)]
fn transport(ctx: &mut XdpContext, packet: &Packet, old: &Endpoints, new: &Endpoints) -> Result<(), Verdict> {
    /// Where the checksums stand (RFC 9293, section 3.1; RFC 768).
    const TCP_CHECKSUM: usize = 16;
    const UDP_CHECKSUM: usize = 6;
    let is_tcp = packet.flow.protocol == TCP;
    let offset = packet.l4_offset + if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let check = read(ctx, offset).map(NetU16::from_wire).ok_or(Verdict::DropInternal)?;
    let translated = if is_tcp {
        checksum(check, old, new)
    } else {
        match udp_checksum(check, old, new) {
            Some(translated) => translated,
            None => whole_udp_checksum(ctx, packet, new).ok_or(Verdict::DropUntranslatable)?,
        }
    };
    write(ctx, offset, translated.to_wire()).ok_or(Verdict::DropInternal)?;
    write(ctx, packet.l4_offset, [new.ports]).ok_or(Verdict::DropInternal)
}

/// Type, checksum and identifier of an ICMP echo message, whose new endpoints are these. A function of its own, for its part of the
/// stack.
#[inline(never)]
fn echo_message(ctx: &mut XdpContext, packet: &Packet, sum: Sum, ports: NetU32, ipv4: bool) -> bool {
    const IDENTIFIER: usize = 4;
    let (ip_offset, offset) = (packet.ip_offset & 0x1f, packet.l4_offset & 0x3fff);
    let Some([first]) = read::<[NetU32; 1]>(ctx, offset) else { return false };
    let [_, check] = first.halves();
    let Flow { source, destination, ports: old_ports, protocol, ipv4: was_ipv4 } = packet.flow;
    let old = Endpoints { source, destination, ports: old_ports, ipv4: was_ipv4 };
    let message = EchoMessage { protocol, len: (packet.ip_len as usize + ip_offset - offset) as u16 };
    let check = message.checksum(check, (old.sum_of_echo(), was_ipv4), (sum, ipv4));
    let first = NetU32::from_halves(echo::type_and_code(protocol, ipv4), check);
    // One of both is zero.
    let [from, to] = ports.halves();
    let identifier = NetU16::new(from.get() | to.get());
    write(ctx, offset, [first]).and_then(|()| write(ctx, offset + IDENTIFIER, identifier.to_wire())).is_some()
}

/// The checksum of a datagram that had none (RFC 7915, section 4.5).
#[inline(always)]
fn whole_udp_checksum(ctx: &XdpContext, packet: &Packet, new: &Endpoints) -> Option<NetU16> {
    let len = (packet.ip_offset + packet.ip_len as usize).checked_sub(packet.l4_offset)?;
    let [_, length_and_checksum]: [NetU32; 2] = read(ctx, packet.l4_offset)?;
    let [length, _] = length_and_checksum.halves();
    if usize::from(length.get()) != len || len < UdpHdr::LEN {
        return None;
    }
    let behind_ports = sum::of_bytes(ctx, packet.l4_offset + 4, len - 4)?;
    let sum = behind_ports.add(new.sum()).word(NetU16::new(u16::from(packet.flow.protocol))).word(length);
    let check = sum.finish();
    Some(if check.get() == 0 { NetU16::new(0xffff) } else { check })
}

/// Another hop, addresses and the checksum that follows from them; options stay.
#[inline(always)]
fn ipv4(ctx: &mut XdpContext, packet: &Packet, frame: &Frame, new: &Way<'_>) -> Result<(), Verdict> {
    const FROM_TTL_ON: usize = 8;
    let offset = packet.ip_offset + FROM_TTL_ON;
    let [word, old_source, old_destination]: [NetU32; 3] = read(ctx, offset).ok_or(Verdict::DropInternal)?;
    let ([.., source], [.., destination]) = (reload(new.source).words(), reload(new.destination).words());
    let [old_ttl_protocol, check] = word.halves();
    let [ttl, protocol] = old_ttl_protocol.to_wire();
    let ttl_protocol = NetU16::from_wire([one_hop_less(ttl)?, protocol]);
    let check = Sum::of_checksum(check)
        .minus(Sum::new().word(old_ttl_protocol).words(old_source).words(old_destination))
        .word(ttl_protocol)
        .words(source)
        .words(destination)
        .finish();
    let word = NetU32::new(u32::from(ttl_protocol.get()) << 16 | u32::from(check.get()));
    write(ctx, offset, [word, source, destination]).and_then(|()| frame.make_room(ctx)).ok_or(Verdict::DropInternal)
}

/// Another hop and addresses; extension headers stay.
#[inline(always)]
fn ipv6(ctx: &mut XdpContext, packet: &Packet, frame: &Frame, new: &Way<'_>) -> Result<(), Verdict> {
    const HOP_LIMIT: usize = 7;
    let offset = packet.ip_offset + HOP_LIMIT;
    let [hop_limit] = read(ctx, offset).ok_or(Verdict::DropInternal)?;
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (reload(new.source).words(), reload(new.destination).words());
    write(ctx, offset, [one_hop_less(hop_limit)?])
        .and_then(|()| write(ctx, offset + 1, [s0, s1, s2, s3, d0, d1, d2, d3]))
        .and_then(|()| frame.make_room(ctx))
        .ok_or(Verdict::DropInternal)
}

/// Whether an IPv4 header has a source route that has not come to its end (RFC 791, section 3.1): such a packet is going elsewhere (RFC
/// 7915, section 4.1).
#[inline(never)]
fn has_source_route(ctx: &XdpContext, packet: &Packet) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    const MAX_OPTIONS: usize = 40;
    let [.., unknown] = packet.flow.source.words();
    let mut offset = packet.ip_offset + Ipv4Hdr::LEN;
    for _ in 0..MAX_OPTIONS {
        // The verifier need not know one offset from another.
        offset = veil(offset as u64, unknown.get().into()) as usize & 0x3fff;
        if offset >= packet.l4_offset {
            return false;
        }
        // The last option may be shorter; then what is read is behind it, and of no use to it.
        let Some([kind, length, pointer]): Option<[u8; 3]> = read(ctx, offset) else { return false };
        if kind == END {
            return false;
        }
        if (kind == LOOSE || kind == STRICT) && pointer <= length {
            return true;
        }
        offset += if kind == NO_OPERATION { 1 } else { usize::from(length.max(1)) };
    }
    false
}

/// RFC 7915, section 4.1; options are left out.
#[inline(always)]
fn ipv4_to_ipv6(
    ctx: &mut XdpContext,
    packet: &Packet,
    frame: &Frame,
    new: &Way<'_>,
    new_len: u32,
) -> Result<(), Verdict> {
    const TTL: usize = 8;
    let [ttl] = read(ctx, packet.ip_offset + TTL).ok_or(Verdict::DropInternal)?;
    let hop_limit = one_hop_less(ttl)?;
    let payload_len = new_len - Ipv6Hdr::LEN as u32;
    let next_header = echo::in_header(packet.flow.protocol, false);
    let first = NetU32::new(6 << 28 | u32::from(packet.traffic_class) << 20);
    let second = NetU32::new(payload_len << 16 | u32::from(next_header) << 8 | u32::from(hop_limit));
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (reload(new.source).words(), reload(new.destination).words());
    frame
        .make_room(ctx)
        .and_then(|()| write(ctx, frame.link_len, [first, second, s0, s1, s2, s3, d0, d1, d2, d3]))
        .ok_or(Verdict::DropInternal)
}

/// RFC 7915, section 5.1; extension headers are left out. But for small packets, too, as an atomic datagram (RFC 6864, section 4): not
/// to be fragmented, so it needs no identification.
#[inline(always)]
fn ipv6_to_ipv4(
    ctx: &mut XdpContext,
    packet: &Packet,
    frame: &Frame,
    new: &Way<'_>,
    new_len: u32,
) -> Result<(), Verdict> {
    const HOP_LIMIT: usize = 7;
    let [hop_limit] = read(ctx, packet.ip_offset + HOP_LIMIT).ok_or(Verdict::DropInternal)?;
    let ([.., source], [.., destination]) = (reload(new.source).words(), reload(new.destination).words());
    let first = NetU32::new(0x4500_0000 | u32::from(packet.traffic_class) << 16 | new_len);
    let dont_fragment = NetU32::new(0x4000);
    let protocol = echo::in_header(packet.flow.protocol, true);
    let third = u32::from(one_hop_less(hop_limit)?) << 24 | u32::from(protocol) << 16;
    let check = Sum::new()
        .words(first)
        .words(dont_fragment)
        .words(NetU32::new(third))
        .words(source)
        .words(destination)
        .finish();
    let third = NetU32::new(third | u32::from(check.get()));
    frame
        .make_room(ctx)
        .and_then(|()| write(ctx, frame.link_len, [first, dont_fragment, third, source, destination]))
        .ok_or(Verdict::DropInternal)
}

/// The hop limit of a packet that is sent on.
#[inline(always)]
const fn one_hop_less(hop_limit: u8) -> Result<u8, Verdict> {
    if hop_limit > 1 { Ok(hop_limit - 1) } else { Err(Verdict::DropHopLimit) }
}

/// The Ethernet header, with a tag or without.
#[inline(always)]
fn link(ctx: &mut XdpContext, way: &Way<'_>) -> Option<()> {
    let ether_type = if way.ipv4() { EtherType::Ipv4 } else { EtherType::Ipv6 };
    let ether_type = (ether_type as u16).to_ne_bytes();
    write(ctx, 0, way.macs)?;
    if way.vlan == NetU16::default() {
        return write(ctx, MACS_LEN, ether_type);
    }
    let tag = (EtherType::Ieee8021q as u16).to_ne_bytes();
    write(ctx, MACS_LEN, NetU32::from_halves(NetU16::from_wire(tag), way.vlan).to_wire())?;
    write(ctx, EthHdr::LEN + 2, ether_type)
}

/// Bytes of both addresses.
const MACS_LEN: usize = 12;
