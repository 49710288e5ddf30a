//! Networks that lose, split, delay and repeat; and advertisements of strangers.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::lab::{Injection, InstanceStatus, Kind, Lab, require_root_and, vrrp::State, wait_for};

use crate::{
    frames::{Forged, frame},
    holders::Holders,
    support::{SOON, instance, is_long, lab, pair, virtual_ip},
};

fn status(lab: &Lab, node: &str) -> Result<InstanceStatus> {
    lab.balancer(node).vrrp_instance("VI_1")
}

fn discarded(lab: &Lab, node: &str, reason: &str) -> Result<u64> {
    Ok(status(lab, node)?.counters.discarded.get(reason).copied().unwrap_or(0))
}

#[test]
fn of_two_nodes_that_were_split_one_is_master_when_they_hear_each_other_again() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("split", 2)?;
    let [_one, mut two] = pair(&lab, [Kind::Ours, Kind::Ours])?;
    let mut healing = Vec::new();
    for _ in 0..if is_long() { 50 } else { 5 } {
        lab.split("lb", "lb2")?;
        two.wait_for_state("VI_1", State::Master, SOON)?;
        ensure!(status(&lab, "lb")?.state == "master", "it hears nobody better");
        let mended = Instant::now();
        lab.mend("lb2")?;
        two.wait_for_state("VI_1", State::Backup, SOON)?;
        healing.push(mended.elapsed());
        ensure!(status(&lab, "lb")?.state == "master", "it has the higher priority");
        wait_for("the address to be on one node", SOON, || {
            let address = virtual_ip().to_string();
            let there = [lab.balancer("lb").has_address(&address)?, lab.balancer("lb2").has_address(&address)?];
            Ok((there == [true, false]).then_some(()))
        })?;
    }
    healing.sort_unstable();
    println!("from the healing to one master (lbctl's own time included), interval 100 ms: {healing:.1?}");
    Ok(())
}

#[test]
fn a_backup_that_hears_nobody_is_master_and_gives_way_when_it_hears_again() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("one-way", 2)?;
    let [_one, mut two] = pair(&lab, [Kind::Ours, Kind::Ours])?;
    lab.drop_adverts("lb", "lb2")?;
    two.wait_for_state("VI_1", State::Master, SOON)?;
    ensure!(status(&lab, "lb")?.state == "master", "it hears of a lower priority only");
    lab.mend("lb2")?;
    two.wait_for_state("VI_1", State::Backup, SOON)?;
    // The other direction: the master is not heard by nobody, and hears nobody.
    lab.drop_adverts("lb2", "lb")?;
    thread::sleep(Duration::from_secs(1));
    ensure!(status(&lab, "lb")?.state == "master" && status(&lab, "lb2")?.state == "backup");
    lab.mend("lb")
}

/// What a stranger can do that has a foot on the link and knows all but the secrets.
fn forged(priority: u8) -> Forged {
    Forged {
        source: [10, 77, 0, 1].into(),
        ttl: 255,
        router_id: 51,
        priority,
        interval: 10,
        address: virtual_ip(),
        trailer: Vec::new(),
        error: 0,
    }
}

#[test]
fn what_is_not_a_right_advertisement_is_counted_by_reason_and_changes_nothing() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("hostile", 2)?;
    let _pair = pair(&lab, [Kind::Ours, Kind::Ours])?;
    let before = [status(&lab, "lb")?, status(&lab, "lb2")?];
    let source = [10, 77, 0, 1].into();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("ttl", Forged { ttl: 254, ..forged(254) }.frame()),
        ("checksum", Forged { error: 1, ..forged(254) }.frame()),
        ("length", Forged { trailer: vec![0; 40], ..forged(254) }.frame()),
        ("length", frame(source, 255, &[0x31, 51, 254, 9, 0, 10, 0, 0])),
        ("kind", frame(source, 255, &[0x41, 51, 254, 1, 0, 10, 0, 0, 10, 77, 0, 100])),
        ("kind", frame(source, 255, &[0x32, 51, 254, 1, 0, 10, 0, 0, 10, 77, 0, 100])),
    ];
    for (reason, hostile) in cases {
        let count = discarded(&lab, "lb2", reason)?;
        lab.inject("client", &Injection::once(hostile.clone()))?;
        wait_for(&format!("one more packet discarded for {reason}: {hostile:x?}"), SOON, || {
            Ok((discarded(&lab, "lb2", reason)? == count + 1).then_some(()))
        })?;
    }
    let stray = Forged { router_id: 52, ..forged(254) }.frame();
    lab.inject("client", &Injection::once(stray))?;
    wait_for("a stray packet", SOON, || {
        let strays = lab.balancer("lb2").vrrp_status()?.strays;
        Ok((strays.get("unknown-router-id") == Some(&1)).then_some(()))
    })?;
    for (node, before) in ["lb", "lb2"].into_iter().zip(before) {
        let after = status(&lab, node)?;
        ensure!(after.history.len() == before.history.len(), "{before:?} has become {after:?}");
    }
    let problems = lab.balancer("lb2").vrrp_status()?.problems;
    ensure!(problems.iter().any(|problem| problem.contains("discarded")), "{problems:?}");
    Ok(())
}

#[test]
fn a_stranger_of_the_highest_priority_is_master_for_as_long_as_it_says_so_without_authentication() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("stranger", 2)?;
    let [mut one, _two] = pair(&lab, [Kind::Ours, Kind::Ours])?;
    let injection =
        Injection { rounds: 20, spacing: Duration::from_millis(100), ..Injection::once(forged(255).frame()) };
    let mut stranger = lab.start_injection("client", &injection)?;
    one.wait_for_state("VI_1", State::Backup, SOON)?;
    stranger.wait(SOON)?;
    one.wait_for_state("VI_1", State::Master, SOON)
}

/// Both nodes with sealed advertisements.
fn sealed_pair(lab: &Lab) -> Result<[lb_tests::lab::LbdVrrp<'_>; 2]> {
    let start = |node: &str, priority, state: &str| {
        let balancer = lab.balancer(node);
        let seal = format!("\n  [vrrp.authentication]\n  type = \"hmac-sha256\"\n  key = \"{}\"\n", "5a".repeat(32));
        let config = lb_tests::lab::config::node_config(balancer);
        balancer.write_config(&format!("{config}\n{}{seal}", instance(priority).to_toml()))?;
        let speaker = balancer.start_vrrp()?;
        balancer.wait_for_vrrp("VI_1", state, SOON)?;
        anyhow::Ok(speaker)
    };
    Ok([start("lb", 150, "master")?, start("lb2", 100, "backup")?])
}

#[test]
fn with_seals_neither_a_forged_nor_a_repeated_advertisement_is_taken() -> Result<()> {
    if !require_root_and(&["nft", "tcpdump"]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("sealed", 2)?;
    let [one, _two] = sealed_pair(&lab)?;
    let capture = lab.start_capture("client", "ip proto 112")?;
    wait_for("three advertisements", SOON, || Ok((capture.frames()?.len() >= 3).then_some(())))?;
    let genuine = capture.finish()?;
    let before = status(&lab, "lb")?.history.len();

    let forged = Forged { trailer: vec![7; 40], ..forged(255) }.frame();
    lab.inject("client", &Injection { rounds: 10, ..Injection::once(forged) })?;
    wait_for("forged ones to be counted", SOON, || Ok((discarded(&lab, "lb", "seal")? == 10).then_some(())))?;
    ensure!(status(&lab, "lb")?.history.len() == before, "a forged one was believed");

    // The master dies, and somebody repeats its advertisements, so that nobody takes over.
    let frames: Vec<_> = genuine.into_iter().map(|captured| captured.frame).collect();
    let repeated = Injection { frames, rounds: 100, spacing: Duration::from_millis(20) };
    let mut repeater = lab.start_injection("client", &repeated)?;
    wait_for("repeated ones to be counted", SOON, || Ok((discarded(&lab, "lb2", "replayed")? > 0).then_some(())))?;
    one.crash()?;
    lab.balancer("lb2").wait_for_vrrp("VI_1", "master", SOON)?;
    ensure!(repeater.ensure_running().is_ok(), "nobody was repeating any more");
    repeater.wait(SOON)?;
    Ok(())
}

#[test]
fn advertisements_that_come_twice_late_and_in_disorder_make_no_second_master() -> Result<()> {
    if !require_root_and(&["nft", "tcpdump"]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("disorder", 2)?;
    let _pair = pair(&lab, [Kind::Ours, Kind::Ours])?;
    let capture = lab.start_capture("client", "ip proto 112")?;
    wait_for("five advertisements", SOON, || Ok((capture.frames()?.len() >= 5).then_some(())))?;
    let mut frames: Vec<_> = capture.finish()?.into_iter().map(|captured| captured.frame).collect();
    frames.reverse();
    let before = [status(&lab, "lb")?, status(&lab, "lb2")?];
    let count = status(&lab, "lb2")?.counters.received;
    let holders = Holders::watch(&lab, virtual_ip());
    lab.inject("client", &Injection { frames, rounds: 20, spacing: Duration::from_millis(15) })?;
    let spans = holders.finish()?;
    ensure!(spans.longest_overlap.is_zero() && spans.longest_absence.is_zero(), "{spans:?}");
    for (node, before) in ["lb", "lb2"].into_iter().zip(before) {
        ensure!(status(&lab, node)?.history.len() == before.history.len(), "{node} has changed its state");
    }
    let received = status(&lab, "lb2")?.counters.received - count;
    ensure!(received >= 100, "only {received} advertisements have come, the repeated ones among them");
    Ok(())
}

#[test]
fn a_password_that_differs_is_counted_and_the_nodes_do_not_hear_each_other() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let (lab, _echoes) = lab("password", 2)?;
    let instance = |password: &str, priority| lb_tests::lab::vrrp::Instance {
        version: lb_tests::lab::vrrp::Version::V2,
        interval: Duration::from_secs(1),
        password: Some(password.to_owned()),
        ..instance(priority)
    };
    let mut one = lab.balancer("lb").start_speaker(Kind::Ours, &[instance("secret", 150)])?;
    one.wait_for_state("VI_1", State::Master, SOON)?;
    let mut two = lab.balancer("lb2").start_speaker(Kind::Ours, &[instance("Secret", 100)])?;
    two.wait_for_state("VI_1", State::Master, SOON)?;
    ensure!(discarded(&lab, "lb2", "password")? > 0);
    ensure!(status(&lab, "lb")?.state == "master");
    Ok(())
}
