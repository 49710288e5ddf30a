//! The lab with one TCP service, whose backends say their names.

use std::{
    fmt::Write as _,
    net::{SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::lab::{
    Lab, Node, Process, ServiceStats, Tracking, config::node_config_with, topology::virtual_ipv4, unique_name, wait_for,
};

/// What takes milliseconds on an idle machine may take this long on a busy one.
pub(super) const SOON: Duration = Duration::from_secs(20);

/// The service's port.
pub const PORT: u16 = 7000;

/// The service's name.
const SERVICE: &str = "held";

/// Until all connections are gone, and longer than any test.
const DRAIN_TIMEOUT: &str = "1h";

/// The weight of the backends that are in the configuration.
const WEIGHT: u16 = 10;

/// How the balancer is configured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many backends the lab has.
    pub backends: usize,
    /// How many of them are in the configuration.
    pub present: usize,
    /// When flows are tracked: `when-needed`, `always`, or `never`.
    pub tracking: &'static str,
    pub idle_timeout: Duration,
    /// How many entries the flow table has, such as `64K`.
    pub flow_table: &'static str,
}

impl Default for Settings {
    /// Eight backends, two of them not in the configuration.
    fn default() -> Self {
        Self {
            backends: 8,
            present: 6,
            tracking: "when-needed",
            idle_timeout: Duration::from_secs(10),
            flow_table: "64K",
        }
    }
}

/// Everything runs, and all backends of the configuration are healthy.
#[derive(Debug)]
pub struct Stage {
    // In the order in which they are to end.
    lbd: Process,
    /// `None` where it has died.
    servers: Vec<Option<Process>>,
    lab: Lab,
    settings: Settings,
}

impl Stage {
    /// In a lab whose name begins like that.
    pub fn start(name: &str, settings: Settings) -> Result<Self> {
        let lab = Lab::builder(&unique_name(name)).backends(settings.backends).build()?;
        lab.write_config(&config(&lab, &settings))?;
        let start = |backend: &Node| lab.start_hold_server(backend.name(), PORT).map(Some);
        let servers = lab.backends().iter().map(start).collect::<Result<_>>()?;
        let lbd = lab.start_lbd()?;
        lab.wait_until_healthy(SOON)?;
        Ok(Self { lbd, servers, lab, settings })
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// How it is configured now.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Where clients connect to.
    pub fn target(&self) -> SocketAddrV4 {
        SocketAddrV4::new(virtual_ipv4(0), PORT)
    }

    /// The service as it is now.
    pub fn service(&self) -> Result<ServiceStats> {
        let stats = self.lab.stats()?;
        stats.service(SERVICE).cloned().with_context(|| format!("there is no service {SERVICE}: {stats:?}"))
    }

    /// What the flow table has done up to now.
    pub fn tracking(&self) -> Result<Tracking> {
        Ok(self.lab.stats()?.tracking)
    }

    /// Runs `lbctl`, which has to succeed.
    pub fn lbctl(&self, arguments: &[&str]) -> Result<()> {
        let output = self.lab.lbctl(arguments)?;
        ensure!(
            output.status.success(),
            "lbctl {}: {}\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Ends `lbd` by a signal, and starts it again.
    pub fn restart_lbd(&mut self, signal: Signal) -> Result<()> {
        self.lbd.kill(signal)?;
        self.lbd.wait(SOON)?;
        self.lbd = self.lab.start_lbd()?;
        Ok(())
    }

    /// Gives the flow table another size.
    pub fn resize(&mut self, flow_table: &'static str) -> Result<()> {
        self.settings.flow_table = flow_table;
        self.lab.write_config(&config(&self.lab, &self.settings))?;
        self.lbctl(&["reload"])
    }

    /// Ends a backend's server at once, and waits until `lbd` has found that out. What it was connected with is reset.
    pub(super) fn crash(&mut self, backend: usize) -> Result<()> {
        let mut server = self.servers[backend].take().context("it has died already")?;
        server.kill(Signal::SIGKILL)?;
        server.wait(SOON)?;
        let name = self.lab.backends()[backend].name();
        wait_for(&format!("{name} being down"), SOON, || {
            let state = self.service()?.backends.into_iter().find(|found| found.name == name).map(|found| found.state);
            Ok((state.as_deref() == Some("down")).then_some(()))
        })
    }

    /// Starts a backend's server again.
    pub(super) fn recover(&mut self, backend: usize) -> Result<()> {
        let name = self.lab.backends()[backend].name().to_owned();
        self.servers[backend] = Some(self.lab.start_hold_server(&name, PORT)?);
        Ok(())
    }

    /// The arguments of `lbctl backend` that add a backend.
    pub(super) fn add_arguments(&self, backend: usize, weight: u16) -> Vec<String> {
        let node = &self.lab.backends()[backend];
        let (address, weight) = (node.ipv4().to_string(), weight.to_string());
        ["add", SERVICE, &address, "--name", node.name(), "--weight", &weight].map(str::to_owned).into()
    }
}

fn config(lab: &Lab, settings: &Settings) -> String {
    let Settings { present, tracking, idle_timeout, flow_table, .. } = settings;
    let mut config = node_config_with(lab.balancer("lb"), &format!("flow_table = \"{flow_table}\"\n"));
    let address = SocketAddr::from((virtual_ipv4(0), PORT));
    let service = format!(
        r#"
[[service]]
name = "{SERVICE}"
address = "{address}"
protocol = "tcp"
forwarding = "l2-dsr"
announce = true
tracking = "{tracking}"
idle_timeout = "{}s"
drain_timeout = "{DRAIN_TIMEOUT}"

  [service.health]
  type = "tcp"
  interval = "200ms"
  timeout = "2s"
  rise = 1
  fall = 2
"#,
        idle_timeout.as_secs()
    );
    config += &service;
    for backend in &lab.backends()[..*present] {
        let (name, address) = (backend.name(), backend.ipv4());
        write!(
            config,
            "\n  [[service.backend]]\n  name = \"{name}\"\n  address = \"{address}\"\n  weight = {WEIGHT}\n"
        )
        .expect("a String takes all");
    }
    config
}
