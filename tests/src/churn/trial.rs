//! Connections that are held while backends change.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    changes::Changes,
    driver::Driver,
    judge::Judgement,
    stage::{SOON, Stage},
};
use crate::lab::{Hold, HoldCounts, now_ms};

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// How many connections are held.
    pub connections: u32,
    /// How many changes are made.
    pub changes: usize,
    /// Whether some of them end the connections of a backend.
    pub deaths: bool,
    /// What the changes follow from.
    pub seed: u64,
    /// How long the connections are held after the last change; at least until each has been used again.
    pub rest: Duration,
}

/// While nothing changes `meanwhile` is called so often.
const PAUSE: Duration = Duration::from_millis(250);

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub judgement: Judgement,
    pub counts: HoldCounts,
    /// How many changes were made.
    pub changes: usize,
    /// When the first one was: milliseconds since 1970.
    pub started_ms: u64,
}

/// The seed in the environment variable `LB_SEED`, or a random one. It is printed: the changes of a test that fails can be made
/// again.
pub fn seed() -> Result<u64> {
    let seed = match env::var("LB_SEED") {
        Ok(seed) => seed.parse().with_context(|| format!("LB_SEED={seed}"))?,
        Err(_) => fastrand::u64(..),
    };
    eprintln!("LB_SEED={seed}");
    Ok(seed)
}

impl Trial {
    /// Opens the connections, and makes the changes; before each step, and again and again after the last one, `meanwhile` is
    /// called.
    pub fn run(&self, stage: Stage, mut meanwhile: impl FnMut(&mut Driver) -> Result<()>) -> Result<(Outcome, Stage)> {
        let Self { connections, changes, deaths, seed, rest } = *self;
        let hold = Hold {
            // Some packet comes within each idle timeout, even if the machine is busy.
            idle: stage.settings().idle_timeout.mul_f64(0.8),
            ..Hold::new(stage.target().into(), connections)
        };
        let opening = Duration::from_secs((connections / hold.open_rate).into());
        let running = stage.lab().start_hold(&hold)?;
        running.wait_until_open(connections, opening + SOON)?;

        let (backends, present) = (stage.settings().backends, stage.settings().present);
        let mut driver = Driver::new(stage);
        let started_ms = now_ms();
        for step in Changes::new(seed, backends, present, deaths) {
            meanwhile(&mut driver)?;
            driver.make(&step)?;
            if driver.made() >= changes {
                break;
            }
        }
        let notice = hold.idle + Hold::TIMEOUT + Duration::from_secs(1);
        let end = Instant::now() + notice.max(rest);
        while Instant::now() < end {
            meanwhile(&mut driver)?;
            thread::sleep(PAUSE);
        }
        running.wait_until_open(connections, opening + SOON).context("after all changes")?;
        let report = running.finish()?;
        ensure!(report.counts.short_lived > 0, "no short-lived connection was served: {:?}", report.counts);
        let judgement = Judgement::new(report.broken, driver.deaths(), notice);
        eprintln!("{:?}", report.counts);
        eprintln!("broken: {}, and {} on backends that died", judgement.broken.len(), judgement.forgiven);
        let outcome = Outcome { judgement, counts: report.counts, changes: driver.made(), started_ms };
        Ok((outcome, driver.into_stage()))
    }
}

impl Outcome {
    /// Fails if a connection was broken that was not on a backend that died.
    pub fn ensure_none_broken(&self) -> Result<()> {
        ensure!(self.judgement.broken.is_empty(), "{}", self.judgement.describe());
        Ok(())
    }
}
