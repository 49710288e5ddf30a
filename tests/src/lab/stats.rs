//! `lbctl -o json stats`, as far as the lab reads it. The only place that knows its form.

use serde::Deserialize;

/// The state of a backend that gets new connections.
const UP: &str = "up";

/// All services.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Stats {
    pub services: Vec<ServiceStats>,
}

/// One service.
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceStats {
    pub name: String,
    pub backends: Vec<BackendStats>,
}

/// One backend of a service.
#[derive(Clone, Debug, Deserialize)]
pub struct BackendStats {
    pub name: String,
    pub address: String,
    pub weight: u32,
    /// `up`, `down`, `draining` and the like.
    pub state: String,
    /// Packets sent to the backend.
    pub packets: u64,
    /// Bytes sent to the backend.
    pub bytes: u64,
}

impl Stats {
    /// Whether there are backends, and all of them get new connections.
    pub fn all_up(&self) -> bool {
        let mut backends = self.services.iter().flat_map(|service| &service.backends);
        backends.clone().next().is_some() && backends.all(|backend| backend.state == UP)
    }

    pub fn backend(&self, service: &str, backend: &str) -> Option<&BackendStats> {
        let service = self.services.iter().find(|found| found.name == service)?;
        service.backends.iter().find(|found| found.name == backend)
    }
}
