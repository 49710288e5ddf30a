//! What the API shows of translated flows.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    Address, BackendId, Flow, FlowHash, HashInput, HashKey, NetU16,
    nat::{NatRecord, NatTarget, Phase},
};

use super::{Daemon, flows::Name};
use crate::{
    api::TranslatedView,
    config::{Endpoint, Protocol},
    dataplane::flow_time,
    model::{BackendView, Sources},
};

/// How the packets of a backend's flows are translated.
#[derive(Clone, Copy)]
pub(super) struct Translation {
    /// The virtual IP.
    pub(super) service: IpAddr,
    pub(super) protocol: Protocol,
    /// What picks the slots of the service's flows.
    pub(super) hash: HashInput,
    pub(super) backend: Endpoint,
    pub(super) target: NatTarget,
}

impl Translation {
    /// The hash that picks the slot of a flow. (That in its record finds the record, and may be another one for each backend.)
    pub(super) fn hash_of(&self, record: &NatRecord, key: HashKey) -> FlowHash {
        let flow = Flow {
            source: record.client,
            destination: Address::from(self.service),
            ports: record.ports,
            protocol: self.protocol.number(),
            ipv4: self.service.is_ipv4(),
        };
        self.hash.hash(&flow, key)
    }
}

/// A flow, for people.
pub(super) fn view(record: &NatRecord, name: &Name, sources: &Sources) -> Option<TranslatedView> {
    let Translation { service, backend, target, .. } = name.translation?;
    let [client_port, service_port] = record.ports.halves().map(NetU16::get);
    let client = SocketAddr::new(record.client.to_ip(), client_port);
    let source = match sources.run(record.source, 1) {
        [source] if target.sources > 0 => SocketAddr::new(source.address.to_ip(), record.source_port.get()),
        _ => client,
    };
    let backend_port = if backend.port == 0 { service_port } else { backend.port };
    Some(TranslatedView {
        service: name.service.clone(),
        backend: name.backend.clone(),
        state: phase_name(record.state.phase()).to_owned(),
        client,
        destination: SocketAddr::new(service, service_port),
        source,
        target: SocketAddr::new(backend.address, backend_port),
        idle: Duration::from_nanos(record.state.idle_ns(flow_time())),
    })
}

pub(super) const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::OPENING => "opening",
        Phase::ANSWERED => "answered",
        Phase::ESTABLISHED => "established",
        Phase::CLIENT_CLOSED => "client-closed",
        Phase::BACKEND_CLOSED => "backend-closed",
        Phase::TIME_WAIT => "time-wait",
        Phase::RESET => "reset",
        Phase::UNREPLIED => "unreplied",
        Phase::REPLIED => "replied",
        _ => "sighted",
    }
}

impl Daemon {
    /// The record of a flow, if it is translated; of datagrams that get one of these `backends` each, the record for each.
    pub(super) fn translated(&self, flow: &Flow, backends: &[BackendView]) -> Vec<NatRecord> {
        let Some(table) = self.executor.dataplane.nat.table() else { return Vec::new() };
        let hash = flow.hash(self.hash_key);
        let of_backends = backends.iter().map(|backend| hash.of_backend(BackendId::truncate(backend.id)));
        let hashes = [hash].into_iter().filter(|_| backends.is_empty()).chain(of_backends);
        hashes.filter_map(|hash| table.find(hash)).collect()
    }
}
