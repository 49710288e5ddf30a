//! Tells the operator's programs of changes of state.

use std::process::Stdio;

use tokio::process::Command;

use super::router::{Change, Status};
use crate::config::{self, Vrrp};

/// Starts the programs that are to hear of a change, and does not wait for them.
pub(super) fn notify(instance: &Vrrp, change: &Change) {
    let config::Notify { any, master, backup, fault, stop } = &instance.notify;
    let (word, special) = match change.to {
        Status::Master => ("MASTER", master),
        Status::Backup => ("BACKUP", backup),
        Status::Fault => ("FAULT", fault),
        Status::Stopped => ("STOP", stop),
    };
    if let Some(command) = special {
        start(command, &[]);
    }
    if let Some(command) = any {
        start(command, &["INSTANCE", &instance.name, word, &change.priority.to_string()]);
    }
}

fn start(command: &config::Command, more: &[&str]) {
    let program = command.program.display().to_string();
    let child = Command::new(&command.program)
        .args(&command.arguments)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    match child {
        Err(error) => log::warn!("cannot start {program}: {error}"),
        Ok(mut child) => {
            tokio::spawn(async move {
                match child.wait().await {
                    Ok(status) if status.success() => {}
                    Ok(status) => log::warn!("{program} ended with {status}"),
                    Err(error) => log::warn!("{program}: {error}"),
                }
            });
        }
    }
}
