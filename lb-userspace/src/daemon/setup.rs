//! Starting the daemon, and taking everything away.

use std::{collections::HashMap, fs, path::Path, time::Instant};

use anyhow::{Context as _, bail};
use lb_common::{
    ServiceEntry, ServiceKey,
    flow_table::{self, BucketBits},
};
use nix::{
    net::if_::if_nameindex,
    sys::resource::{Resource, getrlimit, setrlimit},
};
use tokio::sync::mpsc;

use super::{
    Daemon, Events, Options, StateDir,
    census::CensusTaker,
    executor::Executor,
    flows::losses,
    interfaces,
    shortages::Shortages,
    vrrp::{self, VrrpProcess},
};
use crate::{
    api,
    config::{self, Config, Ports},
    dataplane::{Attachment, Dataplane, Maps, Opened, Pins, flow_time, flows, interface_index},
    model::{Core, DesiredService, Effect, Found, LiveAffinity, LiveService, Memory},
    neighbour::{Announcer, Gateways, Resolver},
};

/// How many requests, and how many health reports, may wait for the loop.
const QUEUE: usize = 256;

/// Brings everything up, in the order that lets packets go on all the time: first the maps are made true, then the
/// program is put on the interfaces.
pub(super) async fn start(options: Options) -> anyhow::Result<(Daemon, Events)> {
    let config = Config::load(&options.config)?;
    for interface in &config.interfaces {
        interface_index(&interface.name)?;
    }
    raise_open_files();
    let state = StateDir::open(&config.node.state)?;
    state.set_damaged_aside()?;
    let hash_key = state.hash_key(config.node.hash_key.as_ref())?;
    let mut dataplane = Dataplane::load(&config.node.pins, hash_key, config.node.affinity_table, options.ebpf_log)?;
    let logs = match options.ebpf_log {
        Some(_) => Some(dataplane.logger().context("cannot read the eBPF log")?),
        None => None,
    };

    let idle_ticks = idle_ticks(&config.services);
    let (flow_tables, opened) = dataplane.open_flow_tables(config.node.flow_table, idle_ticks)?;
    report(opened);
    let live = read_live(&dataplane.maps, &state.memories()?).context("cannot read what an earlier daemon left")?;
    if !live.is_empty() {
        log::info!("taking over {} services from an earlier daemon", live.len());
    }
    let (desired, edited) = state.merge(config.services.clone())?;
    for name in edited {
        log::warn!("service {name:?} was edited in the configuration file: the changes made with lbctl are dropped");
    }
    let (resolver, next_hops) = Resolver::start(gateways(&config));
    let (reports_sender, reports) = mpsc::channel(QUEUE);
    let mut announcer = Announcer::new()?;
    withdraw_leftovers(&desired, &mut announcer).await?;

    interfaces::put_mac_addresses(&mut dataplane.maps)?;
    let quic_servers = dataplane.maps.quic_servers().context("cannot read the QUIC server ids")?;
    let kernel_ports = kernel_ports().context("cannot read which ports the kernel uses")?;
    let table = flow_tables.table();
    let remembered = flows(&table, flow_time()).map(|flow| flow.entry.backend());
    let nat = dataplane.nat.table();
    let translated = nat.iter().flat_map(|table| table.flows()).map(|(_, record)| record.state.backend());
    let found = Found {
        services: live,
        quic_servers: quic_servers.into_iter().collect(),
        named: remembered.chain(translated).collect(),
        losses: losses(&dataplane.maps, &flow_tables).context("cannot read the counters")?,
        nat_sources: dataplane.maps.nat_sources().context("cannot read the sources of translated flows")?,
        sources_in_use: nat.iter().flat_map(|table| table.flows()).map(|(_, record)| record.source).collect(),
        free_ports: Ports::beside(kernel_ports),
    };
    for warning in warnings(&config, kernel_ports) {
        log::warn!("{warning}");
    }
    let mut core = Core::new(config.node.clone(), found, Instant::now());
    let effects = core.apply(desired, Instant::now())?;
    let mut executor = Executor::new(dataplane, state, announcer, resolver, reports_sender);
    // Packets for a virtual IP find the program when they come, not the kernel, which would refuse them.
    let (announcements, effects): (Vec<_>, Vec<_>) =
        effects.into_iter().partition(|effect| matches!(effect, Effect::Announce(..)));
    executor.run(effects, &core).await?;
    report_nat_table(&executor.dataplane, config.node.nat_table);
    let attachments = attach(&mut executor.dataplane, &config)?;
    match executor.dataplane.take_in_clients() {
        Ok(None) => {}
        Ok(Some(before)) => log::info!(
            "the table of clients had room for {before} before, and has for {} now; its clients keep their servers",
            config.node.affinity_table
        ),
        Err(error) => {
            log::error!("some clients of the last moments may get other servers: {:#}", anyhow::Error::from(error));
        }
    }
    // What cannot be announced is logged, and the rest goes on.
    let _ = executor.run(announcements, &core).await;

    let socket = &config.node.socket;
    let listener = api::bind(socket).with_context(|| format!("cannot open the socket {}", socket.display()))?;
    let (requests_sender, requests) = mpsc::channel(QUEUE);
    tokio::spawn(api::serve(listener, requests_sender));
    log::info!("{} services; lbctl reaches me at {}", config.services.len(), socket.display());

    let started = Instant::now();
    let vrrp = VrrpProcess::default();
    let mut daemon = Daemon {
        options,
        config,
        hash_key,
        started,
        core,
        executor,
        flow_tables,
        census: CensusTaker::new(),
        attachments,
        vrrp,
        shortages: Shortages::default(),
        problems: Vec::new(),
    };
    daemon.ensure_vrrp();
    Ok((daemon, Events { requests, reports, next_hops, logs }))
}

/// How long any flow of the services may be silent, as the datapath counts it.
pub(super) fn idle_ticks(services: &[config::Service]) -> u8 {
    let longest = services.iter().map(config::Service::idle_timeout).max().unwrap_or_default();
    flow_table::idle_ticks(longest.as_secs())
}

/// Says how the flow table came to be what it is.
pub(super) fn report(opened: Opened) {
    match opened {
        Opened::Created | Opened::TakenOver => {}
        Opened::Resized { from, copied, refused } => {
            log::info!("the flow table had room for {} flows before; copied {copied} to the new one", from.entries());
            if refused > 0 {
                log::warn!("{refused} flows found no room in the new flow table: changes under way take longer");
            }
        }
        Opened::Kept { flows } => log::warn!(
            "the flow table keeps its size: its {flows} flows would not fit into a table of the size that [node] flow_table \
             says; reload when there are fewer"
        ),
    }
}

/// What may not work of a configuration, on a node whose kernel uses these ports for connections of its own. In sentences.
pub(super) fn warnings(config: &Config, kernel_ports: Ports) -> Vec<String> {
    let overlapping = config.services.iter().filter_map(|service| {
        // Other sources may be addresses that the kernel begins no connections from.
        let has_own = !service.nat.sources.is_empty() || !config.node.nat_sources.is_empty();
        let ports = service.nat.ports.filter(|ports| !has_own && ports.overlap(kernel_ports))?;
        Some(format!(
            "service {:?}: ports {ports} are also those that this host gives to connections of its own ({kernel_ports}), from the \
             same address: keep it off them (net.ipv4.ip_local_port_range, net.ipv4.ip_local_reserved_ports), or write sources",
            service.name
        ))
    });
    config.warnings().into_iter().chain(overlapping).collect()
}

/// Says so where the table of translated flows is not as large as `wanted`.
fn report_nat_table(dataplane: &Dataplane, wanted: BucketBits) {
    let Some(table) = dataplane.nat.table().filter(|table| table.bits() != wanted) else { return };
    log::warn!(
        "the table of translated flows keeps its {} entries, not the {} of [node] nat_table, until `lbd unload`, which cuts connections",
        table.bits().entries(),
        wanted.entries()
    );
}

/// Runs the program on the interfaces of the configuration, and on no other.
fn attach(dataplane: &mut Dataplane, config: &Config) -> anyhow::Result<Vec<Attachment>> {
    let mut attachments = Vec::with_capacity(config.interfaces.len());
    for interface in &config.interfaces {
        let attachment = dataplane.attach(interface)?;
        let verb = if attachment.taken_over { "replaced the program on" } else { "attached to" };
        log::info!("{verb} {} in {} mode", attachment.interface, attachment.mode);
        attachments.push(attachment);
    }
    dataplane.detach_all_but(&attachments)?;
    Ok(attachments)
}

/// Takes the announced addresses off, detaches the program, and frees the maps below `pins`. The state folder stays; with it,
/// the VRRP process of this node is known, and ends before.
pub async fn unload(pins: &Path, state: Option<&Path>) -> anyhow::Result<()> {
    // Held until the end: no daemon may run on them, and none may start.
    let found = Pins::existing(pins)?;
    if let Some(state) = state {
        vrrp::stop(state).await?;
    }
    let Some(found) = found else {
        log::warn!("nothing is loaded: there are no pins in {}", pins.display());
        return withdraw_leftovers(&[], &mut Announcer::new()?).await;
    };
    // The addresses first: without the program the kernel would refuse their packets.
    let withdrawn = withdraw_leftovers(&[], &mut Announcer::new()?).await;
    found.remove()?;
    log::info!("removed {}", pins.display());
    withdrawn
}

/// Takes off the virtual IPs that an earlier daemon announced and that are not wanted any more, from all interfaces.
async fn withdraw_leftovers(wanted: &[DesiredService], announcer: &mut Announcer) -> anyhow::Result<()> {
    let interfaces = if_nameindex().context("cannot list the interfaces")?;
    for interface in &interfaces {
        let interface = interface.name().to_string_lossy();
        for address in announcer.announced(&interface).await? {
            let is_wanted = |service: &DesiredService| {
                service.spec.address == address && service.spec.announce.as_deref() == Some(&*interface)
            };
            if !wanted.iter().any(is_wanted) {
                log::info!("withdrawing {address} from {interface}");
                announcer.withdraw(&interface, address).await?;
            }
        }
    }
    Ok(())
}

/// What an earlier daemon left. Rows that belong to no service, because it was killed in the middle of a change, are
/// taken away.
fn read_live(maps: &Maps, memories: &HashMap<ServiceKey, Memory>) -> anyhow::Result<Vec<LiveService>> {
    let mut rows = HashMap::<_, Vec<_>>::new();
    for (backend, index, row) in maps.rows()? {
        rows.entry(row.service).or_default().push((backend, index, row));
    }
    let mut servers = HashMap::<_, Vec<_>>::new();
    for (server, backend) in maps.servers()? {
        servers.entry(server.service()).or_default().push((server.server(), backend));
    }
    let live = maps
        .services()
        .into_iter()
        .map(|ServiceEntry { key, service }| {
            let backends = rows.remove(&service.id).unwrap_or_default();
            let memory = memories.get(&key).cloned().unwrap_or_default();
            let scheduler = maps.scheduler(service.id);
            let affinity =
                LiveAffinity::found(maps.affinity(service.id), servers.remove(&service.id).unwrap_or_default());
            LiveService { key, service, table: maps.load_slots(&service), scheduler, affinity, backends, memory }
        })
        .collect();
    for (backend, ..) in rows.into_values().flatten() {
        maps.remove_row(backend);
    }
    Ok(live)
}

/// The ports that the kernel gives to connections of its own (ip(7)).
pub(super) fn kernel_ports() -> anyhow::Result<Ports> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(Ports { first, last }),
        _ => bail!("{text:?} is not two ports"),
    }
}

/// Each running probe is an open file, and the usual limit of 1,024 is for programs that use select(2).
fn raise_open_files() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        log::warn!("cannot raise the limit of open files: {error}");
    }
}

fn gateways(config: &Config) -> Gateways {
    config.interfaces.iter().filter_map(|interface| Some((interface.name.clone(), interface.gateway?))).collect()
}
