//! Carries out what the core decides.

use std::collections::HashMap;

use anyhow::Context as _;
use lb_common::{Address, BackendId, BackendRow, Encapsulation, RowIndex, nat::NatTarget};
use tokio::sync::mpsc;

use super::state::StateDir;
use crate::{
    dataplane::{Dataplane, Maps},
    health::{self, CheckHandle, Report},
    model::{Core, Effect},
    neighbour::{Announcer, Placement, ResolverHandle},
};

/// Everything that effects act on.
pub(super) struct Executor {
    pub(super) dataplane: Dataplane,
    pub(super) state: StateDir,
    pub(super) announcer: Announcer,
    pub(super) resolver: ResolverHandle,
    pub(super) reports: mpsc::Sender<Report<BackendId>>,
    checks: HashMap<BackendId, CheckHandle>,
}

impl Executor {
    pub(super) fn new(
        dataplane: Dataplane,
        state: StateDir,
        announcer: Announcer,
        resolver: ResolverHandle,
        reports: mpsc::Sender<Report<BackendId>>,
    ) -> Self {
        Self { dataplane, state, announcer, resolver, reports, checks: HashMap::new() }
    }

    /// Carries out all of `effects`, also after one failed; the first failure is returned, the others are logged.
    pub(super) async fn run(&mut self, effects: Vec<Effect>, core: &Core) -> anyhow::Result<()> {
        let mut result = Ok(());
        for effect in effects {
            if let Err(error) = self.run_one(effect, core).await {
                log::error!("{error:#}");
                result = result.and(Err(error));
            }
        }
        result
    }

    async fn run_one(&mut self, effect: Effect, core: &Core) -> anyhow::Result<()> {
        let maps = &mut self.dataplane.maps;
        match effect {
            Effect::StoreServices(services, translated) => {
                if services.iter().any(|entry| entry.service.nat.is_in_use()) {
                    self.dataplane.nat.ensure(core.node().nat_table)?;
                }
                let translated: Vec<Address> = translated.into_iter().map(Address::from).collect();
                Ok(maps.store_services(&services, &translated)?)
            }
            Effect::StoreSlots(service, words) => {
                for (slot, word) in words {
                    maps.store_slot(&service, slot, word);
                }
                Ok(())
            }
            Effect::StoreTurns(first_chunk, turns) => {
                maps.store_turns(first_chunk, &turns);
                Ok(())
            }
            Effect::StoreScheduler(service, scheduler) => {
                maps.store_scheduler(service, scheduler);
                Ok(())
            }
            Effect::StoreCapacity(backend, weight, limit) => {
                maps.connections().store_capacity(backend, weight, limit);
                Ok(())
            }
            Effect::StoreAffinity(service, affinity) => {
                maps.store_affinity(service, affinity);
                Ok(())
            }
            Effect::PutServer(server, backend) => {
                maps.put_server(server, backend).context("cannot write the servers of clients")
            }
            Effect::RemoveServer(server) => maps.remove_server(&server).context("cannot write the servers of clients"),
            Effect::NoteLatency(backend, latency) => {
                maps.latencies().probed(backend, latency);
                Ok(())
            }
            Effect::EndTranslated(service) => {
                if let Some(table) = self.dataplane.nat.table() {
                    let ended = table.end_all_of(service);
                    log::info!(
                        "{ended} translated flows were ended, as packets of their service are told apart in another way"
                    );
                }
                Ok(())
            }
            Effect::PutRow(backend, index, row) => {
                let written = put_sources(maps, &row, core).and_then(|()| put_row(maps, backend, index, &row));
                if written.is_err() {
                    // Its old row will be another backend's: better none.
                    maps.remove_row(backend);
                }
                written
            }
            Effect::RemoveRow(backend) => {
                maps.remove_row(backend);
                Ok(())
            }
            Effect::PutQuicServer(server, backend) => {
                maps.put_quic_server(server, backend).context("cannot write the QUIC server ids")
            }
            Effect::RemoveQuicServer(server) => {
                maps.remove_quic_server(server).context("cannot write the QUIC server ids")
            }
            Effect::ResetServiceTraffic(service) => {
                maps.reset_service_traffic(service).context("cannot reset the counters of a service")
            }
            Effect::RetireTraffic(service, backend) => {
                maps.retire_traffic(service, backend).context("cannot keep the counters of a backend")
            }
            Effect::ResetBackendTraffic(backend) => {
                maps.latencies().forget(backend);
                maps.reset_backend_traffic(backend).context("cannot reset the counters of a backend")
            }
            Effect::StartCheck { id, target, check, initial } => {
                // The old check ends before the new one starts.
                self.checks.remove(&id);
                self.checks.insert(id, health::spawn(id, target, *check, initial, self.reports.clone()));
                Ok(())
            }
            Effect::StopCheck(id) => {
                self.checks.remove(&id);
                Ok(())
            }
            Effect::WatchNextHops(addresses) => {
                self.resolver.set_targets(addresses.into_iter().collect());
                Ok(())
            }
            Effect::Announce(interface, address) => {
                let placement = self.announcer.announce(&interface, address).await?;
                match placement {
                    Placement::Ours => log::info!("announced {address} on {interface}"),
                    Placement::AlreadyPresent => {
                        log::info!("{address} is on {interface} already and is not ours: it stays when we go");
                    }
                }
                Ok(())
            }
            Effect::Withdraw(interface, address) => {
                log::info!("withdrawing {address} from {interface}");
                Ok(self.announcer.withdraw(&interface, address).await?)
            }
            Effect::PersistDeclared => self.state.save_declared(core.declared()),
            Effect::Persist => self.state.save(core.written_down()),
        }
    }
}

/// Writes down the sources of flows that the row names.
fn put_sources(maps: &mut Maps, row: &BackendRow, core: &Core) -> anyhow::Result<()> {
    if row.encapsulation != Encapsulation::TRANSLATED {
        return Ok(());
    }
    let NatTarget { first_source, sources, .. } = NatTarget::of(&row.outer);
    let sources = core.sources().run(first_source, sources);
    maps.put_nat_sources(first_source, sources).context("cannot write the sources of translated flows")
}

fn put_row(maps: &mut Maps, backend: BackendId, index: RowIndex, row: &BackendRow) -> anyhow::Result<()> {
    if row.encapsulation != Encapsulation::LOCAL {
        maps.put_egress(row.egress_ifindex.into())?;
    }
    maps.put_row(backend, index, row).context("cannot write the backend rows")
}
