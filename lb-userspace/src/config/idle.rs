//! What is left out, so that nothing is balanced.

use super::{Config, service::Service};

/// A file without interfaces or services, and services that nobody serves.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let no_service = config.services.is_empty() && config.vrrp.is_empty();
    let missing = [
        (config.interfaces.is_empty() && !config.services.is_empty(), "[[interface]]: no packet comes to the services"),
        (no_service, "[[service]] and no [[vrrp]]: there is nothing to do"),
    ];
    let missing =
        missing.into_iter().filter(|(is_missing, _)| *is_missing).map(|(_, what)| format!("there is no {what}"));
    missing.chain(config.services.iter().filter_map(unserved)).collect()
}

fn unserved(Service { name, backends, .. }: &Service) -> Option<String> {
    if backends.is_empty() {
        return Some(format!("service {name:?} has no backend: what comes to it is dropped"));
    }
    let is_out = backends.iter().all(|backend| backend.weight == 0);
    is_out.then(|| format!("service {name:?}: all backends have weight 0, and get no new flows"))
}
