//! `lbctl flows` and `lbctl slots`: where flows go, and what the balancer remembers of them.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, builder::NonEmptyStringValueParser};
use lb_userspace::{
    api::{Client, ClientError, EntryView, FlowView, FlowsView, MoveView, SlotsView, TranslatedView},
    model::counted,
};

use super::{Output, affinity::server, encode, show, tables};

#[derive(Args)]
#[command(
    after_help = "Flows are remembered where slots move, or with tracking = \"always\"; others go where their slot says. Those of \
                  services that translate addresses are remembered all, and listed with their addresses: SOURCE is where the backend \
                  sees them come from. Of ICMP, a client's port is the identifier of its pings.

STATE  opening: only its first packet has come; sighted: one packet of a flow that was there before; established: more;
       closing: FIN or RST was seen. The entry of a closing flow stays for up to two minutes. Where addresses are translated:
       opening, answered, established, client-closed, backend-closed, time-wait, reset, and sighted: first seen in mid-connection, and
       not answered since; of datagrams and pings unreplied, replied.
IDLE   for how long no packet has come, at least. Coarse: in steps of 1 s while a flow is opening or closing, of 34 s
       otherwise.
TAG    tells flows apart: 39 bits of their hash. The flow table does not know addresses; --client finds the flow of one."
)]
pub(crate) struct Flows {
    /// Only of this service.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    service: Option<String>,
    /// Where the flow of this client goes, whether it is remembered or not.
    #[arg(long, value_name = "ADDRESS:PORT", requires = "service")]
    client: Option<SocketAddr>,
    /// With --client: the destination port, for a service of all ports.
    #[arg(long, requires = "client", allow_negative_numbers = true)]
    port: Option<u16>,
    /// Only of this backend, by name or address.
    #[arg(long, conflicts_with = "client")]
    backend: Option<String>,
    /// Only in this state: see below.
    #[arg(long, conflicts_with = "client")]
    state: Option<String>,
    /// Only of this slot.
    #[arg(long, conflicts_with = "client", allow_negative_numbers = true)]
    slot: Option<u32>,
    /// List so many at most.
    #[arg(long, default_value_t = 1000, conflicts_with = "client", allow_negative_numbers = true)]
    limit: usize,
    /// Count them by backend and state, and list none.
    #[arg(long, conflicts_with = "client")]
    count: bool,
}

pub(crate) async fn flows(client: &Client, flows: Flows, output: Output) -> Result<(), ClientError> {
    if let (Some(service), Some(from)) = (&flows.service, flows.client) {
        let port = flows.port.map_or(String::new(), |port| format!("&port={port}"));
        let path = format!("/v1/flow?service={}&client={}{port}", encode(service), encode(&from.to_string()));
        let flow: FlowView = client.get(&path).await?;
        show(output, &flow, flow_text);
        return Ok(());
    }
    let is_filtered =
        flows.service.is_some() || flows.backend.is_some() || flows.state.is_some() || flows.slot.is_some();
    let limit = if flows.count { 0 } else { flows.limit };
    let filters = [
        ("service", flows.service),
        ("backend", flows.backend),
        ("state", flows.state),
        ("slot", flows.slot.map(|slot| slot.to_string())),
        ("limit", Some(limit.to_string())),
    ];
    let filters = filters.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", encode(&value?))));
    let path = format!("/v1/flows?{}", filters.collect::<Vec<_>>().join("&"));
    let found: FlowsView = client.get(&path).await?;
    show(output, &found, |found| flows_text(found, flows.count, is_filtered));
    Ok(())
}

pub(crate) async fn slots(client: &Client, service: &str, output: Output) -> Result<(), ClientError> {
    let slots: SlotsView = client.get(&format!("/v1/services/{}/slots", encode(service))).await?;
    show(output, &slots, slots_text);
    Ok(())
}

fn flow_text(flow: &FlowView) -> String {
    let FlowView {
        service,
        client,
        destination,
        slot,
        slot_state,
        one_packet,
        backend,
        state,
        is_reset,
        new_flow,
        new_flow_by,
        affinity,
        entry,
        translated,
    } = flow;
    let to = match (backend, state, new_flow_by) {
        (Some(backend), Some(state), _) => format!("to {backend} ({})", state.name()),
        (_, _, Some(decides)) if *one_packet => format!("as {decides} decides"),
        _ => "to nobody: it is dropped".to_owned(),
    };
    let to = if *one_packet { format!("each datagram {to}") } else { to };
    let remembered = entry.as_ref().map_or_else(String::new, |EntryView { state, idle, .. }| {
        format!(", as remembered: {state}, last seen {} ago", ago(*idle))
    });
    let translated = translated.iter().map(|TranslatedView { backend, state, source, target, idle, .. }| {
        let whose = if *one_packet { format!(" of {backend}") } else { String::new() };
        format!(", as {source} -> {target}{whose}: {state}, last seen {} ago", ago(*idle))
    });
    let remembered: String = [remembered].into_iter().chain(translated).collect();
    let to = if *is_reset { "unknown: what opens no connection is answered with a reset".to_owned() } else { to };
    let new = match new_flow_by {
        _ if *one_packet => String::new(),
        Some(decides) if new_flow.is_none() => format!("; if it begins now, {decides} decides"),
        None if new_flow == backend && !is_reset => String::new(),
        _ => format!("; if it begins now, to {}", new_flow.as_deref().unwrap_or("nobody")),
    };
    let stays = affinity.as_ref().map_or_else(String::new, |known| {
        format!("; the client {} stays with {} for another {}", known.client, server(known), ago(known.remaining))
    });
    format!("{client} -> {destination} ({service}): slot {slot} ({slot_state}), {to}{remembered}{new}{stays}")
}

fn flows_text(found: &FlowsView, count: bool, is_filtered: bool) -> String {
    let mut counts = tables::table(&["SERVICE", "BACKEND", "STATE", "FLOWS"]);
    for count in &found.counts {
        counts.add_row([count.service.clone(), count.backend.clone(), count.state.clone(), count.flows.to_string()]);
    }
    if found.total == 0 && is_filtered {
        return "no flow matches, of those that are remembered".to_owned();
    }
    if found.total == 0 {
        return "no flow is remembered: each goes where its slot says".to_owned();
    }
    if count {
        return format!("{}\n\n{}", tables::render(&counts), counted(found.total, "flow"));
    }
    let mut flows = tables::table(&["SERVICE", "BACKEND", "STATE", "SLOT", "IDLE", "TAG"]);
    for flow in &found.flows {
        flows.add_row([
            flow.service.clone(),
            flow.backend.clone(),
            flow.state.clone(),
            flow.slot.to_string(),
            ago(flow.idle),
            flow.tag.clone(),
        ]);
    }
    let mut translated =
        tables::table(&["SERVICE", "BACKEND", "STATE", "IDLE", "CLIENT", "DESTINATION", "SOURCE", "TARGET"]);
    for flow in &found.translated {
        let TranslatedView { service, backend, state, client, destination, source, target, idle } = flow;
        let [client, destination, source, target] = [client, destination, source, target].map(ToString::to_string);
        translated.add_row([
            service.clone(),
            backend.clone(),
            state.clone(),
            ago(*idle),
            client,
            destination,
            source,
            target,
        ]);
    }
    let shown = [(found.flows.is_empty(), &flows), (found.translated.is_empty(), &translated)];
    let shown: Vec<String> =
        shown.into_iter().filter(|(is_empty, _)| !is_empty).map(|(_, table)| tables::render(table)).collect();
    let listed = found.flows.len() + found.translated.len();
    let all = if listed as u64 == found.total { String::new() } else { format!(", {listed} shown") };
    format!("{}\n\n{}{all}", shown.join("\n\n"), counted(found.total, "flow"))
}

fn slots_text(slots: &SlotsView) -> String {
    let SlotsView { service, slots: all, empty, stable, tracked, moves, restarted, waiting } = slots;
    let in_state =
        |state: &str| moves.iter().filter(|shown| shown.state == state).map(|shown| shown.slots).sum::<u32>();
    let mut lines = vec![format!(
        "{service}: {all} slots, {stable} stable, {} arming, {} moving, {tracked} tracked, {empty} without an owner",
        in_state("arming"),
        in_state("moving"),
    )];
    if *waiting > 0 {
        lines.push(format!(
            "{waiting} of them wait to move, because as many as the table has were moved within a minute"
        ));
    }
    if let Some(restarted) = restarted {
        lines.push(format!(
            "slots that move wait anew since {} ago, when the flow table lost a flow (`lbctl stats`: evicted, full)",
            ago(*restarted)
        ));
    }
    if !moves.is_empty() {
        let mut table = tables::table(&["STATE", "SLOTS", "FROM", "TO", "WHY", "FIRST SINCE", "LAST FOR ANOTHER"]);
        for MoveView { state, from, to, slots, reason, since, remaining } in moves {
            table.add_row([
                state.clone(),
                slots.to_string(),
                from.clone(),
                to.clone(),
                format!("{from}: {reason}"),
                ago(*since),
                ago(*remaining),
            ]);
        }
        lines.extend([String::new(), tables::render(&table)]);
    }
    lines.join("\n")
}

fn ago(time: Duration) -> String {
    tables::whole_seconds(time)
}
