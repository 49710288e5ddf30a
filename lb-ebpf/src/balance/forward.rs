//! Sending a packet to its backend: the outer header, the Ethernet header, the way out.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    BackendId, BackendRow, Condition, Encapsulation, FlowHash, NetU16, NetU32, OuterHeader, Verdict, checksum::Sum,
};
use lb_ebpf::packet::{move_head, write};
use network_types::{
    eth::{EthHdr, EtherType},
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
    if row.egress_ifindex == ctx.ingress_ifindex() as u32 {
        Ok(Verdict::Transmitted)
    } else if maps::redirect(row.egress_ifindex) {
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
            write(ctx, outer_offset, outer_ipv4(packet, hash, row))?;
            EtherType::Ipv4
        }
        Encapsulation::IPV6 => {
            write(ctx, outer_offset, outer_ipv6(packet, hash, row))?;
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
fn outer_ipv4(packet: &Packet, hash: FlowHash, row: &BackendRow) -> [NetU32; 5] {
    let OuterHeader([first, fragment, ttl_protocol_sum, source, destination, ..]) = row.outer;
    let entropy = source_entropy(hash, row);
    let total_len = packet.ip_len + u32::from(OuterHeader::IPV4_LEN);
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
fn outer_ipv6(packet: &Packet, hash: FlowHash, row: &BackendRow) -> [NetU32; 10] {
    let OuterHeader([first, next_header_and_hops, s0, s1, s2, s3, d0, d1, d2, d3]) = row.outer;
    let flow_label = hash.entropy() & 0xf_ffff;
    [
        first.or(NetU32::new(u32::from(packet.traffic_class) << 20 | flow_label)),
        next_header_and_hops.or(NetU32::new(packet.ip_len << 16)),
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
