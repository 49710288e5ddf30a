//! Which server ids of QUIC name which backend.

use std::collections::HashMap;

use lb_common::{BackendId, QuicServer};

use super::{
    backend::{Backend, Standing},
    core::Core,
    effect::Effect,
    service::{Admin, ServiceState},
};

impl ServiceState {
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
