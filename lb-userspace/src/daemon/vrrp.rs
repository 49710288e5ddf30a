//! The daemon sees to it that a VRRP process runs. It has no other part in VRRP: mastership goes on without it.

use std::{
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
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

/// One that ends sooner than this after its start is not started again at once.
const SOON: Duration = Duration::from_secs(1);

/// The VRRP process of this node, whoever started it.
#[derive(Debug, Default)]
pub(super) struct VrrpProcess {
    running: Option<AsyncFd<PidFd>>,
    /// When this daemon has started one last.
    started: Option<Instant>,
}

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

    /// The same, if that process is one of this program: the number may be another's by now.
    fn of_lbd(pid: Pid) -> nix::Result<Self> {
        let opened = Self::open(pid)?;
        let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if program.trim() == watcher::PROGRAM_NAME { Ok(opened) } else { Err(Errno::ESRCH) }
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
        match &self.running {
            None => std::future::pending().await,
            Some(process) => {
                let _ = process.readable().await;
                log::error!("lbd vrrp has ended");
                self.running = None;
            }
        }
    }
}

impl Daemon {
    /// Starts a VRRP process if there is to be one, and none runs.
    pub(super) fn ensure_vrrp(&mut self) {
        if self.vrrp.running.is_some() || self.options.no_vrrp {
            return;
        }
        // A watcher that is gone may have left a speaker, which hands over: the next watcher waits for its end.
        let running = watcher::running(&self.config.node.state).and_then(|pid| PidFd::of_lbd(pid).ok());
        let has_just_started = self.vrrp.started.is_some_and(|started| started.elapsed() < SOON);
        if let Some(running) = running {
            self.vrrp.running = running.watch();
        } else if !self.config.vrrp.is_empty() && !has_just_started {
            self.vrrp.started = Some(Instant::now());
            match self.start_vrrp() {
                Ok(pid) => {
                    log::info!("started lbd vrrp, pid {pid}");
                    self.vrrp.running = PidFd::open(pid).ok().and_then(PidFd::watch);
                }
                Err(error) => log::error!("{error:#}"),
            }
        }
    }

    /// Starts one that outlives this process: in a session of its own.
    fn start_vrrp(&self) -> anyhow::Result<Pid> {
        let mut command = Command::new(watcher::THIS_PROGRAM);
        command.arg0(watcher::PROGRAM_NAME).args(["vrrp", "--config"]).arg(&self.options.config).stdin(Stdio::null());
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
        let client = Client::new(&socket(&self.config.node.socket));
        let failed = |error: String| Refusal::Failed(format!("services are reloaded, but VRRP is not: {error}"));
        match timeout(RELOAD, client.send::<()>(Method::POST, "/v1/reload", &())).await {
            // There is none, or one that has just been started and reads the file by itself.
            Ok(Ok(()) | Err(ClientError::Unreachable { .. })) => Ok(()),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("lbd vrrp did not answer within {RELOAD:?}"))),
        }
    }
}

/// Has the VRRP process of the node with this state folder hand over, waits until it has ended, and for what is still on its way
/// here. Nothing runs: nothing to do.
pub(super) async fn stop(state: &Path) -> anyhow::Result<()> {
    let Some(pid) = watcher::running(state) else { return Ok(()) };
    let Some(process) = PidFd::of_lbd(pid).ok().and_then(PidFd::watch) else { return Ok(()) };
    log::info!("stopping lbd vrrp, pid {pid}: it hands over first");
    kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop lbd vrrp, pid {pid}"))?;
    if timeout(HAND_OVER, process.readable()).await.is_err() {
        bail!("lbd vrrp, pid {pid}, does not end");
    }
    tokio::time::sleep(LINGER).await;
    Ok(())
}
