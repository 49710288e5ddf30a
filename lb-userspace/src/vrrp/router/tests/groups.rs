//! Instances that change state together.

use super::{bench::*, *};
use crate::config::{Track, Tracked};

fn pair() -> Vec<Vrrp> {
    vec![grouped("A", 51, "eth0"), grouped("B", 52, "eth1")]
}

/// Another node advertises on `eth1`, to B.
fn hear_b(bench: &mut Bench, from: u8, priority: u8) -> Vec<String> {
    let theirs = Advertisement { router_id: 52, ..advertisement(priority) };
    let payload = theirs.encode(node(from), GROUP, ChecksumHabit::PseudoHeader);
    bench.deliver(Packet { ifindex: 11, ..packet(node(from), &payload) })
}

#[test]
fn a_group_takes_over_when_the_last_of_its_instances_would() {
    let mut bench = Bench::started(pair());
    for _ in 0..10 {
        bench.wait(ms(1000));
        hear_b(&mut bench, 8, 50);
        assert!(hear_b(&mut bench, 8, 200).is_empty());
        assert_eq!(bench.statuses(), [Status::Backup; 2], "A hears nobody, but B does");
    }
    let waits: Vec<_> = bench.router.members().iter().map(|member| member.instance().waits_for_group()).collect();
    assert_eq!(waits, [true, false]);
    assert!(bench.wait(ms(3600)).is_empty());
    assert_eq!(
        bench.wait(ms(10)),
        [
            "A advertises 100",
            "A acquires",
            "A announces 1",
            "A backup -> master (no better master was heard)",
            "B advertises 100",
            "B acquires",
            "B announces 1",
            "B backup -> master (A: no better master was heard)",
        ]
    );
}

#[test]
fn instances_without_a_group_keep_to_themselves() {
    let alone = |instance: Vrrp| Vrrp { sync_group: None, ..instance };
    let mut bench = Bench::started(pair().into_iter().map(alone).collect());
    bench.wait(ms(1000));
    hear_b(&mut bench, 8, 200);
    bench.wait(ms(2700));
    assert_eq!(bench.statuses(), [Status::Master, Status::Backup]);
}

#[test]
fn when_one_is_asked_to_hand_over_all_of_its_group_do() {
    let mut bench = Bench::master(pair());
    let effects = bench.router.fail_over("B", bench.clock()).unwrap();
    assert_eq!(
        bench.in_words(&effects),
        [
            "B says farewell",
            "B master -> backup (handed over on request)",
            "A says farewell",
            "A master -> backup (B: handed over on request)",
        ]
    );
    assert_eq!(bench.hear(8, 50), ["A releases"]);
    assert_eq!(hear_b(&mut bench, 8, 50), ["B releases"]);
}

#[test]
fn when_one_hears_a_better_master_the_others_hand_over() {
    let mut bench = Bench::master(pair());
    assert_eq!(
        bench.hear(8, 200),
        [
            "A releases",
            "A master -> backup (10.0.0.8 advertises priority 200)",
            "B says farewell",
            "B master -> backup (A: 10.0.0.8 advertises priority 200)",
        ]
    );
    assert_eq!(hear_b(&mut bench, 8, 200), ["B releases"]);
}

#[test]
fn when_the_interface_of_one_goes_down_all_of_its_group_are_out_and_come_back_with_it() {
    let mut bench = Bench::master(pair());
    assert_eq!(
        bench.link("eth1", None),
        [
            "A says farewell",
            "A releases",
            "A master -> fault (interface eth1 is missing)",
            "B releases",
            "B master -> fault (interface eth1 is missing)",
        ]
    );
    bench.link("eth1", Some(&link("eth1", &[node(5)])));
    assert_eq!(bench.statuses(), [Status::Backup, Status::Backup]);
}

#[test]
fn an_interface_that_is_missing_decides_although_another_of_the_group_is_not_known() {
    let third = || vec![grouped("C", 53, "eth2")];
    for instances in [[third(), pair()].concat(), [pair(), third()].concat()] {
        let mut bench = Bench::master(pair());
        bench.router.reconfigure(instances, bench.clock());
        assert_eq!(bench.statuses().iter().filter(|status| **status == Status::Master).count(), 2);
        bench.link("eth1", None);
        assert_eq!(bench.statuses(), [Status::Fault; 3]);
    }
}

#[test]
fn what_one_watches_changes_the_priority_of_all_of_its_group() {
    let mut instances = pair();
    instances[1].tracks = vec![Track { what: Tracked::File { path: "/run/f".into() }, weight: Some(-30) }];
    let mut bench = Bench::master(instances);
    assert_eq!(bench.read(1, 0, Reading::Bad), ["A advertises 70", "B advertises 70"]);
}

#[test]
fn another_priority_is_one_for_the_group() {
    let mut bench = Bench::master(pair());
    let effects = bench.router.set_priority("A", Some(30), bench.clock()).unwrap();
    assert_eq!(bench.in_words(&effects), ["A advertises 30", "B advertises 30"]);
}

#[test]
fn a_group_that_stops_has_stopped_when_each_has_heard_its_successor() {
    let mut bench = Bench::master(pair());
    let effects = bench.router.stop(bench.clock());
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Send { .. })).count(), 2);
    bench.hear(8, 50);
    assert_eq!(bench.statuses(), [Status::Stopped, Status::Backup]);
    assert!(!bench.router.is_stopped());
    hear_b(&mut bench, 8, 50);
    assert!(bench.router.is_stopped());
}

#[test]
fn a_group_that_stood_still_says_no_farewell() {
    let mut bench = Bench::master(pair());
    assert_eq!(
        bench.stand_still(ms(10_000)),
        [
            "A releases",
            "A master -> backup (this node stood still)",
            "B releases",
            "B master -> backup (A: this node stood still)",
        ]
    );
}

#[test]
fn a_group_that_gave_way_to_a_better_master_comes_back_when_that_one_is_worse() {
    let mut bench = Bench::master(pair());
    bench.hear(8, 200);
    hear_b(&mut bench, 8, 200);
    assert_eq!(bench.statuses(), [Status::Backup; 2]);
    for _ in 0..4 {
        bench.wait(ms(1000));
        bench.hear(8, 50);
        hear_b(&mut bench, 8, 50);
    }
    assert_eq!(bench.statuses(), [Status::Master; 2]);
}

#[test]
fn a_group_that_handed_over_on_request_does_not_come_back_while_its_successor_lives() {
    let mut bench = Bench::master(pair());
    bench.router.fail_over("A", bench.clock()).unwrap();
    for _ in 0..10 {
        bench.wait(ms(500));
        bench.hear(8, 50);
        hear_b(&mut bench, 8, 50);
    }
    assert_eq!(bench.statuses(), [Status::Backup; 2]);
}
