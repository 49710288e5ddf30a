//! Starting the daemon, and taking everything away.

use std::{collections::HashMap, path::Path, time::Instant};

use anyhow::Context as _;
use lb_common::ServiceEntry;
use tokio::sync::mpsc;

use super::{Daemon, Events, Options, StateDir, executor::Executor, interfaces};
use crate::{
    api,
    config::Config,
    dataplane::{Dataplane, Maps, Pins, interface_index},
    model::{Core, DesiredService, LiveService},
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
    let state = StateDir::open(&config.node.state)?;
    let hash_key = state.hash_key(config.node.hash_key.as_ref())?;
    let mut dataplane = Dataplane::load(&config.node.pins, hash_key, options.ebpf_log)?;
    let logs = match options.ebpf_log {
        Some(_) => Some(dataplane.logger().context("cannot read the eBPF log")?),
        None => None,
    };

    let live = read_live(&dataplane.maps).context("cannot read what an earlier daemon left")?;
    if !live.is_empty() {
        log::info!("taking over {} services from an earlier daemon", live.len());
    }
    let desired = state.merge(config.services.clone())?;
    let (resolver, next_hops) = Resolver::start(gateways(&config));
    let (reports_sender, reports) = mpsc::channel(QUEUE);
    let mut announcer = Announcer::new()?;
    withdraw_leftovers(&config, &desired, &mut announcer).await?;

    interfaces::put_mac_addresses(&mut dataplane.maps)?;
    let mut core = Core::new(config.node.clone(), live);
    let effects = core.apply(desired, Instant::now())?;
    let mut executor = Executor::new(dataplane, state, announcer, resolver, reports_sender);
    executor.run(effects, &core).await?;

    let mut attachments = Vec::with_capacity(config.interfaces.len());
    for interface in &config.interfaces {
        let attachment = executor.dataplane.attach(interface)?;
        let verb = if attachment.taken_over { "replaced the program on" } else { "attached to" };
        log::info!("{verb} {} in {} mode", attachment.interface, attachment.mode);
        attachments.push(attachment);
    }
    executor.dataplane.detach_all_but(&attachments)?;

    let socket = &config.node.socket;
    let listener = api::bind(socket).with_context(|| format!("cannot open the socket {}", socket.display()))?;
    let (requests_sender, requests) = mpsc::channel(QUEUE);
    tokio::spawn(api::serve(listener, requests_sender));
    log::info!("{} services; lbctl reaches me at {}", config.services.len(), socket.display());

    let started = Instant::now();
    let daemon = Daemon { options, config, hash_key, started, core, executor, attachments, problems: Vec::new() };
    Ok((daemon, Events { requests, reports, next_hops, logs }))
}

/// Detaches the program, frees the maps, and takes the announced addresses off. The state folder stays.
pub async fn unload(config: &Path) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    // Held until the end: no daemon may run, and none may start.
    let _state = StateDir::open(&config.node.state)?;
    if let Some(pins) = Pins::existing(&config.node.pins) {
        pins.remove()?;
        log::info!("removed {}", config.node.pins.display());
    }
    withdraw_leftovers(&config, &[], &mut Announcer::new()?).await
}

/// Takes off the virtual IPs that an earlier daemon announced and that are not wanted any more.
async fn withdraw_leftovers(
    config: &Config,
    wanted: &[DesiredService],
    announcer: &mut Announcer,
) -> anyhow::Result<()> {
    for interface in &config.interfaces {
        // An interface that is missing has no addresses either.
        if interface_index(&interface.name).is_err() {
            continue;
        }
        for address in announcer.announced(&interface.name).await? {
            let is_wanted = |service: &DesiredService| {
                service.spec.address == address && service.spec.announce.as_ref() == Some(&interface.name)
            };
            if !wanted.iter().any(is_wanted) {
                log::info!("withdrawing {address} from {}", interface.name);
                announcer.withdraw(&interface.name, address).await?;
            }
        }
    }
    Ok(())
}

fn read_live(maps: &Maps) -> anyhow::Result<Vec<LiveService>> {
    let mut rows = HashMap::<_, Vec<_>>::new();
    for (backend, index, row) in maps.rows()? {
        rows.entry(row.service).or_default().push((backend, index, row));
    }
    Ok(maps
        .services()
        .into_iter()
        .map(|ServiceEntry { key, service }| {
            let backends = rows.remove(&service.id).unwrap_or_default();
            LiveService { key, service, table: maps.load_slots(&service), backends }
        })
        .collect())
}

fn gateways(config: &Config) -> Gateways {
    config.interfaces.iter().filter_map(|interface| Some((interface.name.clone(), interface.gateway?))).collect()
}
