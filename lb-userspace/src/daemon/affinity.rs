//! What the API shows of clients that stay with their servers, and how one is forgotten.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{
    Address, Affinity, AffinityClient, AffinityEntry, AffinityScope, AffinityServer, BackendId, FlowTime, NetU16,
};

use super::{Daemon, flows::LIST};
use crate::{
    api::{ClientFilter, ClientView, ClientsView, Refusal, Reply},
    config::Endpoint,
    dataplane::{Connections, DataplaneError, flow_time},
    model::ServiceView,
};

/// A service whose clients stay with their servers, as the datapath has it.
pub(super) struct Scope {
    service: String,
    group: Option<String>,
    is_ipv4: bool,
    affinity: Affinity,
    /// Its backends, by the servers that they are.
    backends: HashMap<AffinityServer, String>,
    /// Who takes new flows for which server.
    takers: HashMap<AffinityServer, BackendId>,
    /// Of the backends that may have so many connections only, where there are any.
    limits: Option<Arc<Connections>>,
}

impl Scope {
    /// What the service knows a client by, if it can have it.
    fn client(&self, address: IpAddr) -> Option<AffinityClient> {
        let words = Address::from(address).words();
        (address.is_ipv4() == self.is_ipv4).then(|| self.affinity.client(words, self.is_ipv4))
    }

    /// The backend that a client's next flow goes to, if it is that of its server.
    pub(super) fn taker(&self, server: AffinityServer) -> Option<BackendId> {
        let taker = self.takers.get(&server).copied()?;
        let is_full = self.limits.as_ref().is_some_and(|connections| connections.get(taker).is_full());
        (!is_full).then_some(taker)
    }

    /// What the service knows of a client, unless that is another service's, or its time is over.
    fn view(&self, client: &AffinityClient, entry: &AffinityEntry, now: FlowTime) -> Option<ClientView> {
        let is_its = client.scope == self.affinity.scope() && client.address.is_mapped() == self.is_ipv4;
        if !is_its || !self.affinity.holds(FlowTime(entry.seen), now) {
            return None;
        }
        let (address, prefix, whole) =
            (client.address.to_ip(), self.affinity.prefix(), if self.is_ipv4 { 32 } else { 128 });
        let last_flow = Duration::from_nanos(now.0.saturating_sub(entry.seen));
        let server = entry.server;
        Some(ClientView {
            service: self.service.clone(),
            group: self.group.clone(),
            client: if prefix < whole { format!("{address}/{prefix}") } else { address.to_string() },
            server: Endpoint { address: server.address().to_ip(), port: server.port().get() },
            backend: self.backends.get(&server).cloned(),
            takes_new_flows: self.taker(server).is_some(),
            last_flow,
            remaining: Duration::from_secs(self.affinity.timeout().into()).saturating_sub(last_flow),
        })
    }
}

impl Daemon {
    /// The service, if its clients stay with their servers by now.
    fn scope(&self, service: &ServiceView) -> Option<Scope> {
        let configured = service.affinity.as_ref()?;
        let live = self.core.affinity(&service.name)?;
        let affinity = live.stored.filter(|stored| stored.is_in_use())?;
        let (_, live_service) = self.core.live(&service.name)?;
        let maps = &self.executor.dataplane.maps;
        let server = |address: IpAddr, port| AffinityServer::new(affinity.scope(), address.into(), NetU16::new(port));
        // Those that leave come last, and one that is there has its place before them.
        let backends = service.backends.iter().rev();
        Some(Scope {
            service: service.name.clone(),
            group: configured.group.clone(),
            is_ipv4: service.address.is_ipv4(),
            affinity,
            backends: backends.map(|backend| (server(backend.address, backend.port), backend.name.clone())).collect(),
            takers: live.servers.clone(),
            limits: maps.scheduler(live_service.id).is_limited().then(|| maps.connections()),
        })
    }

    /// The services with affinity that a filter lets through.
    fn scopes(&self, filter: &ClientFilter) -> Result<Vec<Scope>, Refusal> {
        let services = self.core.view(Instant::now());
        let group_of = |service: &ServiceView| service.affinity.as_ref().and_then(|affinity| affinity.group.clone());
        if let Some(name) = &filter.service {
            let Some(service) = services.iter().find(|service| service.name == *name) else {
                return Err(Refusal::NotFound(format!(
                    "there is no service {name:?}; `lbctl service list` shows them"
                )));
            };
            if service.affinity.is_none() {
                return Err(Refusal::Invalid(format!(
                    "the clients of {name:?} do not stay: it has no [service.affinity]"
                )));
            }
            if filter.client.is_some_and(|client| client.is_ipv4() != service.address.is_ipv4()) {
                return Err(Refusal::Invalid(format!("that client is not of the address family of {name:?}")));
            }
        }
        if let Some(group) = &filter.group
            && !services.iter().any(|service| group_of(service).as_ref() == Some(group))
        {
            return Err(Refusal::NotFound(format!("no service is in a group {group:?}")));
        }
        let is_meant = |service: &&ServiceView| {
            filter.service.as_ref().is_none_or(|name| *name == service.name)
                && filter.group.as_ref().is_none_or(|group| group_of(service).as_ref() == Some(group))
        };
        Ok(services.iter().filter(is_meant).filter_map(|service| self.scope(service)).collect())
    }

    /// What a service knows of a client, and which backend the client's next flow goes to by that.
    pub(super) fn known_client(
        &self,
        service: &ServiceView,
        client: IpAddr,
    ) -> Result<Option<(ClientView, Option<BackendId>)>, DataplaneError> {
        let Some(scope) = self.scope(service) else { return Ok(None) };
        let Some(client) = scope.client(client) else { return Ok(None) };
        let entry = self.executor.dataplane.maps.affinity_clients().get(&client)?;
        Ok(entry.and_then(|entry| Some((scope.view(&client, &entry, flow_time())?, scope.taker(entry.server)))))
    }

    /// Lists clients beside the loop, since there may be millions.
    pub(super) fn list_clients(&self, filter: &ClientFilter, reply: Reply<ClientsView>) {
        let scopes = match self.scopes(filter) {
            Ok(scopes) => scopes,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let known = self.executor.dataplane.maps.affinity_clients();
        let (limit, wanted) = (filter.limit.unwrap_or(LIST), filter.client);
        tokio::task::spawn_blocking(move || {
            let now = flow_time();
            let mut view = ClientsView { total: 0, clients: Vec::new() };
            let mut by_number = HashMap::<AffinityScope, Vec<&Scope>>::new();
            for scope in &scopes {
                by_number.entry(scope.affinity.scope()).or_default().push(scope);
            }
            let mut add = |client: &AffinityClient, entry: &AffinityEntry| {
                let services = by_number.get(&client.scope).into_iter().flatten();
                for shown in services.filter_map(|scope| scope.view(client, entry, now)) {
                    view.total += 1;
                    view.clients.push(shown);
                }
                if view.clients.len() > limit.saturating_add(SPARE) {
                    keep_latest(&mut view.clients, limit);
                }
            };
            let found = match wanted {
                Some(address) => keys(&scopes, address).into_iter().try_for_each(|client| {
                    known.get(&client).map(|entry| entry.iter().for_each(|entry| add(&client, entry)))
                }),
                None => known.for_each(&mut add),
            };
            keep_latest(&mut view.clients, limit);
            view.clients.sort_by(|one, other| {
                (&one.service, one.last_flow, &one.client).cmp(&(&other.service, other.last_flow, &other.client))
            });
            drop(reply.send(found.map(|()| view).map_err(failed)));
        });
    }

    /// Lets nothing be known of the client of the filter, in the services that it lets through and those that are in a group with them.
    /// Its next flow gets a server by the algorithm; those that are there stay where they are. Returns what was known.
    pub(super) fn forget_client(&self, filter: &ClientFilter) -> Result<Vec<ClientView>, Refusal> {
        let address = filter.client.ok_or_else(|| Refusal::Invalid("which client?".to_owned()))?;
        let (meant, all) = (self.scopes(filter)?, self.scopes(&ClientFilter::default())?);
        let known = self.executor.dataplane.maps.affinity_clients();
        let mut forgotten = Vec::new();
        for client in keys(&meant, address) {
            let Some(entry) = known.get(&client).map_err(failed)? else { continue };
            known.forget(&client).map_err(|error| {
                Refusal::Failed(format!("cannot forget {address}: {:#}", anyhow::Error::from(error)))
            })?;
            let views = all.iter().filter_map(|scope| scope.view(&client, &entry, flow_time()));
            for view in views {
                let ClientView { service, client, server, .. } = &view;
                log::info!("{service}: {client} is forgotten by lbctl, whose server was {server}");
                forgotten.push(view);
            }
        }
        if forgotten.is_empty() {
            return Err(Refusal::NotFound(format!(
                "no service knows a server of {address}; `lbctl affinity list` shows the clients that are known"
            )));
        }
        Ok(forgotten)
    }
}

/// How many clients more than are wanted are gathered before those that came last are picked out.
const SPARE: usize = 4096;

/// Leaves so many: those whose last flow came last.
fn keep_latest(clients: &mut Vec<ClientView>, limit: usize) {
    if clients.len() > limit {
        clients.select_nth_unstable_by_key(limit, |client| client.last_flow);
        clients.truncate(limit);
    }
}

/// What services know a client by: once for each group.
fn keys(scopes: &[Scope], address: IpAddr) -> HashSet<AffinityClient> {
    scopes.iter().filter_map(|scope| scope.client(address)).collect()
}

fn failed(error: DataplaneError) -> Refusal {
    Refusal::Failed(format!("cannot read the clients: {:#}", anyhow::Error::from(error)))
}
