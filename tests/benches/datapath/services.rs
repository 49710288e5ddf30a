//! Services and backends for the program under test, written straight into its maps.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use lb_common::{
    Address, BackendId, BackendRow, Encapsulation, NetU16, NetU32, OuterHeader, RowIndex, Service, ServiceEntry,
    ServiceId, ServiceKey, SlotWord, gue, layout,
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
pub(crate) const THOUSAND_SERVICES: Scale = Scale { services: 1024, backends: 10, slots: 1 << 10 };

/// The virtual IP of a service: the low bits are its number.
pub(crate) fn service_v4(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() | u32::from(number))
}

pub(crate) fn service_v6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number)
}

/// Fills the maps: every service takes TCP and UDP on port 80 over `ipv4` or IPv6, with backends behind
/// `encapsulation`. Returns the services, and the owners of their slots.
pub(crate) fn fill(
    dataplane: &mut Dataplane,
    scale: Scale,
    ipv4: bool,
    encapsulation: Encapsulation,
) -> anyhow::Result<Vec<(Service, Vec<BackendId>)>> {
    let maps = &mut dataplane.maps;
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
            ..Service::default()
        };
        let backends = (first_backend..).take(scale.backends.into()).map(BackendId::truncate);
        for id in backends.chain(NEWCOMERS) {
            maps.put_row(id, RowIndex(id.get()), &row(encapsulation, id.get()))?;
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
    maps.store_services(&entries)?;
    Ok(tables)
}

fn row(encapsulation: Encapsulation, id: u32) -> BackendRow {
    // What the header says does not matter here, only that it is written.
    let outer = OuterHeader([NetU32::new(0x4500_0000 | id); 10]);
    BackendRow {
        encapsulation,
        egress_ifindex: INGRESS,
        gue_port: NetU16::new(gue::PORT),
        mtu: 1600,
        destination_mac: BACKEND_MAC,
        source_mac: INTERFACE_MAC,
        outer,
        ..BackendRow::default()
    }
}
