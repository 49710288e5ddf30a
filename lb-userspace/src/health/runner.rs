//! The thin shell around [`Monitor`]: a task per check that waits, probes, and reports.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    failure::Failure,
    probe::probe,
    state::{Health, Monitor, Timing},
};
use crate::config::HealthCheck;

#[cfg(test)]
mod tests;

/// What is known of the backend `id` after a probe has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<K> {
    pub id: K,
    pub health: Health,
    /// Whether this probe changed `health`.
    pub transition: bool,
    /// Since when `health` is what it is.
    pub since: SystemTime,
    /// When the probe ended.
    pub checked_at: SystemTime,
    /// Why the probe failed; `None` if it succeeded.
    pub failure: Option<Failure>,
    /// Latency of the last probe that succeeded.
    pub latency: Option<Duration>,
    /// How many probes in a row have ended like this one: all in success, or all in failure.
    pub streak: u32,
}

/// A running check. Dropping it stops the check and the probe that may be running.
///
/// Reports that were sent before may still wait in the channel.
#[derive(Debug)]
#[must_use = "dropping the handle stops the check"]
pub struct CheckHandle(JoinHandle<()>);

impl Drop for CheckHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to check the backend `id` at `target`, whose port the check may override.
///
/// `initial` is [`Health::Up`] for a backend that is in use already, [`Health::Unknown`] for a new
/// one. Each probe that ends is reported to `reports`. When that is full, the check waits, so that
/// no transition is lost; when it is closed, the check ends.
pub fn spawn<K>(
    id: K,
    target: SocketAddr,
    check: HealthCheck,
    initial: Health,
    reports: mpsc::Sender<Report<K>>,
) -> CheckHandle
where
    K: Clone + Send + 'static,
{
    let target = SocketAddr::new(target.ip(), check.port.unwrap_or(target.port()));
    let monitor = Monitor::new(Timing::from(&check), initial, now(), fastrand::u32(..));
    CheckHandle(tokio::spawn(async move {
        let probe = || probe(target, &check.kind, check.timeout);
        run(id, monitor, probe, reports).await;
    }))
}

async fn run<K, P>(id: K, mut monitor: Monitor, mut probe: impl FnMut() -> P, reports: mpsc::Sender<Report<K>>)
where
    K: Clone,
    P: Future<Output = Result<Duration, Failure>>,
{
    while let Some(deadline) = monitor.next_deadline() {
        sleep_until(deadline.into()).await;
        if !monitor.poll(now(), fastrand::u32(..)) {
            continue;
        }
        let result = probe().await;
        let now = now();
        let transition = monitor.on_result(now, result).is_some();
        let report = report(id.clone(), &monitor, transition, now);
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

fn report<K>(id: K, monitor: &Monitor, transition: bool, now: std::time::Instant) -> Report<K> {
    let checked_at = SystemTime::now();
    Report {
        id,
        health: monitor.health(),
        transition,
        since: checked_at - now.duration_since(monitor.since()),
        checked_at,
        failure: monitor.last_result().and_then(|last| last.as_ref().err()).cloned(),
        latency: monitor.last_latency(),
        streak: monitor.streak(),
    }
}

impl From<&HealthCheck> for Timing {
    fn from(check: &HealthCheck) -> Self {
        Self { interval: check.interval, rise: check.rise, fall: check.fall, jitter_percent: check.jitter }
    }
}

/// The time by tokio's clock, which tests can pause.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}
