//! Source ports: no two flows to the same backend have the same, and when there are no more, that is said.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
};

use etherparse::IpNumber;
use lb_common::{Tracking, Verdict, nat::Phase};

use super::scene::{Scene, Setup, endpoints};
use crate::{
    case::Action,
    fixture::NOW,
    packet::{
        Packet,
        flags::{ACK, FIN, SYN},
    },
    world::{BACKEND, Family},
};

pub(super) const FAMILIES: [(Family, Family); 4] =
    [(Family::V4, Family::V4), (Family::V6, Family::V6), (Family::V4, Family::V6), (Family::V6, Family::V4)];

#[test]
fn no_two_flows_have_the_same_source() {
    for (client, backend) in FAMILIES {
        let Some(mut scene) = Scene::new(Setup { ports: 6000, ..Setup::full(client, backend) }) else { return };
        let mut sources = HashSet::new();
        for port in 1000..6000 {
            if let Some(source) = scene.try_source_of(&scene.request_from(IpNumber::UDP, port)) {
                assert!(sources.insert(source), "one source twice");
            }
        }
        // With sixteen attempts a flow is refused with a chance of one in eighteen where five of six ports are taken, and hardly
        // before: of all, one in three hundred (the sum of the sixteenth powers).
        assert!(sources.len() > 4960, "{} of 5,000 flows found one of 6,000 ports", sources.len());
    }
}

#[test]
fn without_a_port_the_packet_is_dropped_or_answered_as_the_service_says() {
    for (client, backend) in FAMILIES {
        let setup = Setup { ports: 4, ..Setup::full(client, backend) };
        for (mode, verdict, action) in [
            (setup.mode, Verdict::DropNoPort, Action::Drop),
            (setup.mode.resetting(), Verdict::Reset, Action::Transmit),
        ] {
            let Some(mut scene) = Scene::new(Setup { mode, ..setup }) else { return };
            for port in 1000..1004 {
                scene.source_of(&scene.request_from(IpNumber::TCP, port));
            }
            let outcome = scene.send(&scene.request_from(IpNumber::TCP, 1004));
            assert_eq!((outcome.action, &outcome.verdicts[..]), (action, &[(verdict, 1)][..]));
            let refused = if mode.resets() { vec![(Tracking::Refused, 1)] } else { Vec::new() };
            assert_eq!(outcome.tracking, refused, "why it was reset");
            // Nothing of it is left, and the others go on.
            assert_eq!(scene.phases().len(), 4);
            scene.source_of(&scene.request_from(IpNumber::TCP, 1002));
            let outcome = scene.send(&scene.request_from(IpNumber::UDP, 1004));
            assert_eq!(outcome.verdicts, [(Verdict::Transmitted, 1)], "the ports of UDP are others");
        }
    }
}

#[test]
fn a_datagram_that_finds_no_port_is_dropped_for_that_where_connections_are_reset() {
    let setup = Setup { ports: 1, ..Setup::full(Family::V4, Family::V4) };
    let Some(mut scene) = Scene::new(Setup { mode: setup.mode.resetting(), ..setup }) else { return };
    scene.source_of(&scene.request_from(IpNumber::UDP, 1000));
    let outcome = scene.send(&scene.request_from(IpNumber::UDP, 1001));
    assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropNoPort, 1)][..]));
}

#[test]
fn without_a_row_of_the_backend_it_is_no_port_that_is_missing() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        scene.balancer.maps().remove_row(BACKEND);
        let outcome = scene.send(&scene.request(IpNumber::TCP));
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropNoBackend, 1)][..]));
        assert_eq!(scene.balancer.nat_table().flows().count(), 0);
    }
}

#[test]
fn a_second_backend_has_the_same_ports_again() {
    let Some(mut scene) = Scene::new(Setup { ports: 1, ..Setup::full(Family::V4, Family::V4) }) else { return };
    scene.source_of(&scene.request_from(IpNumber::TCP, 1000));
    scene.move_to_another_backend();
    scene.source_of(&scene.request_from(IpNumber::TCP, 1001));
    assert_eq!(scene.send(&scene.request_from(IpNumber::TCP, 1002)).verdicts, [(Verdict::DropNoPort, 1)]);
}

/// The table has 65,536 places, each flow 16 of them to choose from.
#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_others() {
    let Some(mut scene) = Scene::new(Setup { sources: 4, ports: 60_000, ..Setup::full(Family::V4, Family::V4) }) else {
        return;
    };
    let client = |number: u32| {
        SocketAddr::from((Ipv4Addr::from_bits(0xc633_6400 + number / 60_000), (number % 60_000) as u16 + 1))
    };
    let mut sent = Vec::new();
    for number in 0..70_000 {
        let request = Packet { source: client(number), ..scene.request(IpNumber::UDP) };
        if let Some(source) = scene.try_source_of(&request) {
            sent.push((request, source));
        }
    }
    assert!((60_000..65_536).contains(&sent.len()), "{} were sent", sent.len());
    scene.balancer.recount();
    let refused: Vec<Verdict> = (70_000..71_000)
        .flat_map(|number| scene.send(&Packet { source: client(number), ..scene.request(IpNumber::UDP) }).verdicts)
        .map(|(verdict, _)| verdict)
        .collect();
    assert!(refused.contains(&Verdict::DropNatFull) && !refused.contains(&Verdict::DropNoPort), "{refused:?}");
    for (request, source) in sent.iter().step_by(97) {
        assert_eq!(scene.source_of(request), *source);
        let outcome = scene.answer(&scene.reply(IpNumber::UDP, *source));
        assert_eq!(endpoints(&outcome.frame).1, request.source);
    }
}

pub(super) const SECOND: u64 = 1_000_000_000;

/// Opens a connection and has both sides close it.
pub(super) fn open_and_close(scene: &mut Scene, port: u16) -> SocketAddr {
    let source = scene.establish(port);
    scene.send(&scene.request_from(IpNumber::TCP, port).with_flags(FIN | ACK, 0x1234_5679, 5001));
    scene.answer(&scene.reply(IpNumber::TCP, source).with_flags(FIN | ACK, 5001, 0x1234_567a));
    assert_eq!(scene.phases_of(port), [Phase::TIME_WAIT]);
    source
}

#[test]
fn where_ports_are_short_that_of_a_closed_connection_is_given_to_another() {
    for (client, backend) in FAMILIES {
        let Some(mut scene) = Scene::new(Setup { ports: 2, ..Setup::full(client, backend) }) else { return };
        let closed = open_and_close(&mut scene, 1000);
        let lasting = scene.establish(1001);
        let syn = scene.request_from(IpNumber::TCP, 1002).with_flags(SYN, 1, 0);
        let outcome = scene.send(&syn);
        assert_eq!(outcome.verdicts, [(Verdict::DropNoPort, 1)], "something of it may be under way");
        scene.balancer.set_time(NOW + 4 * SECOND);
        assert_eq!(scene.source_of(&syn), closed);
        assert_eq!(scene.phases_of(1002), [Phase::OPENING]);
        assert!(scene.phases_of(1000).iter().all(|phase| !phase.is_alive()));
        // The other one has only been silent.
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, 1003).with_flags(SYN, 1, 0));
        assert_eq!(outcome.verdicts, [(Verdict::DropNoPort, 1)]);
        let data = scene.request_from(IpNumber::TCP, 1001).with_flags(ACK, 0x1234_5679, 5001);
        assert_eq!(scene.source_of(&data), lasting);
    }
}

#[test]
fn a_client_that_has_found_no_port_finds_one_when_it_comes_again() {
    let ports = 400;
    let Some(mut scene) = Scene::new(Setup { ports, ..Setup::full(Family::V4, Family::V4) }) else { return };
    for port in (1000..).take(usize::from(ports) * 9 / 10) {
        scene.try_source_of(&scene.request_from(IpNumber::UDP, port));
    }
    let late: Vec<u16> = (5000..5060).collect();
    let mut waiting = late.clone();
    let mut ask = |scene: &mut Scene| {
        waiting.retain(|port| scene.try_source_of(&scene.request_from(IpNumber::UDP, *port)).is_none());
        waiting.len()
    };
    // At the same time the same ports are tried.
    let refused = ask(&mut scene);
    assert!(refused > 0);
    assert_eq!(ask(&mut scene), refused);
    let mut left = refused;
    for again in 1..10 {
        scene.balancer.set_time(NOW + again * SECOND);
        left = ask(&mut scene);
    }
    // There were at least 40 free ones; each time a client has sixteen of the 400.
    let found = late.len() - left;
    assert!(found > 35, "{found} of {} found a port", late.len());
}
