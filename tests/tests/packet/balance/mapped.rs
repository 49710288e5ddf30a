//! IPv4-mapped IPv6 addresses: how the maps write IPv4 addresses, and nothing that may come in a packet.

use std::net::IpAddr;

use etherparse::IpNumber;
use lb_common::Verdict;

use crate::{
    case::check_all,
    fixture::{Balancer, Case},
    world::Family,
};

#[test]
fn an_ipv6_packet_to_the_mapped_form_of_an_ipv4_virtual_ip_passes() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let IpAddr::V4(virtual_ip) = Family::V4.virtual_ip() else { unreachable!("IPv4 has IPv4 addresses") };
    let mut packet = Family::V6.packet(IpNumber::TCP);
    packet.destination.set_ip(IpAddr::V6(virtual_ip.to_ipv6_mapped()));
    let frame = Family::V6.frame(packet.to_bytes()).to_bytes();
    check_all(
        &mut balancer,
        [Case::passes("IPv6 to the mapped virtual IP has no service", Verdict::PassNoService, frame)],
    );
}
