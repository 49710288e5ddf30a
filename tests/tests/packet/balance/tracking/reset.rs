//! The reset that a segment gets whose backend is gone, field by field as RFC 9293, section 3.5.2 wants it.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader};
use fastrand::Rng;
use lb_common::{BackendRow, Condition, Verdict};

use crate::{
    backend::{Backend, Forwarding},
    case::{Action, Outcome, check_all},
    fixture::{self, Balancer},
    frame::{Frame, Tag},
    packet::{Extension, Packet, Segment, flags},
    random_cases,
    world::{BACKEND, FAMILIES, Family},
};

use super::scene::{CURRENT, Case, Gone, Scene, Slot, Tracker, frame, segment};

use flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

/// Length of a TCP header without options.
const TCP_LEN: u16 = 20;
/// Time to live of what the balancer sends itself.
const TTL: u8 = 64;

/// The answer to `packet`, which came in `frame`.
pub(super) fn reset_of(frame: &Frame, packet: &Packet) -> Frame {
    let Segment { flags, sequence, acknowledgment, .. } = packet.segment;
    let length = u32::try_from(packet.payload.len()).expect("a short payload");
    let length = length + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let from_and_to = TcpHeader::new(packet.destination.port(), packet.source.port(), 0, 0);
    let mut tcp = if flags & ACK == 0 {
        // <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
        TcpHeader { ack: true, acknowledgment_number: sequence.wrapping_add(length), ..from_and_to }
    } else {
        // <SEQ=SEG.ACK><CTL=RST>
        TcpHeader { sequence_number: acknowledgment, ..from_and_to }
    };
    tcp.rst = true;
    let answer = match (packet.destination.ip(), packet.source.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [source, destination] = [source.octets(), destination.octets()];
            let mut ip = Ipv4Header::new(TCP_LEN, TTL, IpNumber::TCP, source, destination).expect("a short payload");
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).expect("a short payload");
            [&ip.to_bytes()[..], &tcp.to_bytes()].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = Ipv6Header {
                payload_length: TCP_LEN,
                next_header: IpNumber::TCP,
                hop_limit: TTL,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            tcp.checksum = tcp.calc_checksum_ipv6(&ip, &[]).expect("a short payload");
            [&ip.to_bytes()[..], &tcp.to_bytes()].concat()
        }
        mixed => panic!("{mixed:?} are of two families"),
    };
    Frame { destination: frame.source, source: frame.destination, packet: answer, padding: Vec::new(), ..frame.clone() }
}

/// `packet` in `frame`, for a backend that resets, is answered.
fn answered(description: String, packet: &Packet, frame: &Frame) -> Case {
    let answer = reset_of(frame, packet).to_bytes();
    Case {
        description,
        frame: frame.to_bytes(),
        expected: Outcome::untracked(Action::Transmit, vec![(Verdict::Reset, 1)], Vec::new(), answer),
        setup: Scene::new(Slot::Stable, packet).without(CURRENT, Gone::Resetting),
    }
}

/// Sequence numbers at which sums could go wrong.
const NUMBERS: [u32; 6] = [0, 1, 0x1234_5678, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff];

const ANSWERED: [(&str, u8); 12] = [
    ("a SYN", SYN),
    ("a SYN that asks for ECN", SYN | ECE | CWR),
    ("a SYN-ACK", SYN | ACK),
    ("an ACK", ACK),
    ("an ACK with PSH", ACK | PSH),
    ("an ACK with URG and ECE", ACK | URG | ECE),
    ("a FIN", FIN),
    ("a FIN with ACK", FIN | ACK),
    ("a SYN with FIN", SYN | FIN),
    ("a SYN with FIN and ACK", SYN | FIN | ACK),
    ("no flag", 0),
    ("every flag but RST", !RST),
];

#[test]
fn with_an_ack_the_reset_starts_there_and_without_one_it_acknowledges_all_that_came() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for (name, flags) in ANSWERED {
            for payload in ["", "1", "some data"] {
                for sequence in NUMBERS {
                    for acknowledgment in NUMBERS {
                        let mut packet = segment(family, flags, payload);
                        packet.segment = Segment { sequence, acknowledgment, ..packet.segment };
                        let description = format!(
                            "{name} over {family:?} with {} bytes of data, sequence {sequence:#x}, acknowledgment {acknowledgment:#x}",
                            payload.len()
                        );
                        cases.push(answered(description, &packet, &frame(&packet)));
                    }
                }
            }
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn options_and_extension_headers_are_not_answered_and_tags_are() {
    let Some(mut tracker) = Tracker::new() else { return };
    let padding = |bytes: u8| {
        let mut data = vec![0; usize::from(bytes)];
        // One padding option over all of it (RFC 8200, section 4.2).
        data[..2].copy_from_slice(&[1, bytes - 2]);
        Extension { number: IpNumber::IPV6_DESTINATION_OPTIONS, data }
    };
    let hop_by_hop = Extension { number: IpNumber::IPV6_HEADER_HOP_BY_HOP, data: vec![1, 4, 0, 0, 0, 0] };
    let v4 = |words: usize| (format!("IPv4 with {words} words of options"), Family::V4, vec![1; 4 * words], Vec::new());
    let v6 = |name: &str, extensions| (format!("IPv6 with {name}"), Family::V6, Vec::new(), extensions);
    let headers = [
        v4(0),
        v4(1),
        v4(10),
        v6("no extension header", Vec::new()),
        v6("an extension header", vec![padding(6)]),
        v6("a long extension header", vec![padding(62)]),
        v6("two extension headers", vec![hop_by_hop.clone(), padding(14)]),
        v6("four extension headers", vec![hop_by_hop, padding(6), padding(6), padding(30)]),
    ];
    let tags: [&[Tag]; 4] = [
        &[],
        &[Tag::customer(0xe064)],
        &[Tag::service(200), Tag::customer(100)],
        &[Tag::customer(200), Tag::customer(100)],
    ];
    let mut cases = Vec::new();
    for (name, family, options, extensions) in headers {
        for tags in tags {
            for option_words in [0, 1, 10] {
                for (flags, payload) in [(SYN, ""), (ACK, ""), (SYN, "early"), (ACK | FIN, "bye")] {
                    let mut packet = segment(family, flags, payload).traffic_class(0xb9);
                    packet.options.clone_from(&options);
                    packet.extensions.clone_from(&extensions);
                    packet.segment.options = vec![1; 4 * option_words];
                    let frame = frame(&packet).tagged(tags).padded();
                    let description = format!(
                        "{name} behind {} tags, {option_words} words of TCP options, flags {flags:#x}, {payload:?}",
                        tags.len()
                    );
                    cases.push(answered(description, &packet, &frame));
                }
            }
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn segments_of_every_length_are_answered() {
    let Some(mut tracker) = Tracker::new() else { return };
    let cases = FAMILIES.into_iter().flat_map(|family| {
        let lengths = (60..=1500).step_by(7).chain([65, 1499]);
        lengths.map(move |len| {
            let packet = segment(family, PSH, "").sized(len);
            answered(format!("{len} bytes over {family:?}"), &packet, &frame(&packet))
        })
    });
    check_all(&mut tracker, cases);
}

#[test]
fn a_local_backend_resets_like_any_other() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let local = Backend { forwarding: Forwarding::Local, ..Backend::L2_DSR };
    let cases = FAMILIES.map(|family| {
        let packet = segment(family, ACK, "");
        let answered = answered(format!("an ACK over {family:?} for a local backend"), &packet, &frame(&packet));
        fixture::Case {
            description: answered.description,
            setup: vec![(BACKEND, Some(BackendRow { condition: Condition::RESET, ..local.row(family) }))],
            frame: answered.frame,
            expected: answered.expected,
        }
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_reset_is_not_answered() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for others in [0, ACK, SYN, FIN, SYN | ACK, FIN | ACK, !RST] {
            for payload in ["", "why"] {
                let packet = segment(family, RST | others, payload);
                let frame = frame(&packet).to_bytes();
                cases.push(Case {
                    description: format!("a RST over {family:?}, other flags {others:#x}, {payload:?}"),
                    expected: Outcome::dropped(Verdict::DropBackendGone, &frame),
                    frame,
                    setup: Scene::new(Slot::Stable, &packet).without(CURRENT, Gone::Resetting),
                });
            }
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn a_header_length_that_contradicts_the_packet_does_not_make_data_of_it() {
    // Where the length of the header stands, in its upper half, in words.
    const DATA_OFFSET: usize = 12;
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for words in 0..16_u8 {
            let mut packet = segment(family, 0, "");
            let mut frame = frame(&packet);
            let tcp = frame.packet.len() - usize::from(TCP_LEN);
            frame.packet[tcp + DATA_OFFSET] = words << 4;
            packet.payload.clear();
            cases.push(answered(
                format!("a header of {words} words over {family:?}, of which 5 came"),
                &packet,
                &frame,
            ));
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn random_segments_are_answered() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut random = Rng::with_seed(5);
    let cases = (0..random_cases(1000)).map(|number| {
        let family = FAMILIES[random.usize(..2)];
        let mut packet = segment(family, random.u8(..) & !RST, "");
        match family {
            Family::V4 => packet.source.set_ip(IpAddr::V4(random.u32(..).into())),
            // None that stands for an IPv4 address.
            Family::V6 => packet.source.set_ip(IpAddr::V6((random.u128(..) | 1 << 127).into())),
        }
        packet.source.set_port(random.u16(..));
        packet.segment.sequence = random.u32(..);
        packet.segment.acknowledgment = random.u32(..);
        packet.payload = (0..random.usize(..600)).map(|_| random.u8(..)).collect();
        answered(format!("segment {number}"), &packet, &frame(&packet))
    });
    check_all(&mut tracker, cases.collect::<Vec<_>>());
}
