//! The flow table grows and shrinks between changes.

use anyhow::Result;
use lb_tests::{
    churn::{Settings, Stage},
    lab::require_root,
};

use crate::support::{ensure_kept, trial};

/// How many changes there are between two sizes.
const CHANGES: usize = 10;

#[test]
fn no_connection_is_broken_by_changes_while_the_flow_table_is_resized() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let stage = Stage::start("churn-resize", Settings::default())?;
    let mut sizes = ["128K", "1M", "64K", "256K", "64K"].into_iter().cycle();
    let mut next = CHANGES;
    let outcome = trial()?.run(stage, |driver| {
        if driver.made() >= next {
            driver.stage_mut().resize(sizes.next().expect("it is a circle"))?;
            next = driver.made() + CHANGES;
        }
        Ok(())
    })?;
    ensure_kept(&outcome)
}
