//! What is a tunnel's packet, and what is not.

use etherparse::{EtherType, IpNumber};
use lb_common::DecapVerdict;

use super::{Case, Decapsulator, combinations, outer_len, sum_up, tunnelled};
use crate::{
    case::check_all,
    frame::{Frame, Tag},
    world::{FAMILIES, Family, PROTOCOLS, client_frames, name},
};

#[test]
fn the_outer_header_goes_and_everything_else_stays() {
    let tags: [&[Tag]; 4] = [&[], &[Tag::customer(100)], &[Tag::customer(0xe000)], &[Tag::customer(0xffff)]];
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        for protocol in PROTOCOLS {
            for tags in tags {
                let plain = inner.client_frame(protocol).tagged(tags);
                let padded = Frame { padding: vec![0xee; 9], ..plain.clone() };
                for (padding, frame) in [("without", plain), ("with", padded)] {
                    let description =
                        format!("{} over {inner:?} in {outer:?} with tags {tags:?}, {padding} padding", name(protocol));
                    cases.push(Case::decapsulates(description, &tunnelled(&frame, inner, outer, 0), &frame));
                }
            }
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn a_packet_of_every_length_is_decapsulated() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let cases = combinations().flat_map(|(inner, outer)| {
        (68..1400).step_by(13).map(move |len| {
            let frame = inner.frame(inner.packet(IpNumber::UDP).sized(len).to_bytes());
            let description = format!("{inner:?} of {len} bytes in {outer:?}");
            Case::decapsulates(description, &tunnelled(&frame, inner, outer, 0), &frame)
        })
    });
    check_all(&mut decapsulator, cases);
}

#[test]
fn what_is_no_tunnel_packet_for_this_host_passes() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    let mut not_ours = |description: String, frame: Frame| {
        cases.push(Case::leaves_alone(description, DecapVerdict::PassNotTunnel, frame.to_bytes()));
    };
    for (packet, _, frame) in client_frames() {
        not_ours(format!("{packet} without a tunnel passes"), frame);
    }
    for family in FAMILIES {
        let mut packet = family.packet(IpNumber::TCP);
        packet.destination.set_ip(family.backend());
        not_ours(format!("TCP to the tunnel address itself over {family:?} passes"), family.frame(packet.to_bytes()));
    }
    for (inner, outer) in combinations() {
        let whole = tunnelled(&inner.client_frame(IpNumber::TCP), inner, outer, 0);
        let mut elsewhere = whole.clone();
        elsewhere.packet[outer_len(outer) - 1] ^= 1;
        if outer == Family::V4 {
            sum_up(&mut elsewhere);
        }
        not_ours(format!("a tunnel packet of {inner:?} in {outer:?} to another address passes"), elsewhere);
        for protocol in [IpNumber::GRE, IpNumber::UDP, IpNumber(143), IpNumber(0), IpNumber::IPV6_DESTINATION_OPTIONS] {
            let mut other = whole.clone();
            other.packet[if outer == Family::V4 { 9 } else { 6 }] = protocol.0;
            if outer == Family::V4 {
                sum_up(&mut other);
            }
            not_ours(format!("protocol {} in {outer:?} to the tunnel address passes", protocol.0), other);
        }
        let two_tags = whole.clone().tagged(&[Tag::customer(1), Tag::customer(2)]);
        not_ours(format!("a tunnel packet of {inner:?} in {outer:?} behind two tags passes"), two_tags);
        let service_tag = whole.clone().tagged(&[Tag::service(1)]);
        not_ours(format!("a tunnel packet of {inner:?} in {outer:?} behind a service tag passes"), service_tag);
        let arp = Frame { ether_type: EtherType::ARP, ..whole };
        not_ours(format!("the same bytes of {inner:?} in {outer:?} as ARP pass"), arp);
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn outer_fragments_and_options_are_left_to_the_kernel() {
    const OPTIONS: [u8; 4] = [1, 1, 1, 0];
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for inner in FAMILIES {
        let whole = tunnelled(&inner.client_frame(IpNumber::TCP), inner, Family::V4, 0);
        for (which, bits) in [("first", 0x2000_u16), ("later", 0x20b9), ("last", 0x0172)] {
            let mut fragment = whole.clone();
            fragment.packet[6..8].copy_from_slice(&bits.to_be_bytes());
            sum_up(&mut fragment);
            let description = format!("the {which} fragment of a tunnel packet of {inner:?} passes");
            cases.push(Case::leaves_alone(description, DecapVerdict::PassForKernel, fragment.to_bytes()));
        }
        let mut with_options = whole;
        with_options.packet.splice(20..20, OPTIONS);
        with_options.packet[0] = 0x46;
        let total_len = u16::try_from(with_options.packet.len()).expect("a short packet");
        with_options.packet[2..4].copy_from_slice(&total_len.to_be_bytes());
        sum_up(&mut with_options);
        let description = format!("a tunnel packet of {inner:?} with outer options passes");
        cases.push(Case::leaves_alone(description, DecapVerdict::PassForKernel, with_options.to_bytes()));
    }
    check_all(&mut decapsulator, cases);
}
