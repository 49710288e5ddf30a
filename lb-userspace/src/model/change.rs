use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::BackendId;
use serde::{Deserialize, Serialize};

use super::{
    backend::Backend,
    core::ApplyError,
    service::{Admin, DesiredService, ServiceState},
    view::BackendView,
};
use crate::config::{self, Endpoint};

/// Names a backend by its name or its address, in one service or in all that have it. One that was removed is meant where the
/// service has no other of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// Name or address, or both of one that was removed: `web1@10.0.0.1`.
    pub backend: String,
    /// Only in this service.
    pub service: Option<String>,
}

/// A live change, as `lbctl` asks for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Add a backend to the service named.
    Add(String, config::Backend),
    /// Take backends out. They may keep the flows that they have for so long. If that is not said: those that were removed or
    /// drain already for as long as was said then, others for as long as the service has it.
    Remove(Selector, Option<Duration>),
    /// Give backends another weight.
    Weight(Selector, u16),
    /// Enable or disable backends.
    Admin(Selector, Admin),
    /// Give backends no new flows. They may keep the flows that they have for so long; if that is not said, see
    /// [`Change::Remove`].
    Drain(Selector, Option<Duration>),
}

/// For how long flows may be kept that may be kept for ever: clocks have an end.
pub const ENDLESS: Duration = Duration::from_hours(24 * 365 * 100);

/// A backend that a change was made to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The service.
    pub service: String,
    /// The backend, by the name that it had before.
    pub backend: String,
    /// Its address. Other than the name, it does not change while the backend leaves.
    pub address: IpAddr,
    /// Its port, where ports are translated; otherwise 0.
    pub port: u16,
}

impl Applied {
    /// Whether it is this backend of the service.
    pub fn is(&self, backend: &BackendView) -> bool {
        (self.address, self.port) == (backend.address, backend.port)
    }
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
    /// The service has the backend no more.
    #[error(
        "backend {backend:?} was removed from service {service:?}, and only keeps the flows that it has; bring it back with \
         `lbctl backend add`, or change for how long: lbctl backend remove {backend} --service {service} --deadline 10m"
    )]
    Removed {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
    },
    /// The backend does not fit the service.
    #[error("{0}")]
    Refused(String),
    /// What is there already is in the way.
    #[error(transparent)]
    Unfit(#[from] ApplyError),
}

/// What a change makes other than it is.
#[derive(Debug, Default)]
pub(super) struct Edit {
    /// Services, as they are to be.
    pub(super) services: Vec<DesiredService>,
    /// Until when backends that were removed before may keep their flows.
    pub(super) deadlines: Vec<(BackendId, Instant)>,
    /// The backends it touches.
    pub(super) applied: Vec<Applied>,
}

/// What a change means for a backend that was removed before.
#[derive(Debug, Clone, Copy)]
enum ForRemoved {
    /// It cannot be made.
    Refused,
    /// It goes on as it is.
    Same,
    /// It may keep its flows until then.
    Deadline(Instant),
}

impl Change {
    /// What it does to each backend, in words.
    pub fn describe(&self) -> String {
        let keeping = |timeout: &Option<Duration>| match timeout {
            None => String::new(),
            Some(timeout) if *timeout >= ENDLESS => ", and keeps its flows as long as they live".to_owned(),
            Some(timeout) => format!(", and keeps its flows for {} at most", humantime::format_duration(*timeout)),
        };
        match self {
            Self::Add(_, backend) => format!("added, with weight {}", backend.weight),
            Self::Remove(_, timeout) => format!("removed{}", keeping(timeout)),
            Self::Weight(_, weight) => format!("has weight {weight}"),
            Self::Admin(_, Admin::Enabled) => "enabled".to_owned(),
            Self::Admin(_, Admin::Disabled) => "disabled".to_owned(),
            Self::Admin(_, Admin::Draining) => "drains".to_owned(),
            Self::Drain(_, timeout) => format!("drains{}", keeping(timeout)),
        }
    }

    /// What the change makes of services as they are.
    pub(super) fn edit(self, services: &[ServiceState], now: Instant) -> Result<Edit, ChangeError> {
        let deadline = |timeout: Duration| now + timeout.min(ENDLESS);
        let given = |timeout: Option<Duration>| {
            timeout.map_or(ForRemoved::Same, |timeout| ForRemoved::Deadline(deadline(timeout)))
        };
        match self {
            Self::Add(service, backend) => add(services, &service, backend),
            Self::Remove(selector, timeout) => selector.edit(services, given(timeout), |service, name| {
                service.spec.backends.retain(|backend| backend.name != name);
                service.admin.remove(name);
                if let Some(timeout) = timeout {
                    set_deadline(service, name, Some(deadline(timeout)));
                }
            }),
            Self::Weight(selector, weight) => selector.edit(services, ForRemoved::Refused, |service, name| {
                for backend in service.spec.backends.iter_mut().filter(|backend| backend.name == name) {
                    backend.weight = weight;
                }
            }),
            Self::Admin(selector, admin) => selector.edit(services, ForRemoved::Refused, |service, name| {
                set_admin(service, name, admin);
                set_deadline(service, name, None);
            }),
            Self::Drain(selector, timeout) => selector.edit(services, given(timeout), |service, name| {
                if timeout.is_none() && service.admin_of(name) == Admin::Draining {
                    return;
                }
                set_admin(service, name, Admin::Draining);
                let timeout = timeout.or(service.spec.drain_timeout);
                set_deadline(service, name, timeout.map(deadline));
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

fn add(services: &[ServiceState], service: &str, mut backend: config::Backend) -> Result<Edit, ChangeError> {
    let refused = |problem: config::Problem| ChangeError::Refused(problem.to_string());
    let mut edited = services
        .iter()
        .map(|state| &state.desired)
        .find(|candidate| candidate.spec.name == service)
        .ok_or_else(|| ChangeError::NoService(service.to_owned()))?
        .clone();
    if backend.name == backend.address.to_string() {
        backend.name = edited.spec.default_name(&backend);
    }
    edited.spec.check_backend(&backend).map_err(refused)?;
    services.iter().try_for_each(|other| other.desired.spec.check_loop(&backend)).map_err(refused)?;
    let Endpoint { address, port } = edited.spec.endpoint(&backend);
    let applied = Applied { service: service.to_owned(), backend: backend.name.clone(), address, port };
    edited.spec.backends.push(backend);
    Ok(Edit { services: vec![edited], deadlines: Vec::new(), applied: vec![applied] })
}

impl Selector {
    fn edit(
        &self,
        services: &[ServiceState],
        for_removed: ForRemoved,
        edit: impl Fn(&mut DesiredService, &str),
    ) -> Result<Edit, ChangeError> {
        let is_meant =
            |state: &&ServiceState| self.service.as_ref().is_none_or(|service| *service == state.desired.spec.name);
        let meant: Vec<&ServiceState> = services.iter().filter(is_meant).collect();
        let mut result = Edit::default();
        for state in &meant {
            let mut desired = state.desired.clone();
            let before = result.applied.len();
            // Where ports are translated, several may have the same address.
            let spec = &state.desired.spec;
            for backend in spec.backends.iter().filter(|backend| self.matches(backend, spec.port)) {
                edit(&mut desired, &backend.name);
                let Endpoint { address, port } = spec.endpoint(backend);
                let (service, backend) = (spec.name.clone(), backend.name.clone());
                result.applied.push(Applied { service, backend, address, port });
            }
            if result.applied.len() > before {
                result.services.push(desired);
            }
        }
        let mut refused = None;
        // One that was removed is meant if nobody else is.
        let removed = meant.iter().filter(|_| result.services.is_empty());
        let removed = removed.flat_map(|state| state.removed.iter().map(|backend| (&state.desired.spec, backend)));
        for (spec, backend) in removed.filter(|(spec, backend)| self.matches_removed(backend, spec.port)) {
            let (service, name) = (spec.name.clone(), backend.shown_name());
            match for_removed {
                ForRemoved::Refused => {
                    refused = Some(ChangeError::Removed { service, backend: name });
                    continue;
                }
                ForRemoved::Same => {}
                ForRemoved::Deadline(until) => result.deadlines.push((backend.id, until)),
            }
            let Endpoint { address, port } = backend.endpoint;
            result.applied.push(Applied { service, backend: name, address, port });
        }
        match (&self.service, refused) {
            (Some(service), _) if meant.is_empty() => Err(ChangeError::NoService(service.clone())),
            (_, Some(refused)) if result.applied.is_empty() => Err(refused),
            (place, _) if result.applied.is_empty() => Err(ChangeError::NoBackend {
                backend: self.backend.clone(),
                place: place.as_ref().map_or("any service".to_owned(), |name| format!("service {name:?}")),
            }),
            _ => Ok(result),
        }
    }

    /// Whether it means a backend of a service with that port.
    fn matches(&self, backend: &config::Backend, service_port: u16) -> bool {
        let is_at = |endpoint: Endpoint| backend.is_at(endpoint, service_port);
        backend.name == self.backend || self.backend.parse().is_ok_and(is_at)
    }

    fn matches_removed(&self, backend: &Backend, service_port: u16) -> bool {
        self.matches(&backend.spec, service_port) || backend.shown_name() == self.backend
    }
}
