//! Every packet kind, cut off after every byte.

use etherparse::{Ethernet2Header, IpNumber};
use lb_common::Verdict;

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case},
    frame::{Frame, Tag},
    packet::{Extension, Packet},
    world::{Family, PROTOCOLS, name},
};

/// Each kind of packet that the balancer forwards when it is whole.
fn kinds() -> Vec<(String, Family, Frame)> {
    let destination_options =
        Extension { number: IpNumber::IPV6_DESTINATION_OPTIONS, data: vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] };
    let hop_by_hop = Extension { number: IpNumber::IPV6_HEADER_HOP_BY_HOP, data: vec![1, 4, 0, 0, 0, 0] };
    let tags: [&[Tag]; 3] = [&[], &[Tag::customer(5)], &[Tag::service(6), Tag::customer(5)]];
    let mut kinds = Vec::new();
    for protocol in PROTOCOLS {
        let ipv4 = Family::V4.packet(protocol);
        let ipv6 = Family::V6.packet(protocol);
        let packets = [
            ("IPv4", Family::V4, ipv4.clone()),
            ("IPv4 with options", Family::V4, Packet { options: vec![1; 40], ..ipv4 }),
            ("IPv6", Family::V6, ipv6.clone()),
            (
                "IPv6 with extension headers",
                Family::V6,
                Packet { extensions: vec![hop_by_hop.clone(), destination_options.clone()], ..ipv6 },
            ),
        ];
        for (kind, family, packet) in packets {
            for tags in tags {
                let description = format!("{} over {kind} behind {} tags", name(protocol), tags.len());
                kinds.push((description, family, family.frame(packet.to_bytes()).tagged(tags)));
            }
        }
    }
    kinds
}

#[test]
fn a_packet_cut_off_anywhere_passes_untouched() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for (kind, family, frame) in kinds() {
        let whole = frame.to_bytes();
        // A test run takes no less than an Ethernet header.
        for len in Ethernet2Header::LEN..whole.len() {
            let description = format!("{kind}, cut off after {len} of {} bytes, passes", whole.len());
            cases.push(Case::passes(description, Verdict::PassMalformed, whole[..len].to_vec()));
        }
        cases.push(Case::forwards(format!("{kind}, whole, leaves"), family, &Backend::L2_DSR, &frame));
    }
    check_all(&mut balancer, cases);
}

#[test]
fn a_frame_shorter_than_its_last_tag_passes() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let tags = [Tag::service(6), Tag::customer(5)];
    let whole = Family::V4.client_frame(IpNumber::TCP).tagged(&tags).to_bytes();
    let cases = (14..22).map(|len| {
        let description = format!("two tags cut off after {len} bytes pass");
        Case::passes(description, Verdict::PassMalformed, whole[..len].to_vec())
    });
    check_all(&mut balancer, cases);
}
