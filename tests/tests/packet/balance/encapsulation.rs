//! What each packet changes in its outer header.

use etherparse::IpNumber;

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case},
    random_cases,
    world::{FAMILIES, Family},
};

/// Inner and outer family, and what makes a backend of the latter and its entropy: `ipip` and `gue`.
fn combinations() -> impl Iterator<Item = (Family, Family, fn(Family, u8) -> Backend)> {
    let modes: [fn(Family, u8) -> Backend; 2] = [Backend::tunnel_with_entropy, Backend::gue_with_entropy];
    let families = FAMILIES.into_iter().flat_map(|inner| FAMILIES.map(|outer| (inner, outer)));
    families.flat_map(move |(inner, outer)| modes.map(|mode| (inner, outer, mode)))
}

#[test]
fn dscp_and_ecn_go_from_the_inner_to_the_outer_header() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = combinations().flat_map(|(inner, outer, backend)| {
        (0..=u8::MAX).map(move |class| {
            let frame = inner.frame(inner.packet(IpNumber::TCP).traffic_class(class).to_bytes());
            let description = format!("{inner:?} with traffic class {class:#04x} has it in its outer {outer:?} header");
            Case::forwards(description, inner, &backend(outer, 0), &frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn the_outer_header_has_the_length_of_the_packet_and_the_checksum_that_goes_with_it() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = combinations().flat_map(|(inner, outer, backend)| {
        (68..=1428).map(move |len| {
            let frame = inner.frame(inner.packet(IpNumber::UDP).sized(len).to_bytes());
            let description = format!("{inner:?} of {len} bytes has an outer {outer:?} header to match");
            Case::forwards(description, inner, &backend(outer, 0), &frame)
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn the_hash_of_the_flow_fills_exactly_the_source_bits_left_to_it_the_flow_label_and_the_source_port() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = combinations().flat_map(|(inner, outer, backend)| {
        let most = if outer == Family::V4 { 16 } else { 32 };
        (0..=most).flat_map(move |bits| {
            (1..=4_u16).map(move |flow| {
                let mut packet = inner.packet(IpNumber::TCP);
                packet.source.set_port(flow);
                let description = format!("flow {flow} over {inner:?} fills {bits} bits of its outer {outer:?} source");
                Case::forwards(description, inner, &backend(outer, bits), &inner.frame(packet.to_bytes()))
            })
        })
    });
    check_all(&mut balancer, cases);
}

#[test]
fn the_checksum_is_right_whatever_is_filled_in() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut random = fastrand::Rng::with_seed(1);
    let cases = (0..random_cases(2000)).map(|number| {
        let inner = FAMILIES[random.usize(..2)];
        let mut packet = inner.packet(IpNumber::UDP).sized(random.usize(60..1400)).traffic_class(random.u8(..));
        packet.source.set_port(random.u16(..));
        let description = format!("random packet {number} over {inner:?} has a right outer checksum");
        Case::forwards(
            description,
            inner,
            &Backend::tunnel_with_entropy(Family::V4, 16),
            &inner.frame(packet.to_bytes()),
        )
    });
    check_all(&mut balancer, cases);
}
