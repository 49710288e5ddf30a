//! Whole conversations of nodes, as they are read by people: the time in milliseconds, who, and what.

use insta::assert_snapshot;

use super::{lan::Lan, *};
use crate::config::{Track, Tracked};

fn priority(priority: u8) -> Vec<Vrrp> {
    vec![Vrrp { priority, ..vrrp() }]
}

/// Nodes of these priorities, some time after they have found a master.
fn settled(nodes: Vec<Vec<Vrrp>>) -> Lan {
    let mut lan = Lan::running(nodes);
    lan.run(ms(10_000));
    lan.transcript();
    lan
}

#[test]
fn two_nodes_start() {
    let mut lan = Lan::running(vec![priority(200), priority(100)]);
    lan.run(ms(5500));
    assert_snapshot!(lan.transcript(), @r"
       0 a stopped -> backup (all that it needs is there)
       0 b stopped -> backup (all that it needs is there)
    3218 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    4218 a advertises 200
    5218 a advertises 200
    ");
}

#[test]
fn a_second_node_joins_and_does_not_disturb_a_better_master() {
    let mut lan = Lan::new(vec![priority(200), priority(100)]);
    lan.boot(0);
    lan.run(ms(5000));
    lan.boot(1);
    lan.run(ms(5000));
    assert_snapshot!(lan.transcript(), @r"
       0 a stopped -> backup (all that it needs is there)
    3218 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    4218 a advertises 200
    5000 b stopped -> backup (all that it needs is there)
    5218 a advertises 200
    6218 a advertises 200
    7218 a advertises 200
    8218 a advertises 200
    9218 a advertises 200
    ");
}

#[test]
fn the_master_dies() {
    let mut lan = settled(vec![priority(200), priority(100)]);
    lan.note("a dies");
    lan.kill(0);
    lan.run(ms(5000));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- a dies
    12829 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    13829 b advertises 100
    14829 b advertises 100
    ");
}

#[test]
fn the_master_stops() {
    let mut lan = settled(vec![priority(200), priority(100)]);
    lan.note("a stops");
    lan.act(0, Router::stop);
    lan.run(ms(3000));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- a stops
    10000 a says farewell, master -> backup (this node stops)
    10610 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    10611 a releases, backup -> stopped (10.0.0.2 advertises priority 100)
    11610 b advertises 100
    12610 b advertises 100
    ");
    assert_eq!(lan.longest_overlap(), ms(1));
}

#[test]
fn a_node_comes_back_and_preempts() {
    let mut lan = settled(vec![priority(200), priority(100)]);
    lan.kill(0);
    lan.run(ms(5000));
    lan.transcript();
    lan.note("a comes back");
    lan.boot(0);
    lan.run(ms(5000));
    assert_snapshot!(lan.transcript(), @r"
    15000   -- a comes back
    15000 a stopped -> backup (all that it needs is there)
    15829 b advertises 100
    16829 b advertises 100
    17829 b advertises 100
    18218 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    18219 b releases, master -> backup (10.0.0.1 advertises priority 200)
    19218 a advertises 200
    ");
    assert_eq!(lan.longest_overlap(), ms(1));
}

#[test]
fn a_node_comes_back_and_preempts_after_its_delay() {
    let delayed = vec![Vrrp { priority: 200, preempt_delay: ms(3000), ..vrrp() }];
    let mut lan = settled(vec![delayed, priority(100)]);
    lan.kill(0);
    lan.run(ms(5000));
    lan.transcript();
    lan.note("a comes back");
    lan.boot(0);
    lan.run(ms(9000));
    assert_snapshot!(lan.transcript(), @r"
    15000   -- a comes back
    15000 a stopped -> backup (all that it needs is there)
    15829 b advertises 100
    16829 b advertises 100
    17829 b advertises 100
    18829 b advertises 100
    19829 b advertises 100
    20829 b advertises 100
    21048 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    21049 b releases, master -> backup (10.0.0.1 advertises priority 200)
    22048 a advertises 200
    23048 a advertises 200
    ");
}

#[test]
fn a_node_comes_back_and_does_not_preempt() {
    let content = vec![Vrrp { priority: 200, preempt: false, ..vrrp() }];
    let mut lan = settled(vec![content, priority(100)]);
    lan.kill(0);
    lan.run(ms(5000));
    lan.transcript();
    lan.note("a comes back");
    lan.boot(0);
    lan.run(ms(6000));
    assert_snapshot!(lan.transcript(), @r"
    15000   -- a comes back
    15000 a stopped -> backup (all that it needs is there)
    15829 b advertises 100
    16829 b advertises 100
    17829 b advertises 100
    18829 b advertises 100
    19829 b advertises 100
    20829 b advertises 100
    ");
}

#[test]
fn the_master_is_asked_to_hand_over_and_later_its_successor_is_too() {
    let mut lan = settled(vec![priority(200), priority(100)]);
    for asked in [0, 1] {
        lan.note(["a is asked to hand over", "b is asked to hand over"][asked]);
        lan.act(asked, |router, now| router.fail_over("VI_1", now).expect("it is master"));
        lan.run(ms(4000));
    }
    assert_snapshot!(lan.transcript(), @r"
    10000   -- a is asked to hand over
    10000 a says farewell, master -> backup (handed over on request)
    10610 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    10611 a releases
    11610 b advertises 100
    12610 b advertises 100
    13610 b advertises 100
    14000   -- b is asked to hand over
    14000 b says farewell, master -> backup (handed over on request)
    14219 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    14220 b releases
    15219 a advertises 200
    16219 a advertises 200
    17219 a advertises 200
    ");
    assert_eq!(lan.longest_overlap(), ms(1));
}

#[test]
fn a_node_that_has_handed_over_succeeds_its_successor_when_that_stops() {
    let mut lan = settled(vec![priority(200), priority(100)]);
    lan.act(0, |router, now| router.fail_over("VI_1", now).expect("it is master"));
    lan.run(ms(5000));
    lan.transcript();
    lan.note("b stops");
    lan.act(1, Router::stop);
    lan.run(ms(3000));
    assert_snapshot!(lan.transcript(), @r"
    15000   -- b stops
    15000 b says farewell, master -> backup (this node stops)
    15219 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    15220 b releases, backup -> stopped (10.0.0.1 advertises priority 200)
    16219 a advertises 200
    17219 a advertises 200
    ");
}

#[test]
fn nobody_succeeds_a_node_that_is_alone_and_asked_to_hand_over() {
    let mut lan = settled(vec![priority(200)]);
    lan.note("a is asked to hand over");
    lan.act(0, |router, now| router.fail_over("VI_1", now).expect("it is master"));
    lan.run(ms(4000));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- a is asked to hand over
    10000 a says farewell, master -> backup (handed over on request)
    12000 a releases
    13218 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    ");
}

#[test]
fn the_link_splits_and_heals() {
    let mut lan = settled(vec![priority(200), priority(100)]);
    lan.note("the link splits");
    lan.split(|node| node == 0);
    lan.run(ms(4500));
    lan.note("it heals");
    lan.heal();
    lan.run(ms(3000));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- the link splits
    10218 a advertises 200
    11218 a advertises 200
    12218 a advertises 200
    12829 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    13218 a advertises 200
    13829 b advertises 100
    14218 a advertises 200
    14500   -- it heals
    14829 b advertises 100
    14830 a advertises 200, announces 1
    14831 b releases, master -> backup (10.0.0.1 advertises priority 200)
    15830 a advertises 200
    16830 a advertises 200
    ");
}

#[test]
fn the_master_stands_still_and_wakes() {
    let mut lan = settled(vec![priority(200), priority(100)]);
    lan.note("a stands still");
    lan.freeze(0);
    lan.run(ms(5000));
    lan.note("a wakes");
    lan.thaw(0);
    lan.run(ms(5000));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- a stands still
    12829 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    13829 b advertises 100
    14829 b advertises 100
    15000   -- a wakes
    15000 a releases, master -> backup (this node stood still)
    15829 b advertises 100
    16829 b advertises 100
    17829 b advertises 100
    18218 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    18219 b releases, master -> backup (10.0.0.1 advertises priority 200)
    19218 a advertises 200
    ");
}

#[test]
fn a_backup_stands_still_and_wakes() {
    let mut lan = settled(vec![priority(100), priority(200)]);
    lan.note("a stands still");
    lan.freeze(0);
    lan.run(ms(60_000));
    lan.transcript();
    lan.note("a wakes");
    lan.thaw(0);
    lan.run(ms(2000));
    assert_snapshot!(lan.transcript(), @r"
    70000   -- a wakes
    70218 b advertises 200
    71218 b advertises 200
    ");
}

#[test]
fn two_nodes_of_the_same_priority_become_master_at_once_and_the_higher_address_stays() {
    let mut lan = Lan::running(vec![priority(100), priority(100)]);
    lan.run(ms(5500));
    assert_snapshot!(lan.transcript(), @r"
       0 a stopped -> backup (all that it needs is there)
       0 b stopped -> backup (all that it needs is there)
    3609 a advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    3609 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    3610 b advertises 100, announces 1
    3610 a releases, master -> backup (10.0.0.2 advertises priority 100)
    4610 b advertises 100
    ");
    assert_eq!(lan.longest_overlap(), ms(1));
}

#[test]
fn of_two_backups_the_better_succeeds_a_master_that_stops() {
    let mut lan = settled(vec![priority(200), priority(100), priority(150)]);
    lan.note("a stops");
    lan.act(0, Router::stop);
    lan.run(ms(2500));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- a stops
    10000 a says farewell, master -> backup (this node stops)
    10415 c advertises 150, acquires, announces 1, backup -> master (no better master was heard)
    10416 a releases, backup -> stopped (10.0.0.3 advertises priority 150)
    11415 c advertises 150
    12415 c advertises 150
    ");
    assert_eq!(lan.longest_overlap(), ms(1));
}

#[test]
fn three_nodes_lose_their_master_and_then_the_next() {
    let mut lan = settled(vec![priority(200), priority(100), priority(150)]);
    for dies in [0, 2] {
        lan.note(["a dies", "", "c dies"][dies]);
        lan.kill(dies);
        lan.run(ms(5000));
    }
    assert_snapshot!(lan.transcript(), @r"
    10000   -- a dies
    12633 c advertises 150, acquires, announces 1, backup -> master (no better master was heard)
    13633 c advertises 150
    14633 c advertises 150
    15000   -- c dies
    18244 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    19244 b advertises 100
    ");
}

#[test]
fn version_2_has_its_skew_in_parts_of_a_second_whatever_the_interval() {
    let v2 = |priority| vec![Vrrp { version: VrrpVersion::V2, interval: ms(2000), priority, ..vrrp() }];
    let mut lan = Lan::running(vec![v2(200), v2(100)]);
    lan.run(ms(8500));
    lan.note("a stops");
    lan.act(0, Router::stop);
    lan.run(ms(3000));
    assert_snapshot!(lan.transcript(), @r"
        0 a stopped -> backup (all that it needs is there)
        0 b stopped -> backup (all that it needs is there)
     6218 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
     8218 a advertises 200
     8500   -- a stops
     8500 a says farewell, master -> backup (this node stops)
     9110 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
     9111 a releases, backup -> stopped (10.0.0.2 advertises priority 100)
    11110 b advertises 100
    ");
}

#[test]
fn a_backup_goes_by_the_interval_of_its_master() {
    let slow = vec![Vrrp { priority: 200, interval: ms(2000), ..vrrp() }];
    let mut lan = settled(vec![slow, priority(100)]);
    lan.note("a dies");
    lan.kill(0);
    lan.run(ms(9000));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- a dies
    15657 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    16657 b advertises 100
    17657 b advertises 100
    18657 b advertises 100
    ");
}

#[test]
fn tracking_lowers_the_priority_of_the_master_and_raises_it_again() {
    let track = Track { what: Tracked::File { path: "/run/f".into() }, weight: Some(-150) };
    let tracking = vec![Vrrp { priority: 200, tracks: vec![track], ..vrrp() }];
    let mut lan = settled(vec![tracking, priority(100)]);
    lan.note("what a watches fails");
    lan.act(0, |router, now| router.on_reading(0, 0, Reading::Bad, now));
    lan.run(ms(6000));
    lan.note("it is good again");
    lan.act(0, |router, now| router.on_reading(0, 0, Reading::Good, now));
    lan.run(ms(5000));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- what a watches fails
    10000 a advertises 50
    11000 a advertises 50
    12000 a advertises 50
    12829 b advertises 100, acquires, announces 1, backup -> master (no better master was heard)
    12830 a releases, master -> backup (10.0.0.2 advertises priority 100)
    13829 b advertises 100
    14829 b advertises 100
    15829 b advertises 100
    16000   -- it is good again
    16829 b advertises 100
    17829 b advertises 100
    18829 b advertises 100
    19634 a advertises 200, acquires, announces 1, backup -> master (no better master was heard)
    19635 b releases, master -> backup (10.0.0.1 advertises priority 200)
    20634 a advertises 200
    ");
}

#[test]
fn the_interface_of_one_instance_goes_down_and_the_group_moves() {
    let group = |priority| {
        ["A", "B"].map(|name| Vrrp {
            priority,
            ..grouped(name, 51 + u8::from(name == "B"), if name == "A" { "eth0" } else { "eth1" })
        })
    };
    let mut lan = settled(vec![group(200).to_vec(), group(100).to_vec()]);
    lan.note("eth1 of a goes down");
    lan.set_link(0, "eth1", false);
    lan.run(ms(2000));
    lan.note("it comes up");
    lan.set_link(0, "eth1", true);
    lan.run(ms(4000));
    assert_snapshot!(lan.transcript(), @r"
    10000   -- eth1 of a goes down
    10000 a A says farewell, A releases, A master -> fault (interface eth1 is down), B says farewell, B releases, B master -> fault (interface eth1 is down)
    10610 b A advertises 100, A acquires, A announces 1, A backup -> master (no better master was heard), B advertises 100, B acquires, B announces 1, B backup -> master (A: no better master was heard)
    11610 b A advertises 100, B advertises 100
    12000   -- it comes up
    12000 a A fault -> backup (all that it needs is there), B fault -> backup (all that it needs is there)
    12610 b A advertises 100, B advertises 100
    13610 b A advertises 100, B advertises 100
    14610 b A advertises 100, B advertises 100
    15218 a A advertises 200, A acquires, A announces 1, A backup -> master (no better master was heard), B advertises 200, B acquires, B announces 1, B backup -> master (A: no better master was heard)
    15219 b A releases, A master -> backup (10.0.0.1 advertises priority 200), B says farewell, B master -> backup (A: 10.0.0.1 advertises priority 200)
    15219 b B releases
    15220 a B advertises 200
    ");
    assert_eq!(lan.longest_overlap(), ms(1));
}
