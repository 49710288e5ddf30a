//! The checksum of UDP in GUE over IPv6, which the program does not get from the bytes of the packet where it can help it. What is
//! expected comes from etherparse, which adds them all up.

use etherparse::{IpNumber, UdpHeader};

use crate::{
    backend::{Backend, Forwarding, Gue},
    case::check_all,
    fixture::{Balancer, Case},
    frame::Frame,
    packet::{Extension, Packet},
    random_cases,
    world::{FAMILIES, Family, PROTOCOLS, name},
};

const OVER_IPV6: Backend = Backend::gue(Family::V6);
const OUTER_LEN: usize = 40;

const fn header_len(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// A datagram that fills a packet of `len` bytes, without a checksum (RFC 768; over IPv6 RFC 6935).
fn without_checksum(family: Family, len: usize) -> Vec<u8> {
    let mut packet = family.packet(IpNumber::UDP).sized(len).to_bytes();
    let checksum = header_len(family) + 6;
    packet[checksum..checksum + 2].fill(0);
    packet
}

#[test]
fn tcp_and_udp_of_every_length_have_a_right_checksum_outside() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            for len in header_len(family) + 20..=1448 {
                let frame = family.frame(family.packet(protocol).sized(len).to_bytes());
                let description = format!("{} in {family:?}, {len} bytes", name(protocol));
                cases.push(Case::forwards(description, family, &OVER_IPV6, &frame));
            }
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn a_datagram_without_a_checksum_is_added_up() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = FAMILIES.into_iter().flat_map(|family| {
        (header_len(family) + UdpHeader::LEN..=1448).map(move |len| {
            let frame = family.frame(without_checksum(family, len));
            Case::forwards(format!("{family:?}, {len} bytes"), family, &OVER_IPV6, &frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_packet_longer_than_its_datagram_is_added_up() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        // The checksum of UDP does not know of bytes behind the datagram (RFC 9868).
        for surplus in 1..40 {
            let mut packet = family.packet(IpNumber::UDP).sized(200).to_bytes();
            let length = header_len(family) + 4;
            let len = u16::try_from(200 - header_len(family) - surplus).expect("a short packet");
            packet[length..length + 2].copy_from_slice(&len.to_be_bytes());
            let description = format!("{family:?}, {surplus} bytes behind the datagram");
            cases.push(Case::forwards(description, family, &OVER_IPV6, &family.frame(packet)));
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn a_packet_with_headers_in_between_has_a_right_checksum_outside() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for protocol in PROTOCOLS {
        for words in 1..=10 {
            let options = [vec![1; words * 4 - 1], vec![0]].concat();
            let packet = Packet { options, ..Family::V4.packet(protocol) };
            let description = format!("{} in IPv4 behind {words} words of options", name(protocol));
            cases.push(Case::forwards(description, Family::V4, &OVER_IPV6, &Family::V4.frame(packet.to_bytes())));
        }
        for numbers in [&[0][..], &[60], &[43], &[0, 60], &[0, 60, 43, 60]] {
            // Bytes that would show if they were not added.
            let extension = |number: &u8| {
                let mut data = vec![0x5a; 14];
                if IpNumber(*number) == IpNumber::IPV6_ROUTE_HEADER {
                    // Nothing of the route is left.
                    data[1] = 0;
                }
                Extension { number: IpNumber(*number), data }
            };
            let packet = Packet { extensions: numbers.iter().map(extension).collect(), ..Family::V6.packet(protocol) };
            let description = format!("{} in IPv6 behind {numbers:?}", name(protocol));
            cases.push(Case::forwards(description, Family::V6, &OVER_IPV6, &Family::V6.frame(packet.to_bytes())));
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_not_sent_as_none() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = FAMILIES.map(|family| {
        // Two bytes that bring about any checksum that is wanted.
        let frame = |filler: u16| {
            let mut packet = without_checksum(family, header_len(family) + UdpHeader::LEN + 2);
            let end = packet.len() - 2;
            packet[end..].copy_from_slice(&filler.to_be_bytes());
            family.frame(packet)
        };
        let checksum = |frame: &Frame| {
            let packet = OVER_IPV6.delivery(frame).packet;
            u16::from_be_bytes([packet[OUTER_LEN + 6], packet[OUTER_LEN + 7]])
        };
        let frame = frame(checksum(&frame(0)));
        assert_eq!(checksum(&frame), 0xffff, "{family:?}");
        Case::forwards(format!("{family:?}"), family, &OVER_IPV6, &frame)
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_packet_that_is_wrong_inside_is_wrong_outside() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let whole = family.client_frame(protocol);
            // A byte of the payload; the checksum of the transport header; with IPv4, that of the IP header.
            let transport_checksum = header_len(family) + if protocol == IpNumber::TCP { 16 } else { 6 };
            let mut places = vec![whole.packet.len() - 1, transport_checksum];
            if family == Family::V4 {
                places.push(10);
            }
            for place in places {
                let mut damaged = whole.clone();
                damaged.packet[place] ^= 0xff;
                let mut expected = OVER_IPV6.delivery(&whole);
                expected.packet[OUTER_LEN + Gue::HEADERS_LEN + place] ^= 0xff;
                let mut case = Case::forwards(
                    format!("{} in {family:?} with a wrong byte {place}", name(protocol)),
                    family,
                    &OVER_IPV6,
                    &damaged,
                );
                case.expected.frame = expected.to_bytes();
                cases.push(case);
            }
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn random_packets_have_right_checksums_outside() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut random = fastrand::Rng::with_seed(11);
    let cases = (0..random_cases(4000)).map(|number| {
        let (family, outer) = (FAMILIES[random.usize(..2)], FAMILIES[random.usize(..2)]);
        let mut packet = family.packet(PROTOCOLS[random.usize(..2)]).traffic_class(random.u8(..));
        packet.source.set_port(random.u16(..));
        packet.payload = (0..random.usize(..1300)).map(|_| random.u8(..)).collect();
        let mut bytes = packet.to_bytes();
        if packet.protocol == IpNumber::UDP && random.bool() {
            bytes[header_len(family) + 6..header_len(family) + 8].fill(0);
        }
        let description = format!("random packet {number}: {family:?} over {outer:?}");
        Case::forwards(description, family, &Backend::gue_with_entropy(outer, 16), &family.frame(bytes))
    });
    check_all(&mut balancer, cases);
}

#[test]
fn the_port_is_the_one_of_the_row() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for outer in FAMILIES {
            for port in [1, 4754, 6080, 19_523, 65_535] {
                let Forwarding::Gue(tunnel, _) = Backend::gue(outer).forwarding else { unreachable!("it is GUE") };
                let backend = Backend { forwarding: Forwarding::Gue(tunnel, port), ..Backend::gue(outer) };
                let frame = family.client_frame(IpNumber::TCP);
                cases.push(Case::forwards(format!("{family:?} over {outer:?} to {port}"), family, &backend, &frame));
            }
        }
    }
    check_all(&mut balancer, cases);
}
