//! Starts the operator's programs.

use std::{
    io,
    process::{ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{process::Child, task::spawn_blocking};

use crate::config;

/// A program of the operator's that runs. It is killed when this is dropped, unless it was waited for.
#[derive(Debug)]
pub(super) struct Launched(Child);

/// Starts a program with more arguments behind its own, without input and output, in a process group of its own.
///
/// It is started by another thread: whoever starts a program stands still until that has begun, which can take long on a busy
/// node, and the caller has real-time work to do.
pub(super) async fn launch(command: &config::Command, more: &[&str]) -> io::Result<Launched> {
    let mut starting = tokio::process::Command::new(&command.program);
    starting
        .args(&command.arguments)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    spawn_blocking(move || starting.spawn()).await.map_err(io::Error::other)?.map(Launched)
}

impl Launched {
    /// Waits until it ends.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// Ends it, and what it has started.
    pub(super) async fn kill(mut self) {
        if let Some(pid) = self.0.id() {
            // The group may have no other member any more.
            let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        let _ = self.0.kill().await;
    }
}
