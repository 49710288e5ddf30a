//! Packets in Generic UDP Encapsulation: which are opened, which are the kernel's, and which nobody can use.

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpNumber, Ipv4Header};
use lb_common::DecapVerdict;

use super::{Case, Decapsulator, Mode, SOURCE_PORT, combinations, in_gue, outer_len, sum_up, tunnelled_by};
use crate::{
    backend::{GUE_PORT, Gue},
    case::check_all,
    frame::{Frame, Tag},
    packet::{Extension, Packet},
    world::{FAMILIES, Family, PROTOCOLS, name},
};

fn whole(inner: Family, outer: Family) -> Frame {
    tunnelled_by(Mode::Gue, &inner.client_frame(IpNumber::UDP), inner, outer, 0)
}

/// `inner`, a frame with a packet of `family`, in GUE over `outer` whose payload was changed before it was added up.
fn changed(inner: &Frame, family: Family, outer: Family, change: impl FnOnce(&mut Gue)) -> Frame {
    let mut gue = Gue::new(SOURCE_PORT, GUE_PORT, family, &inner.packet);
    change(&mut gue);
    in_gue(inner, gue, outer, 0, true)
}

fn changed_whole(inner: Family, outer: Family, change: impl FnOnce(&mut Gue)) -> Frame {
    changed(&inner.client_frame(IpNumber::UDP), inner, outer, change)
}

#[test]
fn the_headers_go_and_everything_else_stays() {
    let tags: [&[Tag]; 3] = [&[], &[Tag::customer(100)], &[Tag::customer(0xe000)]];
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        for (protocol, tags) in PROTOCOLS.into_iter().flat_map(|protocol| tags.map(|tags| (protocol, tags))) {
            for padding in [0, 9] {
                let frame = inner.client_frame(protocol).tagged(tags);
                let frame = Frame { padding: vec![0xee; padding], ..frame };
                let description = format!("{} in {inner:?} over {outer:?}, {tags:?}, {padding}", name(protocol));
                let tunnelled = tunnelled_by(Mode::Gue, &frame, inner, outer, 0);
                cases.push(Case::decapsulates(description, &tunnelled, &frame));
            }
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn packets_of_every_length_are_opened() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let cases = combinations().flat_map(|(inner, outer)| {
        PROTOCOLS.into_iter().flat_map(move |protocol| {
            (68..1400).step_by(7).map(move |len| {
                let frame = inner.frame(inner.packet(protocol).sized(len).to_bytes());
                let description = format!("{} of {len} bytes in {inner:?} over {outer:?}", name(protocol));
                Case::decapsulates(description, &tunnelled_by(Mode::Gue, &frame, inner, outer, 0), &frame)
            })
        })
    });
    check_all(&mut decapsulator, cases);
}

#[test]
fn without_a_checksum_it_is_opened_over_ipv4_and_left_to_the_kernel_over_ipv6() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let cases = combinations().map(|(inner, outer)| {
        let frame = inner.client_frame(IpNumber::TCP);
        let gue = Gue::new(SOURCE_PORT, GUE_PORT, inner, &frame.packet);
        let tunnelled = in_gue(&frame, gue, outer, 0, false);
        let description = format!("{inner:?} over {outer:?}");
        match outer {
            Family::V4 => Case::decapsulates(description, &tunnelled, &frame),
            Family::V6 => Case::leaves_alone(description, DecapVerdict::PassForKernel, tunnelled.to_bytes()),
        }
    });
    check_all(&mut decapsulator, cases);
}

/// Packets that do not say what they add up to: a name, the family, and the packet.
fn silent_packets() -> Vec<(&'static str, Family, Vec<u8>)> {
    let mut packets = Vec::new();
    for family in FAMILIES {
        for len in 100..140 {
            let mut packet = family.packet(IpNumber::UDP).sized(len).to_bytes();
            let checksum = outer_len(family) + 6;
            packet[checksum..checksum + 2].fill(0);
            packets.push(("a datagram without a checksum", family, packet));
        }
    }
    let mut fragment = Family::V4.packet(IpNumber::UDP).sized(203).to_bytes();
    let (mut header, _) = Ipv4Header::from_slice(&fragment).expect("an IPv4 header");
    header.more_fragments = true;
    header.header_checksum = header.calc_header_checksum();
    fragment[..Ipv4Header::MIN_LEN].copy_from_slice(&header.to_bytes());
    packets.push(("a fragment", Family::V4, fragment));

    let echo = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 2 }), b"ping");
    let echo = [&echo.to_bytes()[..], b"ping"].concat();
    let mut header = Ipv4Header::new(12, 9, IpNumber::ICMP, [198, 51, 100, 7], [203, 0, 113, 10]).expect("it fits");
    header.header_checksum = header.calc_header_checksum();
    packets.push(("a ping", Family::V4, [&header.to_bytes()[..], &echo].concat()));

    let extensions = vec![Extension { number: IpNumber::IPV6_DESTINATION_OPTIONS, data: vec![0x5a; 6] }];
    let packet = Packet { extensions, ..Family::V6.packet(IpNumber::TCP) };
    packets.push(("a segment behind an extension header", Family::V6, packet.to_bytes()));
    packets
}

#[test]
fn a_packet_that_does_not_say_what_it_adds_up_to_is_added_up() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (what, family, packet) in silent_packets() {
        for outer in FAMILIES {
            let frame = family.frame(packet.clone());
            let tunnelled = tunnelled_by(Mode::Gue, &frame, family, outer, 0);
            let description = format!("{what} ({} bytes) in {family:?} over {outer:?}", packet.len());
            cases.push(Case::decapsulates(description.clone(), &tunnelled, &frame));
            // Every byte counts, the last one, too.
            for back in [1, 2, 3, 4, 5, 9, 20] {
                let mut damaged = tunnelled.clone();
                let place = damaged.packet.len() - back;
                damaged.packet[place] ^= 0x40;
                let description = format!("{description}, {back} from its end damaged");
                cases.push(Case::drops(description, DecapVerdict::DropMalformed, damaged.to_bytes()));
            }
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn bytes_behind_the_packet_are_added_up_and_left_to_the_kernel_to_trim() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let mut frame = inner.client_frame(IpNumber::UDP);
        frame.packet.extend([0xaa; 5]);
        let tunnelled = tunnelled_by(Mode::Gue, &frame, inner, outer, 0);
        cases.push(Case::decapsulates(format!("{inner:?} with 5 bytes behind it over {outer:?}"), &tunnelled, &frame));
        // Behind the datagram, where no checksum reaches (RFC 9868).
        let mut surplus = changed_whole(inner, outer, |_| {});
        surplus.packet.extend([0xbb; 3]);
        let at = if outer == Family::V4 { 2 } else { 4 };
        let [high, low] = [surplus.packet[at], surplus.packet[at + 1]];
        let len = u16::from_be_bytes([high, low]) + 3;
        surplus.packet[at..at + 2].copy_from_slice(&len.to_be_bytes());
        if outer == Family::V4 {
            sum_up(&mut surplus);
        }
        let mut left = inner.client_frame(IpNumber::UDP);
        left.packet.extend([0xbb; 3]);
        cases.push(Case::decapsulates(format!("{inner:?} and a surplus over {outer:?}"), &surplus, &left));
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn one_wrong_bit_in_what_the_checksum_of_udp_is_for_is_found() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let udp = outer_len(outer) * 8;
        // Source port, checksum, the protocol that GUE names; over IPv6 the outer source, which has no other checksum.
        let source = if outer == Family::V6 { 8 * 8..24 * 8 } else { 0..0 };
        for bit in (udp..udp + 16).chain(udp + 48..udp + 64).chain(source) {
            let mut frame = whole(inner, outer);
            frame.packet[bit / 8] ^= 0x80 >> (bit % 8);
            let description = format!("{inner:?} over {outer:?} with bit {bit} flipped");
            cases.push(Case::drops(description, DecapVerdict::DropMalformed, frame.to_bytes()));
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn a_length_of_udp_that_cannot_be_is_dropped() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let own = inner.client_frame(IpNumber::UDP).packet.len() + Gue::HEADERS_LEN;
        for len in (0..own).chain([own + 1, own + 100, 0xffff]) {
            let len = u16::try_from(len).expect("sixteen bits");
            let mut frame = changed_whole(inner, outer, |gue| gue.udp.length = len);
            frame.padding = vec![0; 4];
            let description = format!("{inner:?} over {outer:?} with a length of {len}, not {own}");
            cases.push(Case::drops(description, DecapVerdict::DropMalformed, frame.to_bytes()));
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn a_header_that_announces_more_than_a_packet_is_the_kernels() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let protocol = inner.as_payload().0;
        let headers = [
            ("a control message", [0x20, protocol, 0, 0]),
            ("a header of one more word", [0x01, protocol, 0, 0]),
            ("a header of 31 more words", [0x1f, protocol, 0, 0]),
            ("a flag", [0, protocol, 0x80, 0]),
            ("the last flag", [0, protocol, 0, 1]),
            ("variant 1", [0x45, 0, 0, 60]),
            ("no next header", [0, 59, 0, 0]),
            ("Ethernet", [0, 143, 0, 0]),
            ("TCP", [0, 6, 0, 0]),
        ];
        for (what, header) in headers {
            let frame = changed_whole(inner, outer, |gue| gue.payload[..4].copy_from_slice(&header));
            let description = format!("{what} in front of {inner:?} over {outer:?}");
            cases.push(Case::leaves_alone(description, DecapVerdict::PassForKernel, frame.to_bytes()));
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn variants_that_do_not_exist_are_dropped() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let cases = combinations().flat_map(|(inner, outer)| {
        [0x80, 0xc0, 0xff].map(|first| {
            let frame = changed_whole(inner, outer, |gue| gue.payload[0] = first);
            let description = format!("{first:#04x} in front of {inner:?} over {outer:?}");
            Case::drops(description, DecapVerdict::DropMalformed, frame.to_bytes())
        })
    });
    check_all(&mut decapsulator, cases);
}

#[test]
fn a_packet_that_is_not_what_the_headers_say_is_dropped() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let other = if inner == Family::V4 { Family::V6 } else { Family::V4 };
        let swapped = changed_whole(inner, outer, |gue| gue.payload[1] = other.as_payload().0);
        cases.push((format!("{inner:?} called {other:?} over {outer:?}"), swapped));
        let own = inner.client_frame(IpNumber::UDP).packet.len();
        let (at, own) = if inner == Family::V4 { (4 + 2, own) } else { (4 + 4, own - 40) };
        for claimed in [own + 1, own + 100, 0xffff] {
            let claimed = u16::try_from(claimed).expect("sixteen bits");
            let frame =
                changed_whole(inner, outer, |gue| gue.payload[at..at + 2].copy_from_slice(&claimed.to_be_bytes()));
            cases.push((format!("{inner:?} that claims {claimed} of {own} bytes over {outer:?}"), frame));
        }
    }
    let drops =
        |(description, frame): (String, Frame)| Case::drops(description, DecapVerdict::DropMalformed, frame.to_bytes());
    check_all(&mut decapsulator, cases.into_iter().map(drops));
}

#[test]
fn other_ports_and_outer_fragments_pass() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        for port in [0, 53, GUE_PORT - 1, GUE_PORT + 1, GUE_PORT.swap_bytes()] {
            let frame = changed_whole(inner, outer, |gue| gue.udp.destination_port = port);
            let description = format!("{inner:?} over {outer:?} to port {port}");
            cases.push(Case::leaves_alone(description, DecapVerdict::PassNotTunnel, frame.to_bytes()));
        }
        if outer == Family::V4 {
            let mut fragment = whole(inner, outer);
            fragment.packet[6..8].copy_from_slice(&0x2000_u16.to_be_bytes());
            sum_up(&mut fragment);
            let description = format!("a fragment of {inner:?}");
            cases.push(Case::leaves_alone(description, DecapVerdict::PassForKernel, fragment.to_bytes()));
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn the_port_is_the_one_that_was_asked_for() {
    const OTHER: u16 = 19_523;
    let Some(mut decapsulator) = Decapsulator::with(&[], OTHER) else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let frame = inner.client_frame(IpNumber::UDP);
        let there = changed(&frame, inner, outer, |gue| gue.udp.destination_port = OTHER);
        cases.push(Case::decapsulates(format!("{inner:?} over {outer:?} to {OTHER}"), &there, &frame));
        let description = format!("{inner:?} over {outer:?} to {GUE_PORT}");
        let elsewhere = whole(inner, outer).to_bytes();
        cases.push(Case::leaves_alone(description, DecapVerdict::PassNotTunnel, elsewhere));
    }
    check_all(&mut decapsulator, cases);
}
