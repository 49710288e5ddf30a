//! Datagrams that are requests of their own, through a service that translates: each goes to a backend of its own, and the reply of
//! each comes back, whichever comes first.

use std::net::SocketAddr;

use etherparse::IpNumber;
use lb_common::{Datagrams, Policy, Service, nat::Phase};

use super::scene::{Scene, Setup, assert_sent, endpoints};
use crate::{packet::Packet, world::BACKEND};

const PORT: u16 = 2000;

/// With two backends, which take turns; they differ in their ports.
fn scenes() -> impl Iterator<Item = Scene> {
    Setup::all().into_iter().map_while(|setup| {
        let mut scene = Scene::new(setup)?;
        let second = scene.add_second();
        scene.schedule(&[BACKEND, second], Policy::NEXT);
        scene.put_service(Service { datagrams: Datagrams::SINGLE, ..scene.service });
        Some(scene)
    })
}

impl Scene {
    /// A datagram; whom the backend takes for its client, and the backend.
    fn ask(&mut self, port: u16) -> (SocketAddr, SocketAddr) {
        let outcome = self.send(&self.request_from(IpNumber::UDP, port));
        endpoints(&outcome.frame)
    }

    /// The reply of that backend to whom it takes for the client comes to the client's port, from the service.
    #[track_caller]
    fn expect_reply(&mut self, (client, backend): (SocketAddr, SocketAddr), port: u16) {
        let reply = Packet::new(IpNumber::UDP, backend, client);
        let outcome = self.answer(&reply);
        let wanted = self.for_client(&reply, self.request_from(IpNumber::UDP, port).source).to_bytes();
        assert_sent(&format!("the reply of {backend}, {:?}", self.setup), &outcome, &wanted);
    }
}

#[test]
fn datagrams_of_the_same_ports_go_to_backends_by_turns_and_each_reply_comes_back() {
    for mut scene in scenes() {
        let asked = [0; 4].map(|_| scene.ask(PORT));
        let ports = asked.map(|(_, backend)| backend.port());
        let first = scene.setup.port;
        assert_eq!(ports, [first, first + 1, first, first + 1], "{:?}", scene.setup);
        assert_eq!(asked[0], asked[2], "a backend knows a client by one address and port");
        // The last one answers first.
        for asked in asked.into_iter().rev() {
            scene.expect_reply(asked, PORT);
        }
        assert_eq!(scene.phases(), [Phase::REPLIED; 2], "one record for each backend");
    }
}

#[test]
fn clients_do_not_get_replies_of_others() {
    for mut scene in scenes() {
        let asked: Vec<_> = (PORT..PORT + 20).map(|port| (port, scene.ask(port))).collect();
        for (port, asked) in asked.into_iter().rev() {
            scene.expect_reply(asked, port);
        }
    }
}

/// One of before has the port that the next one needs with the same backend, where ports are kept.
#[test]
fn when_packets_are_told_apart_in_another_way_flows_of_before_are_not_in_theirs() {
    for [before, after] in [[Datagrams::FLOWS, Datagrams::SINGLE], [Datagrams::SINGLE, Datagrams::FLOWS]] {
        for mut scene in scenes() {
            scene.put_service(Service { datagrams: before, ..scene.service });
            for port in PORT..PORT + 4 {
                scene.ask(port);
            }
            scene.put_service(Service { datagrams: after, ..scene.service });
            scene.balancer.nat_table().end_all_of(scene.service.id);
            for port in PORT..PORT + 4 {
                let asked = scene.ask(port);
                scene.expect_reply(asked, port);
            }
        }
    }
}
