//! The same packets through every mode and family, there and back, byte for byte.

use std::net::SocketAddr;

use etherparse::IpNumber;
use lb_common::Verdict;

use super::scene::{BACKEND_MAC, FIRST_PORT, Scene, Setup, assert_sent, endpoints, opened, source_address};
use crate::{
    case::Action,
    frame::Frame,
    packet::{Packet, flags},
    world::{EGRESS_MAC, Family, OTHER_IFINDEX, PROTOCOLS, SERVICE_PORT, name},
};

/// The backend sees one of the sources, or the client; and one of the ports.
fn check_source(setup: &Setup, source: SocketAddr, packet: &Packet) {
    if setup.sources == 0 {
        assert_eq!(source, packet.source, "nat keeps the client's address and port");
        return;
    }
    assert!((0..setup.sources).any(|number| source.ip() == source_address(setup.backend, number)), "{source}");
    assert!((FIRST_PORT..FIRST_PORT + setup.ports).contains(&source.port()), "{source}");
}

#[test]
fn a_packet_goes_to_the_backend_and_its_reply_to_the_client() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        for protocol in PROTOCOLS {
            for len in [0, 1, 2, 3, 512, 1401] {
                let what = format!("{} of {len} bytes, {setup:?}", name(protocol));
                let payload: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
                let request = Packet { payload: payload.clone(), ..scene.request(protocol) };
                let outcome = scene.send(&request);
                let source = endpoints(&outcome.frame).0;
                check_source(&setup, source, &request);
                assert_sent(&what, &outcome, &scene.for_backend(&request, source));
                let reply = Packet { payload, ..scene.reply(protocol, source) };
                let reply = reply.with_flags(flags::SYN | flags::ACK | flags::PSH, 99, 0x1234_5679);
                let expected = scene.for_client(&reply, request.source).to_bytes();
                assert_sent(&what, &scene.answer(&reply), &expected);
            }
        }
    }
}

#[test]
fn a_flow_has_one_source_and_other_flows_have_others() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(Setup { sources: setup.sources * 3, ..setup }) else { return };
        for protocol in PROTOCOLS {
            let mut sources = Vec::new();
            for port in 2000..2200 {
                let request = scene.request_from(protocol, port);
                let first = scene.send(&request);
                assert_eq!(opened(&first), 1);
                let source = endpoints(&first.frame).0;
                let again = scene.send(&request);
                assert_eq!((endpoints(&again.frame).0, opened(&again)), (source, 0), "a flow has one source");
                sources.push((source, request.source));
            }
            for (source, client) in &sources {
                let reply = scene.reply(protocol, *source).with_flags(flags::SYN | flags::ACK, 1, 1);
                assert_eq!(endpoints(&scene.answer(&reply).frame).1, *client, "{setup:?}");
            }
            let mut distinct: Vec<SocketAddr> = sources.iter().map(|(source, _)| *source).collect();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), sources.len(), "two flows with one source, {setup:?}");
        }
    }
}

#[test]
fn a_service_of_the_same_port_keeps_it() {
    let Some(mut scene) = Scene::new(Setup { port: 0, ..Setup::full(Family::V4, Family::V4) }) else { return };
    let request = scene.request(IpNumber::TCP);
    let outcome = scene.send(&request);
    assert_eq!(endpoints(&outcome.frame).1, SocketAddr::new(Family::V4.backend(), SERVICE_PORT));
}

#[test]
fn the_sources_share_the_flows() {
    let Some(mut scene) = Scene::new(Setup { sources: 4, ..Setup::full(Family::V4, Family::V4) }) else { return };
    let mut counts = [0; 4];
    for port in 3000..3400 {
        let source = scene.source_of(&scene.request_from(IpNumber::UDP, port));
        let number = (0..4).position(|number| source.ip() == source_address(Family::V4, number)).expect("a source");
        counts[number] += 1;
    }
    assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
}

/// Clients are on one side of the balancer, backends on another, as it is where the client's address is kept.
#[test]
fn a_reply_that_comes_in_by_another_interface_leaves_by_that_of_the_client() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(Setup { egress: OTHER_IFINDEX, ..setup }) else { return };
        scene.balancer.maps().put_interface(OTHER_IFINDEX, EGRESS_MAC).expect("the interface map takes it");
        for protocol in PROTOCOLS {
            let request = scene.request(protocol);
            let outcome = scene.send(&request);
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Redirect, &[(Verdict::Redirected, 1)][..]));
            let source = endpoints(&outcome.frame).0;
            let reply = scene.reply(protocol, source).with_flags(flags::SYN | flags::ACK, 99, 0x1234_5679);
            let frame = setup.backend.frame(reply.to_bytes());
            let frame = Frame { source: BACKEND_MAC, destination: EGRESS_MAC, ..frame };
            let outcome = scene.balancer.run_on(OTHER_IFINDEX, &frame.to_bytes());
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Redirect, &[(Verdict::Redirected, 1)][..]));
            assert_eq!(outcome.frame, scene.for_client(&reply, request.source).to_bytes(), "{setup:?}");
        }
    }
}
