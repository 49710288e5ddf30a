//! How many source ports translated flows have, and may have.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use lb_common::{
    BackendId, Encapsulation, HashInput,
    nat::{NatSource, NatTarget},
};
use serde::{Deserialize, Serialize};

use super::{backend::Backend, core::Core, service::ServiceState};
use crate::config::{Endpoint, Ports, Protocol};

/// A source of translated flows, and how many of its ports are in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// The address.
    pub address: IpAddr,
    /// The ports that flows may have. Each may be used once for each backend.
    pub ports: Ports,
    /// How many flows have it, to all backends.
    pub flows: u64,
    /// The backend that most of its ports are in use to, if there is a flow.
    pub fullest: Option<PortUse>,
}

/// How many ports of a source are in use to a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortUse {
    /// The backend: address and port.
    pub backend: Endpoint,
    /// The protocol.
    pub protocol: Protocol,
    /// How many.
    pub used: u64,
}

/// What uses a source, by protocol and endpoint: services that share a backend share its ports, too.
type Uses = BTreeMap<(Endpoint, Protocol), PortUse>;

impl Core {
    /// The sources that backends have, given how many flows of each backend have each source, by its number.
    pub fn source_views(&self, flows: &HashMap<(BackendId, u16), u64>) -> Vec<SourceView> {
        let mut sources = BTreeMap::<(IpAddr, u16, u16), Uses>::new();
        for (state, endpoint, id, number, source) in self.sources_in_use() {
            let uses = sources.entry((source.address.to_ip(), source.first_port, source.ports)).or_default();
            let used = flows.get(&(id, number)).copied().unwrap_or_default();
            let protocol = state.desired.spec.protocol;
            let none = PortUse { backend: endpoint, protocol, used: 0 };
            uses.entry((endpoint, protocol)).or_insert(none).used += used;
        }
        let view = |((address, first, count), uses): ((IpAddr, u16, u16), Uses)| SourceView {
            address,
            ports: Ports { first, last: first.saturating_add(count.saturating_sub(1)) },
            flows: uses.values().map(|port_use| port_use.used).sum(),
            fullest: uses.into_values().filter(|port_use| port_use.used > 0).max_by_key(|port_use| port_use.used),
        };
        sources.into_iter().map(view).collect()
    }

    /// Sources with ports that a service has, too: the replies to those would be taken for its requests. In sentences.
    pub fn source_collisions(&self) -> BTreeSet<String> {
        let mut told = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for (state, .., source) in self.sources_in_use() {
            let spec = &state.desired.spec;
            let (address, first) = (source.address.to_ip(), source.first_port);
            if !seen.insert((&spec.name, address, first)) {
                continue;
            }
            let ports = Ports { first, last: first.saturating_add(source.ports.saturating_sub(1)) };
            let others = self.services.iter().map(|other| &other.desired.spec);
            for taken in others.filter_map(|other| other.takes_replies(address, ports, spec.protocol)) {
                told.insert(format!(
                    "service {}: its source {address} with ports {ports} meets {taken}, which replies would be taken for; write other \
                     sources or ports in [service.nat]",
                    spec.name
                ));
            }
        }
        told
    }

    /// How the packets of each backend's flows are translated, of those where they are, and what picks the slots of those flows.
    pub fn nat_targets(&self) -> HashMap<BackendId, (NatTarget, HashInput)> {
        self.translating().map(|(state, backend, target)| (backend.id, (target, state.live.hash.now()))).collect()
    }

    fn translating(&self) -> impl Iterator<Item = (&ServiceState, &Backend, NatTarget)> {
        let backends = self.services.iter().flat_map(|state| {
            let backends = state.backends.iter().chain(&state.removed);
            backends.map(move |backend| (state, backend))
        });
        backends.filter_map(|(state, backend)| {
            let (_, row) = backend.row.filter(|(_, row)| row.encapsulation == Encapsulation::TRANSLATED)?;
            Some((state, backend, NatTarget::of(&row.outer)))
        })
    }

    /// The sources of all backends: service, endpoint, id, number and source.
    fn sources_in_use(&self) -> impl Iterator<Item = (&ServiceState, Endpoint, BackendId, u16, &NatSource)> {
        self.translating().flat_map(|(state, backend, NatTarget { first_source, sources, .. })| {
            let run = self.sources.run(first_source, sources);
            (first_source..).zip(run).map(move |(number, source)| (state, backend.endpoint, backend.id, number, source))
        })
    }
}
