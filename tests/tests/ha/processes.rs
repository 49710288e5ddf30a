//! Processes that are killed or hang: the daemon, the speaker, its watcher, and several at once.
//!
//! The interval is a second here, so that what has to happen within one can be told from what does not on a busy machine.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{Balancer, Kind, Lab, LbdVrrp, Limit, Load, Speaker, require_root, vrrp::State, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    holders::Holders,
    support::{Balanced, SOON, instance, lab, virtual_ip},
};

const INTERVAL: Duration = Duration::from_secs(1);

/// Two nodes with our speakers, the first one master, at an interval of a second.
fn slow_pair(lab: &Lab) -> Result<[LbdVrrp<'_>; 2]> {
    let start = |node: &str, priority, state| -> Result<LbdVrrp<'_>> {
        let instance = lb_tests::lab::vrrp::Instance { interval: INTERVAL, ..instance(priority) };
        let mut speaker = lab.balancer(node).start_speaker(Kind::Ours, &[instance])?;
        speaker.wait_for_state("VI_1", state, SOON)?;
        let Speaker::Ours(speaker) = speaker else { unreachable!("it was started as ours") };
        Ok(speaker)
    };
    Ok([start("lb", 150, State::Master)?, start("lb2", 100, State::Backup)?])
}

fn became_master(balancer: Balancer<'_>) -> Result<u64> {
    became_master_of(balancer, "VI_1")
}

fn became_master_of(balancer: Balancer<'_>, instance: &str) -> Result<u64> {
    Ok(balancer.vrrp_instance(instance)?.counters.became_master)
}

/// Does something to the master's processes, and waits until it is master again: the other node has been it meanwhile, and the
/// address was not on two nodes for longer than an interval.
fn disturb(lab: &Lab, what: &str, disturb: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = became_master(lab.balancer("lb2"))?;
    let holders = Holders::watch(lab, virtual_ip());
    disturb()?;
    wait_for("the other node to be master", SOON, || Ok((became_master(lab.balancer("lb2"))? > before).then_some(())))?;
    lab.balancer("lb").wait_for_vrrp("VI_1", "master", SOON)?;
    lab.balancer("lb2").wait_for_vrrp("VI_1", "backup", SOON)?;
    let spans = holders.finish()?;
    println!("{what}: {spans:?}");
    ensure!(spans.longest_overlap <= INTERVAL, "{what}: on two nodes: {spans:?}");
    Ok(())
}

#[test]
fn the_address_is_off_at_once_and_elsewhere_soon_when_the_speaker_is_killed_or_hangs() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (lab, _echoes) = lab("speaker", 2)?;
    let [one, _two] = slow_pair(&lab)?;
    disturb(&lab, "speaker killed", || one.signal_speaker(Signal::SIGKILL))?;
    let hung = one.speaker()?;
    disturb(&lab, "speaker stopped", || one.signal_speaker(Signal::SIGSTOP))?;
    ensure!(kill(hung, None).is_err(), "the one that hung could wake up, and advertise");
    Ok(())
}

#[test]
fn a_speaker_whose_watcher_is_killed_hands_over_and_ends() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (lab, _echoes) = lab("watcher", 2)?;
    let [mut one, _two] = slow_pair(&lab)?;
    let speaker = one.speaker()?;
    let holders = Holders::watch(&lab, virtual_ip());
    one.watcher().kill(Signal::SIGKILL)?;
    wait_for("the end of the speaker", SOON, || Ok(kill(speaker, None).is_err().then_some(())))?;
    lab.balancer("lb2").wait_for_vrrp("VI_1", "master", SOON)?;
    let spans = holders.finish()?;
    println!("watcher killed: {spans:?}");
    ensure!(!lab.balancer("lb").has_address(&virtual_ip().to_string())?);
    ensure!(spans.longest_overlap <= INTERVAL, "{spans:?}");
    Ok(())
}

#[test]
fn the_kernel_takes_the_address_off_when_nothing_of_ours_is_left_to_do_it() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let (lab, _echoes) = lab("nothing", 2)?;
    let [one, _two] = slow_pair(&lab)?;
    one.crash()?;
    let address = virtual_ip().to_string();
    ensure!(lab.balancer("lb").has_address(&address)?, "a crash takes nothing off");
    wait_for("the end of the lease", SOON, || Ok((!lab.balancer("lb").has_address(&address)?).then_some(())))?;
    lab.balancer("lb2").wait_for_vrrp("VI_1", "master", SOON)
}

/// The watcher that `lbd run` has started.
fn watcher(balancer: Balancer<'_>) -> Result<Pid> {
    let path = balancer.paths().state().join("vrrp.lock");
    let pid = std::fs::read_to_string(path)?;
    Ok(Pid::from_raw(pid.trim().parse().context("a process id")?))
}

#[test]
fn a_daemon_that_is_killed_hangs_or_restarts_changes_no_mastership_and_loses_no_request() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::start("daemon")?;
    let before: Vec<_> = balanced.lab.each_balancer().map(|balancer| balancer.vrrp_status()).collect::<Result<_>>()?;
    let load = Load { rate: Some(200), ..Load::new("http://10.77.0.100/", Limit::None) };
    let load = balanced.lab.start_load(&load)?;
    for node in 0..2 {
        let name = balanced.lab.balancers()[node].name().to_owned();
        balanced.daemons[node].kill(Signal::SIGSTOP)?;
        thread::sleep(Duration::from_secs(1));
        balanced.daemons[node].kill(Signal::SIGCONT)?;
        balanced.daemons[node].kill(Signal::SIGKILL)?;
        balanced.daemons[node].wait(SOON)?;
        thread::sleep(Duration::from_millis(500));
        balanced.daemons[node] = balanced.lab.balancer(&name).start_lbd()?;
        balanced.daemons[node].kill(Signal::SIGTERM)?;
        balanced.daemons[node].wait(SOON)?;
        balanced.daemons[node] = balanced.lab.balancer(&name).start_lbd()?;
    }
    load.finish()?.ensure_all_answered()?;
    for (balancer, before) in balanced.lab.each_balancer().zip(before) {
        let after = balancer.vrrp_status()?;
        ensure!(after.pid == before.pid, "the speaker is another one");
        for (before, after) in before.instances.iter().zip(&after.instances) {
            ensure!(before.history.len() == after.history.len(), "{before:?} has become {after:?}");
        }
    }
    Ok(())
}

#[test]
fn a_daemon_starts_vrrp_again_when_all_of_it_was_killed() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start("again")?;
    let one = balanced.lab.balancer("lb");
    let (old, speaker) = (watcher(one)?, one.vrrp_status()?.pid);
    kill(old, Signal::SIGSTOP)?;
    kill(Pid::from_raw(speaker.cast_signed()), Signal::SIGKILL)?;
    kill(old, Signal::SIGKILL)?;
    wait_for("another watcher", SOON, || Ok(watcher(one).is_ok_and(|new| new != old).then_some(())))?;
    one.wait_for_vrrp("vip4", "master", SOON)?;
    one.wait_for_vrrp("vip6", "master", SOON)?;
    balanced.lab.balancer("lb2").wait_for_vrrp("vip4", "backup", SOON)
}

#[test]
fn the_next_watcher_waits_until_the_speaker_of_a_killed_one_has_handed_over() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    // With virtual MACs: devices of the old one are not to be taken from the new one.
    let balanced = Balanced::start_with("orphan", |config| {
        config.replace("sync_group = \"vips\"", "sync_group = \"vips\"\nvirtual_mac = true")
    })?;
    let (lab, one) = (&balanced.lab, balanced.lab.balancer("lb"));
    let load = Load { rate: Some(200), ..Load::new("http://10.77.0.100/", Limit::None) };
    let load = lab.start_load(&load)?;
    for _ in 0..2 {
        let (old, moves) = (watcher(one)?, became_master_of(lab.balancer("lb2"), "vip4")?);
        kill(old, Signal::SIGKILL)?;
        wait_for("another watcher", SOON, || Ok(watcher(one).is_ok_and(|new| new != old).then_some(())))?;
        one.wait_for_vrrp("vip4", "master", SOON)?;
        one.wait_for_vrrp("vip6", "master", SOON)?;
        ensure!(became_master_of(lab.balancer("lb2"), "vip4")? > moves, "it has not handed over");
    }
    load.finish()?.ensure_all_answered()
}

#[test]
fn unload_hands_over_before_it_stops_forwarding() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::start("unload")?;
    let load = Load { rate: Some(200), ..Load::new("http://10.77.0.100/", Limit::None) };
    let load = balanced.lab.start_load(&load)?;
    thread::sleep(Duration::from_millis(300));
    balanced.daemons[0].kill(Signal::SIGTERM)?;
    balanced.daemons[0].wait(SOON)?;
    let one = balanced.lab.balancer("lb");
    let mut unload = one.node().command(lb_tests::lab::binary("lbd")?);
    lb_tests::lab::run(unload.args(["unload", "--config"]).arg(one.paths().config()))?;
    balanced.lab.balancer("lb2").wait_for_vrrp("vip4", "master", SOON)?;
    thread::sleep(Duration::from_millis(300));
    load.finish()?.ensure_all_answered()
}
