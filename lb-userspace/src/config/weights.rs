//! Weights that mean nothing.

use super::{Config, service::Algorithm};

/// Services whose backends have weights, and whose algorithm does not ask for them.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let turns = config.services.iter().filter(|service| service.algorithm == Algorithm::RoundRobin);
    turns
        .filter(|service| service.backends.iter().any(|backend| backend.weight > 1))
        .map(|service| {
            format!(
                "service {:?}: with algorithm = \"round-robin\" a weight means nothing, but for 0: write \"weighted-round-robin\", or no \
                 weights",
                service.name
            )
        })
        .collect()
}
