//! Clients that open a connection by the port of one that is closed. The backend remembers that one for a minute, and takes another on
//! the same four numbers only if its time stamps go on (RFC 6191): those of the same client do.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use etherparse::IpNumber;
use lb_common::{Verdict, nat::Phase};
use lb_userspace::dataplane::NatUsage;

use super::{
    ports::{FAMILIES, SECOND, open_and_close},
    scene::{Scene, Setup},
};
use crate::{
    fixture::NOW,
    packet::{
        Packet,
        flags::{ACK, RST, SYN},
    },
    world::Family,
};

fn syn(scene: &Scene, port: u16) -> Packet {
    scene.request_from(IpNumber::TCP, port).with_flags(SYN, 1, 0)
}

#[test]
fn the_search_for_a_port_begins_at_the_same_one_at_whatever_time() {
    for (client, backend) in FAMILIES {
        let Some(mut scene) = Scene::new(Setup { ports: 6000, ..Setup::full(client, backend) }) else { return };
        let sources: Vec<_> = (1000..1010).map(|port| open_and_close(&mut scene, port)).collect();
        for (again, (port, source)) in (1..).zip((1000..1010).zip(sources)) {
            scene.balancer.set_time(NOW + again * SECOND);
            scene.establish(3000 + port);
            assert_eq!(scene.source_of(&syn(&scene, port)), source);
        }
    }
}

#[test]
fn a_client_can_open_connection_after_connection_by_one_port() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        let sources: HashSet<SocketAddr> = (0..100).map(|_| open_and_close(&mut scene, 1000)).collect();
        assert_eq!(sources.len(), 1, "one port of the client, one source");
        assert_eq!(scene.balancer.nat_table().flows().count(), 1, "the daemon has not swept meanwhile");
        assert_eq!(scene.active(), [0, 0]);
    }
}

#[test]
fn after_a_reset_the_next_connection_is_made_in_the_same_place() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        for _ in 0..20 {
            scene.establish(1000);
            scene.send(&scene.request_from(IpNumber::TCP, 1000).with_flags(RST, 0x1234_5679, 0));
            assert_eq!(scene.phases(), [Phase::RESET]);
        }
        scene.source_of(&syn(&scene, 1000));
        assert_eq!(scene.phases(), [Phase::OPENING]);
        assert_eq!(scene.active(), [1, 0]);
    }
}

#[test]
fn the_port_at_a_backend_is_held_for_its_client_while_another_backend_has_its_next_connection() {
    let clients = 1000..1010;
    for (client, backend) in FAMILIES {
        let Some(mut scene) = Scene::new(Setup { ports: 64, ..Setup::full(client, backend) }) else { return };
        let held: Vec<_> = clients.clone().map(|port| open_and_close(&mut scene, port)).collect();
        scene.move_to_another_backend();
        for port in clients.clone() {
            open_and_close(&mut scene, port);
        }
        scene.move_back();
        for port in 3000..3016 {
            let source = scene.source_of(&syn(&scene, port));
            assert!(!held.contains(&source), "{source} was given to another");
        }
        let again: Vec<_> = clients.clone().map(|port| scene.source_of(&syn(&scene, port))).collect();
        assert_eq!(again, held);
    }
}

#[test]
fn where_no_other_port_is_left_one_that_is_held_is_given_to_another_client() {
    for (client, backend) in FAMILIES {
        let Some(mut scene) = Scene::new(Setup { ports: 1, ..Setup::full(client, backend) }) else { return };
        let held = open_and_close(&mut scene, 1000);
        scene.move_to_another_backend();
        let lasting = scene.establish(1000);
        scene.move_back();
        assert_eq!(scene.establish(1001), held);
        let data = scene.request_from(IpNumber::TCP, 1000).with_flags(ACK, 0x1234_5679, 5001);
        assert_eq!(scene.source_of(&data), lasting, "that connection goes on");
        // Now it is in use.
        assert_eq!(scene.send(&syn(&scene, 1002)).verdicts, [(Verdict::DropNoPort, 1)]);
    }
}

#[test]
fn a_client_that_finds_no_port_for_its_next_connection_finds_one_when_there_is() {
    let Some(mut scene) = Scene::new(Setup { ports: 1, ..Setup::full(Family::V4, Family::V4) }) else { return };
    scene.move_to_another_backend();
    let taken = scene.establish(1001);
    scene.move_back();
    open_and_close(&mut scene, 1000);
    scene.move_to_another_backend();
    assert_eq!(scene.send(&syn(&scene, 1000)).verdicts, [(Verdict::DropNoPort, 1)]);
    assert_eq!(scene.phases(), [Phase::ESTABLISHED], "nothing of it is left");
    let found: NatUsage = scene.sweep(Duration::from_mins(1)).nat.expect("there is a table");
    assert_eq!((found.taken, found.held), (1, 0));
    scene.balancer.nat_table().end_all_of(scene.service.id);
    assert_eq!(scene.source_of(&syn(&scene, 1000)), taken);
}
