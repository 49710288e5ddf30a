//! Tunnel packets that are not what they say.

use etherparse::{IpNumber, SingleVlanHeader};
use lb_common::DecapVerdict;

use super::{Case, Decapsulator, Mode, combinations, outer_len, sum_up, tunnelled, tunnelled_by};
use crate::{
    case::check_all,
    frame::{Frame, Tag},
    world::{FAMILIES, Family},
};

fn whole(inner: Family, outer: Family) -> Frame {
    tunnelled(&inner.client_frame(IpNumber::UDP), inner, outer, 0)
}

fn malformed(description: String, frame: &Frame) -> Case {
    Case::drops(description, DecapVerdict::DropMalformed, frame.to_bytes())
}

#[test]
fn a_tunnel_packet_cut_off_behind_what_tells_it_is_dropped_and_before_that_it_passes() {
    /// What tells GUE from other datagrams.
    const PORTS: usize = 4;
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (mode, telling) in [(Mode::Ipip, 0), (Mode::Gue, PORTS)] {
        for (inner, outer) in combinations() {
            for tags in [&[][..], &[Tag::customer(5)]] {
                let frame = tunnelled_by(mode, &inner.client_frame(IpNumber::UDP), inner, outer, 0).tagged(tags);
                let bytes = frame.to_bytes();
                for len in 14..bytes.len() {
                    let cut = bytes[..len].to_vec();
                    let description = format!(
                        "{mode:?}: {inner:?} in {outer:?} behind {} tags, cut off after {len} of {}",
                        tags.len(),
                        bytes.len()
                    );
                    cases.push(if len < frame.link_len() + outer_len(outer) + telling {
                        Case::leaves_alone(description + ", passes", DecapVerdict::PassNotTunnel, cut)
                    } else {
                        Case::drops(description + ", is dropped", DecapVerdict::DropMalformed, cut)
                    });
                }
            }
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn a_wrong_outer_checksum_is_dropped_whatever_bit_is_wrong() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for inner in FAMILIES {
        // DSCP and ECN, length, identification, "don't fragment", time to live, checksum, source.
        let bits = (8..48).chain([49]).chain(64..72).chain(80..128);
        for bit in bits {
            let mut frame = whole(inner, Family::V4);
            frame.packet[bit / 8] ^= 0x80 >> (bit % 8);
            cases.push(malformed(format!("{inner:?} in IPv4 with outer bit {bit} flipped is dropped"), &frame));
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn an_inner_packet_of_another_version_than_the_outer_header_says_is_dropped() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let own_version = if inner == Family::V4 { 4 } else { 6 };
        for version in (0..16).filter(|version| *version != own_version) {
            let mut frame = whole(inner, outer);
            let first = &mut frame.packet[outer_len(outer)];
            *first = *first & 0xf | version << 4;
            cases.push(malformed(format!("version {version} as {inner:?} in {outer:?} is dropped"), &frame));
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn an_inner_packet_that_claims_more_than_the_outer_one_holds_is_dropped() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let (offset, own) = match inner {
            Family::V4 => (2, inner.client_frame(IpNumber::UDP).packet.len()),
            Family::V6 => (4, inner.client_frame(IpNumber::UDP).packet.len() - 40),
        };
        for claimed in [own + 1, own + 2, own + 100, 0x8000, 0xffff] {
            // Padding, so that the frame has room for what is claimed.
            let mut frame = Frame { padding: vec![0; 4], ..whole(inner, outer) };
            let at = outer_len(outer) + offset;
            frame.packet[at..at + 2].copy_from_slice(&u16::try_from(claimed).expect("sixteen bits").to_be_bytes());
            cases.push(malformed(format!("{inner:?} that claims {claimed} of {own} bytes in {outer:?}"), &frame));
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn an_outer_length_other_than_the_frame_has_room_for_is_dropped() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for (inner, outer) in combinations() {
        let whole = whole(inner, outer);
        let (offset, own) = match outer {
            Family::V4 => (2, whole.packet.len()),
            Family::V6 => (4, whole.packet.len() - 40),
        };
        for claimed in (0..own).chain([own + 1, own + SingleVlanHeader::LEN, 0x8000, 0xffff]) {
            let mut frame = whole.clone();
            frame.packet[offset..offset + 2]
                .copy_from_slice(&u16::try_from(claimed).expect("sixteen bits").to_be_bytes());
            if outer == Family::V4 {
                sum_up(&mut frame);
            }
            cases.push(malformed(format!("{inner:?} in {outer:?} that claims {claimed} of {own} bytes"), &frame));
        }
    }
    check_all(&mut decapsulator, cases);
}

#[test]
fn an_inner_packet_shorter_than_the_outer_one_holds_is_for_the_kernel_to_trim() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let cases = combinations().map(|(inner, outer)| {
        let mut frame = inner.client_frame(IpNumber::UDP);
        frame.packet.extend([0; 5]);
        Case::decapsulates(
            format!("{inner:?} with 5 bytes behind it in {outer:?}"),
            &tunnelled(&frame, inner, outer, 0),
            &frame,
        )
    });
    check_all(&mut decapsulator, cases);
}
