//! Random changes, and nothing else.

use anyhow::Result;
use lb_tests::{
    churn::{Settings, Stage},
    lab::require_root,
};

use crate::support::{ensure_kept, trial};

#[test]
fn no_connection_is_broken_by_changes() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let stage = Stage::start("churn", Settings::default())?;
    ensure_kept(&trial()?.run(stage, |_| Ok(()))?)
}
