//! A master that hands over while traffic goes through it to backends.

use std::{
    fmt::Write as _,
    net::IpAddr,
    process::Output,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    benchmark::Distribution,
    lab::{
        Balancer, Captured, Lab, LbdVrrp, Node, ProbeReport, Process, binary,
        config::{Forwarding, node_config},
        topology::virtual_ipv4,
        unique_name,
        vrrp::{Instance, VirtualAddress},
        wait_for,
    },
};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::pair::{ECHO, NODES, SOON, finish_probe, of_node, start_echo, start_probe};

/// Ten thousand packets a second.
const PACE: Duration = Duration::from_micros(100);

const INTERVAL: Duration = Duration::from_millis(100);

const INSTANCE: &str = "VI_1";

const SERVICES: [Forwarding; 2] = [Forwarding::L2Dsr, Forwarding::Ipip];

/// All trials of a case.
#[derive(Serialize)]
pub(crate) struct HandOver {
    pub(crate) case: String,
    pub(crate) trials: u16,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// From the farewell to the first advert of the next master, in each trial.
    pub(crate) successions_ms: Distribution,
    /// How long the next master has to wait.
    pub(crate) skew_ms: f64,
}

/// Why the master hands over.
#[derive(Clone, Copy)]
enum Cause {
    /// `lbctl vrrp failover`.
    Request,
    /// `lbd vrrp` gets a SIGTERM.
    Stop,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Self::Request => "hand-over",
            Self::Stop => "stop",
        }
    }
}

pub(crate) fn run(trials: u16) -> Result<Vec<HandOver>> {
    let lab = Lab::builder(&unique_name("bench-services")).nodes(2).backends(2).build()?;
    let _echoes = lab.backends().iter().map(|node| start_echo(&lab, node.name())).collect::<Result<Vec<_>>>()?;
    let _decaps = lab.start_decaps()?;
    let mut balanced = Balanced::start(&lab)?;
    let mut results = Vec::new();
    for cause in [Cause::Request, Cause::Stop] {
        for forwarding in SERVICES {
            results.push(balanced.run_case(cause, forwarding, trials)?);
        }
    }
    Ok(results)
}

/// Both balancers with the same services.
struct Balanced<'lab> {
    lab: &'lab Lab,
    /// `None` while it is down.
    one: Option<LbdVrrp<'lab>>,
    _two: LbdVrrp<'lab>,
    _daemons: Vec<Process>,
}

fn instance() -> Instance {
    let addresses = SERVICES.map(|forwarding| VirtualAddress::on_the_switch(service_ip(forwarding)));
    Instance { interval: INTERVAL, ..Instance::new(INSTANCE, 51, addresses.into()) }
}

fn service_ip(forwarding: Forwarding) -> IpAddr {
    let index = match forwarding {
        Forwarding::L2Dsr => 0,
        Forwarding::Ipip => 1,
        Forwarding::Gue => 2,
        Forwarding::Nat => 3,
        Forwarding::FullNat => 4,
    };
    virtual_ipv4(index).into()
}

fn config(balancer: Balancer<'_>) -> String {
    let mut config = node_config(balancer);
    for instance in of_node(&[instance()], balancer.number()) {
        let _ = write!(config, "\n{}", instance.to_toml());
    }
    for forwarding in SERVICES {
        let address = service_ip(forwarding);
        let _ = write!(
            config,
            r#"
[[service]]
name = "{forwarding}"
address = "{address}:{ECHO}"
protocol = "udp"
forwarding = "{forwarding}"
"#
        );
        for backend in balancer.backends() {
            let _ = write!(config, "\n  [[service.backend]]\n  address = \"{}\"\n", backend.ipv4());
        }
    }
    config
}

/// Starts an `lbd` that leaves VRRP to an `lbd vrrp` of ours: it would start another one in place of one that is stopped.
fn start_daemon(lab: &Lab, balancer: Balancer<'_>) -> Result<Process> {
    let name = balancer.node().name();
    let mut command = balancer.node().command(binary("lbd")?);
    command.args(["run", "--no-vrrp", "--config"]).arg(balancer.paths().config());
    let mut daemon = lab.spawn(&format!("{name}-lbd"), command)?;
    wait_for(&format!("an answer of lbd on {name}"), SOON, || {
        daemon.ensure_running()?;
        Ok(balancer.lbctl(&["status"])?.status.success().then_some(()))
    })?;
    Ok(daemon)
}

impl<'lab> Balanced<'lab> {
    fn start(lab: &'lab Lab) -> Result<Self> {
        for balancer in lab.each_balancer() {
            balancer.write_config(&config(balancer))?;
        }
        let daemons = lab.each_balancer().map(|balancer| start_daemon(lab, balancer)).collect::<Result<_>>()?;
        let two = lab.balancer(NODES[1]).start_vrrp()?;
        let mut balanced = Self { lab, one: None, _two: two, _daemons: daemons };
        balanced.start_first()?;
        Ok(balanced)
    }

    fn start_first(&mut self) -> Result<()> {
        self.one = Some(self.lab.balancer(NODES[0]).start_vrrp()?);
        self.wait_for_masters(["master", "backup"])
    }

    fn wait_for_masters(&self, states: [&str; 2]) -> Result<()> {
        NODES
            .into_iter()
            .zip(states)
            .try_for_each(|(node, state)| self.lab.balancer(node).wait_for_vrrp(INSTANCE, state, SOON))
    }

    fn fail_over(&self, node: &str) -> Result<()> {
        let Output { status, stderr, .. } = self.lab.balancer(node).lbctl(&["vrrp", "failover", INSTANCE])?;
        ensure!(status.success(), "lbctl vrrp failover on {node}: {status}\n{}", String::from_utf8_lossy(&stderr));
        Ok(())
    }

    fn run_case(&mut self, cause: Cause, forwarding: Forwarding, trials: u16) -> Result<HandOver> {
        let case = format!("{}/{forwarding}", cause.name());
        let (mut sent, mut lost, mut successions) = (0, 0, Vec::new());
        for trial in 1..=trials {
            let what = format!("{case}, trial {trial} of {trials}");
            let (report, succession) = self.try_once(cause, forwarding).with_context(|| what.clone())?;
            let succession = succession.as_secs_f64() * 1e3;
            eprintln!("{what}: {} of {} lost, succession after {succession:.1} ms", report.lost, report.sent);
            sent += report.sent;
            lost += report.lost;
            successions.push(succession);
        }
        let skew_ms = of_node(&[instance()], 1)[0].skew_time().as_secs_f64() * 1e3;
        Ok(HandOver { case, trials, sent, lost, successions_ms: Distribution::new(successions), skew_ms })
    }

    fn try_once(&mut self, cause: Cause, forwarding: Forwarding) -> Result<(ProbeReport, Duration)> {
        let capture = self.lab.start_capture("switch", "ip proto 112")?;
        let probe = start_probe(self.lab, service_ip(forwarding), PACE, INTERVAL)?;
        match cause {
            Cause::Request => self.fail_over(NODES[0])?,
            Cause::Stop => {
                let mut one = self.one.take().context("the master is down")?;
                one.watcher().kill(Signal::SIGTERM)?;
                one.watcher().wait(SOON)?;
            }
        }
        thread::sleep(INTERVAL);
        let report = finish_probe(probe)?;
        let frames = capture.finish()?;
        match cause {
            Cause::Request => {
                self.wait_for_masters(["backup", "master"])?;
                self.fail_over(NODES[1])?;
                self.wait_for_masters(["master", "backup"])?;
            }
            Cause::Stop => self.start_first()?,
        }
        Ok((report, succession(&frames, self.lab.node(NODES[0]), self.lab.node(NODES[1]))?))
    }
}

/// The time from the farewell of the one to the next advert of the other.
fn succession(frames: &[Captured], one: &Node, other: &Node) -> Result<Duration> {
    let adverts = |node: &Node| {
        let source = node.mac();
        frames.iter().filter(move |captured| captured.frame[6..12] == source)
    };
    let farewell = adverts(one).find(|captured| priority(captured) == 0).context("no farewell")?;
    let first: Option<SystemTime> = adverts(other).map(|captured| captured.at).find(|at| *at > farewell.at);
    Ok(first.context("no successor")?.duration_since(farewell.at)?)
}

/// Behind the headers of Ethernet and IPv4 without options: version and type, VRID, priority.
fn priority(advert: &Captured) -> u8 {
    advert.frame[14 + 20 + 2]
}
