//! Headers that contradict themselves or the frame.

use etherparse::IpNumber;
use lb_common::Verdict;

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case},
    frame::Frame,
    packet::{Extension, Packet},
    world::{FAMILIES, Family, PROTOCOLS, name},
};

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;

fn transport_header_len(protocol: IpNumber) -> usize {
    if protocol == IpNumber::TCP { 20 } else { 8 }
}

/// Sets the length field of the IP header so that the packet is said to be `len` bytes long.
fn claim(family: Family, frame: &mut Frame, len: usize) {
    let (range, value) = match family {
        Family::V4 => (2..4, len),
        Family::V6 => (4..6, len - IPV6_HEADER_LEN),
    };
    frame.packet[range].copy_from_slice(&u16::try_from(value).expect("sixteen bits").to_be_bytes());
}

fn malformed(description: String, frame: &Frame) -> Case {
    Case::passes(description, Verdict::PassMalformed, frame.to_bytes())
}

#[test]
fn another_version_than_the_ethernet_type_says_is_malformed() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for (family, own_version) in FAMILIES.into_iter().zip([4, 6]) {
        for version in (0..16).filter(|version| *version != own_version) {
            let mut frame = family.client_frame(IpNumber::TCP);
            frame.packet[0] = frame.packet[0] & 0xf | version << 4;
            cases.push(malformed(format!("{family:?} with version {version} passes"), &frame));
        }
        let other = if family == Family::V4 { Family::V6 } else { Family::V4 };
        let mixed_up = Frame { ether_type: other.ether_type(), ..family.client_frame(IpNumber::TCP) };
        cases.push(malformed(format!("{family:?} in a frame of type {other:?} passes"), &mixed_up));
    }
    check_all(&mut balancer, cases);
}

#[test]
fn an_ipv4_header_length_below_five_or_beyond_the_packet_is_malformed() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = (0..5).chain(7..16).map(|words| {
        let mut frame = Family::V4.client_frame(IpNumber::TCP);
        frame.packet[0] = 0x40 | words;
        malformed(format!("a header of {words} words passes"), &frame)
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_length_beyond_the_frame_is_malformed() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let whole = family.client_frame(protocol);
            let most = if family == Family::V4 { 0xffff } else { 0xffff + IPV6_HEADER_LEN };
            for len in (whole.packet.len() + 1..whole.packet.len() + 300).chain([0x8000, 0xfff0, most]) {
                let mut frame = whole.clone();
                claim(family, &mut frame, len);
                cases.push(malformed(
                    format!("{} over {family:?} that claims {len} bytes passes", name(protocol)),
                    &frame,
                ));
            }
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn a_length_below_the_headers_is_malformed_and_any_other_counts() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for (family, header_len) in FAMILIES.into_iter().zip([IPV4_HEADER_LEN, IPV6_HEADER_LEN]) {
        for protocol in PROTOCOLS {
            let whole = family.client_frame(protocol);
            let shortest = if family == Family::V4 { 0 } else { header_len };
            for len in shortest..whole.packet.len() {
                let mut frame = whole.clone();
                claim(family, &mut frame, len);
                let description = format!("{} over {family:?} that claims {len} bytes", name(protocol));
                if len < header_len + transport_header_len(protocol) {
                    cases.push(malformed(description + " passes", &frame));
                } else {
                    // What is behind is padding.
                    frame.padding = frame.packet.split_off(len);
                    cases.push(Case::forwards(description + " leaves", family, &Backend::tunnel(Family::V4), &frame));
                }
            }
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn an_extension_header_that_runs_out_of_the_packet_is_malformed() {
    const EXTENSION_LEN_OFFSET: usize = IPV6_HEADER_LEN + 1;
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let headers = [IpNumber::IPV6_HEADER_HOP_BY_HOP, IpNumber::IPV6_ROUTE_HEADER, IpNumber::IPV6_DESTINATION_OPTIONS];
    let cases = headers.into_iter().flat_map(|number| {
        (1..=u8::MAX).map(move |units| {
            // Padding; of a route the second byte says how much of it is left.
            let data = if number == IpNumber::IPV6_ROUTE_HEADER { vec![0; 6] } else { vec![1, 4, 0, 0, 0, 0] };
            let extensions = vec![Extension { number, data }];
            let mut frame = Family::V6.frame(Packet { extensions, ..Family::V6.packet(IpNumber::TCP) }.to_bytes());
            frame.packet[EXTENSION_LEN_OFFSET] = units;
            malformed(format!("{number:?} that claims {units} more units of eight bytes passes"), &frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn an_extension_header_behind_the_end_of_the_packet_is_not_read() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    // All that a service's packet has, but the IP header says that it ends before.
    let extensions = vec![Extension { number: IpNumber::IPV6_DESTINATION_OPTIONS, data: vec![1, 4, 0, 0, 0, 0] }];
    let whole = Family::V6.frame(Packet { extensions, ..Family::V6.packet(IpNumber::UDP) }.to_bytes());
    let end = IPV6_HEADER_LEN + 8 + transport_header_len(IpNumber::UDP);
    let cases = (IPV6_HEADER_LEN..end).map(|len| {
        let mut frame = whole.clone();
        claim(Family::V6, &mut frame, len);
        malformed(format!("a packet that ends after {len} of {end} bytes of headers passes"), &frame)
    });
    check_all(&mut balancer, cases);
}
