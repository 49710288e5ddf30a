//! Clients that stay with their servers: how a service does it, and which backend takes new flows for a server.
//!
//! The datapath remembers the clients. It knows only those servers that take new flows: a client whose server drains, is down, has no
//! weight or is gone finds it no more, is given another one by the algorithm, and stays with that.

use std::{collections::HashMap, time::Instant};

use lb_common::{Affinity, AffinityScope, AffinityServer, BackendId, NetU16, ServerOf, ServiceId};

use super::effect::Effect;
use crate::config::{self, Endpoint};

/// How the clients of one service stay, as it stands in the datapath.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LiveAffinity {
    /// What the datapath is told, as far as that is known.
    pub stored: Option<Affinity>,
    /// Who takes new flows for which server.
    pub servers: HashMap<AffinityServer, BackendId>,
    /// From when on clients stay, if they are to and do not yet.
    pub(super) due: Option<Instant>,
}

/// What the datapath is to know of it.
fn wanted(service: ServiceId, spec: &config::Service) -> Affinity {
    let Some(affinity) = &spec.affinity else { return Affinity::NONE };
    let scope = affinity.group.as_deref().map_or(AffinityScope::service(service), AffinityScope::group);
    // The configuration has a week at most.
    let timeout = u32::try_from(affinity.timeout.as_secs()).unwrap_or(u32::MAX);
    Affinity::new(scope, affinity.prefix_of(spec.address.is_ipv4()), timeout)
}

impl LiveAffinity {
    /// What an earlier daemon has left.
    pub fn found(stored: Affinity, servers: impl IntoIterator<Item = (AffinityServer, BackendId)>) -> Self {
        Self { stored: Some(stored), servers: servers.into_iter().collect(), due: None }
    }

    /// When [`LiveAffinity::refresh`] has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Lets clients stay with those of the servers that take new flows, from `start` on: before, flows may be taken for new that are
    /// not.
    pub(super) fn refresh(
        &mut self,
        service: ServiceId,
        spec: &config::Service,
        takers: impl Iterator<Item = (Endpoint, BackendId)>,
        start: Instant,
        now: Instant,
    ) -> Vec<Effect> {
        let wanted = wanted(service, spec);
        let server =
            |Endpoint { address, port }| AffinityServer::new(wanted.scope(), address.into(), NetU16::new(port));
        let servers: HashMap<AffinityServer, BackendId> = if wanted.is_in_use() {
            takers.map(|(endpoint, backend)| (server(endpoint), backend)).collect()
        } else {
            HashMap::new()
        };
        let is_on = self.stored.is_none_or(Affinity::is_in_use);
        self.due = (wanted.is_in_use() && !is_on && now < start).then_some(start);
        let before = std::mem::replace(&mut self.servers, servers);
        let put = self.servers.iter().filter(|(server, backend)| before.get(server) != Some(backend));
        let mut effects: Vec<Effect> =
            put.map(|(server, backend)| Effect::PutServer(ServerOf::new(service, *server), *backend)).collect();
        if self.due.is_none() && self.stored != Some(wanted) {
            effects.push(Effect::StoreAffinity(service, wanted));
            self.stored = Some(wanted);
        }
        effects.extend(removals(service, before.keys().filter(|server| !self.servers.contains_key(server))));
        effects
    }

    /// Takes everything away, as the service is no more.
    pub(super) fn remove(&self, service: ServiceId) -> Vec<Effect> {
        let mut effects = vec![Effect::StoreAffinity(service, Affinity::NONE)];
        effects.extend(removals(service, self.servers.keys()));
        effects
    }
}

fn removals<'a>(service: ServiceId, servers: impl Iterator<Item = &'a AffinityServer>) -> impl Iterator<Item = Effect> {
    servers.map(move |server| Effect::RemoveServer(ServerOf::new(service, *server)))
}
