//! Sending a packet to its backend: the outer header, the Ethernet header, the way out.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    BackendId, BackendRow, Condition, Encapsulation, FlowHash, NetU16, NetU32, OuterHeader, Verdict, checksum::Sum, gue,
};
use lb_ebpf::{
    packet::{move_head, write},
    sum,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::IpProto,
    vlan::VlanHdr,
};

use crate::{maps, parse::Packet, reset};

#[inline(always)]
pub fn send(ctx: &mut XdpContext, packet: &mut Packet, hash: FlowHash, backend: BackendId) -> Result<Verdict, Verdict> {
    let row = maps::row(backend).ok_or(Verdict::DropNoBackend)?;
    if row.condition == Condition::RESET {
        packet.veil(hash.0);
        return Err(reset::answer(ctx, packet));
    }
    if row.encapsulation == Encapsulation::LOCAL {
        return Ok(Verdict::Local);
    }
    let overhead = row.encapsulation.overhead();
    if packet.ip_len + u32::from(overhead) > u32::from(row.mtu) {
        return Err(Verdict::DropTooBig);
    }
    rewrite(ctx, packet, hash, row).ok_or(Verdict::DropInternal)?;
    let egress_ifindex = u32::from(row.egress_ifindex);
    if egress_ifindex == ctx.ingress_ifindex() as u32 {
        Ok(Verdict::Transmitted)
    } else if maps::redirect(egress_ifindex) {
        Ok(Verdict::Redirected)
    } else {
        Err(Verdict::DropInternal)
    }
}

/// Replaces everything before the client's IP header.
#[inline(always)]
fn rewrite(ctx: &mut XdpContext, packet: &Packet, hash: FlowHash, row: &BackendRow) -> Option<()> {
    let tagged = row.vlan != NetU16::default();
    let outer_offset = if tagged { EthHdr::LEN + VlanHdr::LEN } else { EthHdr::LEN };
    let grow = outer_offset + usize::from(row.encapsulation.overhead());
    let delta = packet.ip_offset as i32 - grow as i32;
    if delta != 0 {
        move_head(ctx, delta)?;
    }
    let ether_type = match row.encapsulation {
        Encapsulation::IPV4 => {
            write(ctx, outer_offset, outer_ipv4(packet, packet.ip_len, hash, row))?;
            EtherType::Ipv4
        }
        Encapsulation::IPV6 => {
            write(ctx, outer_offset, outer_ipv6(packet, packet.ip_len, hash, row))?;
            EtherType::Ipv6
        }
        Encapsulation::GUE_IPV4 => {
            gue_over_ipv4(ctx, outer_offset, packet, hash, row)?;
            EtherType::Ipv4
        }
        Encapsulation::GUE_IPV6 => {
            gue_over_ipv6(ctx, outer_offset, packet, hash, row)?;
            EtherType::Ipv6
        }
        Encapsulation::NONE if packet.flow.ipv4 => EtherType::Ipv4,
        Encapsulation::NONE => EtherType::Ipv6,
        _ => return None,
    };
    let mut ethernet = EthHdr::new(row.destination_mac, row.source_mac, ether_type);
    if tagged {
        ethernet.ether_type = EtherType::Ieee8021q as u16;
        write(ctx, EthHdr::LEN, VlanHdr { tci: row.vlan.to_wire(), ether_type: ether_type as u16 })?;
    }
    write(ctx, 0, ethernet)
}

/// The low bits of the outer source address that tell flows apart.
#[inline(always)]
fn source_entropy(hash: FlowHash, row: &BackendRow) -> NetU32 {
    let mask = ((1_u64 << (row.entropy_bits & 63)) - 1) as u32;
    NetU32::new(hash.entropy() & mask)
}

/// RFC 2003, with the type of service of the inner header: DSCP by the uniform model (RFC 2983), ECN by the normal
/// mode of RFC 6040.
#[inline(always)]
fn outer_ipv4(packet: &Packet, payload_len: u32, hash: FlowHash, row: &BackendRow) -> [NetU32; 5] {
    let OuterHeader([first, fragment, ttl_protocol_sum, source, destination, ..]) = row.outer;
    let entropy = source_entropy(hash, row);
    let total_len = payload_len + u32::from(OuterHeader::IPV4_LEN);
    let [ttl_protocol, static_sum] = ttl_protocol_sum.halves();
    let tos_and_len = NetU32::new(u32::from(packet.traffic_class) << 16 | total_len);
    let check = Sum::default().word(static_sum).words(tos_and_len).words(entropy).finish();
    [
        first.or(tos_and_len),
        fragment,
        NetU32::new(u32::from(ttl_protocol.get()) << 16 | u32::from(check.get())),
        source.or(entropy),
        destination,
    ]
}

/// RFC 2473, traffic class as in [`outer_ipv4`]; the flow label carries the flow's entropy (RFC 6438).
#[inline(always)]
fn outer_ipv6(packet: &Packet, payload_len: u32, hash: FlowHash, row: &BackendRow) -> [NetU32; 10] {
    let OuterHeader([first, next_header_and_hops, s0, s1, s2, s3, d0, d1, d2, d3]) = row.outer;
    let flow_label = hash.entropy() & 0xf_ffff;
    [
        first.or(NetU32::new(u32::from(packet.traffic_class) << 20 | flow_label)),
        next_header_and_hops.or(NetU32::new(payload_len << 16)),
        s0,
        s1,
        s2,
        s3.or(source_entropy(hash, row)),
        d0,
        d1,
        d2,
        d3,
    ]
}

/// What is behind the outer IP header of GUE, without a checksum.
#[inline(always)]
fn gue_headers(packet: &Packet, hash: FlowHash, row: &BackendRow) -> gue::Headers {
    let protocol = if packet.flow.ipv4 { IpProto::Ipv4 } else { IpProto::Ipv6 };
    gue::Headers::new(hash, row.gue_port, protocol as u8, packet.ip_len)
}

/// Without a checksum of UDP: the packet inside has its own.
#[inline(always)]
fn gue_over_ipv4(ctx: &mut XdpContext, offset: usize, packet: &Packet, hash: FlowHash, row: &BackendRow) -> Option<()> {
    let gue::Headers(headers) = gue_headers(packet, hash, row);
    write(ctx, offset, outer_ipv4(packet, packet.ip_len + u32::from(gue::HEADERS_LEN), hash, row))?;
    write(ctx, offset + usize::from(OuterHeader::IPV4_LEN), headers)
}

/// With a checksum of UDP: by RFC 8200, section 8.1, a receiver has to drop packets that have none, unless it was told
/// otherwise (RFC 6935).
#[inline(always)]
fn gue_over_ipv6(ctx: &mut XdpContext, offset: usize, packet: &Packet, hash: FlowHash, row: &BackendRow) -> Option<()> {
    let outer = outer_ipv6(packet, packet.ip_len + u32::from(gue::HEADERS_LEN), hash, row);
    write(ctx, offset, outer)?;
    let headers = gue_headers(packet, hash, row);
    let headers_offset = offset + usize::from(OuterHeader::IPV6_LEN);
    let inner = sum::of_packet(ctx, headers_offset + usize::from(gue::HEADERS_LEN), packet.ip_len as usize)?;
    let [_, _, addresses @ ..] = outer;
    let sum = addresses.into_iter().fold(headers.sum().add(inner), Sum::words);
    let gue::Headers(headers) = headers.with_checksum(sum);
    write(ctx, headers_offset, headers)
}
