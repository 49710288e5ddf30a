//! Packets of unknown flows, ten times as many as the flow table has room for.

use anyhow::{Result, ensure};
use lb_tests::{
    churn::{Settings, Stage},
    lab::{Flood, FloodPacket, RunningFlood, require_root},
};

use crate::support::{ensure_kept, trial};

/// Ten times a flow table of 64K.
const PACKETS: u32 = 10 << 16;

/// So that one flood lasts as long as the changes of the fast tier, and all of it arrives.
const RATE: u32 = 30_000;

#[test]
fn no_connection_is_broken_by_changes_under_a_syn_flood() -> Result<()> {
    no_connection_is_broken_under(FloodPacket::Syn)
}

#[test]
fn no_connection_is_broken_by_changes_under_an_ack_flood() -> Result<()> {
    no_connection_is_broken_under(FloodPacket::Ack)
}

fn no_connection_is_broken_under(packet: FloodPacket) -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let stage = Stage::start(&format!("churn-{}", packet.name()), Settings::default())?;
    let trial = trial()?;
    let mut flood = Flood { target: stage.target(), packet, count: PACKETS, rate: RATE, seed: trial.seed };
    let mut running: Option<RunningFlood> = None;
    let mut floods: u64 = 0;
    let before = stage.lab().stats()?.received;
    let outcome = trial.run(stage, |driver| {
        if let Some(flood) = running.take_if(RunningFlood::is_finished) {
            println!("{} packets a second", flood.wait()?);
            floods += 1;
        }
        if running.is_none() {
            flood.seed += 1;
            running = Some(driver.stage().lab().start_flood(&flood)?);
        }
        Ok(())
    })?;
    ensure!(floods > 0, "the flood has not ended");
    // The switch may lose some, but not most.
    let received = outcome.1.lab().stats()?.received - before;
    ensure!(received > floods * u64::from(PACKETS) / 2, "of {floods} floods only {received} packets have arrived");
    ensure_kept(&outcome)
}
