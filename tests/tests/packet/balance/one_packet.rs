//! Services whose datagrams are requests of their own: each gets a backend, and nothing is remembered.

use etherparse::IpNumber;
use lb_common::{BackendId, Datagrams, HashInput, HashInputs, Policy, Service, SlotWord, Verdict, layout};
use lb_userspace::schedule::Turns;

use super::schedule::{OWNER, Scene};
use crate::{
    case::Datapath as _,
    fixture::{HASH_KEY, keys},
    oracle::flow_hash,
    packet::Packet,
    world::{FAMILIES, Family, SERVICE_PORT},
};

/// With backends that have these weights.
fn scene(weights: &[u32], turns: Turns, policy: Policy) -> Option<Scene> {
    let mut scene = Scene::new(weights, turns, policy)?;
    scene.put(Service { datagrams: Datagrams::SINGLE, ..scene.service });
    Some(scene)
}

impl Scene {
    fn put(&mut self, service: Service) {
        self.balancer.put_services(keys(SERVICE_PORT), service);
        self.service = service;
    }
}

fn datagram(family: Family) -> Packet {
    family.packet(IpNumber::UDP)
}

#[test]
fn each_datagram_of_the_same_ports_has_the_next_turn_and_none_is_remembered() {
    for family in FAMILIES {
        let Some(mut scene) = scene(&[2, 1], Turns::Weighted, Policy::NEXT) else { return };
        let reached: Vec<Option<u8>> = (0..6).map(|_| scene.send(&datagram(family))).collect();
        assert_eq!(reached, [1, 2, 1, 1, 2, 1].map(Some), "{family:?}");
        let outcome = scene.balancer.run(&family.frame(datagram(family).to_bytes()).to_bytes());
        assert_eq!((outcome.tracking, outcome.flows), (vec![], vec![]), "{family:?}");
    }
}

#[test]
fn random_turns_are_any_ones() {
    let Some(mut scene) = scene(&[1, 1, 1], Turns::Equal, Policy::RANDOM) else { return };
    let mut counts = [0; 3];
    for _ in 0..3000 {
        counts[usize::from(scene.send(&datagram(Family::V4)).expect("a backend")) - 1] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn where_slots_decide_a_datagram_goes_by_its_own_slot() {
    let Some(mut scene) = scene(&[1, 1], Turns::Equal, Policy::SLOT) else { return };
    let owner = |slot: u64| u8::try_from(1 + slot % 2).expect("two backends");
    for slot in 0..layout::MIN_SLOTS {
        let word = SlotWord::stable(BackendId::truncate(owner(slot.into()).into()));
        scene.balancer.maps().store_slot(&scene.service, slot, word);
    }
    for port in 1000..1100 {
        let mut packet = datagram(Family::V6);
        packet.source.set_port(port);
        let slot = flow_hash(HASH_KEY, &packet.to_bytes()) % u64::from(layout::MIN_SLOTS);
        assert_eq!(scene.send(&packet), Some(owner(slot)), "port {port}");
    }
    let prefix = HashInput::source(32).expect("a length");
    scene.put(Service { hash: HashInputs::new(prefix), ..scene.service });
    let mut reached = (1000..1100).map(|port| {
        let mut packet = datagram(Family::V4);
        packet.source.set_port(port);
        scene.send(&packet)
    });
    let first = reached.next().expect("a hundred datagrams");
    assert!(reached.all(|other| other == first), "source-hash goes by the client's address alone");
}

#[test]
fn a_change_of_the_turns_takes_effect_with_the_next_datagram() {
    let Some(mut scene) = scene(&[1, 1, 1], Turns::Equal, Policy::NEXT) else { return };
    assert_eq!(scene.send(&datagram(Family::V4)), Some(1));
    scene.schedule(&[3], Policy::NEXT);
    assert_eq!([0; 3].map(|_| scene.send(&datagram(Family::V4))), [3; 3].map(Some));
    scene.schedule(&[], Policy::NEXT);
    assert_eq!(scene.send(&datagram(Family::V4)), Some(OWNER), "the owner of the slot, where nobody has turns");
}

#[test]
fn without_a_backend_a_datagram_is_dropped() {
    let Some(mut scene) = scene(&[], Turns::Equal, Policy::NEXT) else { return };
    for slot in 0..layout::MIN_SLOTS {
        scene.balancer.maps().store_slot(&scene.service, slot, SlotWord::EMPTY);
    }
    let frame = Family::V4.frame(datagram(Family::V4).to_bytes()).to_bytes();
    assert_eq!(scene.balancer.verdict(&frame), Verdict::DropNoBackend);
}
