//! What people see.

use std::{net::IpAddr, time::Duration};

use comfy_table::{Table, presets};
use lb_userspace::{
    api::{NatView, StatsView, StatusView},
    config::{Affinity, Endpoint, Protocol, Tracking},
    model::{Admin, BackendState, BackendView, NextHopView, PortUse, ProbeView, ServiceView, SourceView, counted},
};

/// A time, without what is less than a second.
pub(crate) fn whole_seconds(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

pub(crate) fn render(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

pub(crate) fn status(status: &StatusView) -> String {
    let mut lines = vec![
        format!(
            "lbd {} on node {}, pid {}, up {}",
            status.version,
            status.node,
            status.pid,
            whole_seconds(status.uptime),
        ),
        format!("configuration  {}", status.config.display()),
    ];
    for interface in &status.interfaces {
        lines.push(format!("interface      {} ({} mode)", interface.interface, interface.mode));
    }
    let backends: Vec<String> = status.backends.iter().map(|(state, count)| format!("{count} {state}")).collect();
    lines.push(format!("services       {}, backends {}", status.services, backends.join(", ")));
    lines.push(match (status.flow_table.flows, status.flow_table.size) {
        (Some(flows), size) => format!("flow table     {flows} of {size} entries in use"),
        (None, size) => format!("flow table     {size} entries; those in use are not counted yet"),
    });
    if let Some(nat) = &status.nat {
        lines.push(match nat.flows {
            Some(flows) => format!("nat table      {flows} of {} entries in use{}", nat.size, held_ports(nat)),
            None => format!("nat table      {} entries; those in use are not counted yet", nat.size),
        });
        let used = |source: &&SourceView| source.fullest.as_ref().map_or(0, |fullest| fullest.used);
        lines.extend(nat.sources.iter().max_by_key(used).map(|source| format!("source ports   {}", fullest(source))));
    }
    lines.extend(status.problems.iter().map(|problem| format!("PROBLEM        {problem}")));
    lines.join("\n")
}

pub(crate) fn services(services: &[ServiceView]) -> String {
    let mut table = table(&["SERVICE", "ADDRESS", "ALGORITHM", "FORWARDING", "UP", "PACKETS", "BYTES"]);
    for service in services {
        let up = service.backends.iter().filter(|backend| backend.takes_new_flows()).count();
        let configured = service.backends.iter().filter(|backend| backend.state != BackendState::Removed).count();
        table.add_row([
            format!("{}{}", service.name, if service.changed { " *" } else { "" }),
            endpoint(service),
            service.algorithm.to_string(),
            service.forwarding.to_string(),
            format!("{up}/{configured}"),
            service.packets.to_string(),
            service.bytes.to_string(),
        ]);
    }
    let mut text = render(&table);
    if services.iter().any(|service| service.changed) {
        text.push_str("\n* changed with lbctl since the configuration file was read");
    }
    text
}

pub(crate) fn service_details(services: &[ServiceView]) -> String {
    let details = |service: &ServiceView| {
        format!(
            "{}  {}  {}, {}, {} slots{}{}\n{}\n\n{}",
            service.name,
            endpoint(service),
            algorithm(service),
            forwarding(service),
            service.slots,
            service.affinity.as_ref().map_or(String::new(), affinity),
            if service.one_packet { ", each datagram by itself" } else { "" },
            times(service),
            backends(std::slice::from_ref(service)),
        )
    };
    services.iter().map(details).collect::<Vec<_>>().join("\n\n")
}

fn algorithm(service: &ServiceView) -> String {
    let prefix = service.source_prefix.map(|prefix| format!(" of /{prefix}"));
    let begins = service.begins_in.map(|wait| format!(" (begins in {})", whole_seconds(wait)));
    let on_full = service.on_full.map(|on_full| format!(", {on_full} when full"));
    let more: String = [prefix, begins, on_full].into_iter().flatten().collect();
    format!("{}{more}", service.algorithm)
}

fn forwarding(service: &ServiceView) -> String {
    match service.gue_port {
        Some(port) => format!("{} to port {port}", service.forwarding),
        None => service.forwarding.to_string(),
    }
}

fn affinity(affinity: &Affinity) -> String {
    let prefix = affinity.prefix.map_or(String::new(), |prefix| format!(" by /{prefix}"));
    let group = affinity.group.as_ref().map_or(String::new(), |group| format!(" in group {group}"));
    format!(", clients stay for {}{prefix}{group}", humantime::format_duration(affinity.timeout))
}

/// How long flows and backends have, and what becomes of flows whose backend dies.
fn times(service: &ServiceView) -> String {
    let time = |time: Option<Duration>| {
        time.map_or_else(|| "none".to_owned(), |time| humantime::format_duration(time).to_string())
    };
    let slow_start = service.slow_start.map_or_else(String::new, |rise| format!(", slow start {}", time(Some(rise))));
    format!(
        "idle timeout {}, drain timeout {}{slow_start}, on death {}",
        time(Some(service.idle_timeout)),
        time(service.drain_timeout),
        service.on_death
    )
}

pub(crate) fn backends(services: &[ServiceView]) -> String {
    let mut table = table(&[
        "SERVICE",
        "BACKEND",
        "ADDRESS",
        "WEIGHT",
        "STATE",
        "SHARE",
        "FLOWS",
        "ACTIVE",
        "LATENCY",
        "NEXT HOP",
        "LAST CHECK",
        "PACKETS",
    ]);
    for service in services {
        for backend in &service.backends {
            table.add_row([
                service.name.clone(),
                backend.name.clone(),
                Endpoint { address: backend.address, port: backend.port }.to_string(),
                backend.weight.to_string(),
                state(backend),
                share(service, backend),
                flows(backend),
                active(service.tracking, backend),
                backend.latency.map_or("-".to_owned(), latency),
                backend.next_hop.as_ref().map_or("-".to_owned(), next_hop),
                backend.probe.as_ref().map_or("-".to_owned(), probe),
                backend.packets.to_string(),
            ]);
        }
    }
    render(&table)
}

pub(crate) fn stats(stats: &StatsView) -> String {
    let mut verdicts = table(&["VERDICT", "PACKETS"]);
    for (verdict, packets) in &stats.verdicts {
        verdicts.add_row([verdict.clone(), packets.to_string()]);
    }
    verdicts.add_row(["received".to_owned(), stats.received.to_string()]);
    let mut tracking = table(&["FLOW TABLE", "COUNT"]);
    for (event, count) in &stats.tracking {
        tracking.add_row([event.clone(), count.to_string()]);
    }
    let mut traffic = table(&["SERVICE", "TO BACKEND", "PACKETS", "BYTES"]);
    for service in &stats.services {
        traffic.add_row([
            service.name.clone(),
            "all".to_owned(),
            service.packets.to_string(),
            service.bytes.to_string(),
        ]);
        for backend in &service.backends {
            traffic.add_row([
                service.name.clone(),
                backend.name.clone(),
                backend.packets.to_string(),
                backend.bytes.to_string(),
            ]);
        }
    }
    let nat = stats.nat.iter().flat_map(|nat| [nat_table(nat), source_ports(&nat.sources)]);
    let tables = [verdicts, tracking].into_iter().chain(nat).chain([traffic]);
    tables.filter(|table| !table.is_empty()).map(|table| render(&table)).collect::<Vec<_>>().join("\n\n")
}

fn held_ports(nat: &NatView) -> String {
    if nat.held == 0 { String::new() } else { format!(", {} held", counted(nat.held, "port")) }
}

fn nat_table(nat: &NatView) -> Table {
    let mut table = table(&["NAT TABLE", "FLOWS"]);
    table.add_row(["size".to_owned(), nat.size.to_string()]);
    table.add_row(["in use".to_owned(), nat.flows.map_or("not counted yet".to_owned(), |flows| flows.to_string())]);
    table.add_row(["ports held besides".to_owned(), nat.held.to_string()]);
    table
}

fn source_ports(sources: &[SourceView]) -> Table {
    let mut table = table(&["SOURCE", "PORTS", "FLOWS", "MOST PORTS IN USE"]);
    for source in sources {
        table.add_row([
            source.address.to_string(),
            source.ports.to_string(),
            source.flows.to_string(),
            source.fullest.as_ref().map_or("-".to_owned(), |_| fullest(source)),
        ]);
    }
    table
}

/// How many ports of a source are in use to the backend that has most.
fn fullest(source: &SourceView) -> String {
    let (address, ports) = (source.address, source.ports.count());
    match &source.fullest {
        Some(PortUse { backend, protocol, used }) => {
            format!("{used} of {ports} of {address} in use to {backend}/{protocol}")
        }
        None => format!("none in use of the {ports} of {address} for each backend"),
    }
}

fn endpoint(service: &ServiceView) -> String {
    let protocol = service.protocol;
    let port = if service.port == 0 { "*".to_owned() } else { service.port.to_string() };
    match service.address {
        address if protocol == Protocol::Icmp => format!("{address}/{protocol}"),
        IpAddr::V4(address) => format!("{address}:{port}/{protocol}"),
        IpAddr::V6(address) => format!("[{address}]:{port}/{protocol}"),
    }
}

fn state(backend: &BackendView) -> String {
    let name = backend.state.name();
    // One that cannot be reached may be on its leave all the same.
    let is_leaving = backend.admin == Some(Admin::Draining) && backend.state != BackendState::Draining;
    let name = if is_leaving { format!("draining, {name}") } else { name.to_owned() };
    let time_left = backend.time_left.map(|left| match left {
        Duration::ZERO => "its time is up".to_owned(),
        left => format!("for another {}", whole_seconds(left)),
    });
    let details: Vec<String> = backend.reason.iter().cloned().chain(time_left).collect();
    if details.is_empty() { name } else { format!("{name}: {}", details.join(", ")) }
}

fn share(service: &ServiceView, backend: &BackendView) -> String {
    // Both numbers are at most 65,536.
    #[expect(clippy::cast_precision_loss, reason = "exact for numbers of this size")]
    let share = backend.slots as f64 * 100.0 / f64::from(service.slots);
    format!("{share:.1} %")
}

/// The flows that are remembered, and besides those that nobody has counted: in slots that another backend has by now, or is
/// to have, and those that connection ids name.
fn flows(backend: &BackendView) -> String {
    let is_leaving = backend.admin != Some(Admin::Enabled) || backend.weight == 0;
    let slots = backend.slots_left + if is_leaving { backend.slots } else { 0 };
    let known = match backend.flows {
        None => Some("not counted yet".to_owned()),
        Some(0) => None,
        Some(flows) => Some(flows.to_string()),
    };
    let closing = (backend.closing > 0).then(|| format!("{} closing", backend.closing));
    let slots = (slots > 0).then(|| counted(slots as u64, "slot"));
    let hidden = backend.hidden_flows.then(|| "by connection id".to_owned());
    let parts: Vec<String> = [known, closing, slots, hidden].into_iter().flatten().collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(" + ") }
}

/// The connections that it has now, and how many it may have, where all are counted.
fn active(tracking: Tracking, backend: &BackendView) -> String {
    match backend.max_connections {
        _ if tracking != Tracking::Always => "-".to_owned(),
        Some(limit) => format!("{}/{limit}", backend.active),
        None => backend.active.to_string(),
    }
}

/// In milliseconds, to three digits at least.
fn latency(latency: Duration) -> String {
    let milliseconds = latency.as_secs_f64() * 1e3;
    let decimals = if milliseconds < 1.0 { 3 } else { 1 };
    format!("{milliseconds:.decimals$} ms")
}

fn next_hop(next_hop: &NextHopView) -> String {
    match next_hop {
        NextHopView::Local => "this host".to_owned(),
        NextHopView::Via { interface, mac, .. } => format!("{mac} on {interface}"),
    }
}

fn probe(probe: &ProbeView) -> String {
    match (&probe.failure, probe.latency) {
        (Some(_), _) => format!("failed ({} in a row)", probe.streak),
        (None, Some(latency)) => format!("ok, {:.1} ms", latency.as_secs_f64() * 1e3),
        (None, None) => "ok".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lb_userspace::config::Protocol;

    use super::*;

    fn backend(change: impl Fn(&mut BackendView)) -> BackendView {
        let mut backend = BackendView {
            name: "b1".to_owned(),
            address: [10, 0, 0, 1].into(),
            port: 0,
            weight: 1,
            state: BackendState::Draining,
            admin: Some(Admin::Draining),
            reason: None,
            slots: 0,
            slots_left: 0,
            flows: Some(0),
            active: 0,
            latency: None,
            max_connections: None,
            closing: 0,
            hidden_flows: false,
            time_left: None,
            next_hop: None,
            probe: None,
            id: 1,
            packets: 0,
            bytes: 0,
        };
        change(&mut backend);
        backend
    }

    #[test]
    fn the_flows_of_a_backend_that_leaves_are_all_that_it_may_have() {
        let shown = |change: fn(&mut BackendView)| flows(&backend(change));
        assert_eq!(shown(|_| {}), "-");
        assert_eq!(shown(|backend| backend.flows = None), "not counted yet");
        assert_eq!(shown(|backend| (backend.flows, backend.closing) = (Some(9), 182)), "9 + 182 closing");
        assert_eq!(shown(|backend| backend.slots = 768), "768 slots", "it still owns them");
        assert_eq!(shown(|backend| (backend.flows, backend.slots_left) = (Some(3), 1)), "3 + 1 slot");
        assert_eq!(shown(|backend| backend.hidden_flows = true), "by connection id");
    }

    #[test]
    fn slots_of_a_backend_that_stays_are_no_question_of_flows() {
        let up = |backend: &mut BackendView| {
            (backend.admin, backend.state, backend.slots) = (Some(Admin::Enabled), BackendState::Up, 768);
        };
        assert_eq!(flows(&backend(up)), "-");
    }

    #[test]
    fn a_backend_that_drains_and_is_down_is_shown_as_both() {
        let left = |backend: &mut BackendView| backend.time_left = Some(Duration::from_secs(90));
        assert_eq!(state(&backend(left)), "draining: for another 1m 30s");
        let down = |backend: &mut BackendView| {
            left(backend);
            (backend.state, backend.reason) = (BackendState::Down, Some("connection refused".to_owned()));
        };
        assert_eq!(state(&backend(down)), "draining, down: connection refused, for another 1m 30s");
        let enabled = |backend: &mut BackendView| {
            (backend.state, backend.admin) = (BackendState::Down, Some(Admin::Enabled));
        };
        assert_eq!(state(&backend(enabled)), "down");
    }

    #[test]
    fn active_connections_are_shown_beside_what_there_may_be() {
        let with =
            |max_connections| backend(|backend| (backend.active, backend.max_connections) = (7, max_connections));
        assert_eq!([None, Some(10)].map(|limit| active(Tracking::Always, &with(limit))), ["7", "7/10"]);
        assert_eq!(active(Tracking::WhenNeeded, &with(None)), "-", "most are not known");
    }

    #[test]
    fn the_source_whose_ports_are_used_most_to_one_backend_is_named() {
        let source = |address: &str, fullest| SourceView {
            address: address.parse().unwrap(),
            ports: "1024-32767".parse().unwrap(),
            flows: 9,
            fullest,
        };
        let backend = "10.0.0.1:8080".parse().unwrap();
        let port_use = PortUse { backend, protocol: Protocol::Tcp, used: 7 };
        let used = source("10.0.0.254", Some(port_use));
        assert_eq!(fullest(&used), "7 of 31744 of 10.0.0.254 in use to 10.0.0.1:8080/tcp");
        let unused = source("10.0.0.253", None);
        assert_eq!(fullest(&unused), "none in use of the 31744 of 10.0.0.253 for each backend");
        let table = render(&source_ports(&[unused, used]));
        assert!(table.contains("10.0.0.253  1024-32767  9      -\n"), "{table}");
    }

    #[test]
    fn a_latency_is_shown_as_exactly_as_it_matters() {
        let shown = |microseconds| latency(Duration::from_micros(microseconds));
        assert_eq!([71, 999, 1000, 12_345].map(shown), ["0.071 ms", "0.999 ms", "1.0 ms", "12.3 ms"]);
    }

    #[test]
    fn one_flow_is_one_flow() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "flow")), ["0 flows", "1 flow", "2 flows"]);
    }
}
