//! What a reload changes, for the log; and what it takes away, for the operator who may not have meant it.

use serde::Serialize;

use super::{
    core::Core,
    service::{Admin, DesiredService},
};
use crate::config::{self, Endpoint, Tracking};

impl Core {
    /// What is lost when `desired` become the services: connections, and live changes. In sentences.
    pub fn lost_by(&self, desired: &[DesiredService]) -> Vec<String> {
        let services = self.services.iter().map(|state| &state.desired);
        services.flat_map(|service| lost(service, desired.iter().find(|other| other.key() == service.key()))).collect()
    }

    /// What becomes other than it is when `desired` become the services, in sentences.
    pub fn changed_by(&self, desired: &[DesiredService]) -> Vec<String> {
        let before = |service: &DesiredService| {
            self.services.iter().map(|state| &state.desired).find(|other| other.key() == service.key())
        };
        let mut changes: Vec<String> = desired.iter().flat_map(|service| changed(before(service), service)).collect();
        let is_gone = |service: &&DesiredService| !desired.iter().any(|other| other.key() == service.key());
        let gone = self.services.iter().map(|state| &state.desired).filter(is_gone);
        changes.extend(gone.map(|service| format!("service {:?}: removed", service.spec.name)));
        changes
    }
}

fn changed(before: Option<&DesiredService>, after: &DesiredService) -> Vec<String> {
    let service = |what: String| format!("service {:?}: {what}", after.spec.name);
    let Some(before) = before else {
        return vec![service(format!("added, with {} backends", after.spec.backends.len()))];
    };
    let backend = |backend: &config::Backend, what: &str| {
        service(format!("backend {:?} at {}: {what}", backend.name, after.spec.endpoint(backend)))
    };
    let same = |of: &DesiredService, wanted: &config::Backend| {
        let endpoint = after.spec.endpoint(wanted);
        of.spec.backends.iter().find(|backend| of.spec.endpoint(backend) == endpoint).cloned()
    };
    let mut changes = Vec::new();
    let keys = changed_keys(&before.spec, &after.spec);
    if !keys.is_empty() {
        changes.push(service(format!("other {}", keys.join(", "))));
    }
    for new in &after.spec.backends {
        match same(before, new) {
            None => changes.push(backend(new, &format!("added, with weight {}", new.weight))),
            Some(old) => {
                let keys = changed_keys(&old, new);
                if !keys.is_empty() {
                    changes.push(backend(new, &format!("other {}", keys.join(", "))));
                }
                let [was, is] =
                    [(before, &old), (after, new)].map(|(service, backend)| service.admin_of(&backend.name));
                if was != is {
                    changes.push(backend(new, state_of(is)));
                }
            }
        }
    }
    let gone = before.spec.backends.iter().filter(|old| same(after, old).is_none());
    changes.extend(gone.map(|old| backend(old, "removed")));
    changes
}

const fn state_of(admin: Admin) -> &'static str {
    match admin {
        Admin::Enabled => "enabled",
        Admin::Draining => "drains",
        Admin::Disabled => "disabled",
    }
}

/// The keys of a section that have another value, but for its backends.
fn changed_keys(before: &impl Serialize, after: &impl Serialize) -> Vec<String> {
    let [before, after] = [fields(before), fields(after)];
    let names = after.keys().filter(|key| *key != "backends" && before.get(*key) != after.get(*key));
    names.cloned().collect()
}

fn fields(section: &impl Serialize) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(section) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    }
}

fn lost(before: &DesiredService, after: Option<&DesiredService>) -> Vec<String> {
    let name = &before.spec.name;
    let Some(after) = after else {
        return vec![format!(
            "service {name:?} is no more, or has another address, port or protocol: its connections are cut"
        )];
    };
    let mut lost = Vec::new();
    let changes = before.changes_dropped_by(after);
    if !changes.is_empty() {
        lost.push(format!(
            "service {name:?} was edited in the configuration file, so the changes made with lbctl are dropped: {}",
            changes.join(", ")
        ));
    }
    let [before_translates, after_translates] = [before, after].map(|service| service.spec.forwarding.translates());
    if before_translates != after_translates || after_translates && before.spec.forwarding != after.spec.forwarding {
        lost.push(format!(
            "service {name:?} has forwarding = \"{}\" instead of \"{}\" from now on: its connections are cut",
            after.spec.forwarding, before.spec.forwarding
        ));
    }
    if after.spec.tracking == Tracking::Never && before.spec.tracking != Tracking::Never {
        lost.push(format!(
            "service {name:?} has tracking = \"never\" from now on: connections are cut that are not with the owner of their slot"
        ));
    }
    lost
}

impl DesiredService {
    /// What was changed with `lbctl`, and is not so in `after`, in words.
    fn changes_dropped_by(&self, after: &Self) -> Vec<String> {
        let endpoint = |backend: &config::Backend| self.spec.endpoint(backend);
        let at = |service: &config::Service, wanted: Endpoint| {
            service.backends.iter().find(|backend| endpoint(backend) == wanted).cloned()
        };
        let mut changes = Vec::new();
        for backend in &self.spec.backends {
            let [declared, after] = [&self.declared, &after.spec].map(|service| at(service, endpoint(backend)));
            if declared.as_ref() == Some(backend) || after.as_ref() == Some(backend) {
                continue;
            }
            changes.push(match declared {
                None => format!("{} was added", backend.name),
                Some(declared) if declared.weight != backend.weight => {
                    format!("{} had weight {}", backend.name, backend.weight)
                }
                Some(declared) => format!("{} was added in place of {}", backend.name, declared.name),
            });
        }
        let is_back = |backend: &&config::Backend| {
            at(&self.spec, endpoint(backend)).is_none() && at(&after.spec, endpoint(backend)).is_some()
        };
        changes.extend(
            self.declared.backends.iter().filter(is_back).map(|backend| format!("{} was removed", backend.name)),
        );
        let admin = self.admin.iter().filter(|(name, admin)| after.admin_of(name) != **admin);
        changes.extend(admin.filter_map(|(name, admin)| match admin {
            Admin::Enabled => None,
            Admin::Draining => Some(format!("{name} drained")),
            Admin::Disabled => Some(format!("{name} was disabled")),
        }));
        changes
    }
}
