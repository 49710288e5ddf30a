//! What the tests of several files need.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use lb_tests::lab::{
    Kind, Lab, Probe, Process, RunningProbe, Speaker,
    config::default_config,
    topology::virtual_ipv4,
    unique_name,
    vrrp::{Instance, State, VirtualAddress},
};

/// What takes milliseconds on an idle machine may take this long on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Where the echo of each balancer listens; no service has this port.
pub(crate) const ECHO: u16 = 7;

/// Whether tests are to try more often than in the fast tier.
pub(crate) fn is_long() -> bool {
    std::env::var_os("LB_LONG").is_some_and(|long| long == "1")
}

/// The virtual IP of [`instance`].
pub(crate) fn virtual_ip() -> IpAddr {
    virtual_ipv4(0).into()
}

/// `VI_1`, of version 3 and with an advertisement each 100 ms.
pub(crate) fn instance(priority: u8) -> Instance {
    let addresses = vec![VirtualAddress::on_the_switch(virtual_ip())];
    Instance { priority, interval: Duration::from_millis(100), ..Instance::new("VI_1", 51, addresses) }
}

/// A lab of so many balancers, each with an echo on all its addresses, and no speaker yet.
pub(crate) fn lab(name: &str, nodes: usize) -> Result<(Lab, Vec<Process>)> {
    let lab = Lab::builder(&unique_name(name)).nodes(nodes).backends(1).build()?;
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, ECHO));
    let echoes = lab.balancers().iter().map(|node| lab.start_udp_echo(node.name(), any)).collect::<Result<_>>()?;
    Ok((lab, echoes))
}

/// Starts the speakers of `lb` (priority 150) and `lb2` (100), and waits until the first one is master.
pub(crate) fn pair(lab: &Lab, kinds: [Kind; 2]) -> Result<[Speaker<'_>; 2]> {
    let mut one = lab.balancer("lb").start_speaker(kinds[0], &[instance(150)])?;
    one.wait_for_state("VI_1", State::Master, SOON)?;
    let mut two = lab.balancer("lb2").start_speaker(kinds[1], &[instance(100)])?;
    two.wait_for_state("VI_1", State::Backup, SOON)?;
    Ok([one, two])
}

/// A client that asks the virtual IP each millisecond, and gets answers.
pub(crate) fn probe(lab: &Lab) -> Result<RunningProbe> {
    let mut probe = lab.start_probe(&Probe::new(SocketAddr::new(virtual_ip(), ECHO)))?;
    probe.wait_until_answered(SOON)?;
    Ok(probe)
}

/// A lab with services, in which `lbd run` has started the speakers.
pub(crate) struct Balanced {
    // In the order in which they are to end.
    pub(crate) daemons: Vec<Process>,
    _servers: Vec<Process>,
    _decaps: Vec<Process>,
    pub(crate) lab: Lab,
}

impl Balanced {
    pub(crate) fn start(name: &str) -> Result<Self> {
        Self::start_with(name, |config| config)
    }

    /// With what `edit` makes of the lab's configuration.
    pub(crate) fn start_with(name: &str, edit: impl Fn(String) -> String) -> Result<Self> {
        let lab = Lab::builder(&unique_name(name)).nodes(2).backends(2).build()?;
        for balancer in lab.each_balancer() {
            balancer.write_config(&edit(default_config(balancer)))?;
        }
        let servers = lab.start_servers()?;
        let decaps = lab.start_decaps()?;
        let mut daemons = Vec::new();
        for (balancer, state) in lab.each_balancer().zip(["master", "backup"]) {
            daemons.push(balancer.start_lbd()?);
            balancer.wait_for_vrrp("vip4", state, SOON)?;
            balancer.wait_until_healthy(SOON)?;
        }
        Ok(Self { daemons, _servers: servers, _decaps: decaps, lab })
    }
}
