//! Services of ICMP echo whose packets are not translated, and all other messages of ICMP.

use std::ops::Range;

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber,
    icmpv6::{NeighborAdvertisementHeader, RouterAdvertisementHeader},
};
use lb_common::{BackendId, ServiceKey, SlotWord, Verdict, layout};

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case, HASH_KEY, key},
    frame::Frame,
    oracle::flow_hash,
    packet::{Echo, Extension, Packet},
    world::{BACKEND, FAMILIES, Family, SERVICE},
};

fn keys() -> [ServiceKey; 2] {
    FAMILIES.map(|family| key(family.virtual_ip(), 0, IpNumber::ICMP))
}

/// With a service of ICMP at the virtual IPs of both families, beside those of TCP and UDP.
fn balancer() -> Option<Balancer> {
    let mut balancer = Balancer::with_one_backend()?;
    let owners = vec![SlotWord::stable(BACKEND); layout::MIN_SLOTS as usize];
    let service = balancer.put_slots(SERVICE, &owners);
    balancer.put_services(keys(), service);
    Some(balancer)
}

fn request(family: Family) -> Packet {
    family.packet(IpNumber::ICMP)
}

#[test]
fn a_request_leaves_for_its_backend_in_every_mode() {
    let Some(mut balancer) = balancer() else { return };
    let tunnels = FAMILIES.map(Backend::tunnel).into_iter().chain(FAMILIES.map(Backend::gue));
    let backends: Vec<Backend> = tunnels.chain([Backend::L2_DSR]).collect();
    let cases = FAMILIES.into_iter().flat_map(|family| {
        let sized = [48, 49, 84, 1300].map(|len| family.frame(request(family).sized(len).to_bytes()));
        let cases = backends.iter().flat_map(move |backend| {
            let sized = sized.clone();
            sized
                .map(|frame| Case::forwards(format!("an echo over {family:?} by {backend:?}"), family, backend, &frame))
        });
        cases.collect::<Vec<_>>()
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_request_behind_options_or_extension_headers_is_one_too() {
    let Some(mut balancer) = balancer() else { return };
    let options = Packet { options: vec![1; 8], ..request(Family::V4) };
    let extension = Extension { number: IpNumber::IPV6_DESTINATION_OPTIONS, data: vec![1, 4, 0, 0, 0, 0] };
    let extended = Packet { extensions: vec![extension], ..request(Family::V6) };
    let cases = [(Family::V4, options), (Family::V6, extended)].map(|(family, packet)| {
        let frame = family.frame(packet.to_bytes());
        Case::forwards(format!("an echo with more headers, {family:?}"), family, &Backend::L2_DSR, &frame)
    });
    check_all(&mut balancer, cases);
}

#[test]
fn the_slot_follows_from_addresses_and_identifier() {
    const IDENTIFIERS: Range<u16> = 0..200;
    let Some(mut balancer) = Balancer::empty() else { return };
    let numbers: Vec<u8> = (1..=4).collect();
    let owners: Vec<SlotWord> =
        (0..layout::MIN_SLOTS).map(|slot| SlotWord::stable(BackendId::truncate(slot % 4 + 1))).collect();
    let service = balancer.put_slots(SERVICE, &owners);
    balancer.put_services(keys(), service);
    for number in &numbers {
        balancer.put_row(BackendId::truncate((*number).into()), &Backend::numbered(*number).row(Family::V4));
    }
    for family in FAMILIES {
        for identifier in IDENTIFIERS {
            let mut packet = request(family);
            packet.source.set_port(identifier);
            let frame = family.frame(packet.to_bytes());
            let expected = flow_hash(HASH_KEY, &frame.packet) % 4 + 1;
            assert_eq!(balancer.reached(&frame.to_bytes()).map(u64::from), Some(expected), "{family:?} {identifier}");
            let later = Packet { echo: Echo::Request(999), payload: vec![7; 99], ..packet };
            let later = family.frame(later.to_bytes()).to_bytes();
            assert_eq!(balancer.reached(&later).map(u64::from), Some(expected), "the same flow");
        }
    }
}

/// A message with these bytes in place of the echo.
fn message(family: Family, bytes: &[u8]) -> Frame {
    let len = request(family).to_bytes().len() - request(family).payload.len() - 8;
    let mut packet = request(family).to_bytes();
    packet.truncate(len);
    packet.extend(bytes);
    let total = u16::try_from(packet.len()).expect("a short packet");
    match family {
        Family::V4 => packet[2..4].copy_from_slice(&total.to_be_bytes()),
        Family::V6 => packet[4..6].copy_from_slice(&(total - 40).to_be_bytes()),
    }
    family.frame(packet)
}

/// Types of ICMP that are no echo, errors and time stamps and all that have no meaning; and an echo with a code that has none.
#[test]
fn all_other_messages_pass() {
    let Some(mut balancer) = balancer() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        let echoes = if family == Family::V4 { [8, 0] } else { [128, 129] };
        for kind in 0..=u8::MAX {
            for code in [0, 1, 255] {
                if echoes.contains(&kind) && code == 0 {
                    continue;
                }
                let frame = message(family, &[kind, code, 0, 0, 0x12, 0x34, 0, 1, 0xaa, 0xbb]).to_bytes();
                let description = format!("type {kind}, code {code} over {family:?} passes");
                cases.push(Case::passes(description, Verdict::PassOtherProtocol, frame));
            }
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn neighbour_discovery_passes() {
    let Some(mut balancer) = balancer() else { return };
    let target = [0x20; 16];
    let kinds: [(&str, Icmpv6Type, Vec<u8>); 5] = [
        ("a router solicitation", Icmpv6Type::RouterSolicitation, vec![1, 1, 2, 0, 0, 0, 0, 2]),
        (
            "a router advertisement",
            Icmpv6Type::RouterAdvertisement(RouterAdvertisementHeader::from_bytes([64, 0, 7, 8])),
            vec![0; 8],
        ),
        ("a neighbour solicitation", Icmpv6Type::NeighborSolicitation, target.into()),
        (
            "a neighbour advertisement",
            Icmpv6Type::NeighborAdvertisement(NeighborAdvertisementHeader::from_bytes([0x60, 0, 0, 0])),
            target.into(),
        ),
        ("a redirect", Icmpv6Type::Redirect, [target, target].concat()),
    ];
    let cases = kinds.map(|(what, kind, body)| {
        let (source, destination) = match (Family::V6.client(), Family::V6.virtual_ip()) {
            (std::net::IpAddr::V6(source), std::net::IpAddr::V6(destination)) => {
                (source.octets(), destination.octets())
            }
            _ => unreachable!("IPv6 addresses"),
        };
        let header = Icmpv6Header::with_checksum(kind, source, destination, &body).expect("a short payload");
        let frame = message(Family::V6, &[&header.to_bytes()[..], &body].concat());
        Case::passes(format!("{what} passes"), Verdict::PassOtherProtocol, frame.to_bytes())
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_reply_to_a_virtual_ip_is_no_request_and_passes() {
    let Some(mut balancer) = balancer() else { return };
    let cases = FAMILIES.into_iter().flat_map(|family| {
        [0, 1, 443, 50_123].map(|identifier| {
            let mut reply = Packet { echo: Echo::Reply(1), ..request(family) };
            reply.destination.set_port(identifier);
            let frame = family.frame(reply.to_bytes()).to_bytes();
            Case::passes(format!("a reply with identifier {identifier} over {family:?}"), Verdict::PassNoService, frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_message_that_ends_before_its_header_does_passes() {
    let Some(mut balancer) = balancer() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        let whole = message(family, &request(family).to_bytes()[request(family).to_bytes().len() - 13..]);
        let headers = whole.packet.len() - 13;
        for len in 0..8 {
            let bytes = &whole.packet[headers..headers + len];
            let description = format!("{len} bytes of an echo over {family:?} pass");
            let mut frame = message(family, bytes);
            cases.push(Case::passes(description.clone(), Verdict::PassMalformed, frame.to_bytes()));
            // Ethernet padding looks like the rest of it.
            frame.padding = whole.packet[headers + len..].to_vec();
            cases.push(Case::passes(description + ", padded", Verdict::PassMalformed, frame.to_bytes()));
        }
    }
    check_all(&mut balancer, cases);
}

/// Each family has its own number.
#[test]
fn a_message_in_the_other_family_passes() {
    let Some(mut balancer) = balancer() else { return };
    let echo = IcmpEchoHeader { id: 7, seq: 1 };
    let v4 = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &[]).to_bytes().to_vec();
    let v6 = Icmpv6Header::new(Icmpv6Type::EchoRequest(echo)).to_bytes().to_vec();
    let cases = [(Family::V4, IpNumber::IPV6_ICMP, 9), (Family::V6, IpNumber::ICMP, 6)].into_iter();
    let cases = cases.flat_map(|(family, number, at)| {
        [&v4, &v6].map(|bytes| {
            let mut frame = message(family, bytes);
            frame.packet[at] = number.0;
            Case::passes(format!("{number:?} over {family:?} passes"), Verdict::PassOtherProtocol, frame.to_bytes())
        })
    });
    check_all(&mut balancer, cases.collect::<Vec<_>>());
}

#[test]
fn fragments_pass() {
    let Some(mut balancer) = balancer() else { return };
    let mut v4 = Family::V4.frame(request(Family::V4).sized(1300).to_bytes());
    let first = {
        v4.packet[6] |= 0x20;
        v4.to_bytes()
    };
    let extension = Extension { number: IpNumber::IPV6_FRAGMENTATION_HEADER, data: vec![0, 1, 0, 0, 0, 9] };
    let v6 = Packet { extensions: vec![extension], ..request(Family::V6) };
    let cases = [
        Case::passes("the first fragment of an echo over IPv4", Verdict::PassFragment, first),
        Case::passes(
            "the first fragment of an echo over IPv6",
            Verdict::PassFragment,
            Family::V6.frame(v6.to_bytes()).to_bytes(),
        ),
    ];
    check_all(&mut balancer, cases);
}
