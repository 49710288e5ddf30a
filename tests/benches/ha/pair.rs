//! Two balancers with the same speaker on each. The first is master, and something happens to it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Kind, Lab, Probe, ProbeReport, Process, RunningProbe, Speaker,
    topology::virtual_ipv4,
    vrrp::{Instance, State},
};
use nix::sys::signal::Signal;

/// What takes milliseconds on an idle machine may take this long on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Long enough for the first answers after a change.
const A_WHILE: Duration = Duration::from_millis(300);

/// The virtual IP that is asked.
pub(crate) fn virtual_ip() -> IpAddr {
    virtual_ipv4(0).into()
}

/// Where the echo of a node listens.
pub(crate) const ECHO: u16 = 7;

/// Who is first, and who is next.
pub(crate) const NODES: [&str; 2] = ["lb", "lb2"];

const PRIORITIES: [u8; 2] = [150, 100];

/// The instances as the node of that number, from 0, has them.
pub(crate) fn of_node(instances: &[Instance], node: usize) -> Vec<Instance> {
    instances.iter().map(|instance| Instance { priority: PRIORITIES[node], ..instance.clone() }).collect()
}

/// Starts an echo on all addresses of a node.
pub(crate) fn start_echo(lab: &Lab, node: &str) -> Result<Process> {
    lab.start_udp_echo(node, SocketAddr::from((Ipv6Addr::UNSPECIFIED, ECHO)))
}

/// A client that asks a virtual IP, and gets answers. It has done so for a time that has nothing to do with when adverts are sent.
pub(crate) fn start_probe(lab: &Lab, ip: IpAddr, every: Duration, interval: Duration) -> Result<RunningProbe> {
    let mut probe = lab.start_probe(&Probe { every, ..Probe::new(SocketAddr::new(ip, ECHO)) })?;
    probe.wait_until_answered(SOON)?;
    thread::sleep(A_WHILE + interval.mul_f64(fastrand::f64()));
    Ok(probe)
}

/// Lets it go on until whatever there is to see is seen.
pub(crate) fn finish_probe(probe: RunningProbe) -> Result<ProbeReport> {
    thread::sleep(A_WHILE);
    probe.finish()
}

/// What happens to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its link is cut, and all of its speaker killed at once. In this order: what nobody speaks for any more would go on
    /// answering until its link is cut.
    Kill,
    /// Its speaker is told to end.
    Stop,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
        }
    }

    /// The longest that the second node may wait until it takes over.
    pub(crate) fn bound(self, instance: &Instance) -> Duration {
        match self {
            Self::Kill => instance.master_down_interval(),
            Self::Stop => instance.skew_time(),
        }
    }
}

/// The speakers that are compared: ours first.
pub(crate) const SPEAKERS: [Kind; 2] = [Kind::Ours, Kind::Keepalived];

/// Starts a pair of each of [`SPEAKERS`], in a lab of its own.
pub(crate) fn start_pairs<'lab>(labs: &'lab [Lab; 2], instances: &[Instance]) -> Result<[Pair<'lab>; 2]> {
    let [ours, keepalived] = labs;
    let start = |lab, kind| Pair::start(lab, kind, instances.to_vec());
    Ok([start(ours, Kind::Ours)?, start(keepalived, Kind::Keepalived)?])
}

/// Two speakers of one kind, with the same instances.
pub(crate) struct Pair<'lab> {
    lab: &'lab Lab,
    instances: Vec<Instance>,
    /// `None` while it is down.
    one: Option<Speaker<'lab>>,
    two: Speaker<'lab>,
}

impl<'lab> Pair<'lab> {
    /// Waits until the first is master of all instances.
    fn start(lab: &'lab Lab, kind: Kind, instances: Vec<Instance>) -> Result<Self> {
        let two = lab.balancer(NODES[1]).start_speaker(kind, &of_node(&instances, 1))?;
        let mut pair = Self { lab, instances, one: None, two };
        pair.start_first()?;
        Ok(pair)
    }

    /// The master, then the backup.
    pub(crate) fn speakers(&mut self) -> Result<[&mut Speaker<'lab>; 2]> {
        Ok([self.one.as_mut().context("the master is down")?, &mut self.two])
    }

    fn start_first(&mut self) -> Result<()> {
        let instances = of_node(&self.instances, 0);
        let one = self.lab.balancer(NODES[0]).start_speaker(self.two.kind(), &instances)?;
        let one = self.one.insert(one);
        for Instance { name, .. } in &self.instances {
            one.wait_for_state(name, State::Master, SOON)?;
            self.two.wait_for_state(name, State::Backup, SOON)?;
        }
        Ok(())
    }

    fn strike(&mut self, fault: Fault) -> Result<()> {
        let mut one = self.one.take().context("the master is down")?;
        match fault {
            Fault::Kill => {
                self.lab.cut(NODES[0])?;
                one.crash()
            }
            Fault::Stop => {
                one.process().kill(Signal::SIGTERM)?;
                one.process().wait(SOON)?;
                Ok(())
            }
        }
    }

    /// What a client sees of it.
    pub(crate) fn try_fault(&mut self, fault: Fault) -> Result<ProbeReport> {
        let instance = &of_node(&self.instances, 1)[0];
        let probe = start_probe(self.lab, virtual_ip(), Duration::from_millis(1), instance.interval)?;
        self.strike(fault)?;
        // Nobody asks the speakers anything until then.
        thread::sleep(fault.bound(instance));
        self.two.wait_for_state(&instance.name, State::Master, SOON)?;
        let report = finish_probe(probe)?;
        ensure!(report.by_node.keys().eq(NODES), "not both nodes have answered: {report:?}");
        self.recover()?;
        Ok(report)
    }

    fn recover(&mut self) -> Result<()> {
        // A machine that has crashed comes up without virtual IPs.
        self.lab.node(NODES[0]).ip(&format!("address flush dev eth0 to {}", virtual_ip()))?;
        self.lab.mend(NODES[0])?;
        self.start_first()
    }
}
