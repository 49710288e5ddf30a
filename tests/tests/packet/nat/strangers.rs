//! Packets that belong to no flow.

use std::net::{Ipv4Addr, SocketAddr};

use aya::maps::{Array, Map};
use etherparse::IpNumber;
use lb_common::{
    Flow, FlowHash, HashKey, NetU16, NetU32, Tracking, Verdict,
    flow_table::WAYS,
    nat::{Phase, ReverseWord},
};

use super::scene::{Scene, Setup, opened};
use crate::{
    case::{Action, Datapath as _},
    fixture::HASH_KEY,
    packet::{
        Packet,
        flags::{ACK, FIN, PSH, RST, SYN},
    },
    world::{Family, PROTOCOLS},
};

/// The backend would not know the connection either, since it knows clients by the source that the flow had.
#[test]
fn a_segment_of_a_connection_that_nobody_knows_is_reset_where_sources_are_translated() {
    for setup in Setup::all().into_iter().filter(|setup| setup.sources > 0) {
        let Some(mut scene) = Scene::new(setup) else { return };
        for flags in [ACK, ACK | PSH, FIN | ACK, SYN | ACK] {
            let outcome = scene.send(&scene.request(IpNumber::TCP).with_flags(flags, 1, 1));
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Transmit, &[(Verdict::Reset, 1)][..]));
        }
        let outcome = scene.send(&scene.request(IpNumber::TCP).with_flags(RST, 1, 0));
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropNatUnknown, 1)][..]));
        assert_eq!(outcome.tracking, [(Tracking::Unknown, 1)]);
        assert_eq!(scene.phases(), []);
    }
}

/// Where the client's address is kept, the backend may know it: the connection may have come by another node.
#[test]
fn a_segment_of_a_connection_that_nobody_knows_goes_on_where_the_client_is_kept() {
    for setup in Setup::all().into_iter().filter(|setup| setup.sources == 0) {
        let Some(mut scene) = Scene::new(setup) else { return };
        let outcome = scene.send(&scene.request(IpNumber::TCP).with_flags(ACK | PSH, 1, 1));
        assert_eq!((opened(&outcome), &outcome.verdicts[..]), (1, &[(Verdict::Transmitted, 1)][..]));
        assert_eq!(scene.phases(), [Phase::SIGHTED], "the backend has not said so");
    }
}

/// Whoever forges a segment gets no lasting flow for it.
#[test]
fn the_backend_says_whether_it_knows_a_connection_that_was_made_elsewhere() {
    const CLIENT: u32 = 7000;
    const BACKEND: u32 = 9000;
    let table = [
        (ACK, BACKEND, Phase::ESTABLISHED),
        (ACK | PSH, BACKEND, Phase::ESTABLISHED),
        (FIN | ACK, BACKEND, Phase::BACKEND_CLOSED),
        // As a host answers what it does not know (RFC 9293, section 3.5.2).
        (RST, BACKEND, Phase::RESET),
    ];
    for setup in Setup::all().into_iter().filter(|setup| setup.sources == 0) {
        for (flags, sequence, expected) in table {
            let Some(mut scene) = Scene::new(setup) else { return };
            let segment = scene.request(IpNumber::TCP).with_flags(ACK | PSH, CLIENT, BACKEND);
            let source = scene.source_of(&segment);
            assert_eq!(scene.source_of(&segment), source);
            assert_eq!(scene.phases(), [Phase::SIGHTED], "again from the client");
            let answer = scene.reply(IpNumber::TCP, source).with_flags(flags, sequence, CLIENT + 5);
            assert_eq!(scene.answer(&answer).verdicts, [(Verdict::Transmitted, 1)]);
            assert_eq!(scene.phases(), [expected], "{flags:#x}");
        }
    }
}

#[test]
fn what_ends_a_connection_or_belongs_to_none_begins_none() {
    for setup in Setup::all().into_iter().filter(|setup| setup.sources == 0) {
        let Some(mut scene) = Scene::new(setup) else { return };
        for (flags, verdict, action) in [
            (RST, Verdict::DropNatUnknown, Action::Drop),
            (RST | ACK, Verdict::DropNatUnknown, Action::Drop),
            (0, Verdict::Reset, Action::Transmit),
            (PSH, Verdict::Reset, Action::Transmit),
            (FIN, Verdict::Reset, Action::Transmit),
        ] {
            let outcome = scene.send(&scene.request(IpNumber::TCP).with_flags(flags, 1, 1));
            assert_eq!((outcome.action, &outcome.verdicts[..]), (action, &[(verdict, 1)][..]), "{flags:#x}");
            assert_eq!(outcome.tracking, [(Tracking::Unknown, 1)]);
        }
        assert_eq!(scene.phases(), []);
    }
}

/// The reverse index knows 39 bits of a hash, so one stranger in some millions finds the place of a flow.
#[test]
fn a_stranger_whose_hash_is_that_of_a_reply_passes() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        let source = scene.source_of(&scene.request(IpNumber::UDP));
        let reply = scene.reply(IpNumber::UDP, source);
        let mut strangers = vec![reply.clone(); 4];
        strangers[0].source.set_port(reply.source.port() ^ 1);
        strangers[1].destination.set_port(reply.destination.port() ^ 1);
        strangers[2].source.set_ip(setup.backend.client());
        strangers[3].destination.set_ip(setup.backend.virtual_ip());
        scene.balancer.translate(&[setup.backend.virtual_ip()]);
        for stranger in strangers {
            scene.take_for_reply(&stranger);
            let before = scene.states();
            assert_eq!(scene.answer(&stranger).verdicts, [(Verdict::PassNoService, 1)], "{setup:?}, {stranger:?}");
            assert_eq!(scene.states(), before);
        }
        scene.take_for_reply(&reply);
        assert_eq!(scene.answer(&reply).verdicts, [(Verdict::Transmitted, 1)], "so it would have been found");
    }
}

impl Scene {
    /// Lets the hash of this packet lead to the one flow that there is.
    fn take_for_reply(&self, packet: &Packet) {
        let table = self.balancer.nat_table();
        let (at, _) = table.flows().next().expect("there is a flow");
        let hash = hash_of(packet);
        let [bucket, _] = table.bits().buckets_of(hash);
        let pins = self.balancer.sandbox();
        let open = |name| Array::<_, [u64; WAYS]>::try_from(Map::Array(pins.map(name))).expect("an array of buckets");
        let (mut reverse, mut flows) = (open("NAT_REVERSE"), open("NAT_FLOWS"));
        let mut words = [0; WAYS];
        words[0] = ReverseWord::new(hash, at).to_bits();
        reverse.set(bucket, words, 0).expect("the bucket can be written");
        let mut record = flows.get(&at.0, 0).expect("the record can be read");
        // The ports, then the place in the reverse index.
        record[4] = record[4] & u64::from(u32::MAX) | (u64::from(bucket) * WAYS as u64) << 32;
        flows.set(at.0, record, 0).expect("the record can be written");
    }
}

fn hash_of(packet: &Packet) -> FlowHash {
    let [source, destination] = [packet.source, packet.destination];
    let flow = Flow {
        source: source.ip().into(),
        destination: destination.ip().into(),
        ports: NetU32::from_halves(NetU16::new(source.port()), NetU16::new(destination.port())),
        protocol: packet.protocol.0,
        ipv4: source.is_ipv4(),
    };
    flow.hash(HashKey::from_bytes(HASH_KEY))
}

/// Its reply would be an IPv4 packet, to somebody who never asked for one.
#[test]
fn an_ipv6_packet_from_a_mapped_address_passes() {
    for setup in Setup::all().into_iter().filter(|setup| setup.client == Family::V6) {
        let Some(mut scene) = Scene::new(setup) else { return };
        for protocol in PROTOCOLS {
            let mut packet = scene.request(protocol).to_bytes();
            packet[8..24].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets());
            let outcome = scene.balancer.run(&Family::V6.frame(packet).to_bytes());
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Pass, &[(Verdict::PassNoService, 1)][..]));
        }
        assert_eq!(scene.phases(), []);
    }
}

#[test]
fn a_packet_from_a_backend_that_belongs_to_no_flow_passes() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        for protocol in PROTOCOLS {
            let source = scene.source_of(&scene.request(protocol));
            let elsewhere = SocketAddr::new(source.ip(), source.port() ^ 1);
            let stranger = scene.reply(protocol, elsewhere).with_flags(SYN | ACK, 1, 1);
            let outcome = scene.answer(&stranger);
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Pass, &[(Verdict::PassNoService, 1)][..]));
            // Of another port of the backend.
            let mut other = scene.reply(protocol, source).with_flags(SYN | ACK, 1, 1);
            other.source.set_port(1);
            assert_eq!(scene.answer(&other).verdicts, [(Verdict::PassNoService, 1)]);
        }
    }
}

#[test]
fn a_reply_of_one_protocol_is_none_of_the_other() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        let source = scene.source_of(&scene.request(IpNumber::UDP));
        let outcome = scene.answer(&scene.reply(IpNumber::TCP, source).with_flags(ACK, 1, 1));
        assert_eq!(outcome.verdicts, [(Verdict::PassNoService, 1)]);
    }
}
