//! What a reload takes away, for the operator who may not have meant it.

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
