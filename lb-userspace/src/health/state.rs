//! The state of one backend's health check: pure, without clock, sockets or randomness of its own.
//!
//! ```text
//!                     ┌─────────┐
//!       first success │ Unknown │ first failure
//!         ┌───────────┤         ├───────────┐
//!         ▼           └─────────┘           ▼
//!     ┌──────┐  `fall` failures in a row  ┌──────┐
//!     │      ├───────────────────────────>│      │
//!     │  Up  │                            │ Down │
//!     │      │<───────────────────────────┤      │
//!     └──────┘  `rise` successes in a row └──────┘
//! ```
//!
//! A daemon that restarts starts the checks of the backends in use as [`Health::Up`]: they serve on
//! until `fall` probes in a row say otherwise.

use std::time::{Duration, Instant};

use super::failure::Failure;

#[cfg(test)]
mod tests;

/// The first probe is due within this time, so that a new service is usable soon.
const FIRST_PROBE_WITHIN: Duration = Duration::from_millis(100);

/// How often to probe, and how many results in a row it takes to change a verdict.
///
/// How long a probe may take is not the monitor's concern: one that times out fails like any other.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u16,
    /// Failures in a row that bring a backend down.
    pub fall: u16,
    /// Each interval is made longer or shorter by up to this part of it, so that checks do not
    /// march in step.
    pub jitter_percent: u8,
}

/// What the probes so far say of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Never probed: the first result decides.
    Unknown,
    Up,
    Down,
}

/// A change of health: `from` and `to` differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub from: Health,
    pub to: Health,
}

/// Says when to probe one backend, and what the results mean.
#[derive(Debug)]
pub struct Monitor {
    timing: Timing,
    health: Health,
    since: Instant,
    phase: Phase,
    last_result: Option<Result<Duration, Failure>>,
    last_latency: Option<Duration>,
    streak: u32,
}

/// There is no phase with two probes.
#[derive(Debug)]
enum Phase {
    Waiting { until: Instant },
    Probing { next: Instant },
}

impl Monitor {
    /// A monitor that wants its first probe within 100 ms, or the interval if that is shorter.
    ///
    /// `random` is any number, uniformly chosen; it says when within that time.
    pub fn new(timing: Timing, initial: Health, now: Instant, random: u32) -> Self {
        let spread = timing.interval.min(FIRST_PROBE_WITHIN);
        Self {
            timing,
            health: initial,
            since: now,
            phase: Phase::Waiting { until: now + spread.mul_f64(fraction(random)) },
            last_result: None,
            last_latency: None,
            streak: 0,
        }
    }

    /// When the next probe is due; `None` while one is running.
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Probing { .. } => None,
        }
    }

    /// Whether the caller is to start a probe now, and hand its result to
    /// [`on_result`](Self::on_result).
    ///
    /// `random` is any number, uniformly chosen; it sets the jitter of the interval that begins.
    pub fn poll(&mut self, now: Instant, random: u32) -> bool {
        match self.phase {
            Phase::Waiting { until } if until <= now => {
                let next = now + self.timing.jittered_interval(random);
                self.phase = Phase::Probing { next };
                true
            }
            _ => false,
        }
    }

    /// Takes the result of the running probe: its latency, or why it failed. Without a running
    /// probe, nothing happens.
    pub fn on_result(&mut self, now: Instant, result: Result<Duration, Failure>) -> Option<Transition> {
        let Phase::Probing { next } = self.phase else {
            return None;
        };
        self.phase = Phase::Waiting { until: next.max(now) };

        let succeeded = result.is_ok();
        let repeated = self.last_result.as_ref().is_some_and(|last| last.is_ok() == succeeded);
        self.streak = if repeated { self.streak.saturating_add(1) } else { 1 };
        self.last_latency = result.as_ref().ok().copied().or(self.last_latency);
        self.last_result = Some(result);

        let to = self.verdict(succeeded);
        let from = std::mem::replace(&mut self.health, to);
        (from != to).then(|| {
            self.since = now;
            Transition { from, to }
        })
    }

    /// The health that follows from a probe that just `succeeded` or failed.
    fn verdict(&self, succeeded: bool) -> Health {
        match (self.health, succeeded) {
            (Health::Unknown, true) => Health::Up,
            (Health::Unknown, false) => Health::Down,
            (Health::Down, true) if self.streak >= self.timing.rise.into() => Health::Up,
            (Health::Up, false) if self.streak >= self.timing.fall.into() => Health::Down,
            (unchanged, _) => unchanged,
        }
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// When the present health began.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Latency of the last probe, or why it failed; `None` before the first.
    pub fn last_result(&self) -> Option<&Result<Duration, Failure>> {
        self.last_result.as_ref()
    }

    /// Latency of the last probe that succeeded.
    pub fn last_latency(&self) -> Option<Duration> {
        self.last_latency
    }

    /// How many probes in a row have ended like the last one: all in success, or all in failure.
    pub fn streak(&self) -> u32 {
        self.streak
    }
}

impl Timing {
    fn jittered_interval(&self, random: u32) -> Duration {
        let jitter = f64::from(self.jitter_percent.min(100)) / 100.0;
        self.interval.mul_f64(1.0 - jitter + 2.0 * jitter * fraction(random))
    }
}

/// Maps all of `u32` evenly onto 0 to 1.
fn fraction(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}
