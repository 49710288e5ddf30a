//! The frames that tell a link which MAC address now has a virtual IP. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::sum_with_pseudo_header;

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Who claims an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimant {
    Host,
    /// A virtual router (RFC 9568, section 6.4.2): its neighbour advertisements say that it is one.
    Router,
}

/// A whole Ethernet frame, from the interface with that MAC address to everyone on its link.
pub(crate) fn announcement(mac: [u8; 6], address: IpAddr, claimant: Claimant) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => gratuitous_arp(mac, address),
        IpAddr::V6(address) => unsolicited_advertisement(mac, address, claimant),
    }
}

/// An ARP announcement (RFC 5227, section 2.3): a request whose sender and target are both the address.
fn gratuitous_arp(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ARP);
    frame.extend([0, 1]); // hardware: Ethernet
    frame.extend([8, 0]); // protocol: IPv4
    frame.extend([6, 4]); // lengths of their addresses
    frame.extend([0, 1]); // operation: request
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861, sections 4.4 and 7.2.6), from the address to all nodes.
fn unsolicited_advertisement(mac: [u8; 6], address: Ipv6Addr, claimant: Claimant) -> Vec<u8> {
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    let flags = match claimant {
        Claimant::Host => OVERRIDE,
        Claimant::Router => ROUTER | OVERRIDE,
    };
    let mut message = vec![136, 0, 0, 0]; // type, code, checksum to come
    message.extend([flags, 0, 0, 0]);
    message.extend(address.octets());
    message.extend([2, 1]); // option: target link-layer address, in units of 8 bytes
    message.extend(mac);
    // RFC 4443, section 2.3: the pseudo-header is part of it.
    let checksum = sum_with_pseudo_header(address.into(), ALL_NODES.into(), ICMPV6, &message).finish();
    message[2..4].copy_from_slice(&checksum.to_wire());

    // RFC 2464, section 7: the group's last four bytes after 33-33.
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, IPV6);
    frame.extend([0x60, 0, 0, 0]); // version
    frame.extend(u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend([ICMPV6, 255]); // next header, hop limit
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use etherparse::{
        EtherType, Icmpv6Type, LinkSlice, NetSlice, SlicedPacket, TransportSlice, icmpv6::TYPE_NEIGHBOR_ADVERTISEMENT,
    };

    use super::*;

    const MAC: [u8; 6] = [2, 0xab, 0xcd, 1, 2, 3];

    #[test]
    fn a_gratuitous_arp_asks_everyone_for_its_own_address() {
        let address = Ipv4Addr::new(192, 168, 1, 10);
        let frame = announcement(MAC, address.into(), Claimant::Host);

        let packet = SlicedPacket::from_ethernet(&frame).expect("etherparse accepts the frame");
        let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else {
            panic!("not Ethernet II: {:?}", packet.link);
        };
        assert_eq!(ethernet.destination(), [0xff; 6]);
        assert_eq!(ethernet.source(), MAC);
        assert_eq!(ethernet.ether_type(), EtherType::ARP);
        let Some(NetSlice::Arp(arp)) = packet.net else {
            panic!("not ARP: {:?}", packet.net);
        };
        let arp = arp.to_packet().try_eth_ipv4().expect("IPv4 over Ethernet");
        assert_eq!(arp.operation, etherparse::ArpOperation::REQUEST);
        assert_eq!(arp.sender_mac, MAC);
        assert_eq!(arp.target_mac, [0; 6]);
        assert_eq!(arp.sender_ipv4_addr(), address);
        assert_eq!(arp.target_ipv4_addr(), address);
        assert_eq!(frame.len(), 42, "nothing follows the ARP packet");
    }

    #[test]
    fn an_advertisement_tells_all_nodes_to_override_what_they_know() {
        for (address, claimant) in [
            ("2001:db8::10", Claimant::Host),
            ("2001:db8::10", Claimant::Router),
            ("fe80::1", Claimant::Router),
            ("fd00:ffff:ffff::ffff:ffff:ffff", Claimant::Host),
        ] {
            let address: Ipv6Addr = address.parse().expect("an address");
            let frame = announcement(MAC, address.into(), claimant);

            let packet = SlicedPacket::from_ethernet(&frame).expect("etherparse accepts the frame");
            let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else {
                panic!("not Ethernet II: {:?}", packet.link);
            };
            assert_eq!(ethernet.destination(), [0x33, 0x33, 0, 0, 0, 1]);
            assert_eq!(ethernet.source(), MAC);
            let Some(NetSlice::Ipv6(ip)) = &packet.net else {
                panic!("not IPv6: {:?}", packet.net);
            };
            let header = ip.header();
            assert_eq!(header.source_addr(), address);
            assert_eq!(header.destination_addr(), ALL_NODES);
            assert_eq!(header.hop_limit(), 255);
            assert_eq!(usize::from(header.payload_length()), frame.len() - 14 - 40);
            let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else {
                panic!("not ICMPv6: {:?}", packet.transport);
            };
            assert!(
                icmp.is_checksum_valid(header.source(), header.destination()),
                "the checksum for {address} is wrong"
            );
            assert_eq!(icmp.type_u8(), TYPE_NEIGHBOR_ADVERTISEMENT);
            let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else {
                panic!("not a neighbour advertisement: {:?}", icmp.icmp_type());
            };
            assert!(flags.r#override && !flags.solicited);
            assert_eq!(flags.router, claimant == Claimant::Router);
            let payload = icmp.payload();
            assert_eq!(payload[..16], address.octets(), "the target");
            assert_eq!(payload[16..18], [2, 1], "target link-layer address option");
            assert_eq!(payload[18..], MAC);
        }
    }
}
