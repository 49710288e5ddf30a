//! Services and backends for the program under test, written straight into its maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use lb_common::{
    Address, BackendId, BackendRow, Encapsulation, HashInputs, NatMode, NetU16, NetU32, OuterHeader, RowIndex, Service,
    ServiceEntry, ServiceId, ServiceKey, SlotWord, gue, layout,
    nat::{NatSource, NatTarget},
};
use lb_userspace::{
    dataplane::Dataplane,
    schedule::{Member, table},
};

use crate::slots::NEWCOMERS;

/// Test runs come in by the loopback interface.
const INGRESS: u16 = 1;
pub(crate) const INTERFACE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// How many services there are, and how many backends each has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) services: u16,
    pub(crate) backends: u16,
    pub(crate) slots: u32,
}

pub(crate) const ONE_SERVICE: Scale = Scale { services: 1, backends: 100, slots: 1 << 14 };
/// As many backends as least-connections compares.
pub(crate) const ALL_COMPARED: Scale = Scale { backends: 64, ..ONE_SERVICE };
pub(crate) const THOUSAND_SERVICES: Scale = Scale { services: 1024, backends: 10, slots: 1 << 10 };

/// How packets get to backends.
#[derive(Clone, Copy)]
pub(crate) struct Forwarding {
    encapsulation: Encapsulation,
    nat: NatMode,
    /// Whether the backends have IPv4 addresses.
    over_ipv4: bool,
}

impl Forwarding {
    pub(crate) const fn to(encapsulation: Encapsulation) -> Self {
        Self { encapsulation, nat: NatMode::NONE, over_ipv4: true }
    }

    pub(crate) const fn full_nat(over_ipv4: bool) -> Self {
        Self { encapsulation: Encapsulation::TRANSLATED, nat: NatMode::BOTH, over_ipv4 }
    }

    pub(crate) const fn translates(self) -> bool {
        self.nat.is_in_use()
    }

    pub(crate) const fn nat(over_ipv4: bool) -> Self {
        Self { encapsulation: Encapsulation::TRANSLATED, nat: NatMode::DESTINATION, over_ipv4 }
    }
}

/// The addresses that flows get as their source, with all ports from 1,024 on.
const NAT_SOURCES: u16 = 4;

/// The virtual IP of a service: the low bits are its number.
pub(crate) fn service_v4(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() | u32::from(number))
}

pub(crate) fn service_v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number)
}

/// Fills the maps: every service takes TCP and UDP on port 80 over `ipv4` or IPv6, with backends by
/// `forwarding`. Returns the services, and the owners of their slots.
pub(crate) fn fill(
    dataplane: &mut Dataplane,
    scale: Scale,
    hash: HashInputs,
    ipv4: bool,
    forwarding: Forwarding,
) -> anyhow::Result<Vec<(Service, Vec<BackendId>)>> {
    let maps = &mut dataplane.maps;
    maps.put_nat_sources(0, &sources(forwarding.over_ipv4))?;
    maps.put_interface(INGRESS.into(), INTERFACE_MAC)?;
    let members: Vec<Member> =
        (0..scale.backends).map(|backend| Member { name: backend.to_string().into_bytes(), weight: 1 }).collect();
    let owners = table(&members, scale.slots);
    let (mut entries, mut tables) = (Vec::new(), Vec::new());
    for number in 0..scale.services {
        let address: IpAddr = if ipv4 { service_v4(number).into() } else { service_v6(number).into() };
        let first_backend = u32::from(number) * u32::from(scale.backends) + 1;
        let service = Service {
            id: ServiceId::new(u32::from(number) + 1).context("too many services")?,
            first_chunk: u32::from(number) * (scale.slots / layout::CHUNK_SLOTS),
            slot_mask: scale.slots - 1,
            hash,
            nat: forwarding.nat,
            ..Service::default()
        };
        let backends = (first_backend..).take(scale.backends.into()).map(BackendId::truncate);
        for id in backends.chain(NEWCOMERS) {
            maps.put_row(id, RowIndex(id.get()), &row(forwarding, id.get()))?;
        }
        let owners: Vec<BackendId> = owners.iter().map(|owner| BackendId::truncate(first_backend + owner)).collect();
        for (slot, owner) in (0..).zip(&owners) {
            maps.store_slot(&service, slot, SlotWord::stable(*owner));
        }
        tables.push((service, owners));
        for protocol in [6, 17] {
            let key = ServiceKey::new(Address::from(address), NetU16::new(80), protocol);
            entries.push(ServiceEntry { key, service });
        }
    }
    maps.store_services(&entries, &[])?;
    Ok(tables)
}

fn sources(over_ipv4: bool) -> Vec<NatSource> {
    let address = |number: u16| -> IpAddr {
        if over_ipv4 {
            Ipv4Addr::from_bits(Ipv4Addr::new(10, 9, 0, 0).to_bits() | u32::from(number)).into()
        } else {
            Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, number).into()
        }
    };
    let source = |number| NatSource { address: address(number).into(), first_port: 1024, ports: u16::MAX - 1024 };
    (0..NAT_SOURCES).map(source).collect()
}

fn row(forwarding: Forwarding, id: u32) -> BackendRow {
    let Forwarding { encapsulation, nat, over_ipv4 } = forwarding;
    // What the header says does not matter here, only that it is written.
    let header = OuterHeader([NetU32::new(0x4500_0000 | id); 10]);
    let sources = if nat.translates_source() { NAT_SOURCES } else { 0 };
    let target = NatTarget { port: NetU16::new(8080), first_source: 0, sources };
    let address: IpAddr = if over_ipv4 {
        Ipv4Addr::from_bits(0x0a08_0000 | id).into()
    } else {
        Ipv6Addr::from_bits(0xfd08 << 112 | u128::from(id)).into()
    };
    BackendRow {
        encapsulation,
        egress_ifindex: INGRESS,
        gue_port: NetU16::new(gue::PORT),
        mtu: 1600,
        destination_mac: BACKEND_MAC,
        source_mac: INTERFACE_MAC,
        outer: if nat.is_in_use() { target.to_outer() } else { header },
        address: address.into(),
        ..BackendRow::default()
    }
}
