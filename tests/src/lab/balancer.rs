//! One balancer of a lab: its `lbd`, and what `lbctl` says of it.

use std::{
    fs,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use super::{
    Lab,
    paths::{BalancerPaths, binary},
    process::Process,
    run::wait_for,
    stats::{Stats, Status},
    topology::Node,
};

/// How long `lbd` may take until it answers.
const START: Duration = Duration::from_secs(10);

/// A balancer of a lab: see [`Lab::balancer`].
#[derive(Clone, Copy, Debug)]
pub struct Balancer<'lab> {
    pub(super) lab: &'lab Lab,
    pub(super) node: &'lab Node,
}

impl Balancer<'_> {
    /// Its place in the lab.
    pub fn node(&self) -> &Node {
        self.node
    }

    /// Where it keeps things.
    pub fn paths(&self) -> BalancerPaths {
        self.lab.paths.balancer(self.node.name())
    }

    /// Which of the lab's balancers it is, from 0.
    pub fn number(&self) -> usize {
        let is_it = |node: &Node| node.name() == self.node.name();
        self.lab.balancers().iter().position(is_it).expect("a balancer of the lab")
    }

    /// The backends of its lab.
    pub fn backends(&self) -> &[Node] {
        self.lab.backends()
    }

    /// Whether its lab has others, which take over from it.
    pub fn has_peers(&self) -> bool {
        self.lab.balancers().len() > 1
    }

    /// Replaces its configuration; [`super::config::default_config`] is there from the start.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        let path = self.paths().config();
        fs::write(&path, toml).with_context(|| format!("write {}", path.display()))
    }

    /// Starts `lbd`, and waits until it answers `lbctl status`.
    pub fn start_lbd(&self) -> Result<Process> {
        let mut lbd = self.spawn_lbd()?;
        let socket = self.paths().socket();
        wait_for(&format!("an answer of lbd on {}", self.node.name()), START, || {
            lbd.ensure_running()?;
            let answered = socket.exists() && self.lbctl(&["status"])?.status.success();
            Ok(answered.then_some(()))
        })?;
        Ok(lbd)
    }

    /// Starts `lbd`, come of it what may.
    pub fn spawn_lbd(&self) -> Result<Process> {
        self.spawn_with_config("lbd", "run")
    }

    /// Starts `lbd vrrp`, come of it what may.
    pub fn spawn_vrrp(&self) -> Result<Process> {
        self.spawn_with_config("vrrp", "vrrp")
    }

    fn spawn_with_config(&self, label: &str, subcommand: &str) -> Result<Process> {
        let mut command = self.node.command(binary("lbd")?);
        command.args([subcommand, "--config"]).arg(self.paths().config());
        self.spawn(label, command)
    }

    /// [`Lab::spawn`], under a label that says which balancer it is.
    pub(super) fn spawn(&self, label: &str, command: Command) -> Result<Process> {
        self.lab.spawn(&self.paths().label(label), command)
    }

    /// Runs `lbctl` against its `lbd`. The exit status is for the caller to judge.
    pub fn lbctl(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary("lbctl")?);
        command.arg("--socket").arg(self.paths().socket());
        command.args(arguments).stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))
    }

    /// What `lbctl` with these arguments says in JSON. Fails if `lbctl` does.
    pub fn lbctl_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let output = self.lbctl(&[&["-o", "json"], arguments].concat())?;
        let what = format!("{} on {}", arguments.join(" "), self.node.name());
        if !output.status.success() {
            bail!("lbctl {what}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("read what lbctl {what} says"))
    }

    /// What its `lbd` has counted.
    pub fn stats(&self) -> Result<Stats> {
        self.lbctl_json(&["stats"])
    }

    /// How its `lbd` is.
    pub fn status(&self) -> Result<Status> {
        self.lbctl_json(&["status"])
    }

    /// Waits until its `lbd` finds all backends of all services healthy.
    pub fn wait_until_healthy(&self, timeout: Duration) -> Result<()> {
        let what = format!("healthy backends of {}", self.node.name());
        wait_for(&what, timeout, || Ok(self.stats()?.all_up().then_some(())))
    }
}
