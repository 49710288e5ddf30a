//! The row that the datapath sends a backend's packets by.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use lb_common::{
    Address, BackendRow, Encapsulation, NetU16, NetU32, OuterHeader, RowIndex, ServiceId, checksum::Sum, gue, layout,
    nat::NatTarget,
};

use super::{
    backend::{Backend, Ground},
    effect::Effect,
    pool::Pool,
    sources::Sources,
};
use crate::{
    config::{self, Endpoint, Forwarding, Ports, TunnelSource},
    neighbour::{Egress, NextHop, Resolution, Unresolved},
};

/// Brings a backend's row in line with its next hop; the effect that does so, if there is a difference.
pub(super) fn refresh_row(
    backend: &mut Backend,
    context: RowContext<'_>,
    Shared { next_hops, rows, sources, free_ports, .. }: &mut Shared<'_>,
    ground: Ground,
) -> Option<Effect> {
    let now = ground.now;
    let wanted = match (next_hops.get(&backend.spec.address), backend.row) {
        (Some(Ok(next_hop)), _) => {
            context.row(backend.endpoint, next_hop, sources, *free_ports).map_err(|error| error.to_string())
        }
        // The row of before goes on while the neighbour is asked for, or asked again.
        (Some(Err(Unresolved::Resolving { .. })) | None, Some((_, row))) => Ok(row),
        (Some(Err(Unresolved::Resolving { .. })) | None, None) => {
            backend.unresolved = None;
            return None;
        }
        (Some(Err(unresolved)), _) => Err(unresolved.to_string()),
    };
    let condition = backend.condition(ground);
    let wanted = wanted.map(|row| BackendRow { condition, ..row });
    let present = backend.row.map(|(_, row)| row);
    if wanted.as_ref().ok() == present.as_ref() {
        backend.unresolved = wanted.err();
        return None;
    }
    let new = match wanted {
        Ok(row) => {
            let Some(index) = rows.take(now) else {
                // The row of before goes on, too.
                backend.unresolved = Some("no room for more rows; tried again when its next hop changes".to_owned());
                return None;
            };
            Ok((RowIndex(index), row))
        }
        Err(reason) => Err(reason),
    };
    if let Some((old, _)) = backend.row.take() {
        rows.give_back(old.0, now);
    }
    match new {
        Ok((index, row)) => {
            backend.row = Some((index, row));
            backend.unresolved = None;
            Some(Effect::PutRow(backend.id, index, Box::new(row)))
        }
        Err(reason) => {
            backend.unresolved = Some(reason);
            Some(Effect::RemoveRow(backend.id))
        }
    }
}

/// What the rows of all services depend on.
pub(super) struct Shared<'a> {
    pub(super) node: &'a config::Node,
    pub(super) next_hops: &'a HashMap<IpAddr, Resolution>,
    pub(super) rows: &'a mut Pool,
    pub(super) sources: &'a mut Sources,
    pub(super) free_ports: Option<Ports>,
}

/// Lends a [`Core`](super::core::Core)'s parts, beside its services.
macro_rules! shared {
    ($core:ident) => {
        $crate::model::row::Shared {
            node: &$core.node,
            next_hops: &$core.next_hops,
            rows: &mut $core.rows,
            sources: &mut $core.sources,
            free_ports: $core.free_ports,
        }
    };
}
pub(super) use shared;

/// Time to live of an outer header. RFC 2003, section 3.1 asks for one that reaches the end of the tunnel.
const OUTER_TTL: u8 = 64;
/// RFC 791: do not fragment. The identification of such a packet means nothing and is zero (RFC 6864, section 4.1).
const DONT_FRAGMENT: NetU32 = NetU32::new(0x4000);
/// IPv4 in IP (RFC 2003).
const PROTOCOL_IPV4: u8 = 4;
/// IPv6 in IP (RFC 4213).
const PROTOCOL_IPV6: u8 = 41;

/// What is the same for all rows of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowContext<'a> {
    pub(super) id: ServiceId,
    pub(super) service: &'a config::Service,
    pub(super) node: &'a config::Node,
}

impl RowContext<'_> {
    /// The row of the backend at `endpoint`, or why there is none.
    pub(super) fn row(
        self,
        endpoint: Endpoint,
        next_hop: &NextHop,
        sources: &mut Sources,
        free_ports: Option<Ports>,
    ) -> Result<BackendRow, NoRow> {
        let address = endpoint.address;
        let identity = BackendRow { service: self.id, address: address.into(), ..BackendRow::default() };
        let egress = match next_hop {
            NextHop::Local if self.service.forwarding.translates() => return Err(NoRow::Local),
            NextHop::Local => return Ok(BackendRow { encapsulation: Encapsulation::LOCAL, ..identity }),
            NextHop::Via(egress) => egress,
        };
        let egress_ifindex = u16::try_from(egress.ifindex)
            .ok()
            .filter(|_| egress.ifindex < layout::MAX_INTERFACES)
            .ok_or_else(|| NoRow::InterfaceNumber { interface: egress.interface.clone(), ifindex: egress.ifindex })?;
        let forwarding = self.service.forwarding;
        let row = BackendRow {
            encapsulation: forwarding.encapsulation(address),
            vlan: NetU16::new(egress.vlan.unwrap_or(0)),
            egress_ifindex,
            mtu: egress.mtu,
            destination_mac: egress.destination_mac,
            source_mac: egress.source_mac,
            ..identity
        };
        let protocol = match forwarding {
            Forwarding::L2Dsr => return Ok(row),
            Forwarding::Nat => return Ok(BackendRow { outer: target(endpoint).to_outer(), ..row }),
            Forwarding::FullNat => {
                let addresses = self.sources(address, egress)?;
                let ports = self.service.nat.ports.or(free_ports).ok_or(NoRow::Ports)?;
                let first_source = sources.place(&addresses, ports).ok_or(NoRow::Sources)?;
                let count = u16::try_from(addresses.len()).map_err(|_| NoRow::Sources)?;
                let target = NatTarget { first_source, sources: count, ..target(endpoint) };
                return Ok(BackendRow { outer: target.to_outer(), ..row });
            }
            Forwarding::Ipip if self.service.address.is_ipv4() => PROTOCOL_IPV4,
            Forwarding::Ipip => PROTOCOL_IPV6,
            Forwarding::Gue => gue::UDP,
        };
        let source = self.tunnel_source(address, egress)?;
        let outer = match (source.address, address) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4_header(protocol, source, destination),
            (source, destination) => ipv6_header(protocol, source.into(), destination.into()),
        };
        let gue_port = NetU16::new(self.service.gue_port().unwrap_or_default());
        Ok(BackendRow { entropy_bits: source.entropy_bits, gue_port, outer, ..row })
    }

    /// The sources of the backend's family that the service has, else those of the node, else the address that the kernel would
    /// send from.
    fn sources(self, backend: IpAddr, egress: &Egress) -> Result<Vec<IpAddr>, NoRow> {
        let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
            addresses.iter().copied().filter(|source| source.is_ipv4() == backend.is_ipv4()).collect()
        };
        let [own, node] = [of_family(&self.service.nat.sources), of_family(&self.node.nat_sources)];
        let preferred: Vec<IpAddr> = of_family(egress.preferred_source.as_slice());
        [own, node, preferred]
            .into_iter()
            .find(|addresses| !addresses.is_empty())
            .ok_or_else(|| NoRow::NatSource { interface: egress.interface.clone() })
    }

    /// The configured source of the backend's family, else the address that the kernel would send from.
    fn tunnel_source(self, backend: IpAddr, egress: &Egress) -> Result<TunnelSource, NoRow> {
        let configured = if backend.is_ipv4() { self.node.tunnel_source } else { self.node.tunnel_source_v6 };
        let preferred = egress.preferred_source.filter(|source| source.is_ipv4() == backend.is_ipv4());
        configured
            .or_else(|| preferred.map(|address| TunnelSource { address, entropy_bits: 0 }))
            .ok_or_else(|| NoRow::TunnelSource { interface: egress.interface.clone() })
    }
}

/// Why the datapath cannot use a next hop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRow {
    #[error("{interface} has no address for the tunnel to start from; write tunnel_source in [node]")]
    TunnelSource { interface: String },
    #[error(
        "{interface} has no address of its family that flows could have as their source; write sources in [service.nat]"
    )]
    NatSource { interface: String },
    #[error(
        "the kernel may use all ports for connections of its own (net.ipv4.ip_local_port_range); narrow that, and restart lbd, or \
         write ports in [service.nat]"
    )]
    Ports,
    #[error(
        "there is no room for more sources of translated flows: a restart of lbd makes room, if most are in use no more"
    )]
    Sources,
    #[error("it is this host: its replies would not come by the balancer; use another forwarding for a backend here")]
    Local,
    #[error("{interface} is interface number {ifindex}; numbers below {} can be used", layout::MAX_INTERFACES)]
    InterfaceNumber { interface: String, ifindex: u32 },
}

fn target(endpoint: Endpoint) -> NatTarget {
    NatTarget { port: NetU16::new(endpoint.port), ..NatTarget::default() }
}

/// See [`OuterHeader`] for what is left open.
fn ipv4_header(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr) -> OuterHeader {
    let version_and_length = NetU32::new(0x4500_0000);
    let source = NetU32::from_wire(source.octets());
    let destination = NetU32::from_wire(destination.octets());
    let ttl_and_protocol = NetU32::from_wire([OUTER_TTL, protocol, 0, 0]);
    let words = [version_and_length, DONT_FRAGMENT, ttl_and_protocol, source, destination];
    let sum = words.into_iter().fold(Sum::default(), Sum::words).fold();
    let mut header = [NetU32::default(); 10];
    header[..5].copy_from_slice(&words);
    header[2] = ttl_and_protocol.or(NetU32::new(sum.get().into()));
    OuterHeader(header)
}

fn ipv6_header(next_header: u8, source: Address, destination: Address) -> OuterHeader {
    let [s0, s1, s2, s3] = source.words();
    let [d0, d1, d2, d3] = destination.words();
    let version = NetU32::new(6 << 28);
    let next_header_and_hops = NetU32::from_wire([0, 0, next_header, OUTER_TTL]);
    OuterHeader([version, next_header_and_hops, s0, s1, s2, s3, d0, d1, d2, d3])
}
