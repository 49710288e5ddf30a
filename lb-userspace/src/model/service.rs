use std::collections::{BTreeMap, HashMap};

use lb_common::{Address, BackendId, NetU16, Service, ServiceEntry, ServiceKey, SlotWord, layout};
use serde::{Deserialize, Serialize};

use super::{backend::Backend, effect::Effect};
use crate::{config, schedule};

/// Whether the operator lets a backend have flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// It may have flows.
    #[default]
    Enabled,
    /// It gets no new flows. Flows are not tracked yet, so those that it has move, too.
    Draining,
    /// It gets no packets and is not checked.
    Disabled,
}

/// A service as the operator wants it: from the configuration file, with the live changes.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredService {
    /// As the file has it.
    pub declared: config::Service,
    /// As it is to be.
    pub spec: config::Service,
    /// Backends, by name, that are not [`Admin::Enabled`].
    pub admin: BTreeMap<String, Admin>,
}

impl DesiredService {
    /// Exactly as the file has it.
    pub fn as_declared(declared: config::Service) -> Self {
        Self { spec: declared.clone(), declared, admin: BTreeMap::new() }
    }

    /// Whether live changes made it differ from the file.
    pub fn is_changed(&self) -> bool {
        self.spec != self.declared || !self.admin.is_empty()
    }

    pub(super) fn admin_of(&self, backend: &str) -> Admin {
        self.admin.get(backend).copied().unwrap_or_default()
    }

    pub(super) fn key(&self) -> ServiceKey {
        service_key(&self.spec)
    }
}

pub(super) fn service_key(spec: &config::Service) -> ServiceKey {
    ServiceKey::new(Address::from(spec.address), NetU16::new(spec.port), spec.protocol.number())
}

/// How many chunks the slot table of `service` takes.
pub(super) fn chunk_count(service: &Service) -> u32 {
    (service.slot_mask + 1) / layout::CHUNK_SLOTS
}

/// A service that is in the datapath.
#[derive(Debug)]
pub(super) struct ServiceState {
    pub(super) desired: DesiredService,
    pub(super) live: Service,
    /// The slot words as they stand in the datapath.
    pub(super) table: Vec<SlotWord>,
    /// In the order of `desired.spec.backends`.
    pub(super) backends: Vec<Backend>,
}

/// A slot table grows when it has fewer slots than this for each backend. Its size decides where every flow goes, so it
/// does not follow each backend that comes or goes.
const MIN_SLOTS_PER_BACKEND: u32 = 25;
/// What a new table has at least.
const NEW_SLOTS_PER_BACKEND: u32 = 100;

/// How many slots the service should have, given that it has `present` now.
pub(super) fn wanted_slots(spec: &config::Service, present: Option<u32>) -> u32 {
    let backends = u32::try_from(spec.backends.len()).unwrap_or(u32::MAX);
    let with = |slots_each: u32| {
        backends
            .saturating_mul(slots_each)
            .min(layout::MAX_SLOTS)
            .next_power_of_two()
            .clamp(layout::MIN_SLOTS, layout::MAX_SLOTS)
    };
    match (spec.slots, present) {
        (Some(slots), _) => slots,
        (None, Some(present)) if present >= with(MIN_SLOTS_PER_BACKEND) => present,
        (None, _) => with(NEW_SLOTS_PER_BACKEND),
    }
}

impl ServiceState {
    /// Its place in the directory.
    pub(super) fn entry(&self) -> ServiceEntry {
        ServiceEntry { key: self.desired.key(), service: self.live }
    }

    /// Brings the slot table in line with the backends that can take flows; the effect that does so, if there is a
    /// difference.
    pub(super) fn schedule(&mut self) -> Option<Effect> {
        let members: Vec<schedule::Member> = self.backends.iter().map(Backend::member).collect();
        let owners = schedule::table(&members, self.live.slot_mask + 1);
        let word_of = |owner: &u32| SlotWord::stable(self.backends[*owner as usize].id);
        let wanted = owners.iter().map(word_of).chain(std::iter::repeat(SlotWord::EMPTY));
        let mut changed = Vec::new();
        for ((slot, present), word) in (0..).zip(&mut self.table).zip(wanted) {
            if *present != word {
                *present = word;
                changed.push((slot, word));
            }
        }
        if changed.is_empty() { None } else { Some(Effect::StoreSlots(self.live, changed)) }
    }

    pub(super) fn backend_mut(&mut self, id: BackendId) -> Option<&mut Backend> {
        self.backends.iter_mut().find(|backend| backend.id == id)
    }

    /// How many slots each backend owns.
    pub(super) fn shares(&self) -> HashMap<BackendId, usize> {
        let mut shares = HashMap::new();
        for word in &self.table {
            *shares.entry(word.current()).or_default() += 1;
        }
        shares
    }
}
