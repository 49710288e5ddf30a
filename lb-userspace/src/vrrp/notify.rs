//! Tells the operator's programs of changes of state.

use super::{
    launch::launch,
    router::{Change, Status},
};
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
        tokio::spawn(run(command.clone(), Vec::new()));
    }
    if let Some(command) = any {
        let arguments = ["INSTANCE", &instance.name, word, &change.priority.to_string()].map(str::to_owned);
        tokio::spawn(run(command.clone(), arguments.into()));
    }
}

async fn run(command: config::Command, arguments: Vec<String>) {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let ended = match launch(&command, &arguments).await {
        Ok(mut launched) => launched.wait().await,
        Err(error) => Err(error),
    };
    let program = command.program.display();
    match ended {
        Ok(status) if status.success() => {}
        Ok(status) => log::warn!("{program} ended with {status}"),
        Err(error) => log::warn!("{program}: {error}"),
    }
}
