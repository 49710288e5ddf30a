//! Several balancers: the virtual IPs move from one to the other, step by step, and a client sees what comes of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::lab::{
    Balancer, Lab, Limit, LoadReport, Probe, ProbeReport,
    config::{services, virtual_routers},
    wait_for,
};

use super::{RATE, start_traffic, table::total};
use crate::{
    interrupt,
    lab::{Balanced, HEALTHY},
};

/// Traffic before each step, and after it.
const A_WHILE: Duration = Duration::from_secs(1);

/// What takes milliseconds on an idle machine may take this long on a busy one.
const SOON: Duration = Duration::from_secs(10);

/// How much longer than the protocol allows a gap may be: the machine has a dozen other processes to run.
const SLACK: Duration = Duration::from_millis(200);

/// How long the addresses of a node that was killed may stay: the kernel takes them off when their lease ends.
const LEASE: Duration = Duration::from_secs(6);

/// Hands over and back on request, kills the master, and brings it back. Fails if clients saw more of that than they should.
pub(super) fn once(balanced: &mut Balanced) -> Result<()> {
    let lab = &balanced.lab;
    let [first, second] = [0, 1].map(|number| lab.balancer(lab.balancers()[number].name()));
    let (one, two) = (first.node().name(), second.node().name());
    println!(
        "{one} is master, and {two} its backup; the client sends {RATE} requests per second to each of {} services, and a \
         datagram each millisecond",
        services().len()
    );

    for (from, to) in [(&first, &second), (&second, &first)] {
        let router = &virtual_routers(0)[0].name;
        say(&format!("{} hands over on request: lbctl vrrp failover {router}", from.node().name()));
        let seen = watch(lab, || hand_over(from, to, router))?;
        println!("   {}", seen.describe());
        seen.ensure_all_requests_answered()?;
    }

    say(&format!("{one} dies: its link is cut, and everything on it is killed"));
    let bound = virtual_routers(second.number())[0].master_down_interval();
    let seen = watch(lab, || {
        lab.cut(one)?;
        first.crash()?;
        wait_for_master(&second)
    })?;
    println!("   {}", seen.describe());
    println!("   the protocol allows {:.0} ms; TCP sends again after a second what was lost", milliseconds(bound));
    seen.ensure_answered_after(bound + SLACK)?;

    say(&format!("{one} comes back, and takes over again: it has the higher priority"));
    wait_until_bare(&first)?;
    let seen = watch(lab, || {
        lab.connect(one)?;
        balanced.lbds[0] = first.start_lbd()?;
        first.wait_until_healthy(HEALTHY)?;
        wait_for_master(&first)
    })?;
    println!("   {}", seen.describe());
    seen.ensure_all_requests_answered()?;
    balanced.wait_for_order()?;
    println!("\nmoving on request lost nothing, and the death of {one} was over in time");
    Ok(())
}

fn say(what: &str) {
    println!("\n-- {what}");
}

fn hand_over(from: &Balancer<'_>, to: &Balancer<'_>, router: &str) -> Result<()> {
    let output = from.lbctl(&["vrrp", "failover", router])?;
    ensure!(output.status.success(), "lbctl vrrp failover: {}", String::from_utf8_lossy(&output.stderr));
    wait_for_master(to)
}

fn wait_for_master(balancer: &Balancer<'_>) -> Result<()> {
    let routers = virtual_routers(balancer.number());
    routers.iter().try_for_each(|router| balancer.wait_for_vrrp(&router.name, "master", SOON))
}

/// Waits until a node that was killed has no virtual IPs any more, as after a restart of the machine.
fn wait_until_bare(balancer: &Balancer<'_>) -> Result<()> {
    let addresses: Vec<_> = virtual_routers(0).into_iter().flat_map(|router| router.addresses).collect();
    wait_for(&format!("{} without virtual IPs", balancer.node().name()), LEASE, || {
        for address in &addresses {
            if balancer.has_address(&address.ip.to_string())? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// What the client saw of a step.
struct Seen {
    probe: ProbeReport,
    requests: LoadReport,
}

/// Takes a step with traffic before, during and after it. Each step has a traffic of its own, whose last request is waited for:
/// what was lost is counted where it was.
fn watch(lab: &Lab, step: impl FnOnce() -> Result<()>) -> Result<Seen> {
    let traffic = start_traffic(lab, Limit::None, Some(RATE))?;
    let mut probe = lab.start_probe(&Probe::new(super::echo_address()))?;
    probe.wait_until_answered(SOON)?;
    pause(A_WHILE)?;
    step()?;
    pause(A_WHILE)?;
    let probe = probe.finish()?;
    let reports = traffic.into_iter().map(|traffic| traffic.load.finish()).collect::<Result<Vec<_>>>()?;
    Ok(Seen { probe, requests: total(&reports) })
}

fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        ensure!(!interrupt::came(), "interrupted");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

impl Seen {
    fn describe(&self) -> String {
        let Self { probe, requests } = self;
        let gap = if probe.lost == 0 {
            format!("no gap: all {} datagrams were answered", probe.sent)
        } else {
            format!("a gap of {:.0} ms: {} of {} datagrams were lost", probe.longest_gap_ms, probe.lost, probe.sent)
        };
        let LoadReport { requests, failures, max_latency_ms, .. } = requests;
        format!("{gap}; {failures} of {requests} requests failed, the slowest took {max_latency_ms:.0} ms")
    }

    fn ensure_all_requests_answered(&self) -> Result<()> {
        self.requests.ensure_all_answered()
    }

    /// Requests that were under way may have failed.
    fn ensure_answered_after(&self, time: Duration) -> Result<()> {
        let gap = self.probe.longest_gap_ms;
        ensure!(gap < milliseconds(time), "a gap of {gap:.0} ms is longer than {time:.0?}");
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
