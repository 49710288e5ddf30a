//! The programs that make, reflect and count frames for `cargo xtask bench veth`.

use std::collections::BTreeSet;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::Xdp,
};
use etherparse::{PacketBuilder, PacketHeaders};
use lb_common::{
    NetU32,
    live::{Arrival, Hop, Stream, names},
};
use lb_tests::lab::require_root;
use lb_userspace::dataplane::object;

use crate::case::{Action, test_run};

const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SOURCE: [u8; 4] = [198, 18, 0, 0];
const DESTINATION: [u8; 4] = [10, 77, 0, 100];
const SOURCE_PORT: u16 = 0x8000;

/// The loaded programs; `None`, and a loud notice, without root.
fn load() -> Option<Ebpf> {
    require_root().then(|| EbpfLoader::new().load(object::LIVE).expect("the object can be loaded"))
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut Xdp {
    let program: &mut Xdp = ebpf.program_mut(name).expect("it is there").try_into().expect("it is an XDP program");
    program.load().expect("the verifier accepts it");
    program
}

/// 64 bytes, without a checksum of UDP.
fn frame(destination: [u8; 4]) -> [u8; Stream::FRAME_LEN] {
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(FROM, TO).ipv4(SOURCE, destination, 64).udp(SOURCE_PORT, 80);
    packet.write(&mut frame, &[0; 22]).expect("a vector takes every frame");
    frame[40..42].fill(0);
    frame.try_into().expect("it has 64 bytes")
}

/// The flows that so many runs of the generator make, by source address and port. All else of each frame is as it has to be.
fn generate(flows: u32, runs: usize) -> Option<BTreeSet<([u8; 4], u16)>> {
    let mut ebpf = load()?;
    let mut stream: Array<MapData, Stream> =
        ebpf.take_map(names::STREAM).expect("it is there").try_into().expect("it is an array");
    stream.set(0, Stream::new(&frame(DESTINATION), flows), 0).expect("it can be set");
    let generate = program(&mut ebpf, names::GENERATE);
    let mut found = BTreeSet::new();
    for _ in 0..runs {
        let (action, made) = test_run(generate, &[0xff; Stream::FRAME_LEN]);
        assert_eq!(action, Action::Transmit);
        let headers = PacketHeaders::from_ethernet_slice(&made).expect("a frame");
        let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(etherparse::TransportHeader::Udp(udp))) =
            (headers.net, headers.transport)
        else {
            panic!("no UDP over IPv4: {made:02x?}")
        };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "{made:02x?}");
        let mut expected = Vec::new();
        let packet = PacketBuilder::ethernet2(FROM, TO).ipv4(ip.source, DESTINATION, 64).udp(udp.source_port, 80);
        packet.write(&mut expected, &[0; 22]).expect("a vector takes every frame");
        expected[40..42].fill(0);
        assert_eq!(made, expected);
        found.insert((ip.source, udp.source_port));
    }
    Some(found)
}

#[test]
fn generated_frames_come_by_all_flows_and_no_others() {
    let Some(one) = generate(1, 5) else { return };
    assert_eq!(one, BTreeSet::from([(SOURCE, SOURCE_PORT)]));
    let many = generate(100, 1000).expect("root has been asked for");
    let expected: BTreeSet<_> = (0..100).map(|flow| ([198, 18, 0, flow], SOURCE_PORT)).collect();
    assert_eq!(many, expected);
}

#[test]
fn new_flows_are_all_different() {
    let Some(new) = generate(0, 1000) else { return };
    assert_eq!(new.len(), 1000);
    let is_source = |(address, port): &([u8; 4], u16)| matches!(address, [198, 18 | 19, ..]) && *port >= SOURCE_PORT;
    assert!(new.iter().all(is_source), "{new:?}");
}

#[test]
fn reflected_frames_go_back_to_where_they_come_from() {
    let Some(mut ebpf) = load() else { return };
    let sent = frame(DESTINATION);
    let (action, reflected) = test_run(program(&mut ebpf, names::REFLECT), &sent);
    assert_eq!(action, Action::Transmit);
    assert_eq!(reflected, [&FROM, &TO, &sent[12..]].concat());
}

#[test]
fn the_relay_sends_frames_by_address_and_a_bit_of_the_port_and_all_others_pass() {
    const CLIENT: [u8; 4] = [10, 77, 0, 1];

    let Some(mut ebpf) = load() else { return };
    let mut hops: Array<MapData, Hop> =
        ebpf.take_map(names::HOPS).expect("it is there").try_into().expect("it is an array");
    for (number, (address, last)) in (0..).zip([(DESTINATION, 11), (DESTINATION, 12), (CLIENT, 1)]) {
        let hop = Hop { destination: NetU32::from_wire(address), mac: [2, 0, 0, 0, 1, last], unused: [0; 2] };
        hops.set(number, hop, 0).expect("it can be set");
    }
    let relay = program(&mut ebpf, names::RELAY);
    for (destination, port, host) in [
        (DESTINATION, 0x80, Some(11)),
        (DESTINATION, 0x82, Some(12)),
        (CLIENT, 0x80, Some(1)),
        ([10, 77, 0, 2], 0x80, None),
    ] {
        let mut sent = frame(destination);
        sent[35] = port;
        let (action, relayed) = test_run(relay, &sent);
        let Some(host) = host else {
            assert_eq!((action, relayed), (Action::Pass, sent.to_vec()));
            continue;
        };
        assert_eq!(action, Action::Transmit);
        assert_eq!(relayed, [&[2, 0, 0, 0, 1, host], &TO, &sent[12..]].concat(), "{destination:?} {port}");
    }
}

#[test]
fn only_the_frames_that_are_waited_for_are_counted_and_all_others_pass() {
    const UDP: u32 = 17;

    let Some(mut ebpf) = load() else { return };
    let mut arrival: Array<MapData, Arrival> =
        ebpf.take_map(names::ARRIVAL).expect("it is there").try_into().expect("it is an array");
    let awaited = Arrival { destination: NetU32::from_wire(DESTINATION), protocol: UDP };
    arrival.set(0, awaited, 0).expect("it can be set");
    let arrived: PerCpuArray<MapData, u64> =
        ebpf.take_map(names::ARRIVED).expect("it is there").try_into().expect("it is an array");
    let count = program(&mut ebpf, names::COUNT);
    let mut tcp = frame(DESTINATION);
    tcp[23] = 6;
    let mut arp = frame(DESTINATION);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    for (what, frame, expected) in [
        ("awaited", frame(DESTINATION), Action::Drop),
        ("to another address", frame([10, 77, 0, 101]), Action::Pass),
        ("of another protocol", tcp, Action::Pass),
        ("ARP", arp, Action::Pass),
    ] {
        assert_eq!(test_run(count, &frame).0, expected, "{what}");
    }
    assert_eq!(arrived.get(&0, 0).expect("it can be read").iter().sum::<u64>(), 1);
}
