use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use lb_common::{
    Directory, FlowState, FlowTables as Word, Service, ServiceId, SlotWord,
    layout::{self, names},
};

use super::{folder::Folder, v2};
use crate::dataplane::{Connections, DataplaneError, FlowTable, ListedFlow, Pins, Words, flow_time, flows};

/// What came of going back to the older layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Downgraded {
    /// It is done.
    Done {
        /// Flows whose slot is another backend's than they are: they go there from now on, and those with a connection break.
        flows: u64,
        /// Slots that were on the move: of their flows those go there, too, that are in no table.
        slots: u64,
    },
    /// There are no maps of this layout.
    NothingThere,
}

/// Makes the folder of the oldest layout from that of this one, so that any older daemon can take over. The program goes on
/// until that one replaces it. No daemon may run: the caller has its lock.
pub fn downgrade(pins: &Pins) -> Result<Downgraded, DataplaneError> {
    let (old, new) = (Folder::of(pins, v2::VERSION), Folder::current(pins));
    if !new.is_whole() {
        return Ok(Downgraded::NothingThere);
    }
    let flows = elsewhere(&new)?;
    if old.is_whole() && !new.has_same(&old, names::SLOTS)? {
        super::remove_stranger(&old)?;
    }
    if !old.is_whole() {
        old.remove_maps()?;
        v2::convert_to(&old, &new)?;
        old.share_links(&new)?;
    }
    // Connections may break from here on, so this comes after all that is likely to fail.
    let slots = forget_previous(&new)?;
    if !old.is_whole() {
        old.make_whole()?;
    }
    new.remove_maps()?;
    new.unpin_links()?;
    Ok(Downgraded::Done { flows, slots })
}

/// Leaves each slot with nothing but its current backend. How many had another one before.
fn forget_previous(folder: &Folder) -> Result<u64, DataplaneError> {
    let mut moved = 0;
    let slots = folder.mapped(names::SLOTS, Words::SLOTS_LEN)?;
    for offset in (0..Words::SLOTS_LEN).step_by(size_of::<u32>()) {
        let word = slots.word32(offset);
        let stored = SlotWord::from_bits(word.load(Ordering::Relaxed));
        let stable = SlotWord::stable(stored.current());
        if stored != stable {
            moved += u64::from(stored.previous() != stored.current());
            word.store(stable.to_bits(), Ordering::Release);
        }
    }
    Ok(moved)
}

/// How many flows in the flow table belong to another backend than their slot, without those that end.
fn elsewhere(folder: &Folder) -> Result<u64, DataplaneError> {
    // A daemon that could not load its program has made none.
    if !folder.path().join(names::FLOW_TABLES_IN_USE).exists() {
        return Ok(0);
    }
    let word = folder.mapped(names::FLOW_TABLES_IN_USE, size_of::<u64>())?;
    let word = Word::from_bits(word.words64()[0].load(Ordering::Relaxed));
    let Some((place, bits)) = word.current() else { return Ok(0) };
    // Nothing is changed, so nothing is counted.
    let connections =
        Connections::in_memory().map_err(|source| DataplaneError::Mapping { name: names::CONNECTIONS, source })?;
    let table = FlowTable::pinned(folder.path(), place, bits, Arc::new(connections))?;
    let words = folder.words()?;
    let directories = folder.mapped(names::DIRECTORIES, layout::DIRECTORIES as usize * size_of::<Directory>())?;
    let in_use = folder.directory_in_use()? as usize % layout::DIRECTORIES as usize;
    // SAFETY: any bytes are a directory, and only daemons write to one, none of which runs.
    let directory = unsafe { directories.as_ref::<Directory>(in_use) };
    let services: HashMap<ServiceId, Service> =
        directory.services().map(|entry| (entry.service.id, entry.service)).collect();
    let rows = folder.rows()?;
    let is_elsewhere = |flow: &ListedFlow| {
        if flow.entry.state() == FlowState::Closing {
            return false;
        }
        let backend = flow.entry.backend();
        let service = rows.get(&backend).and_then(|row| services.get(&row.service));
        service
            .is_some_and(|service| words.slot(service, flow.entry.tag().slot(service.slot_mask)).current() != backend)
    };
    Ok(flows(&table, flow_time()).filter(is_elsewhere).count() as u64)
}
