//! Whether the backends' shares of the requests are what their weights say.

use lb_tests::lab::{
    LoadReport, Node,
    config::{Service, weight},
};

/// How far chance may lead, in standard deviations: beyond five it is chance once in 1.7 million.
const SIGMAS: f64 = 5.0;

/// How far a backend's part of the slots may be from its weight: tables have at least 1024 slots, and a backend has the right
/// number of them to within one.
const SLOT: f64 = 1.0 / 1024.0;

/// What the weights say about a backend, as a part of one.
pub(super) fn expected(backends: usize, backend: usize) -> f64 {
    let total: u32 = (0..backends).map(weight).sum();
    f64::from(weight(backend)) / f64::from(total)
}

/// How much `count` of `requests` may differ from `share` of them. Each request is a new connection that falls on a slot by
/// its hash: the count is binomially distributed, with the standard deviation √(n·p·(1−p)).
fn tolerance(requests: f64, share: f64) -> f64 {
    SIGMAS * (requests * share * (1.0 - share)).sqrt() + requests * SLOT
}

/// A sentence about each backend whose share is not what its weight says; of those that a scheduler chooses by how busy they are, about
/// each that has none.
pub(super) fn judge(service: &Service, report: &LoadReport, backends: &[Node]) -> Vec<String> {
    let answered = to_f64(report.by_backend.values().sum());
    let Service { name: service, scheduler, .. } = service;
    let mut problems = Vec::new();
    for (number, backend) in backends.iter().enumerate() {
        let name = backend.name();
        let count = to_f64(report.by_backend.get(name).copied().unwrap_or(0));
        if let Some(scheduler) = scheduler {
            if count == 0.0 {
                problems.push(format!("{service}: {name} has answered no request, with {scheduler}"));
            }
            continue;
        }
        let share = expected(backends.len(), number);
        let (right, tolerance) = (answered * share, tolerance(answered, share));
        if (count - right).abs() > tolerance {
            problems.push(format!(
                "{service}: {name} has answered {count} requests, where its weight says {right:.0} ± {tolerance:.0}"
            ));
        }
    }
    problems
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 requests")]
pub(super) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_shares_follow_the_weights_and_add_up() {
        let shares: Vec<_> = (0..3).map(|backend| expected(3, backend)).collect();
        assert!((shares[0] - 0.5).abs() < 1e-12);
        assert!((shares[1] - 0.3).abs() < 1e-12);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_tolerance_is_five_standard_deviations_and_a_slot() {
        // √(10,000 · ½ · ½) = 50
        assert!((tolerance(10_000.0, 0.5) - (250.0 + 10_000.0 / 1024.0)).abs() < 1e-9);
    }

    #[test]
    fn a_single_backend_has_all_requests_but_for_a_slot() {
        assert!(tolerance(1000.0, 1.0) < 1.0);
    }
}
