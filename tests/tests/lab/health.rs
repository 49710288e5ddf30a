//! Backends that die and come back, with requests going on.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{Lab, Limit, Load, require_root, run, wait_for};
use nix::sys::signal::Signal;

use crate::{
    client::{PORTS, ask, names, owners},
    support::{Balanced, SOON, ensure_shares, lbctl, service, wait_for_requests, wait_for_shares, wait_for_state, web},
};

/// `fall` × `interval` with its jitter, and the `timeout`, of [`crate::config::CHECK`].
const FOUND_DEAD: Duration = Duration::from_millis(2 * 110 + 500);

/// What a busy machine may add to it.
const MARGIN: Duration = Duration::from_secs(5);

/// An answer, or none, to a request from one port.
struct Outcome {
    port: u16,
    started: Instant,
    ended: Instant,
    error: Option<String>,
}

/// Requests from all of [`PORTS`], round after round, until `stop`.
fn ask_until(lab: &Lab, stop: &AtomicBool) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for port in PORTS {
            let started = Instant::now();
            for (port, answer) in ask(lab, web(), port..port + 1)? {
                let error = answer.err().map(|error| format!("{error:#}"));
                outcomes.push(Outcome { port, started, ended: Instant::now(), error });
            }
        }
    }
    Ok(outcomes)
}

#[test]
fn when_a_backend_crashes_only_its_requests_fail_and_only_until_it_is_found_dead() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::web("crash", 3)?;
    let before = owners(&balanced.lab, web(), PORTS)?;
    let load = Load { rate: Some(200), ..Load::new("http://10.77.0.100/", Limit::None) };
    let load = balanced.lab.start_load(&load)?;
    wait_for_requests(&load, 100)?;

    let stop = AtomicBool::new(false);
    let lab = &balanced.lab;
    let crashing = &mut balanced.servers[0];
    let (outcomes, killed, found) = thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until(lab, &stop));
        let mut watch = || -> Result<_> {
            let killed = Instant::now();
            crashing.kill(Signal::SIGKILL)?;
            wait_for_state(lab, "web", "b1", "down")?;
            let found = Instant::now();
            // So that there is something to be seen after it.
            wait_for_requests(&load, 100)?;
            Ok((killed, found))
        };
        let watched = watch();
        stop.store(true, Ordering::Relaxed);
        let outcomes = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (killed, found) = watched?;
        anyhow::Ok((outcomes, killed, found))
    })?;
    let took = found - killed;
    ensure!(took <= FOUND_DEAD + MARGIN, "found dead after {took:?}, not within {FOUND_DEAD:?} and {MARGIN:?}");

    // The others' few flows that change sides with the table may be in the middle of a request.
    let after = owners(lab, web(), PORTS)?;
    ensure!(!names(&after).contains("b1"), "{after:?}");
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
    ensure!(!failed.is_empty(), "nothing has failed in {took:?} without a third of the servers: nothing was tried");
    for Outcome { port, started, ended, error } in failed {
        let why = format!("port {port}, {:?} after the crash: {error:?}", *started - killed);
        ensure!(*ended >= killed && *started <= found, "failed while all was well: {why}");
        ensure!(before[port] == "b1" || before[port] != after[port], "failed though {} served: {why}", before[port]);
    }
    ensure!(outcomes.iter().any(|outcome| outcome.started > found), "no request came after it was found dead");
    load.finish()?;
    wait_for_shares(lab, "web", &[("b2", 1), ("b3", 1)])?;
    lab.load(&Load::new("http://10.77.0.100/", Limit::Requests(1000)))?.ensure_all_answered()?;
    let listed = lbctl(lab, &["backend", "list"])?;
    ensure!(listed.contains("down: "), "it does not say why: {listed}");

    balanced.servers[0] = balanced.lab.start_server("b1")?;
    wait_for_state(&balanced.lab, "web", "b1", "up")?;
    wait_for_shares(&balanced.lab, "web", &[("b1", 1), ("b2", 1), ("b3", 1)])?;
    ensure!(owners(&balanced.lab, web(), PORTS)? == before, "not all flows have come back");
    Ok(())
}

#[test]
fn a_backend_that_falls_silent_is_found_dead_and_its_flows_go_to_the_others() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::web("silent", 3)?;
    let lab = &balanced.lab;
    let before = owners(lab, web(), PORTS)?;
    let port = |state: &str| {
        let mut command = lab.paths().namespace("switch").command("ip");
        run(command.args(["link", "set", "dev", "b1", state]))
    };
    let silenced = Instant::now();
    port("down")?;
    wait_for_state(lab, "web", "b1", "down")?;
    let took = silenced.elapsed();
    ensure!(took <= FOUND_DEAD + MARGIN, "found dead after {took:?}, not within {FOUND_DEAD:?} and {MARGIN:?}");
    let after = owners(lab, web(), PORTS)?;
    ensure!(names(&after).into_iter().eq(["b2", "b3"]), "{after:?}");
    port("up")?;
    wait_for_state(lab, "web", "b1", "up")?;
    wait_for_shares(lab, "web", &[("b1", 1), ("b2", 1), ("b3", 1)])?;
    ensure!(owners(lab, web(), PORTS)? == before, "not all flows have come back");
    Ok(())
}

#[test]
fn without_a_healthy_backend_nobody_gets_packets_and_status_says_so() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::web("none", 2)?;
    for server in &mut balanced.servers {
        server.kill(Signal::SIGKILL)?;
    }
    let lab = &balanced.lab;
    wait_for("the end of both", SOON, || Ok((lab.status()?.backends.get("down") == Some(&2)).then_some(())))?;
    ensure_shares(&service(lab, "web")?, &[("b1", 0), ("b2", 0)])?;
    let status = lab.status()?;
    let problem = status.problems.iter().find(|problem| problem.contains("web"));
    ensure!(problem.is_some_and(|problem| problem.contains("no backend")), "{status:?}");
    ensure!(lbctl(lab, &["status"])?.contains("PROBLEM"));
    let dropped = lab.stats()?.verdict("drop-no-backend");
    let mut request = lab.node("client").command("timeout");
    request.args(["0.5", "bash", "-c", "echo > /dev/tcp/10.77.0.100/80"]);
    ensure!(!request.output().context("start bash")?.status.success(), "somebody has taken the connection");
    ensure!(lab.stats()?.verdict("drop-no-backend") > dropped);

    balanced.servers[1] = balanced.lab.start_server("b2")?;
    wait_for_state(&balanced.lab, "web", "b2", "up")?;
    ensure!(names(&owners(&balanced.lab, web(), PORTS)?).into_iter().eq(["b2"]));
    ensure!(balanced.lab.status()?.problems.is_empty(), "{:?}", balanced.lab.status()?);
    Ok(())
}
