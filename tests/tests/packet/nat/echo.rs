//! ICMP echo through services that translate (RFC 5508; between the families RFC 7915, sections 4.2 and 5.2).

use std::net::{IpAddr, SocketAddr};

use etherparse::IpNumber;
use lb_common::{Datagrams, Policy, Service, Verdict, nat::Phase};

use super::scene::{FIRST_PORT, Scene, Setup, assert_sent, endpoints, source_address};
use crate::{
    case::Action,
    fixture::key,
    packet::{Echo, Extension, Packet},
    world::{BACKEND, FAMILIES, Family},
};

const IDENTIFIER: u16 = 0x1234;
const IDENTIFIERS: [u16; 5] = [0, 1, 0x7f, IDENTIFIER, u16::MAX];

impl Scene {
    /// A service of ICMP, beside those of TCP and UDP.
    fn of_echo(setup: Setup) -> Option<Self> {
        let mut scene = Self::new(Setup { port: 0, ..setup })?;
        scene.put_echo_service(scene.service);
        Some(scene)
    }

    fn put_echo_service(&mut self, service: Service) {
        let key = key(self.setup.client.virtual_ip(), 0, IpNumber::ICMP);
        self.balancer.put_services([key], service);
    }

    fn echo(&self, identifier: u16) -> Packet {
        self.request_from(IpNumber::ICMP, identifier)
    }

    /// The reply to a request, of the backend that takes `to` for the client.
    fn echo_reply(&self, request: &Packet, to: SocketAddr) -> Packet {
        let Echo::Request(sequence) = request.echo else { panic!("a reply has no reply") };
        let reply = self.reply(IpNumber::ICMP, to);
        Packet { echo: Echo::Reply(sequence), payload: request.payload.clone(), ..reply }
    }

    /// Both ways, byte for byte; whom the backend takes for the client.
    #[track_caller]
    fn there_and_back(&mut self, request: &Packet) -> SocketAddr {
        let what = format!("{:?}, {request:?}", self.setup);
        let outcome = self.send(request);
        assert_eq!(outcome.action, Action::Transmit, "{what}: {:?}", outcome.verdicts);
        let source = endpoints(&outcome.frame).0;
        assert_sent(&what, &outcome, &self.for_backend(request, source));
        let reply = self.echo_reply(request, source);
        assert_sent(&what, &self.answer(&reply), &self.for_client(&reply, request.source).to_bytes());
        source
    }
}

fn scenes() -> impl Iterator<Item = Scene> {
    Setup::all().into_iter().map_while(Scene::of_echo)
}

#[test]
fn requests_and_replies_are_translated_in_every_mode_and_family() {
    for mut scene in scenes() {
        for identifier in IDENTIFIERS {
            let request = scene.echo(identifier);
            let source = scene.there_and_back(&request);
            if scene.setup.sources == 0 {
                assert_eq!(source, request.source, "the client's address and identifier are kept");
            } else {
                assert_eq!(source.ip(), source_address(scene.setup.backend, 0));
                assert!((FIRST_PORT..FIRST_PORT + scene.setup.ports).contains(&source.port()), "{source}");
            }
        }
    }
}

#[test]
fn sequence_numbers_and_data_stay_what_they_are_whatever_they_are() {
    for mut scene in scenes() {
        let first = scene.there_and_back(&scene.echo(IDENTIFIER));
        let messages =
            [(0, 0, 0), (1, 1, 0xff), (2, 2, 0), (0x8000, 3, 0x55), (u16::MAX, 55, 0xff), (7, 56, 0), (8, 1400, 0x99)];
        for (sequence, len, byte) in messages {
            let request = scene.echo(IDENTIFIER);
            let request = Packet { echo: Echo::Request(sequence), payload: vec![byte; len], ..request };
            assert_eq!(scene.there_and_back(&request), first, "the same flow");
        }
        assert_eq!(scene.phases(), [Phase::REPLIED]);
    }
}

/// Where all that is added up is zero.
#[test]
fn a_reply_of_zeros_has_a_checksum_that_is_right() {
    for mut scene in scenes() {
        let request = Packet { echo: Echo::Request(0), payload: vec![0; 8], ..scene.echo(0) };
        scene.there_and_back(&request);
    }
}

#[test]
fn traffic_class_options_and_extension_headers_fare_as_with_other_protocols() {
    for mut scene in scenes() {
        let request = scene.echo(IDENTIFIER).traffic_class(0xb9);
        scene.there_and_back(&request);
        let more = match scene.setup.client {
            Family::V4 => Packet { options: vec![1; 8], ..request },
            Family::V6 => {
                let extension = Extension { number: IpNumber::IPV6_DESTINATION_OPTIONS, data: vec![1, 4, 0, 0, 0, 0] };
                Packet { extensions: vec![extension], ..request }
            }
        };
        if scene.setup.client == scene.setup.backend {
            let outcome = scene.send(&more);
            let source = endpoints(&outcome.frame).0;
            assert_sent("more headers", &outcome, &scene.for_backend(&more, source));
        }
    }
}

#[test]
fn clients_with_the_same_identifier_each_get_their_own_replies() {
    for mut scene in scenes() {
        let clients: Vec<Packet> = (1..=20)
            .map(|host| {
                let request = scene.echo(IDENTIFIER);
                let address = match request.source.ip() {
                    IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() + host).into()),
                    IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() + u128::from(host)).into()),
                };
                Packet { source: SocketAddr::new(address, IDENTIFIER), ..request }
            })
            .collect();
        let sources: Vec<SocketAddr> = clients.iter().map(|request| scene.source_of(request)).collect();
        let mut distinct = sources.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), clients.len(), "{:?}", scene.setup);
        for (request, source) in clients.iter().zip(sources).rev() {
            let reply = scene.echo_reply(request, source);
            let expected = scene.for_client(&reply, request.source).to_bytes();
            assert_sent(&format!("{:?}", scene.setup), &scene.answer(&reply), &expected);
        }
    }
}

#[test]
fn identifiers_that_are_all_in_use_are_not_given_twice() {
    for backend in FAMILIES {
        let setup = Setup { ports: 2, ..Setup::full(Family::V4, backend) };
        let Some(mut scene) = Scene::of_echo(setup) else { return };
        let sources = [1, 2].map(|identifier| scene.there_and_back(&scene.echo(identifier)));
        assert_ne!(sources[0], sources[1]);
        let outcome = scene.send(&scene.echo(3));
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropNoPort, 1)][..]));
        // Those of another protocol are others.
        scene.source_of(&scene.request(IpNumber::UDP));
    }
}

#[test]
fn a_flow_is_replied_to_when_a_reply_has_come() {
    for mut scene in scenes() {
        let request = scene.echo(IDENTIFIER);
        let source = scene.source_of(&request);
        scene.source_of(&request);
        assert_eq!(scene.phases(), [Phase::UNREPLIED]);
        scene.answer(&scene.echo_reply(&request, source));
        assert_eq!(scene.phases(), [Phase::REPLIED]);
        scene.source_of(&request);
        assert_eq!(scene.phases(), [Phase::REPLIED]);
    }
}

/// What passes is the frame as it came.
#[track_caller]
fn assert_passes(what: &str, scene: &mut Scene, packet: &Packet) {
    let outcome = scene.answer(packet);
    let what = format!("{what}, {:?}", scene.setup);
    assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Pass, &[(Verdict::PassNoService, 1)][..]), "{what}");
    assert!(outcome.frame.ends_with(&packet.to_bytes()), "{what}");
}

#[test]
fn a_reply_that_nobody_asked_for_passes() {
    for mut scene in scenes() {
        for identifier in [0, IDENTIFIER] {
            let request = scene.echo(identifier);
            let source = scene.source_of(&request);
            let reply = scene.echo_reply(&request, source);
            let elsewhere = SocketAddr::new(source.ip(), source.port() ^ 1);
            assert_passes("another identifier", &mut scene, &Packet { destination: elsewhere, ..reply.clone() });
            let stranger = SocketAddr::new(scene.setup.backend.tunnel_source(), 0);
            assert_passes("of somebody else", &mut scene, &Packet { source: stranger, ..reply.clone() });
        }
        assert_eq!(scene.phases(), [Phase::UNREPLIED; 2]);
    }
}

/// A backend may ping the balancer, or the client, with the identifier of a flow: also one that is zero, as all ports are then.
#[test]
fn a_request_of_the_backend_is_no_reply_and_passes() {
    for mut scene in scenes() {
        for identifier in [0, IDENTIFIER] {
            let request = scene.echo(identifier);
            let source = scene.source_of(&request);
            let mut ping = Packet { echo: Echo::Request(1), ..scene.echo_reply(&request, source) };
            ping.source.set_port(source.port());
            assert_passes("a ping of the backend", &mut scene, &ping);
        }
        assert_eq!(scene.phases(), [Phase::UNREPLIED; 2]);
    }
}

#[test]
fn flows_of_udp_are_none_of_icmp_and_the_other_way_round() {
    let (mut met, mut all) = (0, 0);
    for mut scene in scenes() {
        all += 1;
        let echo = scene.source_of(&scene.echo(IDENTIFIER));
        let datagram = scene.source_of(&scene.request(IpNumber::UDP));
        let request = scene.echo(IDENTIFIER);
        if echo.port() == datagram.port() {
            // By chance: then it is the answer of the ping.
            met += 1;
        } else {
            let reply = scene.echo_reply(&request, datagram);
            assert_passes("a reply to a datagram", &mut scene, &reply);
        }
        let reply = scene.reply(IpNumber::UDP, echo);
        assert_passes("a datagram to an identifier", &mut scene, &reply);
    }
    assert!(all == 0 || met < all, "no scene has shown anything");
}

#[test]
fn flows_of_pings_are_counted_as_those_of_udp() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND], Policy::LEAST);
        for identifier in IDENTIFIERS {
            scene.there_and_back(&scene.echo(identifier));
        }
        let tally = scene.balancer.maps().connections().tally(BACKEND);
        assert_eq!(tally.active(), 5, "{:?}", scene.setup);
    }
}

/// As for UDP, there is a record for each backend that a client has asked; here there is one.
#[test]
fn pings_that_stand_for_themselves_come_back_too() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND], Policy::NEXT);
        scene.put_echo_service(Service { datagrams: Datagrams::SINGLE, ..scene.service });
        let sources = [0; 3].map(|_| scene.there_and_back(&scene.echo(IDENTIFIER)));
        assert_eq!(sources, [sources[0]; 3]);
    }
}

#[test]
fn what_is_too_big_or_has_no_hop_left_is_dropped_as_of_other_protocols() {
    for mut scene in scenes() {
        let last_hop = scene.echo(1);
        let last_hop = Packet { header: crate::packet::Header { hop_limit: 1, ..last_hop.header }, ..last_hop };
        let outcome = scene.send(&last_hop);
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropHopLimit, 1)][..]));
        let big = scene.echo(1).sized(1521);
        let outcome = scene.send(&big);
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropTooBig, 1)][..]));
    }
}

#[test]
fn without_a_service_for_it_a_ping_of_the_virtual_ip_passes() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        let request = scene.echo(IDENTIFIER);
        let outcome = scene.send(&request);
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Pass, &[(Verdict::PassNoService, 1)][..]));
        assert!(outcome.frame.ends_with(&request.to_bytes()));
    }
}
