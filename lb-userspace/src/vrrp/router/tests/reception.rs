//! Which packets are taken in, and what the others are counted as.

use super::{bench::*, *};
use crate::{config::Authentication, vrrp::seal::Sealer};

const ALL: [Discard; 16] = [
    Discard::Ttl,
    Discard::Length,
    Discard::Kind,
    Discard::Malformed,
    Discard::Checksum,
    Discard::UnknownRouter,
    Discard::Own,
    Discard::NotAPeer,
    Discard::Version,
    Discard::AuthenticationType,
    Discard::Password,
    Discard::Seal,
    Discard::Replayed,
    Discard::Stale,
    Discard::Interval,
    Discard::Addresses,
];

const KEY: [u8; 32] = [7; 32];

fn v2() -> Vrrp {
    Vrrp { version: VrrpVersion::V2, ..vrrp() }
}

fn v2_advertisement() -> Advertisement {
    Advertisement { version: VrrpVersion::V2, ..advertisement(200) }
}

fn with_password() -> Vrrp {
    Vrrp { authentication: Some(Authentication::Password(*b"s3cret\0\0")), ..v2() }
}

fn with_key() -> Vrrp {
    Vrrp { authentication: Some(Authentication::Hmac(KEY)), ..vrrp() }
}

fn encode(advertisement: &Advertisement) -> Vec<u8> {
    advertisement.encode(node(8), GROUP, ChecksumHabit::PseudoHeader).to_vec()
}

/// What node 8 says, sealed as by the node with this address, at this time since the start.
fn sealed(key: [u8; 32], source: IpAddr, at: Duration) -> Vec<u8> {
    Sealer::new(&key).seal(&encode(&advertisement(200)), source, EPOCH + at).to_vec()
}

/// A message with other bytes from `at` on, and the checksum that fits to them.
fn changed(mut message: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    message[at..at + bytes.len()].copy_from_slice(bytes);
    message[6..8].fill(0);
    let sum = lb_common::checksum::Sum::default().bytes(&message).finish();
    message[6..8].copy_from_slice(&sum.to_wire());
    message
}

fn discards(bench: &Bench) -> Vec<(Discard, u64)> {
    let counters = bench.router.members()[0].counters();
    counters.discarded.iter().map(|(discard, count)| (*discard, *count)).collect()
}

#[test]
fn every_reason_to_discard_a_packet_is_counted_where_it_belongs() {
    let good = || encode(&advertisement(200));
    let cut = |mut message: Vec<u8>| {
        message.pop();
        message
    };
    let long = |mut message: Vec<u8>| {
        message.push(0);
        message
    };
    let tampered = || {
        let mut payload = sealed(KEY, node(8), ms(0));
        *payload.last_mut().unwrap() ^= 1;
        payload
    };
    let unicast = || Vrrp { unicast_peers: vec![node(7)], ..vrrp() };
    let v2_with = |password| encode(&Advertisement { password: Some(password), ..v2_advertisement() });

    let table = [
        ("it lacks its last byte", vrrp(), cut(good()), Discard::Length),
        ("version 2, and a byte too long", v2(), long(encode(&v2_advertisement())), Discard::Length),
        ("version 3 without seals, and a byte too long", vrrp(), long(good()), Discard::Length),
        ("version 4", vrrp(), changed(good(), 0, &[0x41]), Discard::Kind),
        ("type 2", vrrp(), changed(good(), 0, &[0x32]), Discard::Kind),
        ("no address", vrrp(), changed(good(), 3, &[0]), Discard::Malformed),
        ("an interval of zero", vrrp(), changed(good(), 4, &[0, 0]), Discard::Malformed),
        (
            "its priority was changed on the way",
            vrrp(),
            [&good()[..2], &[255], &good()[3..]].concat(),
            Discard::Checksum,
        ),
        ("it comes from no peer", unicast(), good(), Discard::NotAPeer),
        ("version 2 for version 3", vrrp(), encode(&v2_advertisement()), Discard::Version),
        ("version 3 for version 2", v2(), good(), Discard::Version),
        ("authentication of type 2", v2(), changed(encode(&v2_advertisement()), 4, &[2]), Discard::AuthenticationType),
        ("a password is missing", with_password(), encode(&v2_advertisement()), Discard::AuthenticationType),
        ("a password is not expected", v2(), v2_with(*b"s3cret\0\0"), Discard::AuthenticationType),
        ("a wrong password", with_password(), v2_with(*b"s3cret\0!"), Discard::Password),
        ("no seal", with_key(), good(), Discard::Seal),
        ("a seal under another key", with_key(), sealed([8; 32], node(8), ms(0)), Discard::Seal),
        ("a seal that was changed", with_key(), tampered(), Discard::Seal),
        ("a seal of another source", with_key(), sealed(KEY, node(9), ms(0)), Discard::Seal),
        ("a seal from 31 s in the future", with_key(), sealed(KEY, node(8), ms(31_000)), Discard::Stale),
        (
            "version 2 with another interval",
            v2(),
            encode(&Advertisement { interval: ms(2000), ..v2_advertisement() }),
            Discard::Interval,
        ),
        (
            "version 2 with another address",
            v2(),
            encode(&Advertisement { addresses: vec![ip("192.0.2.2")], ..v2_advertisement() }),
            Discard::Addresses,
        ),
        (
            "version 2 with one address more",
            v2(),
            encode(&Advertisement { addresses: vec![ip("192.0.2.1"), ip("192.0.2.2")], ..v2_advertisement() }),
            Discard::Addresses,
        ),
    ];
    let mut seen: Vec<_> = table.iter().map(|(.., discard)| *discard).collect();
    for (what, config, payload, discard) in table {
        let mut bench = Bench::started(vec![config]);
        let before = bench.deadline();
        assert!(bench.deliver(packet(node(8), &payload)).is_empty(), "{what}");
        assert_eq!(discards(&bench), [(discard, 1)], "{what}");
        let counters = bench.router.members()[0].counters();
        assert_eq!(counters.last_discarded, Some((node(8), discard)), "{what}");
        assert_eq!(counters.received, 0, "{what}");
        assert!(bench.router.strays().is_empty(), "{what}");
        assert_eq!(bench.deadline(), before, "{what}");
    }

    // Those that have a test of their own.
    seen.extend([Discard::Ttl, Discard::UnknownRouter, Discard::Own, Discard::Replayed]);
    assert!(ALL.iter().all(|discard| seen.contains(discard)), "{ALL:?}, {seen:?}");
}

#[test]
fn the_words_for_reasons_differ() {
    let words: std::collections::BTreeSet<_> = ALL.map(Discard::name).into();
    assert_eq!(words.len(), ALL.len());
}

#[test]
fn a_packet_that_may_have_been_routed_is_discarded() {
    let mut bench = Bench::started(vec![vrrp()]);
    let payload = encode(&advertisement(200));
    bench.deliver(Packet { ttl: 254, ..packet(node(8), &payload) });
    assert_eq!(discards(&bench), [(Discard::Ttl, 1)]);
}

#[test]
fn only_unicast_over_ipv6_may_have_another_hop_limit() {
    let (own, other) = (ip("fe80::5"), ip("fe80::8"));
    let config = Vrrp { addresses: vec![virtual_address("2001:db8::1")], ..vrrp() };
    let unicast = Vrrp { unicast_peers: vec![other], ..config.clone() };
    for (config, received) in [(config, 0), (unicast, 1)] {
        let mut bench = Bench::new(vec![config]);
        bench.link("eth0", Some(&link("eth0", &[own])));
        let theirs = Advertisement { addresses: vec![ip("2001:db8::1")], ..advertisement(200) };
        let payload = theirs.encode(other, own, ChecksumHabit::PseudoHeader);
        bench.deliver(Packet { ifindex: 10, source: other, destination: own, ttl: 64, payload: &payload });
        assert_eq!(bench.router.members()[0].counters().received, received);
    }
}

#[test]
fn what_no_instance_is_for_is_a_stray() {
    let mut bench = Bench::started(vec![vrrp()]);
    let good = encode(&advertisement(200));
    let other_id = encode(&Advertisement { router_id: 52, ..advertisement(200) });
    bench.deliver(packet(node(8), &other_id));
    bench.deliver(Packet { ifindex: 11, ..packet(node(8), &good) });
    let v6 = Advertisement { addresses: vec![ip("2001:db8::1")], ..advertisement(200) };
    let (source, group) = (ip("fe80::8"), IpAddr::from(crate::vrrp::packet::GROUP_V6));
    let payload = v6.encode(source, group, ChecksumHabit::PseudoHeader);
    bench.deliver(Packet { ifindex: 10, source, destination: group, ttl: 255, payload: &payload });
    bench.deliver(packet(node(8), &[]));
    bench.deliver(packet(node(8), &[0x31]));
    let strays: Vec<_> = bench.router.strays().iter().map(|(reason, count)| (*reason, *count)).collect();
    assert_eq!(strays, [("length", 2), ("unknown-router-id", 3)]);
    assert_eq!(discards(&bench), []);
}

#[test]
fn before_its_interface_is_known_an_instance_has_no_packets() {
    let mut bench = Bench::new(vec![vrrp()]);
    bench.hear(8, 200);
    assert_eq!(bench.router.strays().get("unknown-router-id"), Some(&1));
}

#[test]
fn a_packet_counts_with_the_instance_whose_router_id_it_has_and_no_other() {
    let mut bench = Bench::started(vec![vrrp(), Vrrp { name: "VI_2".to_owned(), router_id: 52, ..vrrp() }]);
    let mut payload = encode(&Advertisement { router_id: 52, ..advertisement(200) });
    payload[2] ^= 1;
    bench.deliver(packet(node(8), &payload));
    let [first, second] = bench.router.members() else { panic!("there are two") };
    assert!(first.counters().discarded.is_empty());
    assert_eq!(second.counters().discarded.get(&Discard::Checksum), Some(&1));
}

#[test]
fn what_came_back_to_its_sender_is_its_own() {
    let mut bench = Bench::master(vec![vrrp()]);
    assert!(bench.hear(5, 200).is_empty());
    assert_eq!(discards(&bench), [(Discard::Own, 1)]);
    assert_eq!(bench.status(), Status::Master);
}

#[test]
fn peers_are_heard_and_spoken_to_one_by_one() {
    let mut bench = Bench::started(vec![Vrrp { unicast_peers: vec![node(7), node(8)], ..vrrp() }]);
    bench.hear(8, 50);
    assert_eq!(bench.router.members()[0].counters().received, 1);
    let told = bench.wait(ms(3700));
    assert_eq!(told[..2], ["advertises 100 to 10.0.0.7", "advertises 100 to 10.0.0.8"]);
    assert_eq!(bench.router.members()[0].counters().sent, 2);
}

#[test]
fn bytes_that_were_written_by_hand_are_heard() {
    // RFC 3768, section 5.1: version 2, type 1; id 51; priority 200; one address; no authentication; 1 s; checksum.
    let bytes = [0x21, 51, 200, 1, 0, 1, 0x54, 0xc8, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut bench = Bench::master(vec![v2()]);
    assert_eq!(
        bench.deliver(packet(node(8), &bytes)),
        ["releases", "master -> backup (10.0.0.8 advertises priority 200)"]
    );
}

#[test]
fn the_right_password_is_heard() {
    let mut bench = Bench::master(vec![with_password()]);
    bench.receive(node(8), &Advertisement { password: Some(*b"s3cret\0\0"), ..v2_advertisement() });
    assert_eq!(bench.status(), Status::Backup);
}

#[test]
fn a_seal_is_taken_once() {
    let mut bench = Bench::started(vec![with_key()]);
    let payload = sealed(KEY, node(8), ms(0));
    bench.deliver(packet(node(8), &payload));
    bench.deliver(packet(node(8), &payload));
    assert_eq!(bench.router.members()[0].counters().received, 1);
    assert_eq!(discards(&bench), [(Discard::Replayed, 1)]);
}

#[test]
fn what_was_sealed_by_one_node_is_heard_by_another() {
    let mut sender = Bench::started(vec![with_key()]);
    sender.now += ms(4000);
    let effects = sender.router.on_time(sender.clock());
    let payload = effects.iter().find_map(|effect| match effect {
        Effect::Send { payload, .. } => Some(payload.clone()),
        _ => None,
    });
    let mut receiver = Bench::new(vec![with_key()]);
    receiver.link("eth0", Some(&link("eth0", &[node(6)])));
    receiver.deliver(packet(node(5), &payload.expect("it became master")));
    assert_eq!(receiver.router.members()[0].counters().received, 1);
}

#[test]
fn version_3_adopts_the_interval_of_the_master() {
    let mut bench = Bench::started(vec![vrrp()]);
    bench.receive(node(8), &Advertisement { interval: ms(2560), ..advertisement(200) });
    // 3 * 2560 + (256 - 100) * 2560 / 256.
    assert_eq!(bench.deadline(), Some(ms(9240)));
}

#[test]
fn version_3_hears_a_master_of_other_addresses_and_says_that_they_differ() {
    let mut bench = Bench::started(vec![vrrp()]);
    bench.receive(node(8), &Advertisement { addresses: vec![ip("192.0.2.9")], ..advertisement(200) });
    let counters = bench.router.members()[0].counters();
    assert_eq!((counters.received, counters.other_addresses), (1, 1));
    bench.hear(8, 200);
    let counters = bench.router.members()[0].counters();
    assert_eq!((counters.received, counters.other_addresses), (2, 1));
}

#[test]
fn the_order_of_addresses_does_not_matter() {
    let addresses = vec![virtual_address("192.0.2.1"), virtual_address("192.0.2.2")];
    let mut bench = Bench::started(vec![Vrrp { addresses, ..v2() }]);
    bench.receive(node(8), &Advertisement { addresses: vec![ip("192.0.2.2"), ip("192.0.2.1")], ..v2_advertisement() });
    assert_eq!(bench.router.members()[0].counters().received, 1);
}

#[test]
fn farewells_are_counted_among_the_advertisements_and_by_themselves() {
    let mut bench = Bench::master(vec![vrrp()]);
    bench.hear(8, 0);
    bench.hear(8, 200);
    let counters = bench.router.members()[0].counters();
    assert_eq!((counters.received, counters.farewells_received), (2, 1));
    bench.wait(ms(4000));
    bench.router.fail_over("VI_1", bench.clock()).unwrap();
    let counters = bench.router.members()[0].counters();
    assert_eq!(counters.farewells_sent, 1);
    assert_eq!(counters.became_master, 2);
}
