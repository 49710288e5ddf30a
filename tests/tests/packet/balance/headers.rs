//! IPv4 options and IPv6 extension headers in front of the ports.

use etherparse::IpNumber;
use lb_common::Verdict;

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case},
    packet::{Extension, Packet},
    world::{FAMILIES, Family, PROTOCOLS, name},
};

const HOP_BY_HOP: IpNumber = IpNumber::IPV6_HEADER_HOP_BY_HOP;
const ROUTING: IpNumber = IpNumber::IPV6_ROUTE_HEADER;
const FRAGMENT: IpNumber = IpNumber::IPV6_FRAGMENTATION_HEADER;
const DESTINATION: IpNumber = IpNumber::IPV6_DESTINATION_OPTIONS;

/// An option of padding (RFC 8200, section 4.2) fills the header, or zeroes do.
fn extension(number: IpNumber, data_len: usize) -> Extension {
    let mut data = vec![0; data_len];
    // Of a route the second byte says how much of it is left.
    if number != FRAGMENT && number != ROUTING {
        data[0] = 1;
        data[1] = u8::try_from(data_len - 2).unwrap_or(u8::MAX);
    }
    Extension { number, data }
}

fn with_extensions(protocol: IpNumber, numbers: &[IpNumber]) -> Packet {
    let extensions = numbers.iter().map(|number| extension(*number, 6)).collect();
    Packet { extensions, ..Family::V6.packet(protocol) }
}

#[test]
fn ports_are_found_behind_ipv4_options_of_every_length() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = PROTOCOLS.into_iter().flat_map(|protocol| {
        (4..=40).step_by(4).flat_map(move |len| {
            FAMILIES.map(|outer| {
                // No-operation options (RFC 791), the last one ends the list.
                let mut options = vec![1; len];
                options[len - 1] = 0;
                let packet = Packet { options, ..Family::V4.packet(protocol) };
                let description = format!("{} behind {len} bytes of options leaves over {outer:?}", name(protocol));
                let frame = Family::V4.frame(packet.to_bytes());
                Case::forwards(description, Family::V4, &Backend::tunnel(outer), &frame)
            })
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn ports_are_found_behind_up_to_four_ipv6_extension_headers() {
    let chains: &[&[IpNumber]] = &[
        &[HOP_BY_HOP],
        &[ROUTING],
        &[DESTINATION],
        &[HOP_BY_HOP, DESTINATION],
        &[HOP_BY_HOP, ROUTING],
        &[DESTINATION, ROUTING, DESTINATION],
        &[HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION],
    ];
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = PROTOCOLS.into_iter().flat_map(|protocol| {
        chains.iter().flat_map(move |chain| {
            FAMILIES.map(|outer| {
                let description = format!("{} behind {chain:?} leaves over {outer:?}", name(protocol));
                let frame = Family::V6.frame(with_extensions(protocol, chain).to_bytes());
                Case::forwards(description, Family::V6, &Backend::tunnel(outer), &frame)
            })
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn ports_are_found_behind_an_ipv6_extension_header_of_every_length_that_fits() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = (6..1200).step_by(8).map(|data_len| {
        let extensions = vec![extension(DESTINATION, data_len)];
        let packet = Packet { extensions, ..Family::V6.packet(IpNumber::TCP) };
        let description = format!("TCP behind destination options of {} bytes leaves", data_len + 2);
        Case::forwards(description, Family::V6, &Backend::tunnel(Family::V6), &Family::V6.frame(packet.to_bytes()))
    });
    check_all(&mut balancer, cases);
}

/// What stands in the header as the destination is on the way only (RFC 8200, section 4.4): the kernel decides.
#[test]
fn what_has_segments_of_its_route_left_passes() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = PROTOCOLS.into_iter().flat_map(|protocol| {
        [1, 255].map(|segments_left| {
            let mut packet = with_extensions(protocol, &[DESTINATION, ROUTING]);
            packet.extensions[1].data[1] = segments_left;
            let frame = Family::V6.frame(packet.to_bytes()).to_bytes();
            Case::passes(format!("{segments_left} segments are left"), Verdict::PassOtherProtocol, frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_fifth_extension_header_is_not_looked_behind() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let chains = [
        [HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION, DESTINATION],
        [HOP_BY_HOP, DESTINATION, ROUTING, DESTINATION, FRAGMENT],
    ];
    let cases = chains.map(|chain| {
        let frame = Family::V6.frame(with_extensions(IpNumber::TCP, &chain).to_bytes()).to_bytes();
        Case::passes(format!("TCP behind {chain:?} passes"), Verdict::PassOtherProtocol, frame)
    });
    check_all(&mut balancer, cases);
}

#[test]
fn an_ipv6_fragment_passes_wherever_its_header_stands() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    // Offset in units of eight bytes, three bits of which the last says that more come (RFC 8200, section 4.5).
    let fragments: [(&str, u16); 4] =
        [("first", 1), ("later", 185 << 3 | 1), ("last", 370 << 3), ("only (RFC 6946)", 0)];
    let before: [&[IpNumber]; 4] = [&[], &[HOP_BY_HOP], &[HOP_BY_HOP, ROUTING], &[HOP_BY_HOP, DESTINATION, ROUTING]];
    let cases = fragments.into_iter().flat_map(|(which, offset)| {
        before.map(|chain| {
            let mut packet = with_extensions(IpNumber::UDP, chain);
            let [high, low] = offset.to_be_bytes();
            packet.extensions.push(Extension { number: FRAGMENT, data: vec![high, low, 0, 0, 0, 7] });
            let frame = Family::V6.frame(packet.to_bytes()).to_bytes();
            Case::passes(format!("the {which} fragment behind {chain:?} passes"), Verdict::PassFragment, frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn an_ipv4_fragment_passes() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    // Bit 13 says that more come, the 13 bits below are the offset (RFC 791, section 3.1).
    let fragments: [(&str, u16); 4] =
        [("first", 0x2000), ("later", 0x20b9), ("last", 0x0172), ("last and farthest", 0x1fff)];
    let cases = fragments.map(|(which, bits)| {
        let mut frame = Family::V4.client_frame(IpNumber::UDP);
        frame.packet[6..8].copy_from_slice(&bits.to_be_bytes());
        Case::passes(format!("the {which} fragment passes"), Verdict::PassFragment, frame.to_bytes())
    });
    check_all(&mut balancer, cases);
}

#[test]
fn dont_fragment_and_the_reserved_bit_make_no_fragment() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases =
        [("don't fragment", 0x4000_u16), ("the reserved bit", 0x8000), ("both bits", 0xc000)].map(|(bit, bits)| {
            let mut frame = Family::V4.client_frame(IpNumber::UDP);
            frame.packet[6..8].copy_from_slice(&bits.to_be_bytes());
            Case::forwards(format!("a packet with {bit} leaves"), Family::V4, &Backend::tunnel(Family::V4), &frame)
        });
    check_all(&mut balancer, cases);
}
