//! The API: JSON over HTTP on a Unix socket that only root may open.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`StatusView`] |
//! | `GET /v1/services` | `[`[`ServiceView`]`]` |
//! | `GET /v1/stats` | [`StatsView`] |
//! | `GET /v1/flow?service=S&client=ADDRESS:PORT[&port=N]` | [`FlowView`] |
//! | `GET /v1/flows[?service=S][&backend=B][&state=opening][&slot=N][&limit=N]` | [`FlowsView`] |
//! | `GET /v1/affinity[?service=S][&group=G][&client=ADDRESS][&limit=N]` | [`ClientsView`] |
//! | `DELETE /v1/affinity/ADDRESS[?service=S][&group=G]` | `[`[`ClientView`]`]`, those that were forgotten |
//! | `GET /v1/services/S/slots` | [`SlotsView`] |
//! | `GET /v1/fitness` | [`Fitness`](crate::vrrp::Fitness) |
//! | `POST /v1/services/S/backends` with [`NewBackend`] | `[`[`ChangedView`]`]` |
//! | `PATCH /v1/backends/B[?service=S]` with [`BackendPatch`] | `[`[`ChangedView`]`]` |
//! | `DELETE /v1/backends/B[?service=S][&timeout=10m]` | `[`[`ChangedView`]`]` |
//! | `POST /v1/reload` | [`ReloadedView`] |
//!
//! An error is an [`ErrorView`] with a status of 400 and above; 422 stands for a configuration that is not valid, and 416 for a
//! request of something that there cannot be. When a change is answered, it is in the datapath.

mod client;
mod server;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub(crate) use self::server::{Answer, ask, json};
pub use self::{
    client::{Client, ClientError},
    server::{Refusal, Reply, Request, bind, serve},
};
use crate::{
    config::{DrainTimeout, Endpoint},
    dataplane::Attachment,
    model::{Admin, Applied, BackendState, BackendView, ServiceView, SourceView},
};

/// The daemon and what it stands on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the daemon.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// The daemon's process id.
    pub pid: u32,
    /// How long it runs.
    pub uptime: Duration,
    /// Its configuration file.
    pub config: PathBuf,
    /// Where the program is attached.
    pub interfaces: Vec<Attachment>,
    /// How many services there are.
    pub services: usize,
    /// How many backends are in each state; `with weight 0`: they are up, and take no new flows.
    pub backends: BTreeMap<String, usize>,
    /// The table of flows that are remembered.
    pub flow_table: FlowTableView,
    /// The table of translated flows, if there is one.
    #[serde(default)]
    pub nat: Option<NatView>,
    /// What is not as it should be, in words for the operator.
    pub problems: Vec<String>,
}

/// The flow table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableView {
    /// How many flows it can hold.
    pub size: u64,
    /// How many it holds, as of the last census; absent before the first one of this `lbd`.
    pub flows: Option<u64>,
}

/// The table of translated flows, and their sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatView {
    /// How many flows it can hold.
    pub size: u64,
    /// How many it holds, as of the last census; absent before the first one of this `lbd`.
    pub flows: Option<u64>,
    /// How many source ports are held besides, of closed connections whose clients have opened others by the same port.
    #[serde(default)]
    pub held: u64,
    /// The sources, with `full-nat`.
    pub sources: Vec<SourceView>,
}

/// Counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsView {
    /// Packets that the program has seen: the sum of the verdicts.
    pub received: u64,
    /// Packets per verdict.
    pub verdicts: BTreeMap<String, u64>,
    /// What became of flows that were looked up in the flow table.
    pub tracking: BTreeMap<String, u64>,
    /// The table of translated flows, if there is one.
    #[serde(default)]
    pub nat: Option<NatView>,
    /// Services and backends with their counters.
    pub services: Vec<ServiceView>,
}

/// Where the packets of a flow go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowView {
    /// The service.
    pub service: String,
    /// The client.
    pub client: SocketAddr,
    /// The virtual IP and port.
    pub destination: SocketAddr,
    /// The slot that the flow hashes to.
    pub slot: u32,
    /// What the slot does.
    pub slot_state: String,
    /// Whether each datagram gets a backend of its own.
    #[serde(default)]
    pub one_packet: bool,
    /// Where packets of the flow go, if it is there already; absent if nobody takes them, or where each gets its own backend by
    /// something else than the slot.
    pub backend: Option<String>,
    /// What that backend can do.
    pub state: Option<BackendState>,
    /// Whether nobody knows the flow, so that a segment is answered with a reset unless it opens a connection.
    #[serde(default)]
    pub is_reset: bool,
    /// Where the flow goes if it begins now; absent if nobody takes it, or the algorithm or a limit decides then.
    pub new_flow: Option<String>,
    /// What decides then, if not the slot alone: `affinity`, the algorithm, or `max_connections`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_flow_by: Option<String>,
    /// The server that the client stays with, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<ClientView>,
    /// The flow in the flow table, if it is there.
    pub entry: Option<EntryView>,
    /// The flow in the table of translated flows, if it is there: where each datagram gets its own backend, once for each backend.
    #[serde(default)]
    pub translated: Vec<TranslatedView>,
}

/// Which clients to show, of those that stay with their servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientFilter {
    /// Those of the service with this name.
    pub service: Option<String>,
    /// Those of services in this group.
    pub group: Option<String>,
    /// The one with this address, or that this address is a part of.
    pub client: Option<IpAddr>,
    /// How many to list at most; all are counted. 1,000 if absent.
    pub limit: Option<usize>,
}

/// Clients that stay with their servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientsView {
    /// How many match: in a group, a client counts for each service.
    pub total: u64,
    /// Some of them.
    pub clients: Vec<ClientView>,
}

/// A client of a service, and the server that it stays with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientView {
    /// The service.
    pub service: String,
    /// The group that the service is in: services of a group know the same clients, and the same servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The client's address, or the network whose clients count as one, as in `10.1.2.0/24`.
    pub client: String,
    /// The server: an address, and a port where that is translated and the service is in no group.
    pub server: Endpoint,
    /// The backend of the service that is this server; absent if it has none there.
    pub backend: Option<String>,
    /// Whether that takes new flows now. Otherwise the client's next flow gets another server.
    pub takes_new_flows: bool,
    /// How long ago the client's last new flow came.
    pub last_flow: Duration,
    /// For how long yet the client stays, if no other flow comes.
    pub remaining: Duration,
}

/// Which flows to show, of those in the flow table and those that are translated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Those of the service with this name.
    pub service: Option<String>,
    /// Those of backends with this name or address.
    pub backend: Option<String>,
    /// Those in this state: see [`EntryView`] and [`TranslatedView`].
    pub state: Option<String>,
    /// Those of this slot.
    pub slot: Option<u32>,
    /// How many to list at most; all are counted. 1,000 if absent.
    pub limit: Option<usize>,
}

/// Flows that are remembered. Those of slots that are stable are not in the flow table: where they go is not for it to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsView {
    /// How many match.
    pub total: u64,
    /// How many match, by service, backend and state.
    pub counts: Vec<FlowCount>,
    /// Some of them, in the flow table.
    pub flows: Vec<EntryView>,
    /// Some of them that are translated.
    #[serde(default)]
    pub translated: Vec<TranslatedView>,
}

/// How many flows of a backend are in a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCount {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// The state.
    pub state: String,
    /// How many.
    pub flows: u64,
}

/// A flow in the flow table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// `opening`: its first packet has come; `sighted`: one packet of a flow that was there before; `established`: more;
    /// `closing`: FIN or RST.
    pub state: String,
    /// The slot.
    pub slot: u32,
    /// For how long no packet of it has come, at least.
    pub idle: Duration,
    /// What tells it apart: 39 bits of its hash, in hexadecimal. The table does not know addresses.
    pub tag: String,
}

/// A flow whose addresses are translated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranslatedView {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// `opening`, `answered`, `established`, `client-closed`, `backend-closed`, `time-wait`, `reset`, or `sighted`: first seen in
    /// mid-connection, and not answered since (TCP); `unreplied` or `replied`.
    pub state: String,
    /// The client.
    pub client: SocketAddr,
    /// The virtual IP and port that it sends to.
    pub destination: SocketAddr,
    /// Where the backend sees the packets come from: the client's own address with `nat`.
    pub source: SocketAddr,
    /// Where the backend gets them.
    pub target: SocketAddr,
    /// For how long no packet of it has come, to within a second.
    pub idle: Duration,
}

/// What the slots of a service do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsView {
    /// The service.
    pub service: String,
    /// How many there are.
    pub slots: u32,
    /// Nobody owns them: their packets are dropped.
    pub empty: u32,
    /// All their flows go to their owner, and nothing is looked up.
    pub stable: u32,
    /// Some of their flows may go elsewhere, and all of those are in the flow table.
    pub tracked: u32,
    /// They are about to move, or move.
    pub moves: Vec<MoveView>,
    /// How long ago the flow table had to give up a flow, or had no room for one, the last time, if slots moved then that still
    /// do: their time has begun anew.
    pub restarted: Option<Duration>,
    /// Those that are to move, and wait because as many as the table has were moved within a minute.
    pub waiting: u32,
}

/// Slots that go from one backend to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveView {
    /// `arming`: flows that begin are remembered, and in a moment the slots get their new owner. `moving`: they have it, and
    /// flows that were there before still go to the old one.
    pub state: String,
    /// The old owner.
    pub from: String,
    /// The new owner.
    pub to: String,
    /// How many slots.
    pub slots: u32,
    /// Why they leave their old owner.
    pub reason: String,
    /// For how long the first of them is in that state.
    pub since: Duration,
    /// How long it takes at most until the last of them leaves it, if no flow is lost until then.
    pub remaining: Duration,
}

/// A backend to add.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Its name; the address if absent.
    pub name: Option<String>,
    /// Its address, with a port or without.
    pub address: String,
    /// Its weight; 1 if absent.
    pub weight: Option<u16>,
    /// How many connections it may have before new ones go elsewhere; any number if absent.
    pub max_connections: Option<u32>,
    /// What QUIC connection ids call it, in hexadecimal digits, where the service has ids that name their server.
    pub server_id: Option<String>,
}

/// What to change of a backend: one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum BackendPatch {
    /// Its weight.
    Weight(u16),
    /// Whether it may have flows.
    Admin(Admin),
    /// It gets no new flows, and may keep those that it has for so long.
    Drain {
        /// As in the configuration: `10m`, `none`.
        timeout: DrainTimeout,
    },
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadedView {
    /// What was lost by it, in sentences.
    pub warnings: Vec<String>,
}

/// A backend that a change was made to, as it is after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedView {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// Its address. Unlike the name, nobody else in the service has it, with the port, while the backend leaves.
    pub address: IpAddr,
    /// See [`BackendView`].
    #[serde(default)]
    pub port: u16,
    /// What it can do; `removed` also if nothing is left of it.
    pub state: BackendState,
    /// See [`BackendView`].
    pub admin: Option<Admin>,
    /// See [`BackendView`].
    pub flows: Option<u64>,
    /// See [`BackendView`].
    pub closing: u64,
    /// See [`BackendView`].
    pub hidden_flows: bool,
    /// Slots whose flows may be its own.
    pub slots: usize,
    /// See [`BackendView`].
    pub time_left: Option<Duration>,
    /// What the operator should know of the service now.
    pub warning: Option<String>,
}

impl ChangedView {
    /// The backend as it is, given its service as it is.
    pub fn new(applied: &Applied, service: Option<&ServiceView>) -> Self {
        let backends = service.map_or(&[][..], |service| &service.backends);
        let backend = backends.iter().find(|backend| applied.is(backend));
        let takes_no_more = backend.is_none_or(|backend| backend.admin != Some(Admin::Enabled) || backend.weight == 0);
        let outage = service.filter(|_| takes_no_more).and_then(ServiceView::outage);
        let view = Self {
            service: applied.service.clone(),
            backend: applied.backend.clone(),
            address: applied.address,
            port: applied.port,
            state: BackendState::Removed,
            admin: None,
            flows: Some(0),
            closing: 0,
            hidden_flows: false,
            slots: 0,
            time_left: None,
            warning: outage,
        };
        match backend {
            Some(BackendView { state, admin, flows, closing, hidden_flows, slots, slots_left, time_left, .. }) => {
                Self {
                    state: *state,
                    admin: *admin,
                    flows: *flows,
                    closing: *closing,
                    hidden_flows: *hidden_flows,
                    slots: slots + slots_left,
                    time_left: *time_left,
                    ..view
                }
            }
            None => view,
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What is wrong, and what to do.
    pub error: String,
}
