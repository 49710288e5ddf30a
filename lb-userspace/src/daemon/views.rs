//! What the API shows.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use lb_common::{BackendId, ServiceId, Traffic};

use super::Daemon;
use crate::{
    api::{FlowTableView, NatView, Refusal, StatsView, StatusView},
    config::Algorithm,
    dataplane::{Attachment, flow_time},
    model::{Core, NextHopView, ServiceView},
    vrrp::Fitness,
};

impl Daemon {
    pub(super) fn status(&self) -> StatusView {
        let services = self.core.view(Instant::now());
        let mut backends = BTreeMap::new();
        for backend in services.iter().flat_map(|service| &service.backends) {
            *backends.entry(backend.summary().to_owned()).or_default() += 1;
        }
        let mut problems = self.problems.clone();
        problems.extend(self.executor.state.problems());
        problems.extend(
            services.iter().filter_map(|service| Some(format!("service {}: {}", service.name, service.outage()?))),
        );
        problems.extend(services.iter().flat_map(narrow_ways));
        problems.extend(services.iter().flat_map(|service| unattended_ways(service, &self.attachments)));
        problems.extend(nat_problems(&self.core));
        problems.extend(self.shortages.problems());
        StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.node.name.clone(),
            pid: std::process::id(),
            uptime: self.started.elapsed(),
            config: self.options.config.clone(),
            interfaces: self.attachments.clone(),
            services: services.len(),
            backends,
            flow_table: FlowTableView { size: self.flow_tables.table().bits().entries(), flows: self.census.flows },
            nat: self.nat(),
            problems,
        }
    }

    pub(super) fn services(&self) -> Result<Vec<ServiceView>, Refusal> {
        let failed = |error: aya::maps::MapError| Refusal::Failed(format!("cannot read the counters: {error}"));
        let maps = &self.executor.dataplane.maps;
        let mut services = self.core.view(Instant::now());
        for service in &mut services {
            let mut total = match ServiceId::new(service.id) {
                Some(id) => maps.retired_traffic(id).map_err(failed)?,
                None => Traffic::default(),
            };
            for backend in &mut service.backends {
                let traffic = maps.backend_traffic(BackendId::truncate(backend.id)).map_err(failed)?;
                backend.active = maps.connections().tally(BackendId::truncate(backend.id)).active();
                if service.algorithm == Algorithm::LeastResponseTime {
                    backend.latency = maps.latencies().of(BackendId::truncate(backend.id), flow_time());
                }
                backend.set_traffic(traffic);
                total += traffic;
            }
            service.set_traffic(total);
        }
        Ok(services)
    }

    pub(super) fn stats(&self) -> Result<StatsView, Refusal> {
        let failed = |error: aya::maps::MapError| Refusal::Failed(format!("cannot read the counters: {error}"));
        let maps = &self.executor.dataplane.maps;
        let verdicts = maps.verdicts().map_err(failed)?;
        let tracking = maps.tracking().map_err(failed)?;
        Ok(StatsView {
            tracking: tracking
                .into_iter()
                .map(|(event, count)| (event.name().to_owned(), count))
                .chain([("recounted".to_owned(), self.census.drift)])
                .collect(),
            nat: self.nat(),
            received: verdicts.iter().map(|(_, packets)| packets).sum(),
            verdicts: verdicts.into_iter().map(|(verdict, packets)| (verdict.name().to_owned(), packets)).collect(),
            services: self.services()?,
        })
    }

    /// How the table of translated flows and the source ports are used, if there is one.
    fn nat(&self) -> Option<NatView> {
        let table = self.executor.dataplane.nat.table()?;
        let usage = self.census.nat.as_ref();
        let sources = self.core.source_views(usage.map_or(&HashMap::new(), |usage| &usage.ports));
        Some(NatView {
            size: table.bits().entries(),
            flows: usage.map(|usage| usage.taken),
            held: usage.map_or(0, |usage| usage.held),
            sources,
        })
    }

    /// What decides whether this node is fit to hold virtual addresses.
    pub(super) fn fitness(&self) -> Fitness {
        let taking = |service: &ServiceView| service.backends.iter().filter(|backend| backend.slots > 0).count();
        Fitness {
            backends: self
                .core
                .view(Instant::now())
                .iter()
                .map(|service| (service.name.clone(), taking(service)))
                .collect(),
        }
    }
}

/// What is not as it should be where addresses are translated, in words for the operator.
pub(super) fn nat_problems(core: &Core) -> BTreeSet<String> {
    let mut problems = core.source_collisions();
    problems.append(&mut core.unanswered(Instant::now()));
    problems
}

/// Backends whose replies come in by an interface where nobody translates them back.
fn unattended_ways(service: &ServiceView, attachments: &[Attachment]) -> impl Iterator<Item = String> {
    service.backends.iter().filter(|_| service.forwarding.translates()).filter_map(|backend| {
        let Some(NextHopView::Via { interface, .. }) = &backend.next_hop else { return None };
        let is_attended = attachments.iter().any(|attachment| attachment.interface == *interface);
        (!is_attended).then(|| {
            format!(
                "service {}: replies of backend {} come in by {interface}, where they are not translated back, so that clients get \
                 none; add an [[interface]] with name = \"{interface}\" to the configuration and restart lbd",
                service.name, backend.name
            )
        })
    })
}

/// What clients on Ethernet send at most, in bytes of IP packet.
const CLIENT_MTU: u16 = 1500;

/// Backends that full-size packets cannot reach with their outer header.
fn narrow_ways(service: &ServiceView) -> impl Iterator<Item = String> {
    service.backends.iter().filter_map(|backend| {
        let Some(NextHopView::Via { mtu, interface, .. }) = &backend.next_hop else { return None };
        let overhead = service.forwarding.encapsulation(backend.address).overhead();
        let needed = CLIENT_MTU + overhead;
        (overhead > 0 && *mtu < needed).then(|| {
            format!(
                "service {}: full-size packets to backend {} are dropped: with the outer headers they have {needed} bytes, \
                 and {interface} takes {mtu}; raise its MTU, or clamp the MSS on the backend",
                service.name, backend.name
            )
        })
    })
}
