//! A network of namespaces with the balancer in the middle: see [`topology`] for its shape.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use lb_tests::lab::{Lab, Limit, Load, unique_name};
//!
//! let lab = Lab::builder(&unique_name("example")).backends(3).build()?;
//! let _servers = lab.start_servers()?;
//! let _decaps = lab.start_decaps()?;
//! let _lbd = lab.start_lbd()?;
//! let report = lab.load(&Load::new("http://10.77.0.100/", Limit::Requests(100)))?;
//! report.ensure_all_answered()?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything ends with the [`Lab`], or with the thread that built it. It needs root, `iproute2` and `util-linux`.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;

mod ask;
mod balancer;
pub mod bpffs;
mod capture;
pub mod config;
mod faults;
mod flood;
mod hold;
mod http;
mod inject;
mod keepalived;
mod load;
mod netns;
mod offload;
mod paths;
mod probe;
mod process;
pub mod rivals;
mod run;
mod speaker;
mod state;
mod stats;
mod threaded;
pub mod topology;
pub mod vrrp;
mod xdp_pass;

pub use self::{
    ask::{Ask, AskReport},
    balancer::Balancer,
    capture::{Capture, Captured},
    flood::{Flood, FloodPacket, RunningFlood},
    hold::{Broken, HeldKind, Hold, HoldCounts, HoldLine, HoldReport, RunningHold, now_ms},
    http::Server,
    inject::Injection,
    keepalived::Keepalived,
    load::{Limit, Load, LoadReport, RunningLoad},
    netns::{Netns, set_sysctl},
    paths::{BalancerPaths, Paths, binaries, binary},
    probe::{Gap, Probe, ProbeReport, RunningProbe},
    process::{Process, ended_by},
    run::{run, wait_for},
    speaker::{Change, Counters, InstanceStatus, Kind, LbdVrrp, Speaker, VrrpStatus},
    state::{guard, sweep, teardown, unique_name},
    stats::{Attachment, BackendStats, FlowTable, ServiceStats, Stats, Status, Tracking},
    threaded::DeviceThreads,
    topology::Node,
};
use self::{
    process::Lifetime,
    state::{Guard, claim, disown, prepare_balancer, record},
};

/// How long a program on a node may take until it serves.
const START: Duration = Duration::from_secs(10);

/// A lab that is up. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    paths: Paths,
    /// The client, then the balancers, then the backends.
    nodes: Vec<Node>,
    /// How many of the nodes are balancers.
    balancers: usize,
    lifetime: Lifetime,
    server: Server,
    guard: Option<Guard>,
    took: Duration,
}

/// What a lab is to be like.
#[derive(Clone, Debug)]
pub struct Builder {
    name: String,
    balancers: usize,
    backends: usize,
    server: Server,
    lifetime: Lifetime,
}

impl Builder {
    /// The number of balancers, 1 to [`topology::MAX_BALANCERS`]; one by default.
    #[must_use]
    pub fn nodes(mut self, balancers: usize) -> Self {
        self.balancers = balancers;
        self
    }

    /// The number of backends, 1 to [`topology::MAX_BACKENDS`]; two by default.
    #[must_use]
    pub fn backends(mut self, backends: usize) -> Self {
        self.backends = backends;
        self
    }

    /// What serves HTTP on the backends.
    #[must_use]
    pub fn server(mut self, server: Server) -> Self {
        self.server = server;
        self
    }

    /// Its processes may outlive this one: see [`Lab::leave_running`].
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.lifetime = Lifetime::Detached;
        self
    }

    /// Brings the network up. Labs whose owner has died are removed first.
    pub fn build(self) -> Result<Lab> {
        let started = Instant::now();
        for name in sweep().context("remove labs whose owner has died")? {
            eprintln!("removed the lab {name}: its owner has died");
        }
        if bpffs::ensure_mounted()? {
            eprintln!("mounted bpffs at {}", bpffs::MOUNT);
        }
        let paths = Paths::new(&self.name)?;
        let nodes = topology::nodes(&paths, self.balancers, self.backends)?;
        claim(&paths)?;
        // From here on, dropping the lab removes what has come into being.
        let mut lab = Lab {
            nodes,
            balancers: self.balancers,
            lifetime: self.lifetime,
            server: self.server,
            guard: None,
            took: Duration::ZERO,
            paths,
        };
        lab.guard = Some(Guard::start(&lab.paths)?);
        topology::wire(&lab.paths, &lab.nodes).with_context(|| format!("bring the lab {} up", self.name))?;
        for balancer in lab.each_balancer() {
            prepare_balancer(&balancer.paths())?;
            balancer.write_config(&config::default_config(balancer))?;
        }
        lab.took = started.elapsed();
        Ok(lab)
    }
}

impl Lab {
    /// A lab of that name (see [`Paths::new`]); [`unique_name`] makes one that nobody else has.
    pub fn builder(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            balancers: 1,
            backends: 2,
            server: Server::default(),
            lifetime: Lifetime::Owner,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.paths.lab()
    }

    /// Where it keeps things.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// How long [`Builder::build`] took.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// The client, the balancers, and the backends.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// `b1`, `b2` and so on.
    pub fn backends(&self) -> &[Node] {
        &self.nodes[1 + self.balancers..]
    }

    /// `lb`, `lb2` and so on.
    pub fn balancers(&self) -> &[Node] {
        &self.nodes[1..=self.balancers]
    }

    /// The balancer of that name. What the lab itself does to a balancer, it does to `lb`.
    ///
    /// # Panics
    /// If there is none.
    pub fn balancer(&self, name: &str) -> Balancer<'_> {
        self.each_balancer()
            .find(|balancer| balancer.node.name() == name)
            .unwrap_or_else(|| panic!("the lab {} has no balancer {name:?}", self.name()))
    }

    /// All balancers, in their order.
    pub fn each_balancer(&self) -> impl Iterator<Item = Balancer<'_>> {
        self.balancers().iter().map(|node| Balancer { lab: self, node })
    }

    fn first_balancer(&self) -> Balancer<'_> {
        Balancer { lab: self, node: &self.nodes[1] }
    }

    /// The node of that name: `client`, `lb`, `lb2`, `b1` and so on.
    ///
    /// # Panics
    /// If there is none.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .unwrap_or_else(|| panic!("the lab {} has no node {name:?}", self.name()))
    }

    /// Starts a long-running command, mostly one of [`Node::command`]; its output goes to the log of that label. It ends when
    /// it is dropped, or with the calling thread.
    pub fn spawn(&self, label: &str, command: Command) -> Result<Process> {
        self.spawn_with(label, command, None)
    }

    /// [`Balancer::write_config`] of `lb`.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        self.first_balancer().write_config(toml)
    }

    /// Starts the HTTP server of a backend, and waits until it serves.
    pub fn start_server(&self, backend: &str) -> Result<Process> {
        let node = self.node(backend);
        let command = self.server.command(&self.paths, node)?;
        let mut server = self.spawn(&format!("{backend}-http"), command)?;
        http::wait_until_serving(node, &mut server)?;
        Ok(server)
    }

    /// [`Lab::start_server`] for all backends, in their order.
    pub fn start_servers(&self) -> Result<Vec<Process>> {
        let start = |backend: &Node| self.start_server(backend.name());
        self.backends().iter().map(start).collect()
    }

    /// Lets the HTTP server of a backend, which is [`Server::Agent`], take so long for each answer from now on, health checks apart.
    pub fn set_delay(&self, backend: &str, delay: Duration) -> Result<()> {
        http::set_delay(self.node(backend), delay)
    }

    /// Starts `lbd decap` on all backends, and waits until its program is attached.
    pub fn start_decaps(&self) -> Result<Vec<Process>> {
        let lbd = binary("lbd")?;
        let mut decaps = Vec::new();
        for backend in self.backends() {
            let mut command = backend.command(&lbd);
            command.args(["decap", "--interface", "eth0"]);
            decaps.push(self.spawn(&format!("{}-decap", backend.name()), command)?);
        }
        for (backend, decap) in self.backends().iter().zip(&mut decaps) {
            let what = format!("the XDP program of {}", backend.name());
            wait_for(&what, START, || {
                decap.ensure_running()?;
                let link = run(backend.command("ip").args(["link", "show", "dev", "eth0"]))?;
                let attached = String::from_utf8_lossy(&link.stdout).contains("prog/xdp");
                Ok(attached.then_some(()))
            })?;
        }
        Ok(decaps)
    }

    /// [`Balancer::start_lbd`] of `lb`.
    pub fn start_lbd(&self) -> Result<Process> {
        self.first_balancer().start_lbd()
    }

    /// [`Balancer::spawn_lbd`] of `lb`.
    pub fn spawn_lbd(&self) -> Result<Process> {
        self.first_balancer().spawn_lbd()
    }

    /// Connects `lb` with a backend by a link of their own: `eth1` on both, see [`topology`].
    pub fn add_link(&self, backend: &str) -> Result<()> {
        topology::add_link(self.first_balancer().node, self.node(backend))
    }

    /// Takes `XDP_PASS` from the switch's port of a balancer that sends nothing by XDP: each of its packets would pay for it.
    pub fn take_xdp_from_port(&self, balancer: &str) -> Result<()> {
        let mut ip = self.paths.namespace("switch").command("ip");
        run(ip.args(["link", "set", "dev", balancer, "xdp", "off"])).map(drop)
    }

    /// [`Balancer::lbctl`] of `lb`.
    pub fn lbctl(&self, arguments: &[&str]) -> Result<Output> {
        self.first_balancer().lbctl(arguments)
    }

    /// [`Balancer::lbctl_json`] of `lb`.
    pub fn lbctl_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        self.first_balancer().lbctl_json(arguments)
    }

    /// [`Balancer::stats`] of `lb`.
    pub fn stats(&self) -> Result<Stats> {
        self.first_balancer().stats()
    }

    /// [`Balancer::status`] of `lb`.
    pub fn status(&self) -> Result<Status> {
        self.first_balancer().status()
    }

    /// [`Balancer::wait_until_healthy`] of `lb`.
    pub fn wait_until_healthy(&self, timeout: Duration) -> Result<()> {
        self.first_balancer().wait_until_healthy(timeout)
    }

    /// Sends requests from the client until the limit.
    pub fn load(&self, load: &Load) -> Result<LoadReport> {
        self.start_load(load)?.wait()
    }

    /// Starts to send requests from the client.
    pub fn start_load(&self, load: &Load) -> Result<RunningLoad> {
        let mut command = self.node("client").command(binary("lab-agent")?);
        load.add_arguments(&mut command);
        RunningLoad::new(self.spawn_with("load", command, Some(Stdio::piped()))?)
    }

    /// Starts a UDP server on a node that sends each datagram back with the node's name in front, and waits until it listens.
    pub fn start_udp_echo(&self, node: &str, listen: SocketAddr) -> Result<Process> {
        let mut command = self.node(node).command(binary("lab-agent")?);
        command.args(["udp-echo", "--name", node, "--listen", &listen.to_string()]);
        let mut echo = self.spawn(&format!("{node}-udp-{}", listen.ip()), command)?;
        echo.wait_for_log("listening on", START)?;
        Ok(echo)
    }

    /// Starts to send datagrams from the client.
    pub fn start_probe(&self, probe: &Probe) -> Result<RunningProbe> {
        let mut command = self.node("client").command(binary("lab-agent")?);
        probe.add_arguments(&mut command);
        RunningProbe::new(self.spawn_with("probe", command, Some(Stdio::piped()))?)
    }

    /// How often the client has had to send a SYN again: a packet of a new connection was lost.
    pub fn syn_retransmissions(&self) -> Result<u64> {
        let read = || Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?);
        let text = self.node("client").namespace().inside(read)?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
        let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
        let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "TCPSynRetrans");
        Ok(found.context("the kernel counts no TCPSynRetrans")?.1.parse()?)
    }

    /// Leaves a [`Builder::detached`] lab and these processes of it behind; [`teardown`] removes them.
    pub fn leave_running(mut self, processes: impl IntoIterator<Item = Process>) -> Result<()> {
        assert_eq!(self.lifetime, Lifetime::Detached, "the lab's processes die with this one");
        disown(&self.paths)?;
        self.guard = None;
        processes.into_iter().for_each(Process::leave_running);
        Ok(())
    }

    fn spawn_with(&self, label: &str, command: Command, stdout: Option<Stdio>) -> Result<Process> {
        let log = self.paths.log(label);
        let process = Process::spawn(label, command, log, stdout, self.lifetime)?;
        record(&self.paths, process.id())?;
        Ok(process)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A disowned lab has no owner's note any more.
        if self.paths.owner().exists()
            && let Err(error) = teardown(&self.paths)
        {
            eprintln!("take the lab {} down: {error:#}", self.name());
        }
    }
}

/// Whether the caller may build a lab. If not, says loudly that the test is skipped; where `CI=true`, that is a failure: a
/// test that nobody runs is no test.
pub fn require_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skip("needs root");
    }
    is_root
}

/// [`require_root`], and whether these programs are there.
pub fn require_root_and(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        !std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    });
    if let Some(missing) = missing {
        skip(&format!("needs {missing}"));
    }
    missing.is_none() && require_root()
}

fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "this test {reason}, and in CI it must not be skipped"
    );
    say_skipped(&format!("{reason} (run `cargo xtask test`)"));
}

/// Says loudly that the calling test is skipped for something that this kernel lacks. No failure where `CI=true`: nothing
/// that CI sets up could add it.
pub fn skip_for_kernel(lacks: &str) {
    say_skipped(&format!("needs a kernel with {lacks}"));
}

fn say_skipped(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test");
    // Not `eprintln!`: the test runner swallows what a passing test prints with it.
    let notice = format!("\n*** SKIPPED: {test} {reason} ***\n");
    let _ = std::io::stderr().write_all(notice.as_bytes());
}
