//! The daemon: one loop that feeds events to the [`Core`] and carries out its effects.

mod affinity;
mod census;
mod executor;
mod flows;
mod interfaces;
mod setup;
mod shortages;
mod state;
mod translated;
mod views;
mod vrrp;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use aya_log::EbpfLogger;
use lb_common::{BackendId, HashKey};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::MissedTickBehavior,
};

use self::{census::CensusTaker, executor::Executor, shortages::Shortages, vrrp::VrrpProcess};
pub use self::{setup::unload, state::StateDir};
use crate::{
    api::{ChangedView, Refusal, ReloadedView, Request},
    config::{self, Config, Endpoint},
    dataplane::{Attachment, FlowTables, LogLevel},
    health::Report,
    model::{Applied, Change, Core, Effect},
    neighbour::Resolution,
    schedule::hot_load,
};

/// What `lbd run` is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// How much the eBPF program logs.
    pub ebpf_log: LogLevel,
    /// Whether VRRP is somebody else's business.
    pub no_vrrp: bool,
}

/// How often the interfaces are looked at: their MAC addresses, and the virtual IPs on them.
const INTERFACE_REFRESH: Duration = Duration::from_secs(2);
/// How often what the eBPF program logged is handed on, when it logs.
const LOG_FLUSH: Duration = Duration::from_millis(100);
/// How often it is looked at which load of a service's backends is a high one. What has become of its own load since then, a packet
/// sees for itself.
const HOT_REFRESH: Duration = Duration::from_millis(250);
/// The most next-hop reports that are taken in at once.
const NEXT_HOP_BATCH: usize = 1024;

struct Daemon {
    options: Options,
    config: Config,
    hash_key: HashKey,
    started: Instant,
    core: Core,
    executor: Executor,
    flow_tables: FlowTables,
    census: CensusTaker,
    attachments: Vec<Attachment>,
    vrrp: VrrpProcess,
    shortages: Shortages,
    /// What is not as it should be.
    problems: Vec<String>,
}

/// What the loop listens to.
struct Events {
    requests: mpsc::Receiver<Request>,
    reports: mpsc::Receiver<Report<BackendId>>,
    next_hops: mpsc::Receiver<(std::net::IpAddr, Resolution)>,
    logs: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// Waits until then; for ever if there is no such time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Runs the daemon until it is told to stop. The datapath goes on without it.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let (mut daemon, events) = setup::start(options).await?;
    let result = daemon.run(events).await;
    let _ = std::fs::remove_file(&daemon.config.node.socket);
    log::info!("stopped; packets go on to be forwarded (`lbd unload` ends that)");
    result
}

impl Daemon {
    async fn run(&mut self, mut events: Events) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let mut refresh = tokio::time::interval(INTERFACE_REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hot_refresh = tokio::time::interval(HOT_REFRESH);
        hot_refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut log_flush = tokio::time::interval(LOG_FLUSH);
        let mut next_hops = Vec::new();
        loop {
            let due = self.core.next_deadline();
            tokio::select! {
                () = until(due) => {
                    let effects = self.core.on_time(Instant::now());
                    self.carry_out(effects).await;
                }
                findings = self.census.next(self.core.census_due()) => self.take_census(findings).await,
                Some(request) = events.requests.recv() => self.answer(request).await,
                Some(report) = events.reports.recv() => self.take_report(report).await,
                received = events.next_hops.recv_many(&mut next_hops, NEXT_HOP_BATCH) => {
                    anyhow::ensure!(received > 0, "the resolver of next hops has ended; this is a bug");
                    let effects = self.core.on_next_hops(std::mem::take(&mut next_hops), Instant::now());
                    self.carry_out(effects).await;
                }
                _ = refresh.tick() => {
                    self.refresh_interfaces();
                    self.refresh_shortages();
                    self.restore_announced().await;
                    self.ensure_vrrp();
                }
                _ = hot_refresh.tick() => self.refresh_hot_loads(),
                () = self.vrrp.died() => self.ensure_vrrp(),
                _ = log_flush.tick(), if events.logs.is_some() => events.logs.iter_mut().for_each(EbpfLogger::flush),
                _ = hangup.recv() => {
                    if let Err(refusal) = self.reload().await {
                        log::error!("reload: {refusal}");
                    }
                }
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }

    /// An answer that nobody waits for any more is dropped.
    async fn answer(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(Ok(self.status()))),
            Request::Services(reply) => drop(reply.send(self.services())),
            Request::Fitness(reply) => drop(reply.send(Ok(self.fitness()))),
            Request::Stats(reply) => drop(reply.send(self.stats())),
            Request::Flow { service, client, port, reply } => drop(reply.send(self.flow(&service, client, port))),
            Request::Flows(filter, reply) => self.list_flows(&filter, reply),
            Request::Clients(filter, reply) => self.list_clients(&filter, reply),
            Request::Forget(filter, reply) => drop(reply.send(self.forget_client(&filter))),
            Request::Slots(service, reply) => drop(reply.send(self.slots(&service))),
            Request::Change(change, reply) => {
                let result = self.change(change).await;
                drop(reply.send(result));
            }
            Request::Reload(reply) => {
                let result = self.reload().await;
                drop(reply.send(result));
            }
        }
    }

    async fn change(&mut self, change: Change) -> Result<Vec<ChangedView>, Refusal> {
        let what = change.describe();
        let (effects, applied) = self.core.change(change, Instant::now())?;
        for Applied { service, backend, address, port } in &applied {
            let at = Endpoint { address: *address, port: *port };
            log::info!("lbctl: service {service:?}: backend {backend:?} at {at}: {what}");
        }
        self.executor.run(effects, &self.core).await.map_err(|error| {
            Refusal::Failed(format!("the change was made, but not all of it: {error:#}; see the log of lbd"))
        })?;
        let changed: Vec<ChangedView> = applied
            .iter()
            .map(|applied| ChangedView::new(applied, self.core.view_of(&applied.service, Instant::now()).as_ref()))
            .collect();
        for ChangedView { service, warning, .. } in &changed {
            if let Some(warning) = warning {
                log::warn!("service {service}: {warning}");
            }
        }
        Ok(changed)
    }

    async fn take_report(&mut self, report: Report<BackendId>) {
        if report.transition {
            let outcome = report.failure.as_ref().map_or("the check succeeds".to_owned(), ToString::to_string);
            log::info!("{} is {:?}: {outcome}", self.core.name_of(report.id), report.health);
        }
        let effects = self.core.on_health(report, Instant::now());
        self.carry_out(effects).await;
    }

    /// Reads the configuration file again. An invalid one changes nothing.
    async fn reload(&mut self) -> Result<ReloadedView, Refusal> {
        let config = Config::load(&self.options.config)
            .map_err(|error| Refusal::Configuration(format!("{:#}", anyhow::Error::from(error))))?;
        self.check_reload(&config)?;
        let failed = |error: anyhow::Error| Refusal::Failed(format!("{error:#}"));
        let (desired, _) = self.executor.state.merge(config.services.clone()).map_err(failed)?;
        let (mut warnings, changes) = (self.core.lost_by(&desired), self.core.changed_by(&desired));
        let effects = self.core.apply(desired, Instant::now()).map_err(|error| Refusal::Failed(error.to_string()))?;
        self.config = config;
        let resized = self.resize_flow_table();
        log::info!("reloaded {}", self.options.config.display());
        for change in &changes {
            log::info!("reload: {change}");
        }
        if let Ok(ports) = setup::kernel_ports() {
            warnings.extend(setup::warnings(&self.config, ports));
        }
        for warning in &warnings {
            log::warn!("{warning}");
        }
        let done = self.executor.run(effects, &self.core).await;
        self.restore_announced().await;
        let vrrp = self.reload_vrrp().await;
        done.map_err(failed).and(resized).and(vrrp)?;
        Ok(ReloadedView { warnings })
    }

    /// Says above which load backends are hot, where that matters.
    fn refresh_hot_loads(&self) {
        let maps = &self.executor.dataplane.maps;
        let connections = maps.connections();
        for (service, backends) in self.core.warm() {
            let pool: Vec<_> = backends.map(|backend| connections.get(backend)).collect();
            maps.store_hot_load(service, hot_load(&pool));
        }
    }

    /// Gives the flow table the size and the idle timeout of the configuration. Packets go on to use it meanwhile.
    fn resize_flow_table(&mut self) -> Result<(), Refusal> {
        // One that runs looks at the table of before.
        self.census.discard();
        let idle_ticks = setup::idle_ticks(&self.config.services);
        let opened = self.flow_tables.resize(self.config.node.flow_table, idle_ticks).map_err(|error| {
            Refusal::Failed(format!("cannot resize the flow table: {:#}", anyhow::Error::from(error)))
        })?;
        setup::report(opened);
        Ok(())
    }

    /// What cannot change while the daemon runs.
    fn check_reload(&self, config: &Config) -> Result<(), Refusal> {
        let node = config::Node { flow_table: config.node.flow_table, ..self.config.node.clone() };
        let changed = if config.node != node {
            format!("{} in [node]", config.node.differences(&node).join(", "))
        } else if config.interfaces != self.config.interfaces {
            "[[interface]]".to_owned()
        } else {
            return Ok(());
        };
        Err(Refusal::Failed(format!(
            "a reload cannot take in what has changed: {changed}; restart lbd (packets go on meanwhile)"
        )))
    }

    /// Carries out effects that nobody waits for. The executor logs what fails, and a later event tries again.
    async fn carry_out(&mut self, effects: Vec<Effect>) {
        let _ = self.executor.run(effects, &self.core).await;
    }
}
