//! What the tests of several files need.

use std::{env, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::churn::{Outcome, Stage, Trial, seed};

/// What takes milliseconds on an idle machine may take this long on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Whether tests are to try more than in the fast tier.
pub(crate) fn is_long() -> bool {
    env::var_os("LB_LONG").is_some_and(|long| long == "1")
}

/// 500 connections and 100 changes; in the long tier 10,000 and 1,000.
pub(crate) fn trial() -> Result<Trial> {
    let (connections, changes) = if is_long() { (10_000, 1000) } else { (500, 100) };
    Ok(Trial { connections, changes, deaths: true, seed: seed()?, rest: Duration::ZERO })
}

/// Fails unless all connections have lived, and it was the flow table that kept some of them.
pub(crate) fn ensure_kept((outcome, stage): &(Outcome, Stage)) -> Result<()> {
    outcome.ensure_none_broken()?;
    let tracking = stage.tracking()?;
    println!("{tracking:?}");
    ensure!(tracking.hits > 0, "the flow table has kept nothing: {tracking:?}");
    Ok(())
}
