//! `lbd` ends and starts again between changes.

use anyhow::Result;
use lb_tests::{
    churn::{Settings, Stage},
    lab::require_root,
};
use nix::sys::signal::Signal;

use crate::support::{ensure_kept, trial};

/// How many changes there are between two restarts.
const CHANGES: usize = 10;

#[test]
fn no_connection_is_broken_by_changes_while_lbd_is_killed_again_and_again() -> Result<()> {
    no_connection_is_broken_by_restarts(Signal::SIGKILL)
}

/// As in an upgrade.
#[test]
fn no_connection_is_broken_by_changes_while_lbd_is_stopped_and_started_again_and_again() -> Result<()> {
    no_connection_is_broken_by_restarts(Signal::SIGTERM)
}

fn no_connection_is_broken_by_restarts(signal: Signal) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let stage = Stage::start("churn-restart", Settings::default())?;
    let mut next = CHANGES;
    let outcome = trial()?.run(stage, |driver| {
        if driver.made() >= next {
            driver.stage_mut().restart_lbd(signal)?;
            next = driver.made() + CHANGES;
        }
        Ok(())
    })?;
    ensure_kept(&outcome)
}
