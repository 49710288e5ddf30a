//! What the API shows of translated flows.

use std::{net::SocketAddr, time::Duration};

use lb_common::{
    Flow, NetU16,
    nat::{NatRecord, NatTarget, Phase},
};

use super::{Daemon, flows::Name};
use crate::{api::TranslatedView, config::Endpoint, dataplane::flow_time, model::Sources};

/// How the packets of a backend's flows are translated.
#[derive(Clone, Copy)]
pub(super) struct Translation {
    /// The virtual IP.
    pub(super) service: std::net::IpAddr,
    pub(super) backend: Endpoint,
    pub(super) target: NatTarget,
}

/// A flow, for people.
pub(super) fn view(record: &NatRecord, name: &Name, sources: &Sources) -> Option<TranslatedView> {
    let Translation { service, backend, target } = name.translation?;
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
    /// The record of a flow, if it is translated.
    pub(super) fn translated(&self, flow: &Flow) -> Option<NatRecord> {
        self.executor.dataplane.nat.table()?.find(flow.hash(self.hash_key))
    }
}
