//! Active connections: that they are counted exactly, and what schedulers make of them. `LB_LONG=1` counts fifty times as many.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use fastrand::Rng;
use lb_common::{BackendId, Policy, Scheduler, SlotWord, Verdict};
use lb_userspace::{
    dataplane::{Sweep, flow_time},
    model::Subject,
    schedule::Turns,
};

use crate::{
    backend::Backend,
    fixture::NOW,
    flow_table::State,
    packet::flags,
    world::{Family, SERVICE},
};

use super::schedule::{OWNER, ROTATION_CHUNK, Scene, segment};

const FIN: u8 = flags::ACK | flags::FIN;

impl Scene {
    /// How many connections each backend has, as the datapath counts them; without those that have none.
    fn active(&mut self) -> BTreeMap<u8, u32> {
        let connections = self.balancer.maps().connections();
        let tally = |number: u8| (number, connections.tally(BackendId::truncate(number.into())).active());
        (1..=OWNER).map(tally).filter(|(_, active)| *active > 0).collect()
    }

    /// The same, by what is in the flow table.
    fn entries(&self) -> BTreeMap<u8, u32> {
        let mut counts = BTreeMap::new();
        for entry in self.balancer.flow_table().entries() {
            if entry.state != State::Closing {
                *counts.entry(u8::try_from(entry.backend).expect("few backends")).or_default() += 1;
            }
        }
        counts
    }

    fn limit(&mut self, limits: &[u32], scheduler: Scheduler, reset: bool) {
        for (number, limit) in (1..).zip(limits) {
            self.balancer.maps().connections().store_capacity(BackendId::truncate(number), 1, *limit);
        }
        self.balancer.maps().store_scheduler(SERVICE, scheduler.limited(reset));
    }

    fn verdict(&mut self, number: u32, flags: u8) -> Verdict {
        let frame = Family::V4.frame(segment(number, flags).to_bytes()).to_bytes();
        self.balancer.verdict(&frame)
    }
}

/// Each backend once, with as many backends as there are weights.
fn least(weights: &[u32]) -> Option<Scene> {
    let policy = if weights.len() <= Policy::MAX_COMPARED as usize { Policy::LEAST } else { Policy::LEAST_OF_TWO };
    let turns = if policy == Policy::LEAST { Turns::Equal } else { Turns::Weighted };
    let mut scene = Scene::new(weights, turns, policy)?;
    for (number, weight) in (1..).zip(weights) {
        scene.balancer.maps().connections().store_capacity(BackendId::truncate(number), *weight, 0);
    }
    Some(scene)
}

#[test]
fn connections_are_counted_from_their_first_packet_to_their_fin_or_reset() {
    let Some(mut scene) = Scene::new(&[1, 1], Turns::Equal, Policy::NEXT) else { return };
    scene.connect(0, 5);
    assert_eq!(scene.active(), BTreeMap::from([(1, 3), (2, 2)]));
    // Once more, and on its way.
    for flags in [flags::SYN, flags::ACK, flags::ACK] {
        scene.send(&segment(0, flags));
    }
    assert_eq!(scene.active(), BTreeMap::from([(1, 3), (2, 2)]));
    scene.send(&segment(0, FIN));
    scene.send(&segment(0, FIN));
    scene.send(&segment(1, flags::RST));
    assert_eq!(scene.active(), BTreeMap::from([(1, 2), (2, 1)]));
    // What may have been on its way says nothing; later it shows that the reset was forged: the connection goes on.
    let mut data = segment(1, flags::ACK);
    data.payload = b"data".to_vec();
    scene.send(&data);
    assert_eq!(scene.active(), BTreeMap::from([(1, 2), (2, 1)]));
    scene.balancer.set_time(NOW + 5_000_000_000);
    scene.send(&data);
    assert_eq!(scene.active(), BTreeMap::from([(1, 2), (2, 2)]));
    // The ports of the one that was closed are used again: it is the turn of the second.
    scene.connect(0, 1);
    assert_eq!(scene.active(), BTreeMap::from([(1, 2), (2, 3)]));
}

/// New flows in a round of churn.
const CHURNED: u32 = 20_000;

#[test]
fn after_churn_resets_lost_ends_and_timeouts_nothing_is_left_and_nothing_was_miscounted() {
    let Some(mut scene) = Scene::new(&[3, 2, 1, 1, 1], Turns::Weighted, Policy::NEXT) else { return };
    let is_long = std::env::var_os("LB_LONG").is_some_and(|value| value == "1");
    let mut random = Rng::with_seed(11);
    for round in 0..if is_long { 50 } else { 1 } {
        churn(&mut scene, round * CHURNED, &mut random);
        assert!(scene.active().values().sum::<u32>() > 1000, "there is something to forget");
        let swept = sweep(&mut scene);
        assert!(swept.removed > 1000 && swept.flows.is_empty());
        assert_eq!(swept.drift, [], "what the datapath has counted is what the daemon has found");
        assert_eq!(scene.active(), BTreeMap::new());
    }
    // Whoever dies in the middle of something leaves a miscount.
    let second = BackendId::truncate(2);
    let connections = scene.balancer.maps().connections();
    connections.correct(second, 3);
    assert_eq!(sweep(&mut scene).drift, [(second, -3)]);
    connections.correct(second, -3);
    assert_eq!(sweep(&mut scene).drift, []);
}

/// New connections from number `first` on, each followed by two packets of others, whatever they say, while backends die and come
/// back. All that took 100 s, and everything is over for a daemon of now.
fn churn(scene: &mut Scene, first: u32, random: &mut Rng) {
    const BACKENDS: u8 = 5;
    let start = flow_time().0 - 230_000_000_000;
    for step in 0..3 * CHURNED {
        scene.balancer.set_time(start + u64::from(step) * 1_600_000);
        let newest = first + step / 3;
        if step % 3 == 0 {
            scene.send(&segment(newest, flags::SYN));
        } else {
            let flags = [flags::SYN, flags::ACK, flags::ACK, FIN, flags::RST][random.usize(..5)];
            scene.send(&segment(newest - random.u32(..4000).min(step / 3), flags));
        }
        if step % 200 == 0 {
            let [gone, back] = [random.u8(1..=BACKENDS), random.u8(1..=BACKENDS)];
            scene.balancer.maps().remove_row(BackendId::truncate(gone.into()));
            scene.balancer.put_row(BackendId::truncate(back.into()), &Backend::numbered(back).row(Family::V4));
        }
        if step % 5000 == 0 {
            assert_eq!(scene.active(), scene.entries(), "after {step} packets");
        }
    }
    assert_eq!(scene.active(), scene.entries());
    for number in 1..=BACKENDS {
        scene.balancer.put_row(BackendId::truncate(number.into()), &Backend::numbered(number).row(Family::V4));
    }
}

/// What the daemon finds when it looks after the flows.
fn sweep(scene: &mut Scene) -> Sweep {
    let mut subjects = [Subject {
        service: scene.service,
        idle_timeout: Duration::from_mins(1),
        is_limited: false,
        nat: None,
        backends: (1..=OWNER).map(|number| BackendId::truncate(number.into())).collect(),
        slots: None,
    }];
    scene.balancer.sweep(&mut subjects)
}

#[test]
fn a_new_connection_goes_where_there_are_fewest() {
    let Some(mut scene) = least(&[1, 1, 1]) else { return };
    assert_eq!(scene.connect(0, 6), [1, 2, 3, 1, 2, 3], "equal ones take turns");
    scene.send(&segment(1, FIN));
    scene.send(&segment(4, FIN));
    assert_eq!(scene.connect(6, 2), [2, 2]);
}

#[test]
fn weights_count_in_least_connections() {
    let Some(mut scene) = least(&[5, 3, 2]) else { return };
    scene.connect(0, 1000);
    assert_eq!(scene.active(), BTreeMap::from([(1, 500), (2, 300), (3, 200)]));
}

#[test]
fn sixty_four_backends_are_all_compared() {
    let Some(mut scene) = least(&[1; 64]) else { return };
    scene.connect(0, 640);
    assert!(scene.active().values().all(|active| *active == 10) && scene.active().len() == 64);
    for number in 0..640 {
        if number % 64 == 63 {
            scene.send(&segment(number, FIN));
        }
    }
    let emptied = (1..=64).find(|number| !scene.active().contains_key(number)).expect("one has none");
    assert_eq!(scene.connect(1000, 10), [emptied; 10]);
}

#[test]
fn however_long_connections_last_nobody_has_many_more_than_others() {
    for backends in [10, 64, 90] {
        let weights: Vec<u32> = (0..backends).map(|index| 1 + index % 3).collect();
        let Some(scene) = least(&weights) else { return };
        let worst = simulate(scene, &weights, 9000);
        println!("{backends} backends: at worst {worst:.3} of the mean");
        assert!(worst <= 1.2, "{backends} backends: {worst}");
    }
}

/// The largest load over the mean one, when connections come at random and last for times without a bound on their variance (Pareto
/// with shape 1.5), about `alive` of them at a time.
fn simulate(mut scene: Scene, weights: &[u32], alive: u32) -> f64 {
    let mut random = Rng::with_seed(5);
    let mut ends = BinaryHeap::new();
    let (mut now, mut worst) = (0.0_f64, 0.0_f64);
    let total = f64::from(weights.iter().sum::<u32>());
    for number in 0..4 * alive {
        // The mean of the holding time is 3.
        now += -random.f64().ln() * 3.0 / f64::from(alive);
        while let Some(Reverse((end, ended))) = ends.peek().copied()
            && f64::from_bits(end) <= now
        {
            ends.pop();
            scene.send(&segment(ended, FIN));
        }
        scene.connect(number, 1);
        let holding = (1.0 - random.f64()).powf(-1.0 / 1.5);
        // Positive numbers are in the order of their bits.
        ends.push(Reverse(((now + holding).to_bits(), number)));
        if number > 2 * alive && number % 500 == 0 {
            let active = scene.active();
            let mean = f64::from(active.values().sum::<u32>()) / total;
            let load =
                |(number, active): (&u8, &u32)| f64::from(*active) / f64::from(weights[usize::from(*number) - 1]);
            worst = worst.max(active.iter().map(load).fold(0.0, f64::max) / mean);
        }
    }
    assert_eq!(scene.active(), scene.entries());
    worst
}

#[test]
fn a_backend_that_is_full_gets_no_new_connection_and_keeps_those_that_it_has() {
    for policy in [Policy::NEXT, Policy::RANDOM, Policy::LEAST, Policy::LEAST_OF_TWO] {
        let Some(mut scene) = least(&[1, 1, 1]) else { return };
        scene.limit(&[1, 2, 0], Scheduler::new(policy, ROTATION_CHUNK, 3), false);
        scene.connect(0, 40);
        let active = scene.active();
        assert!(active[&1] <= 1 && active[&2] <= 2, "{policy:?}: {active:?}");
        assert_eq!(active.values().sum::<u32>(), 40);
        for number in 0..40 {
            assert_eq!(scene.verdict(number, flags::ACK), Verdict::Transmitted);
        }
    }
}

#[test]
fn when_all_are_full_new_connections_are_dropped_until_one_ends() {
    let Some(mut scene) = Scene::new(&[1, 1, 1], Turns::Equal, Policy::NEXT) else { return };
    scene.limit(&[2, 2, 2], Scheduler::new(Policy::NEXT, ROTATION_CHUNK, 3), false);
    assert_eq!(scene.connect(0, 6), [1, 2, 3, 1, 2, 3]);
    assert_eq!(scene.verdict(6, flags::SYN), Verdict::DropBackendsFull);
    assert_eq!(scene.verdict(0, flags::SYN), Verdict::Transmitted, "the same packet again is no new connection");
    scene.send(&segment(4, FIN));
    assert_eq!(scene.connect(6, 1), [2]);
    assert_eq!(scene.verdict(7, flags::SYN), Verdict::DropBackendsFull);
}

#[test]
fn clients_are_told_with_a_reset_if_the_service_wants_that() {
    let Some(mut scene) = Scene::new(&[1], Turns::Equal, Policy::NEXT) else { return };
    scene.limit(&[1], Scheduler::new(Policy::NEXT, ROTATION_CHUNK, 1), true);
    assert_eq!(scene.connect(0, 1), [1]);
    assert_eq!(scene.verdict(1, flags::SYN), Verdict::Reset);
    assert_eq!(scene.active(), BTreeMap::from([(1, 1)]));
}

#[test]
fn the_only_backend_with_room_is_found_however_seldom_its_turn_comes() {
    for policy in [Policy::NEXT, Policy::RANDOM, Policy::LEAST_OF_TWO, Policy::SLOT] {
        let Some(mut scene) = Scene::new(&[1000, 1, 1], Turns::Weighted, policy) else { return };
        let members: Vec<BackendId> = (1..=3).map(BackendId::truncate).collect();
        scene.balancer.maps().store_turns(ROTATION_CHUNK + 1, &members);
        let first = BackendId::truncate(1);
        let service = scene.service;
        for slot in 0..=service.slot_mask {
            scene.balancer.maps().store_slot(&service, slot, SlotWord::new(first, first, true, true));
        }
        let scheduler = Scheduler::new(policy, ROTATION_CHUNK, 1002).with_members(3);
        scene.limit(&[5, 60, 60], scheduler, false);
        scene.connect(0, 125);
        assert_eq!(scene.active(), BTreeMap::from([(1, 5), (2, 60), (3, 60)]), "{policy:?}");
        assert_eq!(scene.verdict(125, flags::SYN), Verdict::DropBackendsFull);
    }
}

#[test]
fn a_handshake_whose_backend_is_gone_fills_no_other_above_its_limit() {
    let Some(mut scene) = Scene::new(&[1, 1], Turns::Equal, Policy::NEXT) else { return };
    scene.limit(&[9, 2], Scheduler::new(Policy::NEXT, ROTATION_CHUNK, 2), false);
    assert_eq!(scene.connect(0, 4), [1, 2, 1, 2]);
    scene.balancer.maps().remove_row(BackendId::truncate(1));
    scene.balancer.maps().store_turns(ROTATION_CHUNK, &[BackendId::truncate(2)]);
    scene.limit(&[9, 2], Scheduler::new(Policy::NEXT, ROTATION_CHUNK, 1), false);
    assert_eq!(scene.verdict(0, flags::SYN), Verdict::DropBackendsFull);
    assert_eq!(scene.active()[&2], 2);
}

#[test]
fn connections_that_were_there_before_are_counted_while_they_are_learned() {
    let Some(mut scene) = Scene::new(&[1], Turns::Equal, Policy::NEXT) else { return };
    scene.limit(&[9], Scheduler::NONE.learning(), false);
    for number in 0..5 {
        assert_eq!(scene.send(&segment(number, flags::ACK)), Some(OWNER));
    }
    assert_eq!(scene.active(), BTreeMap::from([(OWNER, 5)]));
    // One that ends is none.
    scene.send(&segment(5, FIN));
    scene.send(&segment(0, FIN));
    assert_eq!(scene.active(), BTreeMap::from([(OWNER, 4)]));
    scene.limit(&[9], Scheduler::NONE, false);
    assert_eq!(scene.send(&segment(6, flags::ACK)), Some(OWNER));
    assert_eq!(scene.active(), BTreeMap::from([(OWNER, 4)]));
}

#[test]
fn where_slots_decide_others_get_what_the_owner_may_not_have() {
    let Some(mut scene) = Scene::new(&[1, 1, 1], Turns::Equal, Policy::NEXT) else { return };
    for slot in 0..=scene.service.slot_mask {
        let owner = BackendId::truncate(1 + slot % 3);
        let service = scene.service;
        scene.balancer.maps().store_slot(&service, slot, SlotWord::new(owner, owner, true, true));
    }
    scene.limit(&[5, 5, 5], Scheduler::NONE, false);
    scene.connect(0, 15);
    assert_eq!(scene.active(), BTreeMap::from([(1, 5), (2, 5), (3, 5)]));
    assert_eq!(scene.verdict(15, flags::SYN), Verdict::DropBackendsFull);
}
