//! A master that dies, stops, or hands over, as clients see it.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::lab::{Kind, Speaker, require_root_and, vrrp::State};

use crate::support::{SOON, instance, is_long, lab, pair, probe, virtual_ip};

/// Long enough for the first answers after a change.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn the_next_node_answers_when_the_master_is_gone_with_everything_on_it() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("gone", 2)?;
    let [mut one, mut two] = pair(&lab, [Kind::Ours, Kind::Ours])?;
    let mut gaps = Vec::new();
    for _ in 0..if is_long() { 100 } else { 10 } {
        let probe = probe(&lab)?;
        lab.cut("lb")?;
        one.crash()?;
        two.wait_for_state("VI_1", State::Master, SOON)?;
        thread::sleep(A_WHILE);
        let report = probe.finish()?;
        ensure!(report.by_node.contains_key("lb2"), "{report:?}");
        gaps.push(report.longest_gap_ms);

        lab.mend("lb")?;
        one = lab.balancer("lb").start_speaker(Kind::Ours, &[instance(150)])?;
        one.wait_for_state("VI_1", State::Master, SOON)?;
        two.wait_for_state("VI_1", State::Backup, SOON)?;
    }
    gaps.sort_by(f64::total_cmp);
    println!("gaps, with a master-down interval of 361 ms: {gaps:.1?} ms");
    Ok(())
}

#[test]
fn a_clean_stop_leaves_no_gap_while_the_successor_waits_to_take_over() -> Result<()> {
    if !require_root_and(&[]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("stop", 2)?;
    let [one, mut two] = pair(&lab, [Kind::Ours, Kind::Ours])?;
    let probe = probe(&lab)?;
    thread::sleep(A_WHILE);
    let Speaker::Ours(mut one) = one else { unreachable!("it was started as ours") };
    one.watcher().kill(nix::sys::signal::Signal::SIGTERM)?;
    let status = one.watcher().wait(SOON)?;
    ensure!(status.success(), "{status}");
    two.wait_for_state("VI_1", State::Master, SOON)?;
    ensure!(!lab.balancer("lb").has_address(&virtual_ip().to_string())?, "it has left its address");
    thread::sleep(A_WHILE);
    let report = probe.finish()?;
    println!("{report:?}");
    ensure!(report.by_node.keys().eq(["lb", "lb2"]), "{report:?}");
    // One each millisecond: had the address been nowhere until the successor came, these would be 60.
    ensure!(report.lost < 30, "{report:?}");
    Ok(())
}
