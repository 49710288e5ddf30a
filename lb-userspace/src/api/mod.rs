//! The API: JSON over HTTP on a Unix socket that only root may open.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`StatusView`] |
//! | `GET /v1/services` | `[`[`ServiceView`]`]` |
//! | `GET /v1/stats` | [`StatsView`] |
//! | `GET /v1/flow?service=S&client=ADDRESS:PORT[&port=N]` | [`FlowView`] |
//! | `GET /v1/fitness` | [`Fitness`](crate::vrrp::Fitness) |
//! | `POST /v1/services/S/backends` with [`NewBackend`] | `[`[`Applied`]`]` |
//! | `PATCH /v1/backends/B[?service=S]` with [`BackendPatch`] | `[`[`Applied`]`]` |
//! | `DELETE /v1/backends/B[?service=S]` | `[`[`Applied`]`]` |
//! | `POST /v1/reload` | nothing |
//!
//! An error is an [`ErrorView`] with a status of 400 and above; 422 stands for a configuration that is not valid. When
//! a change is answered, it is in the datapath.

mod client;
mod server;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub(crate) use self::server::{Answer, ask, json};
pub use self::{
    client::{Client, ClientError},
    server::{Refusal, Reply, Request, bind, serve},
};
use crate::{
    dataplane::Attachment,
    model::{Admin, BackendState, ServiceView},
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
    /// How many backends are in each state.
    pub backends: BTreeMap<String, usize>,
    /// What is not as it should be, in words for the operator.
    pub problems: Vec<String>,
}

/// Counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsView {
    /// Packets that the program has seen: the sum of the verdicts.
    pub received: u64,
    /// Packets per verdict.
    pub verdicts: BTreeMap<String, u64>,
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
    /// The backend that owns the slot; absent if nobody does.
    pub backend: Option<String>,
    /// What that backend can do.
    pub state: Option<BackendState>,
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
}

/// What to change of a backend: one of the two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum BackendPatch {
    /// Its weight.
    Weight(u16),
    /// Whether it may have flows.
    Admin(Admin),
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What is wrong, and what to do.
    pub error: String,
}
