//! `lbctl -o json` `stats` and `status`, as far as the lab reads them. The only place that knows their form.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The state of a backend that gets new connections.
const UP: &str = "up";

/// `lbctl stats`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Stats {
    /// Packets that the program has seen.
    pub received: u64,
    /// Packets by what became of them.
    pub verdicts: BTreeMap<String, u64>,
    pub services: Vec<ServiceStats>,
    /// What the flow table has done.
    pub tracking: Tracking,
}

/// How often the flow table was asked, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Tracking {
    /// Packets of a flow that was in the table.
    pub hits: u64,
    /// Packets of a flow that was not.
    pub misses: u64,
    /// Flows that were put into the table.
    pub remembered: u64,
    /// Flows that had to make room for others.
    pub evicted: u64,
    /// Flows that found no room.
    pub full: u64,
    /// Flows that were put into the table of translated flows.
    pub translated: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ServiceStats {
    pub name: String,
    /// The size of its slot table.
    pub slots: u32,
    /// Whether live changes made it differ from the configuration file.
    pub changed: bool,
    /// Packets sent to its backends.
    pub packets: u64,
    pub backends: Vec<BackendStats>,
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BackendStats {
    pub name: String,
    pub address: String,
    pub weight: u32,
    /// `up`, `down`, `draining` and the like.
    pub state: String,
    /// What stands in the way of flows, in words.
    pub reason: Option<String>,
    /// How many slots of the table are the backend's.
    pub slots: u32,
    /// How many connections are remembered that are not closing.
    pub active: u32,
    /// Packets sent to the backend.
    pub packets: u64,
    /// Bytes sent to the backend.
    pub bytes: u64,
}

/// `lbctl status`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Status {
    /// Where the program is attached.
    pub interfaces: Vec<Attachment>,
    /// How many services there are.
    pub services: usize,
    /// How many backends are in each state.
    pub backends: BTreeMap<String, usize>,
    pub flow_table: FlowTable,
    /// What is not as it should be, in words.
    pub problems: Vec<String>,
}

/// The flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct FlowTable {
    /// How many flows it can hold.
    pub size: u64,
    /// How many it holds, as of the last census, if there was one.
    pub flows: Option<u64>,
}

/// An interface with the program.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Attachment {
    pub interface: String,
    /// `native` or `generic`.
    pub mode: String,
    /// Whether it took the place of an earlier daemon's program.
    pub taken_over: bool,
}

impl Stats {
    /// Whether there are backends, and all of them get new connections.
    pub fn all_up(&self) -> bool {
        let mut backends = self.services.iter().flat_map(|service| &service.backends);
        backends.clone().next().is_some() && backends.all(|backend| backend.state == UP)
    }

    pub fn service(&self, service: &str) -> Option<&ServiceStats> {
        self.services.iter().find(|found| found.name == service)
    }

    pub fn backend(&self, service: &str, backend: &str) -> Option<&BackendStats> {
        self.service(service)?.backends.iter().find(|found| found.name == backend)
    }

    /// Packets with this verdict.
    pub fn verdict(&self, verdict: &str) -> u64 {
        self.verdicts.get(verdict).copied().unwrap_or(0)
    }
}
