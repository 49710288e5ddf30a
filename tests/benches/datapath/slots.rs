//! What the slots of the service do while a case is measured, and what the flow table knows.

use std::sync::Arc;

use anyhow::ensure;
use lb_common::{BackendId, Service, SlotWord, bench::Template};
use lb_userspace::dataplane::{FlowTable, Maps, NatTable, Words};

use crate::{
    cases::Case,
    frames::{Kind, frame},
    measure::Bench,
};

/// Backends that own nothing but the slots of [`Slots::AllMoving`].
pub(crate) const NEWCOMERS: [BackendId; 2] =
    [BackendId::truncate(BackendId::COUNT - 1), BackendId::truncate(BackendId::COUNT - 2)];

/// What the slots do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slots {
    /// Nothing is looked up.
    Stable,
    /// All flows are in the table.
    Tracked,
    /// Every flow is put into the table, which is empty.
    Always,
    /// One slot in a hundred moves, and its flows are put into the table.
    OnePercentMoving,
    /// Nothing moves, and all flows are in the table of translated flows.
    Found,
    /// Nothing moves, and every flow is put into the table of translated flows, which is empty.
    First,
    /// All slots move between two newcomers, and all flows are in the table, with others: a packet that a newcomer gets is on the
    /// wrong way.
    AllMoving,
}

impl Slots {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Tracked => "tracked-found",
            Self::Always => "always-first",
            Self::OnePercentMoving => "1%-moving",
            Self::AllMoving => "all-moving-found",
            Self::Found => "found",
            Self::First => "first",
        }
    }

    /// The word of slot number `slot`, which was `owner`'s and is to be `heir`'s.
    fn word(self, slot: usize, owner: BackendId, heir: BackendId) -> SlotWord {
        match self {
            Self::Tracked => SlotWord::new(owner, owner, true, false),
            Self::Always => SlotWord::new(owner, owner, true, true),
            Self::OnePercentMoving if slot.is_multiple_of(100) => SlotWord::new(heir, owner, true, true),
            Self::AllMoving => SlotWord::new(NEWCOMERS[0], NEWCOMERS[1], true, true),
            Self::Stable | Self::OnePercentMoving | Self::Found | Self::First => SlotWord::stable(owner),
        }
    }
}

/// How many flows of `case`, which slots that move had in the table, are not found there any more: their packets go to newcomers.
pub(crate) fn misrouted(bench: &mut Bench, case: &Case, maps: &Maps) -> anyhow::Result<u32> {
    let arrived = || -> anyhow::Result<u64> {
        NEWCOMERS.iter().map(|newcomer| Ok(maps.backend_traffic(*newcomer)?.packets)).sum()
    };
    let before = arrived()?;
    let flows = case.template.source_mask + 1;
    let calm = Template { flood_every: 0, ..case.template };
    bench.sample(&Case { template: calm, frame: case.frame.clone(), name: case.name.clone(), ..*case }, flows)?;
    Ok(u32::try_from(arrived()? - before)?)
}

/// The slots of the services, and the flow table.
pub(crate) struct Table {
    /// The services, and the owners of their slots.
    pub(crate) slots: Vec<(Service, Vec<BackendId>)>,
    pub(crate) words: Arc<Words>,
    pub(crate) flows: Arc<FlowTable>,
    /// The table of translated flows, if there are any.
    pub(crate) nat: Option<Arc<NatTable>>,
}

impl Table {
    /// Brings slots and flow table into the state that `case` is about.
    pub(crate) fn prepare(&self, bench: &mut Bench, case: &Case) -> anyhow::Result<()> {
        if case.slots == Slots::Stable {
            self.store(Slots::Stable);
            return Ok(());
        }
        if let Some(nat) = &self.nat {
            return self.translate(bench, case, nat);
        }
        self.flows.clear();
        if matches!(case.slots, Slots::Tracked | Slots::AllMoving) {
            self.fill(bench, case)?;
        }
        self.store(case.slots);
        Ok(())
    }

    fn translate(&self, bench: &mut Bench, case: &Case, nat: &NatTable) -> anyhow::Result<()> {
        self.store(Slots::Stable);
        nat.clear();
        if case.slots == Slots::First {
            return Ok(());
        }
        let flows = case.template.source_mask + 1;
        let kind = if case.kind == Kind::Udp { Kind::Udp } else { Kind::Syn };
        let (frame, template) = frame(kind, case.ipv4, true);
        let template = Template { source_mask: case.template.source_mask, ..template };
        let first = Case { frame, template, packets: flows, name: case.name.clone(), ..*case };
        bench.sample(&first, flows)?;
        let found = nat.flows().count() as u64;
        ensure!(found == u64::from(flows), "{}: {found} of {flows} flows are in the table", case.name);
        Ok(())
    }

    fn store(&self, slots: Slots) {
        for (service, owners) in &self.slots {
            let heirs = owners.iter().cycle().skip(1);
            for ((slot, owner), heir) in (0..).zip(owners).zip(heirs) {
                self.words.store_slot(service, slot, slots.word(slot as usize, *owner, *heir));
            }
        }
    }

    /// Lets all flows of `case` begin and go on.
    fn fill(&self, bench: &mut Bench, case: &Case) -> anyhow::Result<()> {
        self.store(Slots::Always);
        let flows = case.template.source_mask + 1;
        for kind in [Kind::Syn, Kind::Established] {
            let (frame, template) = frame(kind, case.ipv4, true);
            let template = Template { source_mask: case.template.source_mask, ..template };
            let first = Case { frame, template, packets: flows, name: case.name.clone(), ..*case };
            bench.sample(&first, flows)?;
        }
        let found = self.flows.count() as u64;
        ensure!(found == u64::from(flows), "{}: {found} of {flows} flows are in the table", case.name);
        Ok(())
    }
}
