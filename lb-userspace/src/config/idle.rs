//! What is left out, so that nothing is balanced.

use super::{Config, service::Service};

/// A file without interfaces or services, and services that nobody serves.
pub(super) fn warnings(Config { interfaces, services, vrrp, .. }: &Config) -> Vec<String> {
    let mut warnings: Vec<String> = services.iter().filter_map(unserved).collect();
    if services.is_empty() && vrrp.is_empty() {
        warnings.push("there is no [[service]] and no [[vrrp]]: there is nothing to do".to_owned());
    }
    if interfaces.is_empty() && !services.is_empty() {
        warnings.push("there is no [[interface]]: no packet comes to the services".to_owned());
    }
    warnings
}

fn unserved(Service { name, backends, .. }: &Service) -> Option<String> {
    if backends.is_empty() {
        return Some(format!("service {name:?} has no backend: what comes to it is dropped"));
    }
    let is_out = backends.iter().all(|backend| backend.weight == 0);
    is_out.then(|| format!("service {name:?}: all backends have weight 0, and get no new flows"))
}
