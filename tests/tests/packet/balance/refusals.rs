//! Packets for a service that nobody can take.

use etherparse::IpNumber;
use lb_common::{BackendId, ServiceId, SlotWord, Verdict, layout};

use crate::{
    backend::Backend,
    case::{Action, Outcome, check_all},
    fixture::{Balancer, Case, keys},
    world::{BACKEND, FAMILIES, Family, UNKNOWN_IFINDEX, client_frames},
};

#[test]
fn a_packet_for_a_backend_without_a_row_is_dropped() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = client_frames().map(|(packet, _, frame)| {
        let frame = frame.to_bytes();
        Case {
            description: format!("{packet} is dropped"),
            setup: vec![(BACKEND, None)],
            expected: Outcome::dropped(Verdict::DropNoBackend, &frame),
            frame,
        }
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_packet_of_a_slot_without_a_backend_is_dropped() {
    const EMPTY: u16 = 8080;
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let slots = vec![SlotWord::EMPTY; layout::MIN_SLOTS as usize];
    let service = balancer.put_slots(ServiceId::new(2).expect("2 is an id"), &slots);
    balancer.put_services(keys(EMPTY), service);
    let mut cases = Vec::new();
    for family in FAMILIES {
        let mut packet = family.packet(IpNumber::TCP);
        packet.destination.set_port(EMPTY);
        let frame = family.frame(packet.to_bytes()).to_bytes();
        cases.push(Case {
            description: format!("TCP over {family:?} to a service without backends is dropped"),
            // Nobody's row is not for use, even if there is one.
            setup: vec![(BackendId::NONE, Some(Backend::L2_DSR.row(family)))],
            expected: Outcome::dropped(Verdict::DropNoBackend, &frame),
            frame,
        });
    }
    check_all(&mut balancer, cases);
}

#[test]
fn a_packet_for_an_interface_that_is_no_egress_is_dropped() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let backends = [
        Backend::L2_DSR,
        Backend::tunnel(Family::V4),
        Backend::tunnel(Family::V6),
        Backend::gue(Family::V4),
        Backend::gue(Family::V6),
    ];
    let cases = client_frames().flat_map(|(packet, family, frame)| {
        backends.map(|backend| Case {
            description: format!("{packet} is dropped on its way by {:?}", backend.forwarding),
            setup: vec![(BACKEND, Some(Backend { egress_ifindex: UNKNOWN_IFINDEX, ..backend }.row(family)))],
            frame: frame.to_bytes(),
            // By then it is ready to leave.
            expected: Outcome {
                action: Action::Drop,
                ..Outcome::dropped(Verdict::DropInternal, &backend.delivery(&frame).to_bytes())
            },
        })
    });
    check_all(&mut balancer, cases);
}
