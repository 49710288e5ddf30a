//! What the slots of the service do while a case is measured, and what the flow table knows.

use std::sync::Arc;

use anyhow::ensure;
use lb_common::{BackendId, Scheduler, Service, SlotWord, bench::Template};
use lb_userspace::{
    config::Algorithm,
    dataplane::{FlowTable, Maps, NatTable},
    schedule::plan,
};

use crate::{
    cases::Case,
    frames::{Kind, frame},
    measure::Bench,
};

/// Where the turns of schedulers stand: behind all slots.
const ROTATION: u32 = 2048;

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
    /// All flows are in the table, and others would be put there.
    Known,
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
            Self::Known => "always-found",
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
            Self::Always | Self::Known => SlotWord::new(owner, owner, true, true),
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
pub(crate) struct Table<'a> {
    /// The services, and the owners of their slots.
    pub(crate) slots: Vec<(Service, Vec<BackendId>)>,
    /// How many backends each service has.
    pub(crate) backends: u16,
    pub(crate) maps: &'a Maps,
    pub(crate) flows: Arc<FlowTable>,
    /// The table of translated flows, if there are any.
    pub(crate) nat: Option<Arc<NatTable>>,
}

impl Table<'_> {
    /// Brings slots and flow table into the state that `case` is about.
    pub(crate) fn prepare(&self, bench: &mut Bench, case: &Case) -> anyhow::Result<()> {
        self.schedule(case.algorithm);
        if case.slots == Slots::Stable {
            self.store(Slots::Stable);
            return Ok(());
        }
        if let Some(nat) = &self.nat {
            return self.translate(bench, case, nat);
        }
        self.flows.clear();
        if matches!(case.slots, Slots::Tracked | Slots::Known | Slots::AllMoving) {
            self.fill(bench, case)?;
        }
        self.store(case.slots);
        Ok(())
    }

    /// Lets new flows get their backends by `algorithm`.
    fn schedule(&self, algorithm: Algorithm) {
        for (service, _) in &self.slots {
            let plan = plan(algorithm, self.backends.into());
            let scheduler = plan.map_or(Scheduler::NONE, |(policy, turns)| {
                let turns = turns.rotation(&vec![1; self.backends.into()], Scheduler::MAX_TURNS);
                let turns: Vec<BackendId> = turns.into_iter().map(|turn| BackendId::truncate(turn + 1)).collect();
                for backend in &turns {
                    self.maps.connections().store_capacity(*backend, 1, 0);
                }
                self.maps.store_turns(ROTATION, &turns);
                Scheduler::new(policy, ROTATION, self.backends.into())
            });
            self.maps.store_scheduler(service.id, scheduler);
        }
    }

    /// Puts all flows of `case`, or none, into the table of translated flows.
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
                self.maps.store_slot(service, slot, slots.word(slot as usize, *owner, *heir));
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
