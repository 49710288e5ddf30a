//! Each way to a backend, by each way out.

use etherparse::IpNumber;
use lb_common::Verdict;

use crate::{
    backend::{Backend, Forwarding, counted},
    case::{Action, Outcome, check_all},
    fixture::{Balancer, Case},
    world::{BACKEND, FAMILIES, Family, INGRESS_IFINDEX, OTHER_IFINDEX, client_frames},
};

/// `l2-dsr`, and `ipip` and `gue` over both families.
fn backends() -> [(&'static str, Backend); 5] {
    [
        ("by l2-dsr", Backend::L2_DSR),
        ("in an outer IPv4 header", Backend::tunnel(Family::V4)),
        ("in an outer IPv6 header", Backend::tunnel(Family::V6)),
        ("in GUE over IPv4", Backend::gue(Family::V4)),
        ("in GUE over IPv6", Backend::gue(Family::V6)),
    ]
}

#[test]
fn a_packet_for_a_service_leaves_for_its_backend() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let ways_out = [("the same", INGRESS_IFINDEX), ("another", OTHER_IFINDEX)];
    let cases = client_frames().flat_map(|(packet, family, frame)| {
        backends().into_iter().flat_map(move |(mode, backend)| {
            let (packet, frame) = (packet.clone(), frame.clone());
            ways_out.map(move |(way_out, egress_ifindex)| {
                let description = format!("{packet} leaves {mode} by {way_out} interface");
                Case::forwards(description, family, &Backend { egress_ifindex, ..backend }, &frame)
            })
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn a_packet_for_a_local_backend_goes_up_the_stack_untouched_and_is_counted() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let local = Backend { forwarding: Forwarding::Local, ..Backend::L2_DSR };
    let cases = client_frames().map(|(packet, family, frame)| {
        let traffic = counted(BACKEND, &frame);
        let expected = Outcome::untracked(Action::Pass, vec![(Verdict::Local, 1)], traffic, frame.to_bytes());
        Case {
            description: format!("{packet} for a local backend stays"),
            setup: vec![(BACKEND, Some(local.row(family)))],
            frame: frame.to_bytes(),
            expected,
        }
    });
    check_all(&mut balancer, cases);
}

#[test]
fn ethernet_padding_is_not_taken_for_a_part_of_the_packet() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = client_frames().flat_map(|(packet, family, frame)| {
        let mut frame = frame.padded();
        frame.padding.extend([0xdd; 7]);
        backends().map(|(mode, backend)| {
            Case::forwards(format!("{packet} with padding behind it leaves {mode}"), family, &backend, &frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn the_packet_itself_is_not_checked_but_left_as_it_is() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = client_frames().flat_map(|(packet, family, mut frame)| {
        let last = frame.packet.len() - 1;
        // The payload no longer fits the checksum of TCP or UDP, nor the header that of IPv4.
        frame.packet[last] ^= 0xff;
        if family == Family::V4 {
            frame.packet[10] ^= 0xff;
        }
        // The last one has a checksum that depends on those: see `gue.rs`.
        let [backends @ .., _] = backends();
        backends.map(|(mode, backend)| {
            Case::forwards(format!("{packet} with wrong checksums leaves {mode}"), family, &backend, &frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn the_mtu_of_the_way_to_the_backend_is_kept_to_the_byte() {
    const MTU: u16 = 1500;
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let overheads = [0, 20, 40, 32, 52];
    let mut cases = Vec::new();
    for family in FAMILIES {
        for ((mode, backend), overhead) in backends().into_iter().zip(overheads) {
            let largest = usize::from(MTU) - overhead;
            let backend = Backend { mtu: MTU, ..backend };
            let sized = |len| family.frame(family.packet(IpNumber::TCP).sized(len).to_bytes());
            let fitting = format!("{family:?} of {largest} bytes fits {MTU} {mode}");
            let mut padded = sized(largest);
            cases.push(Case::forwards(fitting.clone(), family, &backend, &padded));
            padded.padding = vec![0; 8];
            cases.push(Case::forwards(fitting + " also with padding", family, &backend, &padded));
            for len in [largest + 1, largest + 400] {
                let frame = sized(len).to_bytes();
                cases.push(Case {
                    description: format!("{family:?} of {len} bytes does not fit {MTU} {mode}"),
                    setup: vec![(BACKEND, Some(backend.row(family)))],
                    expected: Outcome::dropped(Verdict::DropTooBig, &frame),
                    frame,
                });
            }
        }
    }
    check_all(&mut balancer, cases);
}
