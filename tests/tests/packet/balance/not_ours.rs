//! Whatever is not for a service passes, untouched.

use std::net::IpAddr;

use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacket, EtherType, IpNumber};
use lb_common::{MacAddress, Verdict};

use crate::{
    case::check_all,
    fixture::{Balancer, Case},
    frame::{Frame, Tag},
    packet::Packet,
    world::{FAMILIES, Family, OWN_MAC, PROTOCOLS, ROUTER_MAC, client_frames},
};

#[test]
fn a_frame_for_somebody_else_passes() {
    let addresses: [(&str, MacAddress); 7] = [
        ("broadcast", [0xff; 6]),
        ("IPv4 multicast", [0x01, 0x00, 0x5e, 0, 0, 0x12]),
        ("IPv6 multicast", [0x33, 0x33, 0, 0, 0, 0x12]),
        ("the router", ROUTER_MAC),
        ("nobody", [0; 6]),
        ("a neighbour by the first byte", flipped(0)),
        ("a neighbour by the last byte", flipped(5)),
    ];
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let cases = client_frames().flat_map(|(packet, _, frame)| {
        addresses.map(|(whose, destination)| {
            let frame = Frame { destination, ..frame.clone() }.to_bytes();
            Case::passes(format!("{packet} in a frame to {whose} passes"), Verdict::PassOtherHost, frame)
        })
    });
    check_all(&mut balancer, cases);
}

fn flipped(byte: usize) -> MacAddress {
    let mut mac = OWN_MAC;
    mac[byte] ^= 0x40;
    mac
}

#[test]
fn what_is_not_ip_passes() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let packet = vec![0x45; 46];
    let others: [(&str, u16); 8] = [
        ("LLDP", 0x88cc),
        ("MPLS", 0x8847),
        ("PPPoE", 0x8864),
        ("an old double tag", 0x9100),
        ("a spanning tree's length", 0x0026),
        ("IPv4 with its bytes swapped", 0x0008),
        ("IPv6 with its bytes swapped", 0xdd86),
        ("MACsec", 0x88e5),
    ];
    let mut cases = Vec::new();
    for (what, ether_type) in others {
        for tags in [&[][..], &[Tag::customer(5)], &[Tag::service(6), Tag::customer(5)]] {
            let frame = Frame { ether_type: EtherType(ether_type), ..Family::V4.frame(packet.clone()).tagged(tags) };
            let description = format!("{what} behind {} tags passes", tags.len());
            cases.push(Case::passes(description, Verdict::PassNotIp, frame.to_bytes()));
        }
    }
    cases.push(Case::passes("an ARP request to the balancer passes", Verdict::PassNotIp, arp(OWN_MAC)));
    cases.push(Case::passes("an ARP request to everybody passes", Verdict::PassOtherHost, arp([0xff; 6])));
    check_all(&mut balancer, cases);
}

/// A question for the virtual IP.
fn arp(destination: MacAddress) -> Vec<u8> {
    let (IpAddr::V4(client), IpAddr::V4(virtual_ip)) = (Family::V4.client(), Family::V4.virtual_ip()) else {
        unreachable!("IPv4 addresses")
    };
    let request = ArpPacket::from(ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: ROUTER_MAC,
        sender_ipv4: client.octets(),
        target_mac: [0; 6],
        target_ipv4: virtual_ip.octets(),
    });
    let packet = request.to_bytes().to_vec();
    Frame { destination, ether_type: EtherType::ARP, ..Family::V4.frame(packet) }.padded().to_bytes()
}

#[test]
fn another_address_or_port_passes() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for protocol in PROTOCOLS {
            let mut other = |what: &str, edit: &dyn Fn(&mut Packet)| {
                let mut packet = family.packet(protocol);
                edit(&mut packet);
                let frame = family.frame(packet.to_bytes()).to_bytes();
                let description = format!("a packet to {what} ({family:?}, {}) passes", protocol.0);
                cases.push(Case::passes(description, Verdict::PassNoService, frame));
            };
            other("another port", &|packet| packet.destination.set_port(444));
            other("the port with its bytes swapped", &|packet| packet.destination.set_port(443_u16.swap_bytes()));
            other("port 0", &|packet| packet.destination.set_port(0));
            other("the last port", &|packet| packet.destination.set_port(u16::MAX));
            other("the client from the service", &|packet| std::mem::swap(&mut packet.source, &mut packet.destination));
            other("the backend", &|packet| packet.destination.set_ip(family.backend()));
            other("the address next to the virtual IP", &|packet| packet.destination.set_ip(next(family)));
        }
    }
    check_all(&mut balancer, cases);
}

fn next(family: Family) -> IpAddr {
    match family.virtual_ip() {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() + 1).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() + 1).into()),
    }
}

#[test]
fn other_protocols_pass() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let mut cases = Vec::new();
    for family in FAMILIES {
        for number in 0..=u8::MAX {
            let protocol = IpNumber(number);
            let extension = family == Family::V6 && [0, 43, 44, 60].contains(&number);
            if PROTOCOLS.contains(&protocol) || extension {
                continue;
            }
            let description = format!("protocol {number} over {family:?} passes");
            cases.push(Case::passes(description, Verdict::PassOtherProtocol, with_protocol(family, protocol)));
        }
        let description = format!("an echo request over {family:?} to a virtual IP without a service for it passes");
        let echo = family.client_frame(IpNumber::ICMP).to_bytes();
        cases.push(Case::passes(description, Verdict::PassNoService, echo));
    }
    check_all(&mut balancer, cases);
}

/// A packet for the service, but for the protocol number.
fn with_protocol(family: Family, protocol: IpNumber) -> Vec<u8> {
    let mut frame = family.client_frame(IpNumber::TCP);
    let offset = if family == Family::V4 { 9 } else { 6 };
    frame.packet[offset] = protocol.0;
    frame.to_bytes()
}
