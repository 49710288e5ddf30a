//! QUIC packets whose connection id names their server (draft-ietf-quic-load-balancers-21, section 3, in clear text), in a
//! service whose slots are moving: what names nobody is seen to go to the previous backend, what opens a connection to the
//! current one.

use std::net::{IpAddr, SocketAddr};

use etherparse::IpNumber;
use fastrand::Rng;
use lb_common::{QuicIds, Service, ServiceId, Verdict};

use crate::{
    case::{Outcome, check_all},
    fixture::{IDLE_TICKS, NOW, key},
    flow_table::{Entry, State},
    packet::Packet,
    random_cases,
    world::{FAMILIES, Family, SERVICE, SERVICE_PORT},
};

use super::{
    answer::Answer,
    scene::{Case, Gone, PREVIOUS, Scene, Slot, THIRD, Tracker, frame, hash_of, id, numbered},
};

/// What has to become of a packet that names nobody.
const UNKNOWN: &str = "previous sighted miss+";
/// What has to become of a packet that opens a connection.
const OPENING: &str = "current opening miss+";

const VERSION_1: u32 = 1;
/// RFC 9369, section 3.1.
const VERSION_2: u32 = 0x6b33_43cf;

/// The types of long headers: RFC 9000, section 17.2, and RFC 9369, section 3.2.
const INITIAL: [(u32, u8); 2] = [(VERSION_1, 0), (VERSION_2, 1)];
const ZERO_RTT: [(u32, u8); 2] = [(VERSION_1, 1), (VERSION_2, 2)];
const HANDSHAKE: [(u32, u8); 2] = [(VERSION_1, 2), (VERSION_2, 3)];

/// Of these bytes a packet protects at least so many behind its connection ids (RFC 9001, section 5.4.2).
const PROTECTED: [u8; 20] = [0xa5; 20];

/// A connection id that names a server: bits of the first byte that do not matter, server id, nonce.
fn connection_id(rotation: u8, first: u8, server: &[u8], nonce: &[u8]) -> Vec<u8> {
    [&[rotation << 5 | first & 0x1f], server, nonce].concat()
}

/// RFC 9000, section 17.3.
fn short_header(id: &[u8]) -> Vec<u8> {
    [&[0x5b], id, &PROTECTED].concat()
}

/// RFC 9000, section 17.2.
fn long_header((version, packet_type): (u32, u8), id: &[u8]) -> Vec<u8> {
    let length = u8::try_from(id.len()).expect("a short connection id");
    let head = [&[0xc3 | packet_type << 4][..], &version.to_be_bytes(), &[length]].concat();
    [&head[..], id, &[4, 1, 2, 3, 4], &PROTECTED].concat()
}

/// The backends of a service, and a way to say what its connection ids look like.
struct Quic {
    tracker: Tracker,
}

impl Quic {
    fn new(rotation: u8, length: u8) -> Option<Self> {
        let mut quic = Self { tracker: Tracker::new()? };
        quic.speak(rotation, length);
        Some(quic)
    }

    fn speak(&mut self, rotation: u8, length: u8) {
        let quic = QuicIds::new(rotation, length).expect("there are such ids");
        let service = Service { quic, ..self.tracker.service };
        let keys = FAMILIES.map(|family| key(family.virtual_ip(), SERVICE_PORT, IpNumber::UDP));
        for key in keys {
            self.tracker.balancer.remove_service(key);
        }
        self.tracker.balancer.put_services(keys, service);
    }

    fn name(&mut self, server: &[u8], backend: u16) {
        self.tracker.balancer.put_quic_server(SERVICE, server, id(backend));
    }
}

/// A datagram of a client.
fn datagram(family: Family, payload: Vec<u8>) -> Packet {
    Packet { payload, ..family.packet(IpNumber::UDP) }
}

/// The packet goes to `backend`, and no flow is looked up.
fn goes_to(backend: u16, description: String, packet: &Packet) -> Case {
    let frame = frame(packet);
    Case {
        description,
        expected: numbered(backend).receives_as(id(backend), &frame),
        frame: frame.to_bytes(),
        setup: Scene::new(Slot::Moving, packet),
    }
}

/// The flow goes where the slot says.
fn by_slot(cell: &str, description: String, packet: &Packet) -> Case {
    let scene = Scene::new(Slot::Moving, packet);
    let expected = Answer::parse(cell).outcome(packet, &scene, None);
    Case { description, frame: frame(packet).to_bytes(), expected, setup: scene }
}

#[test]
fn a_connection_id_takes_a_packet_to_its_server_whatever_its_lengths() {
    let Some(mut quic) = Quic::new(0, 1) else { return };
    let mut random = Rng::with_seed(9);
    for length in 1..=15_u8 {
        let mut cases = Vec::new();
        let server: Vec<u8> = (0..length).map(|_| random.u8(1..)).collect();
        let mut neighbour = server.clone();
        neighbour[usize::from(length) - 1] ^= 1;
        let mut zeros = server.clone();
        zeros[usize::from(length) - 1] = 0;
        quic.name(&server, THIRD);
        quic.name(&neighbour, PREVIOUS);
        for nonce in [0, 1, 4, 19 - usize::from(length)] {
            let nonce: Vec<u8> = (0..nonce).map(|_| random.u8(..)).collect();
            for family in FAMILIES {
                let id = |server: &[u8]| connection_id(3, 0x15, server, &nonce);
                let name = format!("server id of {length} bytes, nonce of {} over {family:?}", nonce.len());
                for (server, backend) in [(&server, THIRD), (&neighbour, PREVIOUS)] {
                    let packet = datagram(family, short_header(&id(server)));
                    cases.push(goes_to(backend, format!("short header, {name}"), &packet));
                    for kind in HANDSHAKE {
                        let packet = datagram(family, long_header(kind, &id(server)));
                        cases.push(goes_to(backend, format!("Handshake {kind:x?}, {name}"), &packet));
                    }
                }
                let packet = datagram(family, short_header(&id(&zeros)));
                cases.push(by_slot(UNKNOWN, format!("short header that names nobody, {name}"), &packet));
            }
        }
        quic.speak(3, length);
        check_all(&mut quic.tracker, cases);
    }
}

#[test]
fn an_id_of_another_rotation_names_nobody() {
    const SERVER: &[u8] = b"four";
    let Some(mut quic) = Quic::new(0, 4) else { return };
    quic.name(SERVER, THIRD);
    for configured in 0..=QuicIds::MAX_ROTATION {
        quic.speak(configured, 4);
        let mut cases = Vec::new();
        for rotation in 0..=7 {
            for first in [0, 0x1f, 0x0a] {
                let id = connection_id(rotation, first, SERVER, b"nonce");
                for (kind, payload) in [("short", short_header(&id)), ("Handshake", long_header(HANDSHAKE[0], &id))] {
                    let description = format!("{kind} with rotation {rotation} where {configured} is used");
                    let packet = datagram(Family::V4, payload);
                    cases.push(if rotation == configured {
                        goes_to(THIRD, description, &packet)
                    } else {
                        by_slot(UNKNOWN, description, &packet)
                    });
                }
            }
        }
        check_all(&mut quic.tracker, cases);
    }
}

#[test]
fn what_a_client_sends_before_it_knows_the_servers_id_opens_a_connection() {
    const SERVER: &[u8] = b"four";
    let Some(mut quic) = Quic::new(2, 4) else { return };
    quic.name(SERVER, THIRD);
    let mut cases = Vec::new();
    for family in FAMILIES {
        for kind in INITIAL.into_iter().chain(ZERO_RTT) {
            // The client's id may look like one of a server's, and may be of any length.
            for id in [&connection_id(2, 0, SERVER, b"nonce")[..], &[], &[0x42], &[7; 20], &[7; 255]] {
                let description = format!("{kind:x?} to {} bytes over {family:?}", id.len());
                cases.push(by_slot(OPENING, description, &datagram(family, long_header(kind, id))));
            }
        }
    }
    check_all(&mut quic.tracker, cases);
}

#[test]
fn a_packet_of_an_unknown_version_goes_to_the_server_that_its_id_names() {
    const SERVER: &[u8] = b"four";
    let Some(mut quic) = Quic::new(2, 4) else { return };
    quic.name(SERVER, THIRD);
    let mut cases = Vec::new();
    for version in [0, 2, 0x0a0a_0a0a, 0xff00_001d, u32::MAX, VERSION_1.swap_bytes(), VERSION_2.swap_bytes()] {
        for packet_type in 0..4 {
            let long = |server| long_header((version, packet_type), &connection_id(2, 9, server, b"nonce"));
            let name = format!("version {version:#x}, type {packet_type}");
            cases.push(goes_to(THIRD, format!("{name}, an id that is known"), &datagram(Family::V6, long(SERVER))));
            let packet = datagram(Family::V6, long(b"five"));
            cases.push(by_slot(UNKNOWN, format!("{name}, an id that nobody knows"), &packet));
        }
    }
    check_all(&mut quic.tracker, cases);
}

#[test]
fn an_id_in_a_long_header_that_is_too_short_for_a_servers_names_nobody() {
    let Some(mut quic) = Quic::new(1, 15) else { return };
    for length in [1, 4, 8, 9, 15_u8] {
        let server = vec![0x33; length.into()];
        quic.speak(1, length);
        quic.name(&server, THIRD);
        let mut cases = Vec::new();
        for claimed in 0..=255_u8 {
            let mut payload = long_header(HANDSHAKE[1], &connection_id(1, 0, &server, &[0x33; 8]));
            payload[5] = claimed;
            let packet = datagram(Family::V4, payload);
            let description = format!("an id of {claimed} bytes where a server's has {length}");
            cases.push(if claimed > length {
                goes_to(THIRD, description, &packet)
            } else {
                by_slot(UNKNOWN, description, &packet)
            });
        }
        check_all(&mut quic.tracker, cases);
    }
}

#[test]
fn the_same_server_id_is_another_server_in_another_service() {
    const SERVER: &[u8] = b"one";
    const PORT: u16 = 8443;
    let Some(mut quic) = Quic::new(1, 3) else { return };
    let other = ServiceId::new(2).expect("2 is an id");
    let packet = |port| {
        let mut packet = datagram(Family::V4, short_header(&connection_id(1, 0, SERVER, b"nonce")));
        packet.destination.set_port(port);
        packet
    };
    // With the slots of the first one.
    let service = Service { id: other, quic: QuicIds::new(1, 3).expect("ids"), ..quic.tracker.service };
    quic.tracker.balancer.put_services([key(Family::V4.virtual_ip(), PORT, IpNumber::UDP)], service);
    quic.tracker.balancer.put_quic_server(other, SERVER, id(PREVIOUS));
    let in_other = |backend: u16| {
        let packet = packet(PORT);
        let frame = frame(&packet);
        let expected = numbered(backend).receives_as(id(backend), &frame);
        let description = "an id of the other service".to_owned();
        Case { description, expected, frame: frame.to_bytes(), setup: Scene::new(Slot::Moving, &packet) }
    };
    let first = packet(SERVICE_PORT);
    let unknown = by_slot(UNKNOWN, "an id that is one of the other service only".to_owned(), &first);
    check_all(&mut quic.tracker, [unknown, in_other(PREVIOUS)]);
    quic.name(SERVER, THIRD);
    let known = goes_to(THIRD, "an id that is one of both services".to_owned(), &first);
    check_all(&mut quic.tracker, [known, in_other(PREVIOUS)]);
}

#[test]
fn a_connection_stays_with_its_server_wherever_its_client_goes() {
    const SERVER: &[u8] = b"\x00\x01\x02\x03\x04\x05";
    let Some(mut quic) = Quic::new(6, 6) else { return };
    quic.name(SERVER, THIRD);
    let mut random = Rng::with_seed(10);
    let mut cases = Vec::new();
    for number in 0..random_cases(200) {
        let family = FAMILIES[random.usize(..2)];
        let nonce: Vec<u8> = (0..8).map(|_| random.u8(..)).collect();
        let mut packet = datagram(family, short_header(&connection_id(6, random.u8(..), SERVER, &nonce)));
        let address: IpAddr = match family {
            Family::V4 => IpAddr::V4(random.u32(..).into()),
            Family::V6 => IpAddr::V6((random.u128(..) | 1 << 127).into()),
        };
        packet.source = SocketAddr::new(address, random.u16(..));
        cases.push(goes_to(THIRD, format!("address {number}: {}", packet.source), &packet));
    }
    check_all(&mut quic.tracker, cases);
}

#[test]
fn a_datagram_cut_off_anywhere_names_its_server_or_nobody() {
    // The first byte of a connection id and the longest server id, and one byte more.
    const READ: usize = 17;
    let Some(mut quic) = Quic::new(5, 1) else { return };
    let mut cases = Vec::new();
    for length in [1, 7, 8, 9, 15_u8] {
        let server = vec![0x44; length.into()];
        quic.name(&server, THIRD);
        let id = connection_id(5, 1, &server, &vec![0x55; 19 - usize::from(length)]);
        let kinds = [
            ("short header", short_header(&id), 1 + READ, THIRD, UNKNOWN),
            ("Handshake", long_header(HANDSHAKE[0], &id), 6 + READ, THIRD, UNKNOWN),
            // Its version and the length of its id are enough.
            ("Initial", long_header(INITIAL[0], &id), 6, 0, OPENING),
        ];
        for (kind, payload, enough, backend, cell) in kinds {
            for len in 0..=payload.len() {
                let packet = datagram(Family::V4, payload[..len].to_vec());
                let description = format!("{len} bytes of a {kind} with a server id of {length}");
                cases.push(if len < enough {
                    by_slot(UNKNOWN, description, &packet)
                } else if backend == THIRD {
                    goes_to(THIRD, description, &packet)
                } else {
                    by_slot(cell, description, &packet)
                });
            }
        }
        quic.speak(5, length);
        check_all(&mut quic.tracker, std::mem::take(&mut cases));
    }
}

#[test]
fn a_known_connection_without_a_servers_id_is_tracked_like_any_flow() {
    let Some(mut quic) = Quic::new(2, 4) else { return };
    let mut cases = Vec::new();
    let initial = |age: u64, state: State, cell: &'static str| (long_header(INITIAL[0], &[8; 8]), age, state, cell);
    let short = |age: u64, state: State, cell: &'static str| (short_header(&[0xff; 9]), age, state, cell);
    for (payload, age, state, cell) in [
        initial(1, State::Opening, "entry opening hit"),
        initial(1, State::Established, "entry established hit"),
        initial(u64::from(IDLE_TICKS), State::Established, "entry established hit"),
        initial(u64::from(IDLE_TICKS) + 1, State::Established, "current opening reopened"),
        short(1, State::Opening, "entry established hit"),
        short(1, State::Sighted, "entry established hit"),
        short(5, State::Established, "entry established hit"),
    ] {
        for slot in [Slot::Arming, Slot::Moving, Slot::Tracked] {
            let packet = datagram(Family::V6, payload.clone());
            let known = Entry::new(hash_of(&packet), THIRD, state, NOW - age * state.tick());
            let scene = Scene::new(slot, &packet).knowing(known);
            cases.push(Case {
                description: format!("{slot:?}: first byte {:#x} of a flow known as {known:?}", payload[0]),
                frame: frame(&packet).to_bytes(),
                expected: Answer::parse(cell).outcome(&packet, &scene, Some(known)),
                setup: scene,
            });
        }
    }
    check_all(&mut quic.tracker, cases);
}

#[test]
fn when_the_named_server_is_gone_its_packets_are_dropped_or_go_where_their_slot_says() {
    const SERVER: &[u8] = b"four";
    let Some(mut quic) = Quic::new(2, 4) else { return };
    quic.name(SERVER, THIRD);
    let packet = datagram(Family::V4, short_header(&connection_id(2, 0, SERVER, b"nonce")));
    let mut cases = Vec::new();
    for gone in [Gone::WithoutRow, Gone::Rescheduling] {
        let scene = Scene::new(Slot::Moving, &packet).without(THIRD, gone);
        cases.push(Case {
            description: format!("an id of a server that is {gone:?}"),
            frame: frame(&packet).to_bytes(),
            expected: Answer::parse(UNKNOWN).outcome(&packet, &scene, None),
            setup: scene,
        });
    }
    let frame = frame(&packet).to_bytes();
    cases.push(Case {
        description: "an id of a server that is resetting".to_owned(),
        expected: Outcome::dropped(Verdict::DropBackendGone, &frame),
        frame,
        setup: Scene::new(Slot::Moving, &packet).without(THIRD, Gone::Resetting),
    });
    check_all(&mut quic.tracker, cases);
}
