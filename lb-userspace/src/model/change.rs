use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::service::{Admin, DesiredService};
use crate::config;

/// Names a backend by its name or its address, in one service or in all that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// Name or address.
    pub backend: String,
    /// Only in this service.
    pub service: Option<String>,
}

/// A live change, as `lbctl` asks for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Add a backend to the service named.
    Add(String, config::Backend),
    /// Take backends out. They may keep the flows that they have for so long, or as long as the service has it.
    Remove(Selector, Option<Duration>),
    /// Give backends another weight.
    Weight(Selector, u16),
    /// Enable or disable backends.
    Admin(Selector, Admin),
    /// Give backends no new flows. They may keep the flows that they have for so long, or as long as the service has it.
    Drain(Selector, Option<Duration>),
}

/// For how long flows may be kept that may be kept for ever: clocks have an end.
pub const ENDLESS: Duration = Duration::from_hours(24 * 365 * 100);

/// A backend that a change was made to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The service.
    pub service: String,
    /// The backend.
    pub backend: String,
    /// Its address. Unlike the name, nobody else in the service has it while the backend leaves.
    pub address: IpAddr,
}

/// Why a change cannot be made. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// No such service.
    #[error("there is no service {0:?}; `lbctl service list` shows them")]
    NoService(String),
    /// No such backend, where it was looked for.
    #[error("there is no backend {backend:?} in {place}; `lbctl backend list` shows them")]
    NoBackend {
        /// What was looked for.
        backend: String,
        /// Where.
        place: String,
    },
    /// The backend does not fit the service.
    #[error("{0}")]
    Refused(String),
    /// The maps are full.
    #[error(transparent)]
    Full(#[from] super::Full),
}

impl Change {
    /// The services that the change makes other than they are, and the backends it touches.
    pub(super) fn edit<'a>(
        self,
        services: impl Iterator<Item = &'a DesiredService>,
        now: Instant,
    ) -> Result<(Vec<DesiredService>, Vec<Applied>), ChangeError> {
        match self {
            Self::Add(service, backend) => add(services, &service, backend),
            Self::Remove(selector, timeout) => selector.edit(services, |service, name| {
                service.spec.backends.retain(|backend| backend.name != name);
                service.admin.remove(name);
                set_deadline(service, name, timeout.map(|timeout| now + timeout));
            }),
            Self::Weight(selector, weight) => selector.edit(services, |service, name| {
                for backend in service.spec.backends.iter_mut().filter(|backend| backend.name == name) {
                    backend.weight = weight;
                }
            }),
            Self::Admin(selector, admin) => selector.edit(services, |service, name| {
                set_admin(service, name, admin);
                set_deadline(service, name, None);
            }),
            Self::Drain(selector, timeout) => selector.edit(services, |service, name| {
                set_admin(service, name, Admin::Draining);
                let timeout = timeout.or(service.spec.drain_timeout);
                set_deadline(service, name, timeout.map(|timeout| now + timeout));
            }),
        }
    }
}

fn set_admin(service: &mut DesiredService, backend: &str, admin: Admin) {
    match admin {
        Admin::Enabled => service.admin.remove(backend),
        Admin::Draining | Admin::Disabled => service.admin.insert(backend.to_owned(), admin),
    };
}

fn set_deadline(service: &mut DesiredService, backend: &str, deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => service.deadlines.insert(backend.to_owned(), deadline),
        None => service.deadlines.remove(backend),
    };
}

fn add<'a>(
    services: impl Iterator<Item = &'a DesiredService>,
    service: &str,
    backend: config::Backend,
) -> Result<(Vec<DesiredService>, Vec<Applied>), ChangeError> {
    let services: Vec<&DesiredService> = services.collect();
    let refused = |problem: config::Problem| ChangeError::Refused(problem.to_string());
    let mut edited = services
        .iter()
        .copied()
        .find(|candidate| candidate.spec.name == service)
        .ok_or_else(|| ChangeError::NoService(service.to_owned()))?
        .clone();
    edited.spec.check_backend(&backend).map_err(refused)?;
    services.iter().try_for_each(|other| other.spec.check_loop(&backend)).map_err(refused)?;
    let applied = Applied { service: service.to_owned(), backend: backend.name.clone(), address: backend.address };
    edited.spec.backends.push(backend);
    Ok((vec![edited], vec![applied]))
}

impl Selector {
    fn edit<'a>(
        &self,
        services: impl Iterator<Item = &'a DesiredService>,
        edit: impl Fn(&mut DesiredService, &str),
    ) -> Result<(Vec<DesiredService>, Vec<Applied>), ChangeError> {
        let mut service_exists = self.service.is_none();
        let mut edited = Vec::new();
        let mut applied = Vec::new();
        for service in services.filter(|service| self.service.as_ref().is_none_or(|name| *name == service.spec.name)) {
            service_exists = true;
            if let Some(backend) = service.spec.backends.iter().find(|backend| self.matches(backend)) {
                let mut service = service.clone();
                edit(&mut service, &backend.name);
                applied.push(Applied {
                    service: service.spec.name.clone(),
                    backend: backend.name.clone(),
                    address: backend.address,
                });
                edited.push(service);
            }
        }
        match &self.service {
            Some(service) if !service_exists => Err(ChangeError::NoService(service.clone())),
            place if applied.is_empty() => Err(ChangeError::NoBackend {
                backend: self.backend.clone(),
                place: place.as_ref().map_or("any service".to_owned(), |name| format!("service {name:?}")),
            }),
            _ => Ok((edited, applied)),
        }
    }

    fn matches(&self, backend: &config::Backend) -> bool {
        backend.name == self.backend || self.backend.parse::<IpAddr>().is_ok_and(|address| address == backend.address)
    }
}
