//! VLAN tags, as they come in and as they go out.

use etherparse::IpNumber;
use lb_common::Verdict;

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case},
    frame::Tag,
    world::{FAMILIES, Family, client_frames},
};

/// Tags that are looked behind.
const INCOMING: [(&str, &[Tag]); 7] = [
    ("without a tag", &[]),
    ("with a tag", &[Tag::customer(100)]),
    ("with a tag of all ones", &[Tag::customer(0xffff)]),
    ("with a tag that is only a priority", &[Tag::customer(0xe000)]),
    ("with a tag of 802.1ad", &[Tag::service(200)]),
    ("with a tag behind one of 802.1ad", &[Tag::service(200), Tag::customer(100)]),
    ("with two tags of 802.1Q", &[Tag::customer(200), Tag::customer(100)]),
];

const OUTGOING: [(&str, u16); 4] =
    [("untagged", 0), ("in VLAN 300", 300), ("in VLAN 4095 of priority 7", 0xefff), ("in VLAN 1", 1)];

#[test]
fn the_tags_that_come_in_go_and_the_backends_tag_comes() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let modes = [Backend::L2_DSR, Backend::tunnel(Family::V4), Backend::tunnel(Family::V6)];
    let mut cases = Vec::new();
    for (packet, family, frame) in client_frames() {
        for (incoming, tags) in INCOMING {
            for (outgoing, vlan) in OUTGOING {
                for backend in modes {
                    let description = format!("{packet} {incoming} leaves {outgoing} by {:?}", backend.forwarding);
                    let frame = frame.clone().tagged(tags).padded();
                    cases.push(Case::forwards(description, family, &Backend { vlan, ..backend }, &frame));
                }
            }
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn nothing_is_looked_for_behind_three_tags() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = FAMILIES.map(|family| {
        let tags = [Tag::service(1), Tag::customer(2), Tag::customer(3)];
        let frame = family.client_frame(IpNumber::TCP).tagged(&tags).to_bytes();
        Case::passes(format!("{family:?} behind three tags is not IP to the balancer"), Verdict::PassNotIp, frame)
    });
    check_all(&mut balancer, cases);
}
