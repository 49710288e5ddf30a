//! Which service a packet is for: address, port and protocol, the exact port before all ports.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use etherparse::IpNumber;
use fastrand::Rng;
use lb_common::{BackendId, ServiceId, SlotWord, Verdict, layout};

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case, key},
    frame::Frame,
    packet::Packet,
    random_cases,
    world::{FAMILIES, Family},
};

/// A service with one backend of the same number, told apart by its MAC address.
fn numbered(number: u8) -> (ServiceId, BackendId, Backend) {
    let id = ServiceId::new(number.into()).expect("zero is not used");
    (id, BackendId::truncate(number.into()), Backend::numbered(number))
}

fn put(balancer: &mut Balancer, number: u8, address: IpAddr, port: u16, protocol: IpNumber) {
    let (id, backend, spec) = numbered(number);
    let service = balancer.put_slots(id, &vec![SlotWord::stable(backend); layout::MIN_SLOTS as usize]);
    balancer.put_services([key(address, port, protocol)], service);
    balancer.put_row(backend, &spec.row(Family::V4));
}

fn to(family: Family, protocol: IpNumber, destination: SocketAddr) -> Frame {
    family.frame(Packet { destination, ..family.packet(protocol) }.to_bytes())
}

/// The packet goes to the backend of service number `number`.
fn goes_to(number: u8, description: String, frame: &Frame) -> Case {
    let (_, backend, spec) = numbered(number);
    let expected = spec.receives_as(backend, frame);
    Case { description, setup: Vec::new(), frame: frame.to_bytes(), expected }
}

#[test]
fn the_exact_port_comes_before_all_ports_and_protocols_are_apart() {
    const WEB: u16 = 80;
    const DNS: u16 = 53;
    let Some(mut balancer) = Balancer::empty() else { return };
    let mut cases = Vec::new();
    for (family, base) in FAMILIES.into_iter().zip([0, 10]) {
        let virtual_ip = family.virtual_ip();
        put(&mut balancer, base + 1, virtual_ip, WEB, IpNumber::TCP);
        put(&mut balancer, base + 2, virtual_ip, 0, IpNumber::TCP);
        put(&mut balancer, base + 3, virtual_ip, DNS, IpNumber::TCP);
        put(&mut balancer, base + 4, virtual_ip, DNS, IpNumber::UDP);
        let frame = |protocol, port| to(family, protocol, SocketAddr::new(virtual_ip, port));
        let mut tcp = |number, port, what: &str| {
            cases.push(goes_to(base + number, format!("TCP over {family:?} to {what}"), &frame(IpNumber::TCP, port)));
        };
        tcp(1, WEB, "port 80 goes to its own service");
        tcp(3, DNS, "port 53 goes to its own service, not that of UDP");
        tcp(2, WEB.swap_bytes(), "port 80 with its bytes swapped goes to the service of all ports");
        for port in [0, 1, 81, 443, 8080, u16::MAX] {
            tcp(2, port, &format!("port {port} goes to the service of all ports"));
        }
        let description = format!("UDP over {family:?} to port 53 goes to its own service");
        cases.push(goes_to(base + 4, description, &frame(IpNumber::UDP, DNS)));
        for port in [0, WEB, 443] {
            let description = format!("UDP over {family:?} to port {port} passes: all ports of TCP are not of UDP");
            cases.push(Case::passes(description, Verdict::PassNoService, frame(IpNumber::UDP, port).to_bytes()));
        }
    }
    check_all(&mut balancer, cases);
}

#[test]
fn of_very_many_virtual_ips_each_is_found_and_no_other_address_is_taken_for_one() {
    const PORT: u16 = 80;
    let Some(mut balancer) = Balancer::empty() else { return };
    // So many that a good part of all addresses shares a filter bit, or a place in the directory, with some of them.
    let services = usize::try_from(layout::MAX_SERVICES - 1).expect("a small number");
    let mut random = Rng::with_seed(8);
    let mut virtual_ips = HashSet::new();
    while virtual_ips.len() < services {
        virtual_ips.insert(random_address(FAMILIES[random.usize(..2)], &mut random));
    }
    let (id, backend, spec) = numbered(1);
    let service = balancer.put_slots(id, &vec![SlotWord::stable(backend); layout::MIN_SLOTS as usize]);
    balancer.put_services(virtual_ips.iter().map(|address| key(*address, PORT, IpNumber::TCP)), service);
    balancer.put_row(backend, &spec.row(Family::V4));
    let mut cases = Vec::new();
    for address in virtual_ips.iter().take(1000) {
        let frame = |port| to(family(*address), IpNumber::TCP, SocketAddr::new(*address, port));
        cases.push(goes_to(1, format!("{address} is found"), &frame(PORT)));
        let description = format!("another port of {address} passes");
        cases.push(Case::passes(description, Verdict::PassNoService, frame(PORT + 1).to_bytes()));
    }
    for _ in 0..random_cases(4000) {
        let address = random_address(FAMILIES[random.usize(..2)], &mut random);
        if !virtual_ips.contains(&address) {
            let frame = to(family(address), IpNumber::TCP, SocketAddr::new(address, PORT));
            cases.push(Case::passes(format!("{address} passes"), Verdict::PassNoService, frame.to_bytes()));
        }
    }
    check_all(&mut balancer, cases);
}

/// From a network that is small enough for many neighbours.
fn random_address(family: Family, random: &mut Rng) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() | random.u32(..1 << 20)).into(),
        Family::V6 => Ipv6Addr::from_bits(0xfd00 << 112 | random.u128(..1 << 20) << 60).into(),
    }
}

fn family(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

#[test]
fn a_service_that_is_removed_leaves_its_packets_to_that_of_all_ports_or_to_nobody() {
    let Some(mut balancer) = Balancer::empty() else { return };
    let virtual_ip = Family::V6.virtual_ip();
    let frame = to(Family::V6, IpNumber::TCP, SocketAddr::new(virtual_ip, 80));
    put(&mut balancer, 1, virtual_ip, 80, IpNumber::TCP);
    put(&mut balancer, 2, virtual_ip, 0, IpNumber::TCP);
    check_all(&mut balancer, [goes_to(1, "the service of the port has it".to_owned(), &frame)]);
    balancer.remove_service(key(virtual_ip, 80, IpNumber::TCP));
    check_all(&mut balancer, [goes_to(2, "the service of all ports has it".to_owned(), &frame)]);
    balancer.remove_service(key(virtual_ip, 0, IpNumber::TCP));
    check_all(&mut balancer, [Case::passes("nobody has it", Verdict::PassNoService, frame.to_bytes())]);
}
