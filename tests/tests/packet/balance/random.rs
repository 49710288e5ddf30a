//! Random frames, and random changes to valid ones: whatever comes in, each packet has one verdict, and what is not
//! forwarded is not touched.

use std::cell::RefCell;

use etherparse::{Ethernet2Header, IpNumber, IpSlice, Ipv4Header, Ipv6Header, UdpHeader};
use lb_common::Verdict;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, TestCaseError, TestRunner},
};

use crate::{
    backend::{Backend, GUE_PORT, Gue},
    case::{Action, Datapath as _, Outcome},
    fixture::{Balancer, Case},
    frame::{Frame, Tag},
    packet::{Extension, Packet},
    random_cases,
    world::{BACKEND, FAMILIES, Family, OWN_MAC, PROTOCOLS},
};

const BACKENDS: [Backend; 5] = [
    Backend::L2_DSR,
    Backend::tunnel(Family::V4),
    Backend::tunnel(Family::V6),
    Backend::gue(Family::V4),
    Backend::gue(Family::V6),
];
/// What each of them puts around a packet, in bytes.
const OVERHEADS: [usize; 5] = [
    0,
    Ipv4Header::MIN_LEN,
    Ipv6Header::LEN,
    Ipv4Header::MIN_LEN + Gue::HEADERS_LEN,
    Ipv6Header::LEN + Gue::HEADERS_LEN,
];

/// A valid frame of any kind for the service.
fn valid_frames() -> impl Strategy<Value = (Family, Frame)> {
    let tags = prop_oneof![
        Just(Vec::new()),
        any::<u16>().prop_map(|tci| vec![Tag::customer(tci)]),
        any::<[u16; 2]>().prop_map(|[outer, inner]| vec![Tag::service(outer), Tag::customer(inner)]),
    ];
    let extension = |numbers: &[u8]| {
        (select(numbers.to_vec()), select(vec![6_usize, 14, 22]))
            .prop_map(|(number, len)| Extension { number: IpNumber(number), data: vec![0; len] })
    };
    // Hop-by-hop options stand first (RFC 8200, section 4.1).
    let extensions = (vec(extension(&[0]), 0..=1), vec(extension(&[43, 60]), 0..=3)).prop_map(|(a, b)| [a, b].concat());
    let headers = ((0_usize..=10).prop_map(|words| vec![1_u8; words * 4]), extensions);
    let content = (any::<u16>(), any::<u8>(), vec(any::<u8>(), 0..64), 0_usize..20);
    (select(FAMILIES.to_vec()), select(PROTOCOLS.to_vec()), tags, headers, content).prop_map(
        |(family, protocol, tags, (options, extensions), (port, traffic_class, payload, padding))| {
            let mut packet = Packet { traffic_class, options, extensions, payload, ..family.packet(protocol) };
            packet.source.set_port(port);
            (family, Frame { padding: vec![0xaa; padding], ..family.frame(packet.to_bytes()).tagged(&tags) })
        },
    )
}

/// Valid frames with some bytes changed and some cut off or added.
fn damaged_frames() -> impl Strategy<Value = Vec<u8>> {
    (valid_frames(), vec((any::<Index>(), any::<u8>()), 0..6), any::<Index>(), any::<bool>()).prop_map(
        |((_, frame), changes, len, resize)| {
            let mut frame = frame.to_bytes();
            for (at, byte) in changes {
                // Most changes are to the headers.
                let at = at.index(frame.len().min(80));
                frame[at] = byte;
            }
            if resize {
                frame.resize(Ethernet2Header::LEN + len.index(frame.len()), 0);
            }
            frame
        },
    )
}

/// Random bytes behind a destination that is the balancer's, or not.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let ether_types = select(vec![[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8], [0x12, 0x34]]);
    (any::<bool>(), ether_types, vec(any::<u8>(), Ethernet2Header::LEN..200)).prop_map(
        |(ours, ether_type, mut frame)| {
            if ours {
                frame[..6].copy_from_slice(&OWN_MAC);
                frame[12..14].copy_from_slice(&ether_type);
            }
            frame
        },
    )
}

/// Runs `check` on random values; a failure names the smallest one that fails.
fn for_random<S: Strategy>(fast: u32, strategy: &S, check: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: random_cases(fast), failure_persistence: None, ..Config::default() };
    if let Err(failure) = TestRunner::new(config).run(strategy, check) {
        panic!("{failure}");
    }
}

/// What holds for every frame, sent to `backend` or not.
fn check_invariants(
    backend: &Backend,
    overhead: usize,
    frame: &[u8],
    outcome: &Outcome<Verdict>,
) -> Result<(), TestCaseError> {
    let &[(verdict, 1)] = &outcome.verdicts[..] else {
        return Err(TestCaseError::fail(format!("verdicts: {:?}", outcome.verdicts)));
    };
    if outcome.action != Action::Transmit {
        prop_assert!([Action::Pass, Action::Drop].contains(&outcome.action), "{:?}", outcome.action);
        prop_assert!(verdict != Verdict::Transmitted && verdict != Verdict::DropInternal, "{verdict:?}");
        prop_assert_eq!(&outcome.traffic, &Vec::new());
        prop_assert_eq!(&outcome.frame[..], frame);
        return Ok(());
    }
    prop_assert_eq!(verdict, Verdict::Transmitted);
    prop_assert_eq!(outcome.traffic.len(), 1);
    prop_assert_eq!(&outcome.frame[..6], &backend.mac);
    let inner = &outcome.frame[Ethernet2Header::LEN + overhead..];
    prop_assert!(frame.ends_with(inner), "the client's packet is changed");
    prop_assert!([14, 18, 22].contains(&(frame.len() - inner.len())), "the frame is cut at the wrong place");
    if overhead > 0 {
        check_outer(&outcome.frame[Ethernet2Header::LEN..], overhead, outcome.traffic[0].1.bytes)?;
    }
    Ok(())
}

/// The outer headers are whole, and as long as they and the counted bytes together.
fn check_outer(packet: &[u8], overhead: usize, inner_len: u64) -> Result<(), TestCaseError> {
    let len = overhead as u64 + inner_len;
    let ip = IpSlice::from_slice(packet).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let header_len = match &ip {
        IpSlice::Ipv4(ip) => {
            let header = ip.header();
            prop_assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            prop_assert_eq!(u64::from(header.total_len()), len);
            Ipv4Header::MIN_LEN
        }
        IpSlice::Ipv6(ip) => {
            prop_assert_eq!(u64::from(ip.header().payload_length()), len - Ipv6Header::LEN as u64);
            Ipv6Header::LEN
        }
    };
    if overhead > header_len {
        let (udp, gue) = UdpHeader::from_slice(&packet[header_len..]).expect("it is long enough");
        prop_assert_eq!((udp.destination_port, u64::from(udp.length)), (GUE_PORT, len - header_len as u64));
        // What is inside may be wrong, and the checksum of UDP with it.
        prop_assert_eq!(udp.checksum == 0, header_len == Ipv4Header::MIN_LEN);
        prop_assert!(gue.starts_with(&[0, 4, 0, 0]) || gue.starts_with(&[0, 41, 0, 0]), "{:?}", &gue[..4]);
    }
    Ok(())
}

fn check_all_backends(fast: u32, frames: &impl Strategy<Value = Vec<u8>>) {
    let Some(balancer) = Balancer::with_one_backend() else { return };
    let balancer = RefCell::new(balancer);
    for (backend, overhead) in BACKENDS.iter().zip(OVERHEADS) {
        balancer.borrow_mut().put_row(BACKEND, &backend.row(Family::V4));
        for_random(fast, frames, |frame| {
            let outcome = balancer.borrow_mut().run(&frame);
            check_invariants(backend, overhead, &frame, &outcome)
        });
    }
}

#[test]
fn random_bytes_pass_or_leave_whole() {
    check_all_backends(1500, &noise());
}

#[test]
fn damaged_packets_pass_or_leave_whole() {
    check_all_backends(2500, &damaged_frames());
}

#[test]
fn any_mixture_of_tags_headers_and_padding_arrives_exactly_as_it_should() {
    let Some(balancer) = Balancer::with_one_backend() else { return };
    let balancer = RefCell::new(balancer);
    let backends = (select(BACKENDS.to_vec()), any::<u16>()).prop_map(|(backend, vlan)| Backend { vlan, ..backend });
    for_random(3000, &(valid_frames(), backends), |((family, frame), backend)| {
        let case = Case::forwards("", family, &backend, &frame);
        let mut balancer = balancer.borrow_mut();
        balancer.prepare(&case.setup);
        prop_assert_eq!(balancer.run(&case.frame), case.expected);
        Ok(())
    });
}

#[test]
fn the_verdicts_add_up_to_the_packets() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut random = fastrand::Rng::with_seed(5);
    let packets = random_cases(2000);
    for number in 0..packets {
        let mut frame = FAMILIES[random.usize(..2)].client_frame(IpNumber::TCP).to_bytes();
        let at = random.usize(..frame.len());
        frame[at] = random.u8(..);
        if number % 3 == 0 {
            frame.truncate(random.usize(Ethernet2Header::LEN..frame.len()));
        }
        balancer.run(&frame);
    }
    let verdicts = balancer.maps().verdicts().expect("the counters can be read");
    assert_eq!(verdicts.iter().map(|(_, count)| count).sum::<u64>(), u64::from(packets), "{verdicts:?}");
}
