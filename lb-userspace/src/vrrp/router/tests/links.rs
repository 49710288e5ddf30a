//! What becomes of an instance with its interface.

use super::{bench::*, *};

fn down() -> LinkState {
    LinkState { up: false, ..link("eth0", &[node(5)]) }
}

#[test]
fn an_instance_starts_once_its_interface_is_known() {
    let mut bench = Bench::new(vec![vrrp()]);
    assert_eq!(bench.deadline(), None);
    assert_eq!(bench.link("eth0", Some(&link("eth0", &[node(5)]))), ["stopped -> backup (all that it needs is there)"]);
    // 3 * 1000 + (256 - 100) * 1000 / 256.
    assert_eq!(bench.deadline(), Some(Duration::from_micros(3_609_375)));
}

#[test]
fn without_its_interface_an_instance_takes_no_part_and_says_why() {
    for (found, reason) in [
        (None, "interface eth0 is missing"),
        (Some(down()), "interface eth0 is down"),
        (Some(link("eth0", &[])), "interface eth0 has no IPv4 address"),
        (Some(link("eth0", &[ip("fe80::5")])), "interface eth0 has no IPv4 address"),
    ] {
        let mut bench = Bench::master(vec![vrrp()]);
        let told = bench.link("eth0", found.as_ref());
        assert_eq!(told.last().unwrap(), &format!("master -> fault ({reason})"));
        assert!(told.contains(&"releases".to_owned()), "{reason}");
        assert_eq!(bench.router.members()[0].standing(), &Standing::Unfit(reason.to_owned()));
        assert_eq!(bench.deadline(), None, "{reason}");
        assert_eq!(
            bench.link("eth0", Some(&link("eth0", &[node(5)]))),
            ["fault -> backup (all that it needs is there)"]
        );
    }
}

#[test]
fn a_master_whose_interface_goes_down_says_farewell_for_what_it_is_worth() {
    let mut bench = Bench::master(vec![vrrp()]);
    let told = bench.link("eth0", Some(&down()));
    assert_eq!(told, ["says farewell", "releases", "master -> fault (interface eth0 is down)"]);
}

#[test]
fn an_interface_that_is_as_before_changes_nothing() {
    let mut bench = Bench::master(vec![vrrp()]);
    assert_eq!(bench.link("eth0", Some(&link("eth0", &[node(5), node(6)]))), [] as [&str; 0]);
    assert_eq!(bench.link("eth1", None), [] as [&str; 0]);
    assert_eq!(bench.status(), Status::Master);
}

#[test]
fn on_an_interface_that_was_made_anew_an_instance_begins_again() {
    let mut bench = Bench::master(vec![vrrp()]);
    let told = bench.link("eth0", Some(&LinkState { ifindex: 77, ..link("eth0", &[node(5)]) }));
    assert_eq!(
        told,
        ["releases", "master -> fault (interface eth0 is missing)", "fault -> backup (all that it needs is there)"]
    );
    let payload = advertisement(200).encode(node(8), GROUP, ChecksumHabit::PseudoHeader);
    bench.deliver(Packet { ifindex: 77, ..packet(node(8), &payload) });
    assert_eq!(bench.router.members()[0].counters().received, 1);
}

#[test]
fn the_source_is_the_first_address_of_the_right_kind_that_is_no_virtual_one() {
    let v6 = || Vrrp { addresses: vec![virtual_address("2001:db8::1")], ..vrrp() };
    let from = |source| Vrrp { source: Some(ip(source)), ..vrrp() };
    let to = |peer: &str| Vrrp { unicast_peers: vec![ip(peer)], ..v6() };
    let table = [
        ("IPv4", vrrp(), vec!["fe80::5", "10.0.0.5", "10.0.0.6"], Some("10.0.0.5")),
        ("its own virtual address is there", vrrp(), vec!["192.0.2.1", "10.0.0.5"], Some("10.0.0.5")),
        ("its own virtual address only", vrrp(), vec!["192.0.2.1"], None),
        ("configured", from("10.0.0.6"), vec!["10.0.0.5", "10.0.0.6"], Some("10.0.0.6")),
        ("configured, and not there", from("10.0.0.7"), vec!["10.0.0.5", "10.0.0.6"], None),
        ("configured, and virtual", from("192.0.2.1"), vec!["192.0.2.1", "10.0.0.5"], None),
        ("IPv6", v6(), vec!["10.0.0.5", "2001:db8::5", "fe80::5"], Some("fe80::5")),
        ("IPv6 without a link-local address", v6(), vec!["10.0.0.5", "2001:db8::5"], None),
        ("IPv6 to a global peer", to("2001:db8::8"), vec!["fe80::5", "2001:db8::5"], Some("2001:db8::5")),
        ("IPv6 to a link-local peer", to("fe80::8"), vec!["2001:db8::5", "fe80::5"], Some("fe80::5")),
    ];
    for (what, config, addresses, source) in table {
        let mut bench = Bench::new(vec![config]);
        let addresses: Vec<_> = addresses.into_iter().map(ip).collect();
        bench.link("eth0", Some(&link("eth0", &addresses)));
        assert_eq!(bench.router.members()[0].source(), source.map(ip), "{what}");
        let expected = if source.is_some() { Status::Backup } else { Status::Fault };
        assert_eq!(bench.status(), expected, "{what}");
    }
}

#[test]
fn what_is_wanted_of_an_interface_is_named() {
    let v6 = Vrrp { addresses: vec![virtual_address("2001:db8::1")], ..vrrp() };
    for (config, wanted) in [
        (vrrp(), "IPv4 address"),
        (Vrrp { source: Some(node(7)), ..vrrp() }, "address 10.0.0.7"),
        (v6.clone(), "link-local IPv6 address"),
        (Vrrp { unicast_peers: vec![ip("2001:db8::8")], ..v6 }, "global IPv6 address"),
    ] {
        let mut bench = Bench::new(vec![config]);
        bench.link("eth0", Some(&link("eth0", &[])));
        let reason = format!("interface eth0 has no {wanted}");
        assert_eq!(bench.router.members()[0].standing(), &Standing::Unfit(reason));
    }
}

#[test]
fn equal_priorities_are_told_apart_by_the_address_that_the_interface_has_now() {
    let mut bench = Bench::master(vec![vrrp()]);
    bench.hear(8, 100);
    assert_eq!(bench.status(), Status::Backup, "8 is above 5");
    let mut bench = Bench::master(vec![vrrp()]);
    bench.link("eth0", Some(&link("eth0", &[node(9)])));
    bench.hear(8, 100);
    assert_eq!(bench.status(), Status::Master, "8 is below 9");
}
