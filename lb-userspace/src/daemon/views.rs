//! What the API shows.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::{Address, BackendId, Flow, NetU32, OuterHeader, ServiceId, Traffic};

use super::Daemon;
use crate::{
    api::{FlowView, Refusal, StatsView, StatusView},
    config::Forwarding,
    model::{NextHopView, ServiceView},
    vrrp::Fitness,
};

impl Daemon {
    pub(super) fn status(&self) -> StatusView {
        let services = self.core.view();
        let mut backends = BTreeMap::new();
        for backend in services.iter().flat_map(|service| &service.backends) {
            *backends.entry(backend.state.name().to_owned()).or_default() += 1;
        }
        let without = services.iter().filter(|service| service.backends.iter().all(|backend| backend.slots == 0));
        let mut problems = self.problems.clone();
        problems.extend(
            without.map(|service| format!("service {}: no backend takes flows, its packets are dropped", service.name)),
        );
        problems.extend(services.iter().flat_map(narrow_ways));
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.node.name.clone(),
            pid: std::process::id(),
            uptime: self.started.elapsed(),
            config: self.options.config.clone(),
            interfaces: self.attachments.clone(),
            services: services.len(),
            backends,
            problems,
        }
    }

    pub(super) fn services(&self) -> Result<Vec<ServiceView>, Refusal> {
        let failed = |error: aya::maps::MapError| Refusal::Failed(format!("cannot read the counters: {error}"));
        let maps = &self.executor.dataplane.maps;
        let mut services = self.core.view();
        for service in &mut services {
            let traffic = match ServiceId::new(service.id) {
                Some(id) => maps.service_traffic(id).map_err(failed)?,
                None => Traffic::default(),
            };
            service.set_traffic(traffic);
            for backend in &mut service.backends {
                backend.set_traffic(maps.backend_traffic(BackendId::truncate(backend.id)).map_err(failed)?);
            }
        }
        Ok(services)
    }

    pub(super) fn stats(&self) -> Result<StatsView, Refusal> {
        let verdicts = self
            .executor
            .dataplane
            .maps
            .verdicts()
            .map_err(|error| Refusal::Failed(format!("cannot read the counters: {error}")))?;
        Ok(StatsView {
            received: verdicts.iter().map(|(_, packets)| packets).sum(),
            verdicts: verdicts.into_iter().map(|(verdict, packets)| (verdict.name().to_owned(), packets)).collect(),
            services: self.services()?,
        })
    }

    /// What decides whether this node is fit to hold virtual addresses.
    pub(super) fn fitness(&self) -> Fitness {
        let taking = |service: &ServiceView| service.backends.iter().filter(|backend| backend.slots > 0).count();
        Fitness { backends: self.core.view().iter().map(|service| (service.name.clone(), taking(service))).collect() }
    }

    /// Follows a flow through the slots as the datapath has them now.
    pub(super) fn flow(&self, service: &str, client: SocketAddr, port: Option<u16>) -> Result<FlowView, Refusal> {
        let (spec, live) =
            self.core.live(service).ok_or_else(|| Refusal::NotFound(format!("there is no service {service:?}")))?;
        let port = match (spec.port, port) {
            (0, None) => return Err(Refusal::Invalid(format!("{service:?} has all ports: say which with --port"))),
            (0, Some(port)) | (port, None) => port,
            (port, Some(asked)) if asked == port => port,
            (port, Some(asked)) => {
                return Err(Refusal::Invalid(format!("{service:?} has port {port}, not {asked}")));
            }
        };
        if client.is_ipv4() != spec.address.is_ipv4() {
            return Err(Refusal::Invalid(format!("{client} is not of the address family of {service:?}")));
        }
        let flow = Flow {
            source: Address::from(client.ip()),
            destination: Address::from(spec.address),
            ports: NetU32::new(u32::from(client.port()) << 16 | u32::from(port)),
            protocol: spec.protocol.number(),
            ipv4: client.is_ipv4(),
        };
        let slot = flow.hash(self.hash_key).slot(live.slot_mask);
        let owner = self.executor.dataplane.maps.load_slot(&live, slot).current();
        let view = self.core.view_of(service);
        let backend = view.and_then(|view| view.backends.into_iter().find(|backend| backend.id == owner.get()));
        Ok(FlowView {
            service: service.to_owned(),
            client,
            destination: SocketAddr::new(spec.address, port),
            slot,
            state: backend.as_ref().map(|backend| backend.state),
            backend: backend.map(|backend| backend.name),
        })
    }
}

/// What clients on Ethernet send at most, in bytes of IP packet.
const CLIENT_MTU: u16 = 1500;

/// Backends that full-size packets cannot reach with their outer header.
fn narrow_ways(service: &ServiceView) -> impl Iterator<Item = String> {
    service.backends.iter().filter_map(|backend| {
        let Some(NextHopView::Via { mtu, interface, .. }) = &backend.next_hop else { return None };
        let header = if backend.address.is_ipv4() { OuterHeader::IPV4_LEN } else { OuterHeader::IPV6_LEN };
        let needed = CLIENT_MTU + header;
        (service.forwarding == Forwarding::Ipip && *mtu < needed).then(|| {
            format!(
                "service {}: full-size packets to backend {} are dropped: with the outer header they have {needed} bytes, \
                 and {interface} takes {mtu}; raise its MTU, or clamp the MSS on the backend",
                service.name, backend.name
            )
        })
    })
}
