//! What operators ask for: to stop, to hand over, another priority; and what the watcher asks for.

use super::{bench::*, *};

#[test]
fn a_node_that_stops_hands_over_and_has_stopped_when_it_hears_its_successor() {
    let mut bench = Bench::master(vec![vrrp()]);
    let effects = bench.router.stop(bench.clock());
    assert_eq!(bench.in_words(&effects), ["says farewell", "master -> backup (this node stops)"]);
    assert!(bench.router.is_stopping() && !bench.router.is_stopped());
    bench.wait(ms(600));
    assert_eq!(bench.hear(8, 50), ["releases", "backup -> stopped (10.0.0.8 advertises priority 50)"]);
    assert!(bench.router.is_stopped());
    assert_eq!(bench.deadline(), None);
}

#[test]
fn a_node_that_stops_has_stopped_after_two_intervals_although_nobody_succeeds_it() {
    let mut bench = Bench::master(vec![vrrp()]);
    bench.router.stop(bench.clock());
    assert_eq!(bench.wait(ms(1999)), [] as [&str; 0]);
    assert!(!bench.router.is_stopped());
    assert_eq!(bench.wait(ms(1)), ["releases", "backup -> stopped (no better master was heard)"]);
    assert!(bench.router.is_stopped());
}

#[test]
fn a_node_that_stops_stops_although_it_stands_still_meanwhile() {
    let mut bench = Bench::master(vec![vrrp()]);
    bench.router.stop(bench.clock());
    assert_eq!(bench.stand_still(ms(60_000)), ["releases", "backup -> stopped (no better master was heard)"]);
    assert!(bench.router.is_stopped());
}

#[test]
fn a_backup_that_stops_has_stopped_at_once() {
    let mut bench = Bench::started(vec![vrrp()]);
    let effects = bench.router.stop(bench.clock());
    assert_eq!(bench.in_words(&effects), ["backup -> stopped (this node stops)"]);
    assert!(bench.router.is_stopped());
}

#[test]
fn a_router_without_instances_stops_at_once_and_not_before_it_is_told() {
    let mut bench = Bench::new(Vec::new());
    assert!(!bench.router.is_stopped());
    bench.router.stop(bench.clock());
    assert!(bench.router.is_stopped());
}

#[test]
fn nothing_starts_on_a_node_that_stops() {
    let mut bench = Bench::new(vec![vrrp()]);
    bench.router.stop(bench.clock());
    assert_eq!(bench.link("eth0", Some(&link("eth0", &[node(5)]))), [] as [&str; 0]);
    assert!(bench.router.is_stopped());
}

#[test]
fn a_fail_over_keeps_the_addresses_until_the_successor_is_heard() {
    let mut bench = Bench::master(vec![vrrp()]);
    let effects = bench.router.fail_over("VI_1", bench.clock()).unwrap();
    assert_eq!(bench.in_words(&effects), ["says farewell", "master -> backup (handed over on request)"]);
    assert!(bench.router.members()[0].instance().holds_addresses());
    assert_eq!(bench.hear(8, 50), ["releases"]);
    assert_eq!(bench.status(), Status::Backup);
}

#[test]
fn only_a_master_can_be_asked_to_hand_over() {
    let mut bench = Bench::started(vec![vrrp()]);
    let refusal = |bench: &mut Bench, name: &str| bench.router.fail_over(name, bench.clock()).unwrap_err().to_string();
    assert_eq!(refusal(&mut bench, "VI_1"), "VI_1 is not master here but backup: ask the node that is");
    assert_eq!(refusal(&mut bench, "VI_9"), "there is no VRRP instance \"VI_9\"; this node has \"VI_1\"");
    let mut none = Bench::new(Vec::new());
    assert_eq!(refusal(&mut none, "VI_9"), "there is no VRRP instance \"VI_9\"; this node has none");
}

#[test]
fn another_priority_is_told_at_once_and_so_is_the_configured_one_again() {
    let mut bench = Bench::master(vec![vrrp()]);
    for (priority, told) in [(Some(30), "advertises 30"), (None, "advertises 100")] {
        let effects = bench.router.set_priority("VI_1", priority, bench.clock()).unwrap();
        assert_eq!(bench.in_words(&effects), [told]);
        assert_eq!(bench.router.members()[0].override_priority(), priority);
    }
    let effects = bench.router.set_priority("VI_1", None, bench.clock()).unwrap();
    assert_eq!(effects, [], "it has that priority");
    assert!(bench.router.set_priority("VI_9", None, bench.clock()).is_err());
}

#[test]
fn the_farewell_of_an_earlier_life_is_said_although_the_instance_has_started() {
    let mut bench = Bench::started(vec![vrrp()]);
    let names = ["VI_1".to_owned(), "VI_9".to_owned()];
    let effects = bench.router.bury(&names, bench.clock());
    assert_eq!(bench.in_words(&effects), ["says farewell"]);
    assert_eq!(bench.status(), Status::Backup);
}

#[test]
fn no_farewell_is_said_for_others_nor_without_an_address_nor_when_there_is_a_master() {
    let mut bench = Bench::started(vec![vrrp()]);
    let names = ["VI_1".to_owned()];
    assert_eq!(bench.router.bury(&[], bench.clock()), [], "nobody died");
    bench.hear(8, 200);
    assert_eq!(bench.router.bury(&names, bench.clock()), [], "there is a master");
    let mut bench = Bench::new(vec![vrrp()]);
    assert_eq!(bench.router.bury(&names, bench.clock()), [], "the interface is not known");
    let mut bench = Bench::master(vec![vrrp()]);
    assert_eq!(bench.router.bury(&names, bench.clock()), [], "it is master itself");
}

#[test]
fn the_last_32_changes_are_remembered_with_time_and_reason() {
    let mut bench = Bench::started(vec![vrrp()]);
    for _ in 0..20 {
        bench.wait(ms(4000));
        bench.hear(8, 200);
    }
    let history: Vec<_> = bench.router.members()[0].history().collect();
    assert_eq!(history.len(), 32);
    let last = history.last().unwrap();
    assert_eq!((last.at, last.from, last.to), (EPOCH + ms(80_000), Status::Master, Status::Backup));
    assert_eq!((last.reason.as_str(), last.priority), ("10.0.0.8 advertises priority 200", 100));
    assert!(history.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].at <= pair[1].at));
}

#[test]
fn a_master_that_stood_still_says_so_whatever_comes_first_after_it() {
    type Step<'a> = &'a dyn Fn(&mut Bench) -> Vec<String>;
    let steps: [(&str, Step<'_>); 4] = [
        ("the time", &|bench| bench.stand_still(Duration::ZERO)),
        ("an advertisement", &|bench| bench.hear(8, 50)),
        ("news of a link", &|bench| bench.link("eth1", None)),
        ("a wish to hand over", &|bench| {
            let effects = bench.router.fail_over("VI_1", bench.clock()).expect("it is master, as far as it knows");
            bench.in_words(&effects)
        }),
    ];
    for (what, step) in steps {
        let mut bench = Bench::master(vec![vrrp()]);
        bench.now += ms(5000);
        assert_eq!(step(&mut bench), ["releases", "master -> backup (this node stood still)"], "{what}");
    }
}
