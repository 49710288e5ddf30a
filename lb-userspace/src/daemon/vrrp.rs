//! The daemon sees to it that a VRRP process runs. It has no other part in VRRP: mastership goes on without it.

use std::{
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use hyper::Method;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::{Pid, setsid},
};
use tokio::{io::unix::AsyncFd, time::timeout};

use super::Daemon;
use crate::{
    api::{Client, ClientError, Refusal},
    vrrp::{api::socket, watcher},
};

/// How long the VRRP process may take to read the configuration again.
const RELOAD: Duration = Duration::from_secs(5);
/// For packets that are on their way here while the network learns who is master now.
const LINGER: Duration = Duration::from_secs(1);

/// How long it may take to hand over: two intervals, and an interval is 255 seconds at most.
const HAND_OVER: Duration = Duration::from_secs(2 * 255 + 10);

/// The VRRP process of this node, whoever started it.
#[derive(Debug, Default)]
pub(super) struct VrrpProcess(Option<AsyncFd<PidFd>>);

/// Stands for a process: it can be read from when that has ended.
#[derive(Debug)]
struct PidFd(OwnedFd);

impl AsRawFd for PidFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl PidFd {
    fn open(pid: Pid) -> nix::Result<Self> {
        // SAFETY: pidfd_open(2) takes two numbers.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
        let descriptor = Errno::result(result)?;
        // SAFETY: the kernel has just made this descriptor, which nobody else knows. It is a small number.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(i32::try_from(descriptor).map_err(|_| Errno::EBADF)?) }))
    }

    /// Ready when the process has ended.
    fn watch(self) -> Option<AsyncFd<Self>> {
        // SAFETY: it owns its descriptor, always the same one, and closes it when it is dropped with the `AsyncFd`.
        unsafe { AsyncFd::register(self) }.ok()
    }
}

impl VrrpProcess {
    /// Waits until it has ended; for ever if there is none.
    pub(super) async fn died(&mut self) {
        match &self.0 {
            None => std::future::pending().await,
            Some(process) => {
                let _ = process.readable().await;
                log::error!("lbd vrrp has ended");
                self.0 = None;
            }
        }
    }
}

impl Daemon {
    /// Starts a VRRP process if there is to be one, and none runs.
    pub(super) fn ensure_vrrp(&mut self) {
        if self.vrrp.0.is_some() || self.options.no_vrrp {
            return;
        }
        let state = &self.config.node.state;
        if let Some(pid) = watcher::running(state) {
            self.vrrp.0 = PidFd::open(pid).ok().and_then(PidFd::watch);
        } else if !self.config.vrrp.is_empty() {
            match self.start_vrrp() {
                Ok(pid) => {
                    log::info!("started lbd vrrp, pid {pid}");
                    self.vrrp.0 = PidFd::open(pid).ok().and_then(PidFd::watch);
                }
                Err(error) => log::error!("{error:#}"),
            }
        }
    }

    /// Starts one that outlives this process: in a session of its own, and not as its child for longer than it takes to start.
    fn start_vrrp(&self) -> anyhow::Result<Pid> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.args(["vrrp", "--config"]).arg(&self.options.config).stdin(Stdio::null());
        // SAFETY: setsid(2) is async-signal-safe, and the closure touches no memory.
        unsafe {
            command.pre_exec(|| Ok(setsid().map(drop)?));
        }
        let mut child = command.spawn().context("cannot start lbd vrrp")?;
        let pid = Pid::from_raw(child.id().cast_signed());
        // So that nothing is left of it in the table of processes when it ends before this one.
        std::thread::spawn(move || child.wait());
        Ok(pid)
    }

    /// Has the VRRP process read the configuration again.
    pub(super) async fn reload_vrrp(&mut self) -> Result<(), Refusal> {
        self.ensure_vrrp();
        if self.vrrp.0.is_none() {
            return Ok(());
        }
        let client = Client::new(&socket(&self.config.node.socket));
        let failed = |error: String| Refusal::Failed(format!("services are reloaded, but VRRP is not: {error}"));
        match timeout(RELOAD, client.send::<()>(Method::POST, "/v1/reload", &())).await {
            // One that has just been started reads the file by itself.
            Ok(Ok(()) | Err(ClientError::Unreachable { .. })) => Ok(()),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("lbd vrrp did not answer within {RELOAD:?}"))),
        }
    }
}

/// Has the VRRP process of the node with this state folder hand over, waits until it has ended, and for what is still on its way
/// here. Nothing runs: nothing to do.
pub async fn stop(state: &Path) -> anyhow::Result<()> {
    let Some(pid) = watcher::running(state) else { return Ok(()) };
    let Some(process) = PidFd::open(pid).ok().and_then(PidFd::watch) else { return Ok(()) };
    log::info!("stopping lbd vrrp, pid {pid}: it hands over first");
    kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop lbd vrrp, pid {pid}"))?;
    if timeout(HAND_OVER, process.readable()).await.is_err() {
        bail!("lbd vrrp, pid {pid}, does not end");
    }
    tokio::time::sleep(LINGER).await;
    Ok(())
}
