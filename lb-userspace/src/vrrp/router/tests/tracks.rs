//! What is watched, and what it does to priority and state.

use super::{bench::*, *};
use crate::config::{Track, Tracked};

fn tracking(tracks: Vec<(Tracked, Option<i16>)>) -> Vrrp {
    let tracks = tracks.into_iter().map(|(what, weight)| Track { what, weight }).collect();
    Vrrp { tracks, ..vrrp() }
}

fn file() -> Tracked {
    Tracked::File { path: "/run/f".into() }
}

fn interface(name: &str) -> Tracked {
    Tracked::Interface { name: name.to_owned() }
}

#[test]
fn an_instance_waits_for_what_decides_alone_and_not_for_what_has_a_weight() {
    let mut bench = Bench::started(vec![tracking(vec![(file(), None), (file(), Some(-10))])]);
    assert_eq!(bench.status(), Status::Stopped);
    let unclear = Standing::Unclear("file /run/f is not known yet".to_owned());
    assert_eq!(bench.router.members()[0].standing(), &unclear);
    assert_eq!(bench.read(0, 0, Reading::Good), ["stopped -> backup (all that it needs is there)"]);
}

#[test]
fn a_weight_changes_the_priority_and_a_master_says_so() {
    let mut bench = Bench::master(vec![tracking(vec![(file(), Some(-30))])]);
    assert_eq!(bench.read(0, 0, Reading::Bad), ["advertises 70"]);
    assert_eq!(bench.read(0, 0, Reading::Bad), [] as [&str; 0]);
    assert_eq!(bench.read(0, 0, Reading::Good), ["advertises 100"]);
    assert_eq!(bench.read(0, 0, Reading::Number(2)), ["advertises 40"]);
}

#[test]
fn what_fails_without_a_weight_is_a_fault_until_it_is_good_again() {
    let mut bench = Bench::started(vec![tracking(vec![(file(), None)])]);
    bench.read(0, 0, Reading::Good);
    bench.wait(ms(4000));
    assert_eq!(bench.read(0, 0, Reading::Bad), ["says farewell", "releases", "master -> fault (file /run/f fails)"]);
    assert_eq!(bench.read(0, 0, Reading::Good), ["fault -> backup (all that it needs is there)"]);
}

#[test]
fn an_instance_that_has_started_goes_on_while_something_is_not_known() {
    let mut bench = Bench::started(vec![tracking(vec![(file(), None)])]);
    bench.read(0, 0, Reading::Good);
    bench.wait(ms(4000));
    assert_eq!(bench.read(0, 0, Reading::Unknown), [] as [&str; 0]);
    assert_eq!(bench.status(), Status::Master);
}

#[test]
fn what_fails_decides_although_something_else_is_not_known() {
    let mut bench = Bench::master(vec![vrrp()]);
    let next = tracking(vec![(file(), None), (interface("eth1"), None)]);
    bench.router.reconfigure(vec![next], bench.clock());
    assert_eq!(bench.status(), Status::Master);
    let told = bench.link("eth1", None);
    assert_eq!(told.last().unwrap(), "master -> fault (interface eth1 fails)");
}

#[test]
fn other_interfaces_can_be_tracked() {
    let mut bench = Bench::master(vec![tracking(vec![(interface("eth1"), Some(-30))])]);
    assert_eq!(bench.link("eth1", None), ["advertises 70"]);
    assert_eq!(bench.link("eth1", Some(&link("eth1", &[]))), ["advertises 100"]);
    assert_eq!(bench.link("eth1", Some(&LinkState { up: false, ..link("eth1", &[]) })), ["advertises 70"]);
    assert_eq!(bench.link("eth2", None), [] as [&str; 0]);
}

#[test]
fn the_datapath_fails_when_its_program_is_not_attached_whatever_the_daemon_says() {
    let mut bench = Bench::master(vec![tracking(vec![(Tracked::Datapath, Some(-30))])]);
    assert_eq!(bench.read(0, 0, Reading::Good), [] as [&str; 0]);
    let detached = LinkState { xdp: false, ..link("eth0", &[node(5)]) };
    assert_eq!(bench.link("eth0", Some(&detached)), ["advertises 70"]);
    assert_eq!(bench.link("eth0", Some(&link("eth0", &[node(5)]))), ["advertises 100"]);
}

#[test]
fn a_reading_of_a_track_that_is_not_there_is_nothing() {
    let mut bench = Bench::started(vec![tracking(vec![(file(), Some(-30))])]);
    assert_eq!(bench.read(0, 7, Reading::Bad), [] as [&str; 0]);
}

#[test]
fn the_priority_of_an_operator_goes_before_tracking_and_not_over_it() {
    let mut bench = Bench::master(vec![tracking(vec![(file(), Some(-30))])]);
    bench.read(0, 0, Reading::Bad);
    let effects = bench.router.set_priority("VI_1", Some(200), bench.clock()).unwrap();
    assert_eq!(bench.in_words(&effects), ["advertises 170"]);
}
