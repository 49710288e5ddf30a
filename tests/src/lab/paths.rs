//! Where a lab keeps things: one name decides all paths, so that a lab is found again by its name alone.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{bpffs, netns::Netns, topology};

/// One folder per lab.
pub(super) const LABS: &str = "/run/lb-lab";

/// The paths and namespaces of the lab of one name, whether that lab is up or not.
#[derive(Clone, Debug)]
pub struct Paths {
    lab: String,
}

impl Paths {
    /// Fails unless `lab` is 1 to 40 lower-case letters, digits and dashes: it becomes part of namespace names and of a
    /// Unix socket's path (at most 108 bytes).
    pub fn new(lab: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        ensure!(
            (1..=40).contains(&lab.len()) && lab.bytes().all(allowed),
            "{lab:?} cannot be the name of a lab: use 1 to 40 lower-case letters, digits and dashes"
        );
        Ok(Self { lab: lab.to_owned() })
    }

    /// The lab's name.
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// The lab's folder; it exists exactly as long as the lab does.
    pub fn dir(&self) -> PathBuf {
        Path::new(LABS).join(&self.lab)
    }

    /// What the balancer of that name keeps.
    pub fn balancer(&self, node: &str) -> BalancerPaths {
        BalancerPaths { lab: self.clone(), node: node.to_owned() }
    }

    /// [`Paths::balancer`] for each that a lab can have, whether this one has it or not.
    pub(super) fn balancers(&self) -> impl Iterator<Item = BalancerPaths> {
        topology::BALANCERS.into_iter().map(|node| self.balancer(node))
    }

    fn first(&self) -> BalancerPaths {
        self.balancer(topology::BALANCERS[0])
    }

    /// [`BalancerPaths::config`] of `lb`.
    pub fn config(&self) -> PathBuf {
        self.first().config()
    }

    /// [`BalancerPaths::socket`] of `lb`.
    pub fn socket(&self) -> PathBuf {
        self.first().socket()
    }

    /// [`BalancerPaths::state`] of `lb`.
    pub fn state(&self) -> PathBuf {
        self.first().state()
    }

    /// [`BalancerPaths::pins`] of `lb`.
    pub fn pins(&self) -> PathBuf {
        self.first().pins()
    }

    /// What the process of that label has written.
    pub fn log(&self, label: &str) -> PathBuf {
        self.logs().join(format!("{label}.log"))
    }

    /// A folder to put first in `PATH` on that node: its `lbctl` talks to the node's own `lbd`, or to that of `lb` where the
    /// node is no balancer.
    pub fn bin(&self, node: &str) -> PathBuf {
        if topology::BALANCERS.contains(&node) { self.balancer(node).bin() } else { self.first().bin() }
    }

    /// The namespace of a node: `switch`, `client`, `lb`, `lb2`, `b1` and so on.
    pub fn namespace(&self, node: &str) -> Netns {
        Netns::named(format!("lb-{}-{node}", self.lab))
    }

    /// The lab's namespaces that exist now.
    pub fn namespaces(&self) -> Result<Vec<Netns>> {
        let prefix = format!("lb-{}-", self.lab);
        let mut found = Netns::list()?;
        // A node's name has no dash: "lb-a-1-lb" belongs to the lab "a-1", not to "a".
        found.retain(|namespace| namespace.name().strip_prefix(&prefix).is_some_and(|node| !node.contains('-')));
        Ok(found)
    }

    pub(super) fn xdp_pass_pin(&self) -> PathBuf {
        Path::new(bpffs::MOUNT).join(format!("lb-lab-{}-xdp-pass", self.lab))
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir().join("log")
    }

    pub(super) fn owner(&self) -> PathBuf {
        self.dir().join("owner")
    }

    pub(super) fn pids(&self) -> PathBuf {
        self.dir().join("pids")
    }
}

/// What one balancer of a lab keeps, and where.
#[derive(Clone, Debug)]
pub struct BalancerPaths {
    lab: Paths,
    node: String,
}

impl BalancerPaths {
    /// The balancer's name: `lb`, `lb2` or `lb3`.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its network namespace.
    pub fn namespace(&self) -> Netns {
        self.lab.namespace(&self.node)
    }

    /// The configuration that `lbd` is started with.
    pub fn config(&self) -> PathBuf {
        self.file("toml")
    }

    /// The socket where `lbd` serves `lbctl`.
    pub fn socket(&self) -> PathBuf {
        self.file("sock")
    }

    /// The folder where `lbd` keeps its state.
    pub fn state(&self) -> PathBuf {
        self.lab.dir().join(self.own("state", '-'))
    }

    /// The folder in bpffs where `lbd` pins its programs, links and maps.
    pub fn pins(&self) -> PathBuf {
        // A lab's name has no underscore: the pins of another lab's `lb` are elsewhere.
        Path::new(bpffs::MOUNT).join(self.own(&format!("lb-lab-{}", self.lab.lab), '_'))
    }

    /// The folder of the `lbctl` that talks to this `lbd`.
    pub fn bin(&self) -> PathBuf {
        self.lab.dir().join(self.own("bin", '-'))
    }

    /// The label of one of its processes: see [`Paths::log`].
    pub(super) fn label(&self, process: &str) -> String {
        if self.is_first() { process.to_owned() } else { format!("{}-{process}", self.node) }
    }

    /// A file of the lab that has the balancer's name.
    pub(super) fn file(&self, extension: &str) -> PathBuf {
        self.lab.dir().join(format!("{}.{extension}", self.node))
    }

    /// `name`, for all balancers but the first with their own name behind it.
    fn own(&self, name: &str, separator: char) -> String {
        if self.is_first() { name.to_owned() } else { format!("{name}{separator}{}", self.node) }
    }

    fn is_first(&self) -> bool {
        self.node == topology::BALANCERS[0]
    }
}

/// One of the project's binaries: they lie beside the running one, or above it if that is a test.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = binaries()?;
    let path = dir.join(name);
    ensure!(
        path.exists(),
        "{} does not exist: build it with `cargo build --package {}`",
        path.display(),
        if name == "lab-agent" { "lb-tests" } else { "lb-userspace" }
    );
    Ok(path)
}

/// The folder of the project's binaries, in the profile of the running one.
pub fn binaries() -> Result<PathBuf> {
    let running = std::env::current_exe().context("find the running binary")?;
    let dir = running.parent().context("the running binary has no folder")?;
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned())
}
