//! What a health check has to do where nothing else says how fast backends are.

use std::time::Duration;

use super::{
    Config,
    health::{CheckKind, HealthCheck},
    service::{Algorithm, Service},
    text::duration_text,
};

/// The longest time between two checks by which a backend that becomes slow loses new flows within two seconds: the rest is for the check
/// that finds it so.
const LONGEST: Duration = Duration::from_millis(1700);

/// Services that would be late to know that a backend is slow, or would not know it at all.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let is_blind =
        |service: &&Service| service.algorithm == Algorithm::LeastResponseTime && !service.forwarding.translates();
    let services = config.services.iter().filter(is_blind);
    let checked = services.filter_map(|service| Some((service, service.health.as_ref()?)));
    checked.flat_map(|(service, check)| problems(check).map(move |problem| warning(service, &problem))).collect()
}

fn warning(Service { name, algorithm, forwarding, .. }: &Service, problem: &str) -> String {
    format!(
        "service {name:?}: with algorithm = \"{algorithm}\" and forwarding = \"{forwarding}\" only the health check says how fast a \
         backend is, {problem}"
    )
}

fn problems(check: &HealthCheck) -> impl Iterator<Item = String> {
    let longest = check.interval * (100 + u32::from(check.jitter)) / 100;
    let is_late = (longest > LONGEST).then(|| {
        format!(
            "and it comes up to {} after the one before: to see a slow backend within two seconds, write interval = \"1s\"",
            duration_text(longest)
        )
    });
    let asks_kernel = (check.kind == CheckKind::Tcp).then(|| {
        "and type = \"tcp\" asks its kernel only, which takes connections however slow the application is: write type = \"http\", if it \
         speaks that"
            .to_owned()
    });
    is_late.into_iter().chain(asks_kernel)
}
