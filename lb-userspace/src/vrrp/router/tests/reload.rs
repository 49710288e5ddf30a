//! Another configuration while the router runs.

use super::{bench::*, *};
use crate::config::Authentication;

/// What a reload does: first what cannot go on, then the rest.
fn reload(bench: &mut Bench, next: Vec<Vrrp>) -> (Vec<String>, Vec<String>) {
    let effects = bench.router.retire(&next, bench.clock());
    let retired = bench.in_words(&effects);
    let effects = bench.router.reconfigure(next, bench.clock());
    (retired, bench.in_words(&effects))
}

#[test]
fn an_instance_that_stays_the_same_stays_master() {
    let mut bench = Bench::master(vec![vrrp()]);
    let deadline = bench.deadline();
    let (retired, told) = reload(&mut bench, vec![vrrp()]);
    assert_eq!(retired, [] as [&str; 0]);
    assert_eq!(told, ["acquires", "announces 1"]);
    assert_eq!((bench.status(), bench.deadline()), (Status::Master, deadline));
    let member = &bench.router.members()[0];
    assert_eq!((member.counters().became_master, member.history().len()), (1, 2));
}

#[test]
fn an_instance_that_was_elsewhere_in_the_file_is_still_found_by_its_packets() {
    let other = Vrrp { name: "VI_2".to_owned(), router_id: 52, ..vrrp() };
    let mut bench = Bench::master(vec![vrrp(), other.clone()]);
    reload(&mut bench, vec![other, vrrp()]);
    bench.hear(8, 200);
    assert_eq!(bench.statuses(), [Status::Master, Status::Backup]);
}

#[test]
fn another_priority_or_interval_is_told_by_a_master_at_once() {
    let mut bench = Bench::master(vec![vrrp()]);
    let (retired, told) = reload(&mut bench, vec![Vrrp { priority: 120, ..vrrp() }]);
    assert_eq!(retired, [] as [&str; 0]);
    assert_eq!(told, ["advertises 120", "acquires", "announces 1"]);
    let next = Vrrp { priority: 120, interval: ms(500), ..vrrp() };
    let (_, told) = reload(&mut bench, vec![next]);
    assert_eq!(told, ["advertises 120", "acquires", "announces 1"]);
    assert_eq!(bench.deadline(), Some(bench.now + ms(500)));
}

#[test]
fn an_address_that_is_added_is_acquired_and_announced_and_advertised() {
    let addresses = vec![virtual_address("192.0.2.1"), virtual_address("192.0.2.2")];
    let mut bench = Bench::master(vec![vrrp()]);
    let (_, told) = reload(&mut bench, vec![Vrrp { addresses, ..vrrp() }]);
    assert_eq!(told, ["acquires", "announces 1"]);
    bench.now += ms(1000);
    let effects = bench.router.on_time(bench.clock());
    let [Effect::Send { source, destination, payload, .. }] = &effects[..] else { panic!("{effects:?}") };
    let (sent, _) = Advertisement::decode(payload, *source, *destination).unwrap();
    assert_eq!(sent.addresses, [ip("192.0.2.1"), ip("192.0.2.2")]);
}

#[test]
fn a_backup_acquires_nothing_by_a_reload() {
    let mut bench = Bench::started(vec![vrrp()]);
    assert_eq!(reload(&mut bench, vec![vrrp()]), (Vec::new(), Vec::new()));
    assert_eq!(bench.status(), Status::Backup);
}

#[test]
fn an_instance_that_is_left_out_says_farewell_and_releases() {
    let mut bench = Bench::master(vec![vrrp()]);
    let (retired, told) = reload(&mut bench, Vec::new());
    assert_eq!(retired, ["says farewell", "releases", "master -> stopped (left the configuration)"]);
    assert_eq!(told, [] as [&str; 0]);
    assert_eq!(bench.deadline(), None);
    bench.hear(8, 200);
    assert_eq!(bench.router.strays().get("unknown-router-id"), Some(&1));
}

#[test]
fn an_instance_that_others_know_by_something_else_now_is_another_one() {
    for next in [
        Vrrp { name: "VI_2".to_owned(), ..vrrp() },
        Vrrp { interface: "eth1".to_owned(), ..vrrp() },
        Vrrp { router_id: 52, ..vrrp() },
        Vrrp { version: VrrpVersion::V2, ..vrrp() },
        Vrrp { virtual_mac: true, ..vrrp() },
        Vrrp { addresses: vec![virtual_address("2001:db8::1")], ..vrrp() },
    ] {
        let mut bench = Bench::master(vec![vrrp()]);
        let (retired, _) = reload(&mut bench, vec![next.clone()]);
        assert_eq!(retired[..2], ["says farewell", "releases"], "{next:?}");
        assert_eq!(bench.status(), Status::Stopped, "{next:?}");
    }
}

#[test]
fn an_instance_that_is_new_starts_when_its_interface_is_known() {
    let mut bench = Bench::master(vec![vrrp()]);
    let other = Vrrp { name: "VI_2".to_owned(), router_id: 52, ..vrrp() };
    reload(&mut bench, vec![vrrp(), other]);
    assert_eq!(bench.statuses(), [Status::Master, Status::Stopped]);
    assert_eq!(
        bench.link("eth0", Some(&link("eth0", &[node(5)]))),
        ["VI_2 stopped -> backup (all that it needs is there)"]
    );
}

#[test]
fn the_priority_of_an_operator_outlives_a_reload() {
    let mut bench = Bench::master(vec![vrrp()]);
    bench.router.set_priority("VI_1", Some(30), bench.clock()).unwrap();
    reload(&mut bench, vec![Vrrp { priority: 120, ..vrrp() }]);
    assert_eq!(bench.router.members()[0].instance().parameters().priority, 30);
}

#[test]
fn readings_outlive_a_reload_with_what_they_are_of() {
    use crate::config::{Track, Tracked};
    let file = |path: &str| Track { what: Tracked::File { path: path.into() }, weight: Some(-10) };
    let mut bench = Bench::master(vec![Vrrp { tracks: vec![file("/a"), file("/b")], ..vrrp() }]);
    bench.read(0, 1, Reading::Bad);
    reload(&mut bench, vec![Vrrp { tracks: vec![file("/c"), file("/b"), file("/a")], ..vrrp() }]);
    let readings: Vec<_> = bench.router.members()[0].readings().map(|(_, reading)| reading).collect();
    assert_eq!(readings, [Reading::Unknown, Reading::Bad, Reading::Unknown]);
}

#[test]
fn what_was_sealed_under_the_old_key_is_not_heard_any_more_nor_is_a_seal_twice_under_the_same() {
    use crate::vrrp::seal::Sealer;
    let with = |key| Vrrp { authentication: Some(Authentication::Hmac(key)), ..vrrp() };
    let message = advertisement(200).encode(node(8), GROUP, ChecksumHabit::PseudoHeader);
    let payload = Sealer::new(&[1; 32]).seal(&message, node(8), EPOCH);
    let mut bench = Bench::started(vec![with([1; 32])]);
    bench.deliver(packet(node(8), &payload));
    for (key, discard) in [([1; 32], Discard::Replayed), ([2; 32], Discard::Seal)] {
        reload(&mut bench, vec![with(key)]);
        bench.deliver(packet(node(8), &payload));
        assert_eq!(bench.router.members()[0].counters().last_discarded, Some((node(8), discard)));
    }
}
