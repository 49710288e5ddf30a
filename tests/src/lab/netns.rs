//! Network namespaces, by name, as `ip netns` keeps them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use super::run::run_with_input;

const NAMESPACES: &str = "/run/netns";

/// A named network namespace. The value is the name only: dropping it leaves the namespace alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub(super) fn named(name: String) -> Self {
        Self { name }
    }

    /// All named namespaces of the machine.
    pub(super) fn list() -> Result<Vec<Self>> {
        let entries = match fs::read_dir(NAMESPACES) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("list {NAMESPACES}"))?,
        };
        entries.map(|entry| Ok(Self::named(entry?.file_name().to_string_lossy().into_owned()))).collect()
    }

    /// As `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// Whether there is such a namespace.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// A command that runs in the namespace and sees the machine's files: `ip netns exec` would hide /sys/fs/bpf.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.path());
        command.arg(net).arg("--").arg(program);
        command
    }

    /// Runs `work` in the namespace, on a thread of its own: sockets it opens and commands it starts are in the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let enter_and_work = || {
            let file = File::open(self.path())?;
            setns(file, CloneFlags::CLONE_NEWNET)?;
            work()
        };
        thread::scope(|scope| scope.spawn(enter_and_work).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .with_context(|| format!("in the network namespace {}", self.name))
    }

    /// [`Netns::inside`] on a Tokio runtime of one thread.
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        self.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        })
    }
}

/// Sets a sysctl, such as `net/ipv4/ip_forward`, of the calling thread's network namespace: see [`Netns::inside`].
pub fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    fs::write(&path, value).with_context(|| format!("write {value:?} to {}", path.display()))
}

/// Creates all of them, or fails.
pub(super) fn create<'a>(namespaces: impl IntoIterator<Item = &'a Netns>) -> Result<()> {
    run_with_input(Command::new("ip").args(["-batch", "-"]), &batch("add", namespaces))?;
    Ok(())
}

/// Deletes all of them that still exist: someone else may be at it too.
pub(super) fn delete(namespaces: &[Netns]) -> Result<()> {
    let deleted = run_with_input(Command::new("ip").args(["-force", "-batch", "-"]), &batch("delete", namespaces));
    if namespaces.iter().any(Netns::exists) {
        deleted?;
    }
    Ok(())
}

fn batch<'a>(verb: &str, namespaces: impl IntoIterator<Item = &'a Netns>) -> String {
    let line = |namespace: &Netns| format!("netns {verb} {}", namespace.name);
    let lines: Vec<_> = namespaces.into_iter().map(line).collect();
    lines.join("\n")
}
