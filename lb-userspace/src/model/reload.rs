//! What a reload takes away, for the operator who may not have meant it.

use super::{
    core::Core,
    service::{Admin, DesiredService},
};
use crate::config::{self, Tracking};

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
    if !after.is_changed() && before.is_changed() {
        lost.push(format!(
            "service {name:?} was edited in the configuration file, so the changes made with lbctl are dropped: {}",
            before.live_changes().join(", ")
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
    /// What was changed with `lbctl`, in words.
    fn live_changes(&self) -> Vec<String> {
        let (spec, declared) = (&self.spec.backends, &self.declared.backends);
        let endpoint = |backend: &config::Backend| self.spec.endpoint(backend);
        let mut changes = Vec::new();
        for backend in spec {
            match declared.iter().find(|other| endpoint(other) == endpoint(backend)) {
                None => changes.push(format!("{} was added", backend.name)),
                Some(other) if other.weight != backend.weight => {
                    changes.push(format!("{} had weight {}", backend.name, backend.weight));
                }
                Some(_) => {}
            }
        }
        let is_gone = |gone: &config::Backend| spec.iter().all(|backend| endpoint(backend) != endpoint(gone));
        let gone = declared.iter().filter(|backend| is_gone(backend));
        changes.extend(gone.map(|backend| format!("{} was removed", backend.name)));
        changes.extend(self.admin.iter().filter_map(|(name, admin)| match admin {
            Admin::Enabled => None,
            Admin::Draining => Some(format!("{name} drained")),
            Admin::Disabled => Some(format!("{name} was disabled")),
        }));
        changes
    }
}
