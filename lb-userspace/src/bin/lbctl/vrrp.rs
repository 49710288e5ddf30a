//! `lbctl vrrp`: talks to the VRRP process itself, so that it works without the daemon, too.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use clap::Subcommand;
use hyper::Method;
use lb_userspace::{
    api::{Client, ClientError},
    vrrp::{self, Change, InstancePatch, InstanceView, VrrpView},
};

use crate::{
    Output, encode, show,
    tables::{render, table},
};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// The instances: state, master, priority. With a name: timers, counters and history of that one, too.
    Status {
        /// The instance.
        name: Option<String>,
    },
    /// Have an instance, and its sync group, hand its addresses over to another node. It does not take them back while that
    /// node lives.
    Failover {
        /// The instance, which is master here.
        name: String,
    },
    /// Give an instance, and its sync group, another priority until the process ends.
    Priority {
        /// The instance.
        name: String,
        /// 1 to 254; `default` for the configured one.
        #[arg(value_parser = priority)]
        priority: Priority,
    },
}

#[derive(Clone, Copy)]
pub(crate) struct Priority(Option<u8>);

fn priority(text: &str) -> Result<Priority, String> {
    match text.parse() {
        _ if text == "default" => Ok(Priority(None)),
        Ok(priority @ 1..=254) => Ok(Priority(Some(priority))),
        _ => Err("write 1 to 254, or default for the configured one".to_owned()),
    }
}

pub(crate) async fn run(socket: &Path, command: Command, output: Output) -> Result<(), ClientError> {
    let client = Client::new(&vrrp::api::socket(socket));
    match command {
        Command::Status { name } => {
            let mut status: VrrpView = client.get("/v1/vrrp").await?;
            let Some(name) = name else {
                show(output, &status, instances);
                return Ok(());
            };
            status.instances.retain(|instance| instance.name == name);
            let Some(instance) = status.instances.first() else {
                let message = format!("there is no VRRP instance {name:?}; `lbctl vrrp status` shows them");
                return Err(ClientError::Refused(message));
            };
            show(output, instance, details);
        }
        Command::Failover { name } => {
            let path = format!("/v1/vrrp/{}/failover", encode(&name));
            let () = client.send(Method::POST, &path, &()).await?;
            show(output, &(), |()| format!("{name}: said farewell; the next node takes over"));
        }
        Command::Priority { name, priority: Priority(priority) } => {
            let path = format!("/v1/vrrp/{}", encode(&name));
            let () = client.send(Method::PATCH, &path, &InstancePatch { priority }).await?;
            show(output, &(), |()| match priority {
                Some(priority) => format!("{name}: priority {priority}"),
                None => format!("{name}: the configured priority"),
            });
        }
    }
    Ok(())
}

fn instances(status: &VrrpView) -> String {
    let mut rows =
        table(&["INSTANCE", "STATE", "SINCE", "PRIORITY", "MASTER", "INTERVAL", "INTERFACE", "ID", "ADDRESSES"]);
    for instance in &status.instances {
        rows.add_row([
            instance.name.clone(),
            format!("{}{}", instance.state.name(), if instance.yields { " (handed over)" } else { "" }),
            since(instance),
            weight(instance),
            master(instance),
            humantime::format_duration(instance.timers.interval).to_string(),
            instance.interface.clone(),
            instance.router_id.to_string(),
            instance.addresses.join(" "),
        ]);
    }
    let mut lines = vec![render(&rows)];
    lines.extend(status.strays.iter().map(|(reason, count)| format!("passed over  {count} packets: {reason}")));
    lines.extend(status.problems.iter().map(|problem| format!("PROBLEM      {problem}")));
    lines.join("\n")
}

fn details(instance: &InstanceView) -> String {
    let mut lines = vec![format!(
        "{}  {}  since {}\n\nmaster          {}\npriority        {} (configured {})\naddresses       {}{}",
        instance.name,
        instance.state.name(),
        since(instance),
        master(instance),
        instance.priority,
        instance.configured_priority,
        instance.addresses.join(" "),
        if instance.holds_addresses { ", here" } else { "" },
    )];
    let timers = &instance.timers;
    lines.push(format!(
        "router          version {}, id {} on {}, authentication {}\ntimers          interval {}, skew {}, master down after {}",
        instance.version,
        instance.router_id,
        instance.interface,
        instance.authentication.as_deref().unwrap_or("none"),
        humantime::format_duration(timers.master_interval),
        milliseconds(timers.skew),
        milliseconds(timers.master_down),
    ));
    if instance.yields {
        lines.push(
            "handed over     takes nothing back while its successor lives; fail over there undoes that".to_owned(),
        );
    }
    if let Some(group) = &instance.sync_group {
        lines.push(format!("sync group      {group}"));
    }
    if let Some(reason) = &instance.reason {
        lines.push(format!("takes no part   {reason}"));
    }
    for track in &instance.tracks {
        let weight = track.weight.map_or("decides alone".to_owned(), |weight| format!("weight {weight}"));
        lines.push(format!("track           {}: {} ({weight})", track.what, track.reading));
    }
    let counters = &instance.counters;
    lines.push(format!(
        "advertisements  {} sent, {} received; farewells {} sent, {} received; {} times master",
        counters.sent, counters.received, counters.farewells_sent, counters.farewells_received, counters.became_master,
    ));
    for (reason, count) in &counters.discarded {
        lines.push(format!("discarded       {count} {reason}"));
    }
    if let Some((source, reason)) = &counters.last_discarded {
        lines.push(format!("last discarded  from {source}: {reason}"));
    }
    if !instance.history.is_empty() {
        lines.push(String::new());
        lines.extend(instance.history.iter().map(change));
    }
    lines.join("\n")
}

fn change(change: &Change) -> String {
    let at = humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + change.at);
    format!("{at}  {} -> {}, priority {}: {}", change.from.name(), change.to.name(), change.priority, change.reason)
}

fn since(instance: &InstanceView) -> String {
    let Some(since) = instance.since else { return "-".to_owned() };
    let age = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(since);
    // Below a minute tenths matter, above it they are noise.
    let age = if age < Duration::from_mins(1) {
        Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(0) / 100 * 100)
    } else {
        Duration::from_secs(age.as_secs())
    };
    humantime::format_duration(age).to_string()
}

fn weight(instance: &InstanceView) -> String {
    if instance.priority == instance.configured_priority {
        instance.priority.to_string()
    } else {
        format!("{} (configured {})", instance.priority, instance.configured_priority)
    }
}

fn master(instance: &InstanceView) -> String {
    match &instance.master {
        Some(master) if master.here => format!("this node ({})", master.address),
        Some(master) => format!("{} (priority {})", master.address, master.priority),
        None => instance.reason.clone().unwrap_or_else(|| "not heard yet".to_owned()),
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
