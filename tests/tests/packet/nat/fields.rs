//! What a packet's headers have besides addresses and ports.

use std::process::Command;

use etherparse::IpNumber;
use lb_common::Verdict;
use lb_tests::lab::run;

use super::scene::{BACKEND_MAC, Scene, Setup, assert_sent, endpoints};
use crate::{
    case::{Action, Datapath as _},
    frame::{Frame, Tag},
    packet::{Extension, Header, Packet, flags},
    world::{FAMILIES, Family, PROTOCOLS, ROUTER_MAC},
};

/// Where the checksum of a UDP header stands, behind a header of that length.
fn without_udp_checksum(packet: &Packet, header_len: usize) -> Vec<u8> {
    let mut bytes = packet.to_bytes();
    bytes[header_len + 6..header_len + 8].fill(0);
    bytes
}

#[test]
fn options_stay_in_their_family_and_are_left_out_in_the_other() {
    for backend in FAMILIES {
        let Some(mut scene) = Scene::new(Setup::full(Family::V4, backend)) else { return };
        for protocol in PROTOCOLS {
            for len in (0..=40).step_by(4) {
                let request = Packet { options: vec![1; len], ..scene.request(protocol) };
                let outcome = scene.send(&request);
                let source = endpoints(&outcome.frame).0;
                assert_sent(&format!("{len} bytes to {backend:?}"), &outcome, &scene.for_backend(&request, source));
            }
        }
    }
}

/// RFC 7915, section 5.1.
#[test]
fn extension_headers_stay_in_ipv6_and_are_left_out_in_ipv4() {
    for backend in FAMILIES {
        let Some(mut scene) = Scene::new(Setup::full(Family::V6, backend)) else { return };
        for protocol in PROTOCOLS {
            for number in
                [IpNumber::IPV6_HEADER_HOP_BY_HOP, IpNumber::IPV6_DESTINATION_OPTIONS, IpNumber::IPV6_ROUTE_HEADER]
            {
                // Options that are padding, or a route of type 1 that has come to its end.
                let extensions = [vec![1, 0, 0, 0, 0, 0], vec![1, 0, 0, 0, 0, 0, 1, 6, 0, 0, 0, 0, 0, 0]];
                for extensions in extensions.map(|data| vec![Extension { number, data }]) {
                    let request = Packet { extensions, ..scene.request(protocol) };
                    let outcome = scene.send(&request);
                    let source = endpoints(&outcome.frame).0;
                    let expected = match backend {
                        Family::V6 => request,
                        Family::V4 => Packet { extensions: Vec::new(), ..request },
                    };
                    assert_sent(&format!("{number:?}"), &outcome, &scene.for_backend(&expected, source));
                }
            }
        }
    }
}

/// RFC 7915, section 4.1, and RFC 791, section 3.1.
#[test]
fn a_source_route_that_has_not_come_to_its_end_is_not_translated_to_ipv6() {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let route = |kind, pointer| vec![kind, 7, pointer, 10, 0, 0, 1];
    let behind = |mut options: Vec<u8>, rest: Vec<u8>| {
        options.extend(rest);
        options.resize(options.len().next_multiple_of(4), 0);
        options
    };
    let record_route = vec![7, 7, 4, LOOSE, 7, 4, 0];
    let table = [
        (behind(Vec::new(), route(LOOSE, 4)), true),
        (behind(Vec::new(), route(STRICT, 4)), true),
        (behind(vec![1; 21], route(STRICT, 4)), true),
        (behind(record_route.clone(), route(LOOSE, 4)), true),
        (behind(Vec::new(), route(LOOSE, 8)), false),
        (behind(Vec::new(), route(STRICT, 8)), false),
        (behind(record_route, Vec::new()), false),
        (behind(vec![0], route(LOOSE, 4)), false),
    ];
    for backend in FAMILIES {
        let Some(mut scene) = Scene::new(Setup::full(Family::V4, backend)) else { return };
        for (options, has_route) in &table {
            let request = Packet { options: options.clone(), ..scene.request(IpNumber::UDP) };
            let outcome = scene.send(&request);
            if *has_route && backend == Family::V6 {
                assert_eq!(
                    (outcome.action, &outcome.verdicts[..]),
                    (Action::Drop, &[(Verdict::DropUntranslatable, 1)][..]),
                    "{options:?}"
                );
            } else {
                let source = endpoints(&outcome.frame).0;
                assert_sent(&format!("{options:?}"), &outcome, &scene.for_backend(&request, source));
            }
        }
    }
}

#[test]
fn traffic_class_and_ecn_are_carried_through() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        for traffic_class in [0x01, 0x02, 0x03, 0xb8, 0xff] {
            let request = scene.request(IpNumber::TCP).traffic_class(traffic_class);
            let source = scene.source_of(&request);
            let reply = scene.reply(IpNumber::TCP, source).with_flags(flags::SYN | flags::ACK, 1, 1);
            let reply = reply.traffic_class(traffic_class);
            assert_sent("to the client", &scene.answer(&reply), &scene.for_client(&reply, request.source).to_bytes());
            let outcome = scene.send(&request);
            assert_sent("to the backend", &outcome, &scene.for_backend(&request, source));
        }
    }
}

#[test]
fn a_packet_is_one_hop_older_and_the_last_hop_is_its_end() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        let with = |packet: Packet, hop_limit| Packet { header: Header { hop_limit, ..packet.header }, ..packet };
        for hop_limit in [2, 64, 255] {
            let request = with(scene.request(IpNumber::UDP), hop_limit);
            let outcome = scene.send(&request);
            let source = endpoints(&outcome.frame).0;
            assert_sent("hops are left", &outcome, &scene.for_backend(&request, source));
        }
        for hop_limit in [0, 1] {
            let outcome = scene.send(&with(scene.request(IpNumber::UDP), hop_limit));
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropHopLimit, 1)][..]));
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_so_over_ipv4_and_gets_one_over_ipv6() {
    for backend in FAMILIES {
        let Some(mut scene) = Scene::new(Setup::full(Family::V4, backend)) else { return };
        for len in (0..40).chain([511, 512, 513, 1300]) {
            let request = Packet { payload: vec![0xa7; len], ..scene.request(IpNumber::UDP) };
            let frame = Family::V4.frame(without_udp_checksum(&request, 20));
            let outcome = scene.balancer.run(&frame.to_bytes());
            let source = endpoints(&outcome.frame).0;
            let mut expected = scene.for_backend(&request, source);
            if backend == Family::V4 {
                expected[14 + 20 + 6..14 + 20 + 8].fill(0);
            }
            assert_sent(&format!("{len} bytes to {backend:?}"), &outcome, &expected);
        }
    }
}

/// A sum of zero is sent as all ones, since zero says that there is none (RFC 768).
#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_its_other_form() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        let request = scene.request(IpNumber::UDP);
        let source = scene.source_of(&request);
        let header_len = if setup.backend == Family::V4 { 20 } else { 40 };
        let checksum_of = |frame: &[u8]| [frame[14 + header_len + 6], frame[14 + header_len + 7]];
        let with = |word: u16| Packet { payload: word.to_be_bytes().to_vec(), ..request.clone() };
        let hit = (0..=u16::MAX).map(with).find(|packet| checksum_of(&scene.for_backend(packet, source)) == [0xff; 2]);
        let request = hit.expect("one payload makes it so");
        assert_sent("the sum is zero", &scene.send(&request), &scene.for_backend(&request, source));
    }
}

#[test]
fn tags_of_the_backend_are_written_and_those_of_the_client_come_back() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(Setup { vlan: 0x2007, ..setup }) else { return };
        for tci in [None, Some(0x0005), Some(0xe123)] {
            let request = scene.request(IpNumber::TCP);
            let tags: Vec<Tag> = tci.map(Tag::customer).into_iter().collect();
            let frame = setup.client.frame(request.to_bytes()).tagged(&tags);
            let outcome = scene.balancer.run(&frame.to_bytes());
            let source = endpoints(&outcome.frame).0;
            assert_sent("to the backend", &outcome, &scene.for_backend(&request, source));
            let reply = scene.reply(IpNumber::TCP, source).with_flags(flags::SYN | flags::ACK, 1, 1);
            let frame = Frame { source: BACKEND_MAC, ..setup.backend.frame(reply.to_bytes()) };
            let outcome = scene.balancer.run(&frame.tagged(&[Tag::customer(7)]).to_bytes());
            let expected = scene.for_client(&reply, request.source).tagged(&tags);
            assert_sent("to the client", &outcome, &expected.to_bytes());
        }
    }
}

#[test]
fn replies_go_to_the_router_that_the_last_packet_came_from() {
    let Some(mut scene) = Scene::new(Setup::full(Family::V4, Family::V4)) else { return };
    let request = scene.request(IpNumber::UDP);
    for router in [ROUTER_MAC, [0x02, 0, 0, 0, 0, 0x77], ROUTER_MAC] {
        let frame = Frame { source: router, ..Family::V4.frame(request.to_bytes()) };
        let source = endpoints(&scene.balancer.run(&frame.to_bytes()).frame).0;
        let reply = scene.reply(IpNumber::UDP, source);
        let expected = Frame { destination: router, ..scene.for_client(&reply, request.source) };
        assert_sent("to the router", &scene.answer(&reply), &expected.to_bytes());
    }
}

#[test]
fn a_packet_that_is_too_big_for_the_way_as_translated_is_dropped() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(Setup { mtu: 1000, ..setup }) else { return };
        let grows: usize = match (setup.client, setup.backend) {
            (Family::V4, Family::V6) => 20,
            _ => 0,
        };
        let shrinks: usize = if (setup.client, setup.backend) == (Family::V6, Family::V4) { 20 } else { 0 };
        for protocol in PROTOCOLS {
            let fits = scene.request(protocol).sized(1000 - grows + shrinks);
            assert_eq!(scene.send(&fits).verdicts, [(Verdict::Transmitted, 1)], "{setup:?}");
            let outcome = scene.send(&scene.request(protocol).sized(1001 - grows + shrinks));
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropTooBig, 1)][..]));
        }
    }
}

/// Of all that is dropped nothing was carried.
#[test]
fn what_is_dropped_on_the_way_counts_as_no_traffic_of_the_backend() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(Setup { mtu: 1000, ..setup }) else { return };
        scene.source_of(&scene.request(IpNumber::UDP));
        let outcome = scene.send(&scene.request(IpNumber::UDP).sized(1100));
        assert_eq!((&outcome.verdicts[..], &outcome.traffic[..]), (&[(Verdict::DropTooBig, 1)][..], &[][..]));
    }
}

#[test]
fn a_reply_that_is_too_big_for_the_interface_of_the_client_is_dropped() {
    const MTU: usize = 1400;
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        run(Command::new("ip").args(["link", "set", "lo", "mtu", &MTU.to_string()])).expect("an MTU can be set");
        let source = scene.source_of(&scene.request(IpNumber::UDP));
        let len = match (setup.backend, setup.client) {
            (Family::V4, Family::V6) => MTU - 20,
            (Family::V6, Family::V4) => MTU + 20,
            _ => MTU,
        };
        let fits = scene.answer(&scene.reply(IpNumber::UDP, source).sized(len));
        assert_eq!(fits.verdicts, [(Verdict::Transmitted, 1)], "{setup:?}");
        let outcome = scene.answer(&scene.reply(IpNumber::UDP, source).sized(len + 1));
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropTooBig, 1)][..]));
    }
}

/// Replies would leave on another VLAN.
#[test]
fn what_comes_with_tags_that_replies_are_not_given_is_dropped() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        for tags in
            [vec![Tag::service(5)], vec![Tag::service(5), Tag::customer(6)], vec![Tag::customer(5), Tag::customer(6)]]
        {
            for protocol in PROTOCOLS {
                let frame = setup.client.frame(scene.request(protocol).to_bytes()).tagged(&tags);
                let outcome = scene.balancer.run(&frame.to_bytes());
                assert_eq!(
                    (outcome.action, &outcome.verdicts[..]),
                    (Action::Drop, &[(Verdict::DropUntranslatable, 1)][..]),
                    "{tags:?}"
                );
            }
        }
        assert_eq!(scene.phases(), []);
    }
}
