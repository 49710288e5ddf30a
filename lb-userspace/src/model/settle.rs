//! Giving services and backends their places in the maps, and taking those back.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use lb_common::{
    Address, BackendId, BackendRow, Condition, Datagrams, Encapsulation, NatMode, QuicIds, RowIndex, Scheduler,
    Service, ServiceEntry, ServiceId, ServiceKey, nat::NatTarget,
};

use super::{
    affinity::LiveAffinity,
    backend::{Backend, Checked, Standing},
    core::{ApplyError, Core, Full},
    effect::Effect,
    recover::{LiveService, endpoint_of},
    rehash,
    rotation::{Rotation, Run},
    row::shared,
    service::{Admin, DesiredService, ServiceState, chunk_count, wanted_slots},
};
use crate::{
    config::{self, Endpoint, Forwarding, OnFull},
    health::Health,
    schedule::{SlotMover, pages_of_rotation},
};

/// Where a service and its backends are to be in the maps.
struct Place {
    service: Service,
    is_new: bool,
    has_new_table: bool,
    /// For the rotation, if it has one.
    rotation: Option<Run>,
    has_new_rotation: bool,
    /// In the order of the specification, with whether the id is new.
    backends: Vec<(BackendId, bool)>,
}

/// What stands in the datapath for a service, whether this daemon put it there or an earlier one.
#[derive(Default)]
struct Present {
    service: Service,
    /// Absent for a service that is new.
    mover: Option<SlotMover>,
    rotation: Rotation,
    affinity: LiveAffinity,
    rehashed: Option<Instant>,
    backends: HashMap<Endpoint, Backend>,
}

impl Core {
    /// Adds services, or changes them to what is given; all or none. The second list is for the end, when no packet
    /// finds an old slot table any more.
    pub(super) fn put(
        &mut self,
        desired: Vec<DesiredService>,
        now: Instant,
    ) -> Result<(Vec<Effect>, Vec<Effect>), ApplyError> {
        for service in &desired {
            if let Some(state) = self.services.iter().find(|state| state.desired.key() == service.key()) {
                state.check_server_ids(service, now)?;
            }
        }
        let mut places = Vec::with_capacity(desired.len());
        for service in &desired {
            match self.find_place(service, now) {
                Ok(place) => places.push(place),
                Err(full) => {
                    for place in &places {
                        self.give_up(place, now);
                    }
                    return Err(full.into());
                }
            }
        }
        let (mut effects, mut removals) = (Vec::new(), Vec::new());
        for (service, place) in desired.into_iter().zip(places) {
            self.settle(service, &place, now, &mut effects, &mut removals);
        }
        Ok((effects, removals))
    }

    /// Reserves what `desired` needs and does not have.
    fn find_place(&mut self, desired: &DesiredService, now: Instant) -> Result<Place, Full> {
        let key = desired.key();
        let (present, run, ids): (Option<Service>, Option<Run>, HashMap<Endpoint, BackendId>) =
            if let Some(state) = self.services.iter().find(|state| state.desired.key() == key) {
                let backends = state.backends.iter().chain(&state.removed);
                let ids = backends.map(|backend| (backend.endpoint, backend.id));
                (Some(state.live), state.rotation.run, ids.collect())
            } else if let Some(live) = self.leftovers.get(&key) {
                let ids = live.backends.iter().map(|(id, _, row)| (endpoint_of(row), *id));
                (Some(live.service), Rotation::take_over(live.scheduler).run, ids.collect())
            } else {
                (None, None, HashMap::new())
            };
        let slots = wanted_slots(&desired.spec, present.map(|service| service.slot_mask + 1));
        let has_new_table = present.is_none_or(|service| service.slot_mask + 1 != slots);
        let mut place = Place {
            service: Service {
                slot_mask: slots - 1,
                quic: desired.spec.quic.map_or(QuicIds::NONE, config::Quic::ids),
                hash: rehash::inputs(&desired.spec, present),
                nat: nat_mode(&desired.spec),
                datagrams: if desired.spec.one_packet { Datagrams::SINGLE } else { Datagrams::FLOWS },
                ..present.unwrap_or_default()
            },
            is_new: present.is_none(),
            has_new_table: false,
            rotation: None,
            has_new_rotation: false,
            backends: Vec::with_capacity(desired.spec.backends.len()),
        };
        if place.is_new {
            let id = self.service_ids.take(now).and_then(ServiceId::new).ok_or(Full("services"))?;
            place.service.id = id;
        }
        if has_new_table {
            let Some(first_chunk) = self.chunks.take(chunk_count(&place.service), now) else {
                self.give_up(&place, now);
                return Err(Full("slots"));
            };
            place.service.first_chunk = first_chunk;
            place.has_new_table = true;
        }
        let chunks = pages_of_rotation(&desired.spec);
        place.rotation = run.filter(|run| run.chunks == chunks);
        if chunks > 0 && place.rotation.is_none() {
            let Some(first_chunk) = self.chunks.take(chunks, now) else {
                self.give_up(&place, now);
                return Err(Full("slots"));
            };
            place.rotation = Some(Run { first_chunk, chunks });
            place.has_new_rotation = true;
        }
        for backend in &desired.spec.backends {
            let known = ids.get(&desired.spec.endpoint(backend)).map(|id| (*id, false));
            let Some(id) = known.or_else(|| self.backend_ids.take(now).map(|id| (BackendId::truncate(id), true)))
            else {
                self.give_up(&place, now);
                return Err(Full("backends"));
            };
            place.backends.push(id);
        }
        Ok(place)
    }

    /// Gives back what was reserved.
    fn give_up(&mut self, place: &Place, now: Instant) {
        for (id, _) in place.backends.iter().filter(|(_, is_new)| *is_new) {
            self.backend_ids.give_back(id.get(), now);
        }
        if place.has_new_table {
            self.chunks.give_back(place.service.first_chunk, chunk_count(&place.service), now);
        }
        if let Some(run) = place.rotation.filter(|_| place.has_new_rotation) {
            self.chunks.give_back(run.first_chunk, run.chunks, now);
        }
        if place.is_new {
            self.service_ids.give_back(place.service.id.get(), now);
        }
    }

    /// Makes `desired` true at `place`.
    fn settle(
        &mut self,
        mut desired: DesiredService,
        place: &Place,
        now: Instant,
        effects: &mut Vec<Effect>,
        removals: &mut Vec<Effect>,
    ) {
        let key = desired.key();
        let index = self.services.iter().position(|state| state.desired.key() == key);
        if let Some(state) = index.map(|index| &mut self.services[index])
            && !place.has_new_table
            && state.desired.spec == desired.spec
            && state.desired.admin == desired.admin
            && state.desired.deadlines == desired.deadlines
        {
            state.desired = desired;
            return;
        }
        let leftover = self.leftovers.take(&key);
        let is_leftover = leftover.is_some();
        let mut present = match (index, leftover) {
            (Some(index), _) => Present::of_state(&self.services[index]),
            (None, Some(live)) => Present::of_leftover(live, now),
            (None, None) => Present::default(),
        };
        if place.is_new {
            effects.push(Effect::ResetServiceTraffic(place.service.id));
        } else if present.service.datagrams != place.service.datagrams && keeps_client_ports(&desired.spec) {
            // Their ports would be taken for as long as they live.
            removals.push(Effect::EndTranslated(place.service.id));
        }
        let begins = index.is_none() && !is_leftover;
        let mut backends = Vec::with_capacity(place.backends.len());
        for (spec, (id, is_new)) in desired.spec.backends.iter().zip(&place.backends) {
            if *is_new {
                effects.push(Effect::ResetBackendTraffic(*id));
            }
            let present = present.backends.remove(&desired.spec.endpoint(spec));
            let backend = join(spec, *id, present, &desired, effects);
            backends.push(Backend { is_one_of_the_first: backend.is_one_of_the_first || begins, ..backend });
        }
        let removed: Vec<Backend> =
            present.backends.into_values().map(|gone| leave(gone, &desired, now, effects)).collect();
        self.service_of.extend(backends.iter().chain(&removed).map(|backend| (backend.id, key)));
        // What was said of one that has left is not meant for another of its name.
        desired.deadlines.retain(|name, _| desired.spec.backends.iter().any(|backend| backend.name == *name));
        let slots = place.service.slot_mask + 1;
        let mut mover = match present.mover {
            Some(mover) if place.has_new_table => mover.grown(slots),
            Some(mover) => mover,
            None => SlotMover::new(slots, now),
        };
        mover.do_not_wait(now);
        let old_run = present.rotation.run.filter(|run| Some(*run) != place.rotation);
        let rotation = present.rotation.moved_to(place.rotation);
        let rehashed = place.service.hash.before().map(|_| present.rehashed.unwrap_or(now));
        let mut state = ServiceState {
            desired,
            live: place.service,
            mover,
            rotation,
            affinity: present.affinity,
            rehashed,
            backends,
            removed,
            refreshed: now,
            unsaved: None,
        };
        if is_leftover {
            state.skip_slow_start(now);
        }
        let mut shared = shared!(self);
        let mut refreshed = state.refresh(&mut shared, now);
        if place.has_new_table {
            // What stands in the chunks of a new table is not known: all words are written.
            refreshed.retain(|effect| !matches!(effect, Effect::StoreSlots(..)));
            let all = state.store((0..).zip(state.mover.words()).collect());
            let mut ordered = Vec::new();
            in_order(refreshed, all, &mut ordered);
            refreshed = ordered;
            // Packets find the old table until the directory names the new one. What is not for those to miss goes after.
            let (after, before) = refreshed.into_iter().partition(is_withdrawal);
            refreshed = before;
            removals.extend::<Vec<_>>(after);
        }
        effects.append(&mut refreshed);
        for backend in state.take_forgotten() {
            self.remove_backend(place.service.id, &backend, now, removals);
        }
        if let Some(run) = old_run {
            self.chunks.give_back(run.first_chunk, run.chunks, now);
        }
        if place.has_new_table && !place.is_new {
            self.chunks.give_back(present.service.first_chunk, chunk_count(&present.service), now);
        }
        match index {
            Some(index) => self.services[index] = state,
            None => self.services.push(state),
        }
    }

    /// Takes out a service that nobody wants any more.
    pub(super) fn remove_service(&mut self, key: ServiceKey, now: Instant, effects: &mut Vec<Effect>) {
        let Some(index) = self.services.iter().position(|state| state.desired.key() == key) else {
            return;
        };
        let present = Present::of_state(&self.services.remove(index));
        self.remove_present(present, now, effects);
    }

    pub(super) fn remove_leftover(&mut self, leftover: LiveService, now: Instant, effects: &mut Vec<Effect>) {
        self.remove_present(Present::of_leftover(leftover, now), now, effects);
    }

    fn remove_present(&mut self, present: Present, now: Instant, effects: &mut Vec<Effect>) {
        self.service_ids.give_back(present.service.id.get(), now);
        self.chunks.give_back(present.service.first_chunk, chunk_count(&present.service), now);
        effects.push(Effect::StoreScheduler(present.service.id, Scheduler::NONE));
        effects.extend(present.affinity.remove(present.service.id));
        if let Some(run) = present.rotation.run {
            self.chunks.give_back(run.first_chunk, run.chunks, now);
        }
        for backend in present.backends.into_values() {
            self.remove_backend(present.service.id, &backend, now, effects);
        }
    }

    /// Takes a backend away that no packet needs any more. Flows in the flow table may still name it, so its id is not used
    /// again before a census has found none.
    pub(super) fn remove_backend(
        &mut self,
        service: ServiceId,
        backend: &Backend,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.service_of.remove(&backend.id);
        self.quarantine.insert(backend.id, now);
        effects.push(Effect::StopCheck(backend.id));
        effects.push(Effect::RetireTraffic(service, backend.id));
        if let Some((row, _)) = backend.row {
            self.rows.give_back(row.0, now);
            effects.push(Effect::RemoveRow(backend.id));
        }
    }

    /// Brings in line what the services share: the directory, the announced addresses and the next hops.
    pub(super) fn refresh_shared(&mut self, effects: &mut Vec<Effect>) {
        let mut services: Vec<ServiceEntry> = self.services.iter().map(ServiceState::entry).collect();
        services.sort_unstable_by_key(|entry| entry.service.id);
        let translated = self.translated();
        if services != self.stored || translated != self.translated {
            effects.push(Effect::StoreServices(services.clone(), translated.iter().copied().collect()));
            self.stored = services;
            self.translated = translated;
        }

        let specs = self.services.iter().map(|state| &state.desired.spec);
        let announced: BTreeSet<(String, IpAddr)> =
            specs.filter_map(|spec| Some((spec.announce.clone()?, spec.address))).collect();
        let pair = |(interface, address): &(String, IpAddr)| (interface.clone(), *address);
        for (interface, address) in self.announced.difference(&announced).map(pair) {
            effects.push(Effect::Withdraw(interface, address));
        }
        for (interface, address) in announced.difference(&self.announced).map(pair) {
            effects.push(Effect::Announce(interface, address));
        }
        self.announced = announced;

        self.refresh_quic(effects);
        self.watch_next_hops(effects);
    }

    /// Makes sure that replies are known before there are any: the first of `effects` tells the datapath their addresses.
    pub(super) fn expect_replies(&mut self, effects: &mut Vec<Effect>) {
        let translated = self.translated();
        if !translated.is_subset(&self.translated) {
            self.translated.extend(translated);
            effects.insert(0, Effect::StoreServices(self.stored.clone(), self.translated.iter().copied().collect()));
        }
    }

    /// The addresses that replies of translated flows come to, or from where the client's address is kept. Every source is one of them,
    /// whether new flows get it or not: those that have it live on.
    fn translated(&self) -> BTreeSet<IpAddr> {
        let backends = self.services.iter().flat_map(|state| state.backends.iter().chain(&state.removed));
        let rows = backends.filter_map(|backend| backend.row).map(|(_, row)| row);
        let keeps_clients =
            |row: &BackendRow| row.encapsulation == Encapsulation::TRANSLATED && NatTarget::of(&row.outer).sources == 0;
        let answering = rows.filter(keeps_clients).map(|row| row.address);
        self.sources.addresses().chain(answering).map(Address::to_ip).collect()
    }

    pub(super) fn watch_next_hops(&self, effects: &mut Vec<Effect>) {
        let backends = self.services.iter().flat_map(|state| state.backends.iter().chain(&state.removed));
        let watched: BTreeSet<IpAddr> = backends.map(|backend| backend.spec.address).collect();
        effects.push(Effect::WatchNextHops(watched.into_iter().collect()));
    }
}

fn nat_mode(spec: &config::Service) -> NatMode {
    let mode = match spec.forwarding {
        Forwarding::Nat => NatMode::DESTINATION,
        Forwarding::FullNat => NatMode::BOTH,
        Forwarding::L2Dsr | Forwarding::Ipip | Forwarding::Gue => return NatMode::NONE,
    };
    if spec.on_full == OnFull::Reset { mode.resetting() } else { mode }
}

/// Whether replies are told apart by the port of the client, so that it can be had once for each backend.
fn keeps_client_ports(spec: &config::Service) -> bool {
    spec.forwarding == Forwarding::Nat
}

/// The backend `spec` with what is known of it from before.
fn join(
    spec: &config::Backend,
    id: BackendId,
    present: Option<Backend>,
    service: &DesiredService,
    effects: &mut Vec<Effect>,
) -> Backend {
    let admin = service.admin_of(&spec.name);
    let present = present.unwrap_or_else(|| Backend::new(spec.clone(), service.spec.endpoint(spec), id));
    let known = present.known_health();
    let mut backend = Backend {
        spec: spec.clone(),
        standing: Standing::Member(admin),
        until: service.deadline_of(&spec.name),
        unnamed_since: None,
        ..present
    };
    let check = service.spec.health.as_ref().filter(|_| admin != Admin::Disabled);
    run_check(&mut backend, check, service, effects);
    backend.health = match (check, &service.spec.health) {
        (Some(_), _) => Checked::By(known),
        // Disabled: nothing is known until it is checked again.
        (None, Some(_)) => Checked::By(Health::Unknown),
        (None, None) => Checked::Unchecked,
    };
    backend
}

/// Lets exactly this check run.
fn run_check(
    backend: &mut Backend,
    check: Option<&config::HealthCheck>,
    service: &DesiredService,
    effects: &mut Vec<Effect>,
) {
    match check {
        Some(check) if backend.check.as_ref() != Some(check) => effects.push(Effect::StartCheck {
            id: backend.id,
            target: SocketAddr::new(
                backend.spec.address,
                if backend.endpoint.port == 0 { service.spec.port } else { backend.endpoint.port },
            ),
            check: Box::new(check.clone()),
            initial: backend.known_health(),
        }),
        None if backend.check.is_some() => effects.push(Effect::StopCheck(backend.id)),
        _ => {}
    }
    if check.is_none() {
        backend.report = None;
    }
    backend.check = check.cloned();
}

/// A backend that `service` has no more: it keeps its flows for a while, and is checked on.
fn leave(gone: Backend, service: &DesiredService, now: Instant, effects: &mut Vec<Effect>) -> Backend {
    let given = service.deadlines.get(&gone.spec.name).copied();
    let usual = service.spec.drain_timeout.map(|timeout| now + timeout);
    let until = match gone.standing {
        // A second removal does not give it more time.
        Standing::Removed => gone.until,
        Standing::Member(Admin::Disabled) => Some(now),
        Standing::Member(_) => given.or(gone.until).or(usual),
    };
    let mut backend = Backend { standing: Standing::Removed, until, ..gone };
    run_check(&mut backend, service.spec.health.as_ref(), service, effects);
    backend
}

impl Present {
    fn of_state(state: &ServiceState) -> Self {
        let backends = state.backends.iter().chain(&state.removed);
        Self {
            service: state.live,
            mover: Some(state.mover.clone()),
            rotation: state.rotation.clone(),
            affinity: state.affinity.clone(),
            rehashed: state.rehashed,
            backends: backends.map(|backend| (backend.endpoint, backend.clone())).collect(),
        }
    }

    /// A backend that slots name was found healthy by the daemon that gave them, and one whose flows go elsewhere was found dead: it
    /// stays so until its check says otherwise.
    fn of_leftover(live: LiveService, now: Instant) -> Self {
        let in_use: BTreeSet<BackendId> =
            live.table.iter().flat_map(|word| [word.current(), word.previous()]).collect();
        let present = |(id, index, row): (BackendId, RowIndex, BackendRow)| {
            let health = Checked::By(match row.condition {
                Condition::SERVING if in_use.contains(&id) => Health::Up,
                Condition::SERVING => Health::Unknown,
                _ => Health::Down,
            });
            let endpoint = endpoint_of(&row);
            let mut backend = live.memory.backend(endpoint, live.key.port.get(), id);
            backend.row = Some((index, row));
            backend.health = health;
            (endpoint, backend)
        };
        Self {
            service: live.service,
            backends: live.backends.into_iter().map(present).collect(),
            mover: Some(SlotMover::take_over(live.table, now)),
            rotation: Rotation::take_over(live.scheduler),
            affinity: live.affinity,
            // Since when is not known.
            rehashed: None,
        }
    }
}

/// Changes of rows and slots in the order that leaves no slot without a row: rows come before the slots that name
/// them, and go after, as does what they can do no longer.
pub(super) fn in_order(rows: Vec<Effect>, slots: impl IntoIterator<Item = Effect>, effects: &mut Vec<Effect>) {
    let (gone, written): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_withdrawal);
    effects.extend(written);
    effects.extend(slots);
    effects.extend(gone);
}

/// Whether a change of a row takes something away from the backend.
fn is_withdrawal(effect: &Effect) -> bool {
    match effect {
        Effect::RemoveRow(_) => true,
        Effect::PutRow(_, _, row) => row.condition != Condition::SERVING,
        _ => false,
    }
}
