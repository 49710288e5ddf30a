//! `lbd` ends and starts again, with requests going on: the datapath needs no daemon.

use anyhow::{Result, ensure};
use lb_tests::lab::{
    Lab, Limit, Load,
    config::{nat_service, services},
    require_root, unique_name,
};
use nix::sys::signal::Signal;

use crate::{
    client::{PORTS, owners},
    support::{Balanced, SOON, is_long, refused, wait_for_requests},
};

#[test]
fn no_request_is_lost_when_lbd_is_killed_and_started_again_under_load() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::with_nat(Lab::builder(&unique_name("killed")).backends(3))?;
    let start = |lab: &Lab| -> Result<Vec<_>> {
        let load = |url: String| lab.start_load(&Load { rate: Some(100), ..Load::new(url, Limit::None) });
        services().into_iter().chain([nat_service()]).map(|service| load(service.url())).collect()
    };
    let retransmissions = balanced.lab.syn_retransmissions()?;
    let loads = start(&balanced.lab)?;
    let more = || loads.iter().try_for_each(|load| wait_for_requests(load, 100));
    more()?;
    for _ in 0..if is_long() { 10 } else { 2 } {
        let before = balanced.lab.stats()?.services;
        balanced.kill_lbd()?;
        more()?;
        refused(&balanced.lab, &["status"], 4)?;
        balanced.start_lbd()?;
        balanced.lbd.wait_for_log("replaced the program on eth0", SOON)?;
        ensure!(balanced.lab.status()?.interfaces.iter().all(|interface| interface.taken_over));
        let after = balanced.lab.stats()?.services;
        ensure!(before.len() == after.len(), "a service is missing: {after:?}");
        for (before, after) in before.iter().zip(&after) {
            ensure!(before.backends.len() == after.backends.len(), "a backend is missing: {after:?}");
            ensure!(after.packets > before.packets, "the counters of {} did not go on", after.name);
            for (before, after) in before.backends.iter().zip(&after.backends) {
                ensure!(before.slots == after.slots && after.state == "up", "{before:?} has become {after:?}");
            }
        }
        more()?;
    }
    for load in loads {
        load.finish()?.ensure_all_answered()?;
    }
    let lost = balanced.lab.syn_retransmissions()? - retransmissions;
    ensure!(lost == 0, "{lost} SYNs had to be sent again");
    Ok(())
}

#[test]
fn flows_keep_their_backends_while_lbd_is_away_and_after_it_is_back() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::start(Lab::builder(&unique_name("away")).backends(3))?;
    let owners = |lab: &Lab| -> Result<Vec<_>> {
        services().into_iter().map(|service| owners(lab, service.address(), PORTS)).collect()
    };
    let before = owners(&balanced.lab)?;
    balanced.kill_lbd()?;
    ensure!(owners(&balanced.lab)? == before, "flows have moved without lbd");
    balanced.start_lbd()?;
    ensure!(owners(&balanced.lab)? == before, "flows have moved when lbd came back");
    balanced.lab.wait_until_healthy(SOON)?;
    ensure!(owners(&balanced.lab)? == before, "flows have moved after the first checks");
    Ok(())
}

#[test]
fn lbd_ends_in_order_on_sigterm_and_sigint_and_packets_go_on() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::web("term", 2)?;
    let load = Load { rate: Some(200), ..Load::new("http://10.77.0.100/", Limit::None) };
    let load = balanced.lab.start_load(&load)?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        balanced.lbd.kill(signal)?;
        let status = balanced.lbd.wait(SOON)?;
        ensure!(status.success(), "{signal}: {status}");
        let log = balanced.lbd.log()?;
        ensure!(log.contains("packets go on") && log.contains("lbd unload"), "{log}");
        ensure!(!balanced.lab.paths().socket().exists(), "the socket is left");
        wait_for_requests(&load, 200)?;
        refused(&balanced.lab, &["status"], 4)?;
        balanced.start_lbd()?;
    }
    wait_for_requests(&load, 200)?;
    load.finish()?.ensure_all_answered()
}

#[test]
fn a_backend_that_dies_while_lbd_is_away_is_found_dead_when_it_is_back() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::web("later", 2)?;
    balanced.kill_lbd()?;
    balanced.servers[0].kill(Signal::SIGKILL)?;
    balanced.start_lbd()?;
    crate::support::wait_for_state(&balanced.lab, "web", "b1", "down")?;
    balanced.lab.load(&Load::new("http://10.77.0.100/", Limit::Requests(200)))?.ensure_all_answered()
}

#[test]
fn a_service_that_left_the_file_while_lbd_was_away_is_gone_when_it_is_back() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("left-over")).backends(1).build()?;
    let keep = crate::config::Service::web(lab.backends());
    let leave = crate::config::Service { name: "leave".into(), address: "10.77.0.101:80".into(), ..keep.clone() };
    let mut balanced = Balanced::with(lab, &[keep.clone(), leave])?;
    let left = std::net::SocketAddr::from(([10, 77, 0, 101], 80));
    owners(&balanced.lab, left, 300..301)?;
    balanced.kill_lbd()?;
    balanced.lab.write_config(&crate::config::file(&balanced.lab, &[keep]))?;
    balanced.start_lbd()?;
    ensure!(balanced.lab.stats()?.services.len() == 1);
    let addresses = crate::support::ip(&balanced.lab, "lb", &["address", "show", "dev", "eth0"])?;
    ensure!(addresses.contains("10.77.0.100/32") && !addresses.contains("10.77.0.101"), "{addresses}");
    owners(&balanced.lab, crate::support::web(), PORTS)?;
    Ok(())
}

#[test]
fn a_second_lbd_on_the_same_state_is_refused_and_the_first_goes_on() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::web("second", 1)?;
    let mut second = balanced.lab.spawn_lbd()?;
    let status = second.wait(SOON)?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(second.log()?.contains("another lbd runs"), "{}", second.log()?);
    balanced.lbd.ensure_running()?;
    balanced.lab.status()?;
    owners(&balanced.lab, crate::support::web(), PORTS)?;
    Ok(())
}
