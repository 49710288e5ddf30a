//! Which server ids of QUIC name which backend.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use lb_common::{BackendId, QuicServer};

use super::{
    backend::{Backend, Standing},
    core::Core,
    effect::Effect,
    service::{Admin, DesiredService, ServiceState},
};
use crate::config;

/// A server id cannot name what it is to name, since connections of a backend that leaves still have it. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "server_id \"{server_id}\" names backend {backend:?} in connections of service {service:?} that it keeps {}\n    {}, or end \
     those connections: lbctl backend remove {backend} --service {service} --deadline 0s",
    period(.remaining.as_ref()),
    if *.is_its_own { "bring it back with this server_id" } else { "write another server_id" }
)]
pub struct ServerIdInUse {
    server_id: config::ServerId,
    service: String,
    /// The backend that leaves.
    backend: String,
    /// How long it keeps its connections, if there is a limit.
    remaining: Option<Duration>,
    /// Whether the backend itself is to have another one.
    is_its_own: bool,
}

fn period(remaining: Option<&Duration>) -> String {
    remaining.map_or("until they end".to_owned(), |remaining| {
        // Rounded up: it is never said to be over while it is not.
        let seconds = Duration::from_secs(remaining.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
        format!("for another {} at most", humantime::format_duration(seconds))
    })
}

impl ServiceState {
    /// Refuses what would send packets of connections of a backend that leaves to another one, or to none.
    pub(super) fn check_server_ids(&self, desired: &DesiredService, now: Instant) -> Result<(), ServerIdInUse> {
        if !self.live.quic.is_in_use() || desired.spec.quic.is_none() {
            return Ok(());
        }
        let is_wanted = |backend: &&Backend| {
            desired.spec.backends.iter().any(|other| desired.spec.endpoint(other) == backend.endpoint)
        };
        let leaving = self.backends.iter().filter(|backend| !is_wanted(backend)).chain(&self.removed);
        for backend in leaving.filter(|backend| !backend.is_cut_off(now)) {
            let Some(server_id) = &backend.spec.server_id else { continue };
            let changes = |wanted: &&config::Backend| {
                let is_same = desired.spec.endpoint(wanted) == backend.endpoint;
                is_same != (wanted.server_id.as_ref() == Some(server_id))
            };
            let Some(wanted) = desired.spec.backends.iter().find(changes) else { continue };
            let usual = desired.spec.drain_timeout.map(|timeout| now + timeout);
            let until = if backend.standing == Standing::Removed { backend.until } else { backend.until.or(usual) };
            return Err(ServerIdInUse {
                server_id: server_id.clone(),
                service: desired.spec.name.clone(),
                backend: backend.shown_name(),
                remaining: until.map(|until| until.saturating_duration_since(now)),
                is_its_own: desired.spec.endpoint(wanted) == backend.endpoint,
            });
        }
        Ok(())
    }

    /// Whether `backend` may have flows that the flow table does not show, since connection ids name it: asked of those that are
    /// to have no new flows.
    pub(super) fn hides_flows_of(&self, backend: &Backend) -> bool {
        self.live.quic.is_in_use() && backend.standing != Standing::Member(Admin::Enabled)
    }
}

impl Core {
    /// Brings in line which server ids name which backend. Those that are removed keep theirs.
    pub(super) fn refresh_quic(&mut self, effects: &mut Vec<Effect>) {
        let services = self.services.iter().filter(|state| state.live.quic.is_in_use());
        let servers = services.flat_map(|state| {
            let backends = state.removed.iter().chain(&state.backends);
            backends.filter_map(|backend| {
                let server = QuicServer::new(state.live.id, backend.spec.server_id.as_ref()?.bytes())?;
                Some((server, backend.id))
            })
        });
        let servers: HashMap<QuicServer, BackendId> = servers.collect();
        for server in self.quic_servers.keys().filter(|server| !servers.contains_key(server)) {
            effects.push(Effect::RemoveQuicServer(*server));
        }
        for (server, backend) in &servers {
            if self.quic_servers.get(server) != Some(backend) {
                effects.push(Effect::PutQuicServer(*server, *backend));
            }
        }
        self.quic_servers = servers;
    }
}
