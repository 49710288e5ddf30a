//! Which backend a new flow gets where a scheduler chooses. The expected turns come from nginx's algorithm, written out here
//! once more, and from sequences worked out by hand.

use etherparse::IpNumber;
use lb_common::{BackendId, Policy, Scheduler, Service, SlotWord, layout};
use lb_userspace::schedule::Turns;

use crate::{
    backend::Backend,
    fixture::{Balancer, keys},
    packet::{Packet, flags},
    sandbox::stay_on,
    world::{FAMILIES, Family, SERVICE, SERVICE_PORT},
};

/// Where the rotation stands: behind the slots.
pub(super) const ROTATION_CHUNK: u32 = 100;

/// One service that remembers all flows. Its slots are all of the backend [`OWNER`], which has no turns.
pub(super) struct Scene {
    pub(super) balancer: Balancer,
    pub(super) service: Service,
}

/// Of the backend that owns the slots.
pub(super) const OWNER: u8 = 99;

impl Scene {
    /// With backends from number 1 on, with these weights.
    pub(super) fn new(weights: &[u32], turns: Turns, policy: Policy) -> Option<Self> {
        let mut balancer = Balancer::empty()?;
        stay_on(0).expect("there is a first CPU, which begins with the first turn");
        let owner = BackendId::truncate(OWNER.into());
        let armed = SlotWord::new(owner, owner, true, true);
        let service = balancer.put_slots(SERVICE, &vec![armed; layout::MIN_SLOTS as usize]);
        balancer.put_services(keys(SERVICE_PORT), service);
        for number in (1..).take(weights.len()).chain([OWNER]) {
            balancer.put_row(BackendId::truncate(number.into()), &Backend::numbered(number).row(Family::V4));
        }
        let mut scene = Self { balancer, service };
        let rotation = turns.rotation(weights, Scheduler::MAX_TURNS);
        let rotation: Vec<u32> = rotation.into_iter().map(|index| index + 1).collect();
        scene.schedule(&rotation, policy);
        Some(scene)
    }

    /// Makes these the turns.
    pub(super) fn schedule(&mut self, rotation: &[u32], policy: Policy) {
        let turns: Vec<BackendId> = rotation.iter().map(|number| BackendId::truncate(*number)).collect();
        let len = u32::try_from(turns.len()).expect("a short rotation");
        let maps = self.balancer.maps();
        maps.store_turns(ROTATION_CHUNK, &turns);
        maps.store_scheduler(SERVICE, Scheduler::new(policy, ROTATION_CHUNK, len));
    }

    pub(super) fn send(&mut self, packet: &Packet) -> Option<u8> {
        let family = if packet.source.is_ipv4() { Family::V4 } else { Family::V6 };
        self.balancer.reached(&family.frame(packet.to_bytes()).to_bytes())
    }

    /// The backends of so many new connections, from number `from` on.
    pub(super) fn connect(&mut self, from: u32, count: u32) -> Vec<u8> {
        (from..from + count).map(|number| self.send(&segment(number, flags::SYN)).expect("a backend")).collect()
    }
}

/// A segment of connection `number`.
pub(super) fn segment(number: u32, flags: u8) -> Packet {
    let byte = |number: u32| number.to_le_bytes()[0];
    let port = u16::try_from(number & 0x3fff).expect("14 bits");
    let mut packet = FAMILIES[0].packet(IpNumber::TCP);
    packet.source = ([10, 77, byte(number >> 22), byte(number >> 14)], 1024 + port).into();
    packet.segment.flags = flags;
    packet
}

fn datagram(number: u16) -> Packet {
    let mut packet = Family::V6.packet(IpNumber::UDP);
    packet.source.set_port(1024 + number);
    packet
}

/// nginx's smooth weighted round-robin, from the description in its commit 52327e0627f4.
fn nginx(weights: &[i32], turns: u32) -> Vec<u8> {
    let mut current = vec![0; weights.len()];
    let mut pick = || {
        current.iter_mut().zip(weights).for_each(|(current, weight)| *current += weight);
        let most = *current.iter().max().expect("somebody");
        let first = current.iter().position(|current| *current == most).expect("somebody has most");
        current[first] -= weights.iter().sum::<i32>();
        u8::try_from(first + 1).expect("few backends")
    };
    (0..turns).map(|_| pick()).collect()
}

#[test]
fn weights_of_five_three_and_two_are_served_as_nginx_does() {
    const PERIOD: [u8; 10] = [1, 2, 3, 1, 1, 2, 1, 3, 2, 1];
    assert_eq!(nginx(&[5, 3, 2], 10), PERIOD);
    let Some(mut scene) = Scene::new(&[5, 3, 2], Turns::Weighted, Policy::NEXT) else { return };
    assert_eq!(scene.connect(0, 30), PERIOD.repeat(3));
}

#[test]
fn weights_of_all_sizes_are_served_as_nginx_does() {
    for weights in [&[1, 1][..], &[5, 1, 1], &[10, 10, 1, 3], &[7; 5], &[100, 1], &[1000, 333, 12]] {
        let turns: Vec<u32> = weights.iter().map(|weight| u32::try_from(*weight).expect("a weight")).collect();
        let Some(mut scene) = Scene::new(&turns, Turns::Weighted, Policy::NEXT) else { return };
        assert_eq!(scene.connect(0, 500), nginx(weights, 500), "{weights:?}");
    }
}

#[test]
fn in_round_robin_each_backend_comes_once() {
    let Some(mut scene) = Scene::new(&[5, 3, 2], Turns::Equal, Policy::NEXT) else { return };
    assert_eq!(scene.connect(0, 7), [1, 2, 3, 1, 2, 3, 1]);
}

#[test]
fn a_connection_stays_where_its_first_packet_went() {
    let Some(mut scene) = Scene::new(&[5, 3, 2], Turns::Weighted, Policy::NEXT) else { return };
    let backends = scene.connect(0, 20);
    for flags in [flags::SYN, flags::ACK, flags::ACK | flags::FIN, flags::ACK] {
        for (number, backend) in (0..).zip(&backends) {
            assert_eq!(scene.send(&segment(number, flags)), Some(*backend), "flags {flags:x} of connection {number}");
        }
    }
}

#[test]
fn a_connection_with_the_ports_of_one_that_was_closed_gets_a_backend_of_its_own() {
    let Some(mut scene) = Scene::new(&[1, 1, 1], Turns::Equal, Policy::NEXT) else { return };
    assert_eq!(scene.connect(0, 1), [1]);
    assert_eq!(scene.send(&segment(0, flags::ACK | flags::FIN)), Some(1));
    assert_eq!(scene.connect(0, 1), [2]);
    assert_eq!(scene.send(&segment(0, flags::ACK)), Some(2));
}

#[test]
fn a_datagram_of_an_unknown_flow_has_a_turn_and_those_that_follow_go_there_too() {
    let Some(mut scene) = Scene::new(&[1, 1, 1], Turns::Equal, Policy::NEXT) else { return };
    for _ in 0..3 {
        let backends: Vec<Option<u8>> = (0..6).map(|number| scene.send(&datagram(number))).collect();
        assert_eq!(backends, [1, 2, 3, 1, 2, 3].map(Some));
    }
}

#[test]
fn each_cpu_begins_elsewhere_and_goes_on_from_there() {
    let Some(mut scene) = Scene::new(&[1; 10], Turns::Equal, Policy::NEXT) else { return };
    assert_eq!(scene.connect(0, 3), [1, 2, 3]);
    if stay_on(1).is_err() {
        return eprintln!("skipped: needs two CPUs");
    }
    let first = scene.connect(3, 1)[0];
    assert!((4..=8).contains(&first), "far from the first: {first}");
    assert_eq!(scene.connect(4, 2), [first + 1, first + 2]);
    stay_on(0).expect("there is a first CPU");
    assert_eq!(scene.connect(6, 1), [4]);
}

#[test]
fn in_slots_that_move_a_datagram_of_an_unknown_flow_has_a_turn_too() {
    let Some(mut scene) = Scene::new(&[1, 1, 1], Turns::Equal, Policy::NEXT) else { return };
    let [owner, leaving] = [OWNER, 1].map(|number| BackendId::truncate(number.into()));
    let service = scene.service;
    for slot in 0..=service.slot_mask {
        scene.balancer.maps().store_slot(&service, slot, SlotWord::new(owner, leaving, true, true));
    }
    scene.schedule(&[2, 3], Policy::NEXT);
    let backends: Vec<Option<u8>> = (0..4).map(|number| scene.send(&datagram(number))).collect();
    assert_eq!(backends, [2, 3, 2, 3].map(Some));
    scene.schedule(&[2, 3], Policy::SLOT);
    assert_eq!(scene.send(&datagram(4)), Some(1), "where slots decide it may be an old one");
}

#[test]
fn a_handshake_whose_backend_is_gone_has_another_turn() {
    let Some(mut scene) = Scene::new(&[1, 1, 1], Turns::Equal, Policy::NEXT) else { return };
    assert_eq!(scene.connect(0, 3), [1, 2, 3]);
    scene.balancer.maps().remove_row(BackendId::truncate(1));
    scene.schedule(&[2, 3], Policy::NEXT);
    assert_eq!(scene.connect(0, 1), [2]);
    assert_eq!(scene.send(&segment(0, flags::ACK)), Some(2));
}

#[test]
fn a_segment_of_an_unknown_connection_goes_by_its_slot() {
    let Some(mut scene) = Scene::new(&[1, 1, 1], Turns::Equal, Policy::NEXT) else { return };
    assert_eq!(scene.send(&segment(0, flags::ACK)), Some(OWNER));
    assert_eq!(scene.connect(1, 1), [1], "and it has used up no turn");
}

#[test]
fn where_nobody_has_a_turn_new_flows_go_by_their_slots() {
    let Some(mut scene) = Scene::new(&[0, 0], Turns::Equal, Policy::NEXT) else { return };
    assert_eq!(scene.connect(0, 2), [OWNER, OWNER]);
}

#[test]
fn a_rotation_that_becomes_shorter_or_longer_goes_on() {
    let Some(mut scene) = Scene::new(&[1; 5], Turns::Equal, Policy::NEXT) else { return };
    assert_eq!(scene.connect(0, 4), [1, 2, 3, 4]);
    scene.schedule(&[7, 8], Policy::NEXT);
    for number in [7, 8] {
        let row = Backend::numbered(number).row(Family::V4);
        scene.balancer.put_row(BackendId::truncate(number.into()), &row);
    }
    assert_eq!(scene.connect(4, 3), [7, 8, 7]);
    scene.schedule(&[1, 2, 3, 4], Policy::NEXT);
    assert_eq!(scene.connect(7, 4), [2, 3, 4, 1]);
    assert_eq!(scene.connect(4, 3), [7, 8, 7], "and who was there stays");
}

#[test]
fn a_rotation_may_take_several_chunks() {
    let Some(mut scene) = Scene::new(&[1], Turns::Equal, Policy::NEXT) else { return };
    let rotation: Vec<u32> = (0..3000).map(|turn| if turn < 2999 { 1 } else { 2 }).collect();
    scene.schedule(&rotation, Policy::NEXT);
    let row = Backend::numbered(2).row(Family::V4);
    scene.balancer.put_row(BackendId::truncate(2), &row);
    let backends = scene.connect(0, 6000);
    let twos: Vec<usize> = (0..6000).filter(|turn| backends[*turn] == 2).collect();
    assert_eq!(twos, [2999, 5999]);
}

#[test]
fn a_flow_that_finds_no_room_in_the_flow_table_goes_by_its_slot_from_its_first_packet_on() {
    let Some(mut scene) = Scene::new(&[1, 1], Turns::Equal, Policy::NEXT) else { return };
    // Established flows do not give way, so in the end there is no room for more.
    let count = 60_000;
    let mut without_entry = 0;
    for number in 0..count {
        let [first, second] = [flags::SYN, flags::ACK].map(|flags| scene.send(&segment(number, flags)));
        assert_eq!(first, second, "connection {number}");
        without_entry += u32::from(first == Some(OWNER));
    }
    // More than nine in ten of the ways are taken by then.
    assert!((1..count / 10).contains(&without_entry), "{without_entry} found no room");
}

#[test]
fn the_shares_of_a_hundred_thousand_flows_are_those_of_the_weights() {
    let weights = [50, 30, 20, 7, 3];
    let Some(mut scene) = Scene::new(&weights, Turns::Weighted, Policy::NEXT) else { return };
    assert_shares(&mut scene, &weights);
}

/// Each backend gets its part of 100,000 connections, to 5 %.
fn assert_shares(scene: &mut Scene, weights: &[u32]) {
    let mut counts = vec![0_u32; weights.len()];
    for from in (0..100_000).step_by(20_000) {
        // There is room for 65,536 flows.
        scene.balancer.forget_flows();
        for backend in scene.connect(from, 20_000) {
            counts[usize::from(backend) - 1] += 1;
        }
    }
    let total: u32 = weights.iter().sum();
    for (weight, count) in weights.iter().zip(&counts) {
        let expected = f64::from(100_000 * weight) / f64::from(total);
        assert!((f64::from(*count) / expected - 1.0).abs() <= 0.05, "{counts:?} for {weights:?}");
    }
}
