//! Where a lab keeps things: one name decides all paths, so that a lab is found again by its name alone.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::{bpffs, netns::Netns};

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

    /// The configuration that `lbd` is started with.
    pub fn config(&self) -> PathBuf {
        self.dir().join("lb.toml")
    }

    /// The socket where `lbd` serves `lbctl`.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("lb.sock")
    }

    /// The folder where `lbd` keeps its state.
    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// The folder in bpffs where `lbd` pins its programs, links and maps.
    pub fn pins(&self) -> PathBuf {
        Path::new(bpffs::MOUNT).join(format!("lb-lab-{}", self.lab))
    }

    /// What the process of that label has written.
    pub fn log(&self, label: &str) -> PathBuf {
        self.logs().join(format!("{label}.log"))
    }

    /// A folder to put first in `PATH`: its `lbctl` talks to this lab's `lbd`.
    pub fn bin(&self) -> PathBuf {
        self.dir().join("bin")
    }

    /// The namespace of a node: `switch`, `client`, `lb`, `b1` and so on.
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
