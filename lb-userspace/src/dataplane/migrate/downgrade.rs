use std::sync::atomic::Ordering;

use lb_common::{
    Affinity, Directory, HashInput, HashInputs, Policy, Scheduler, ServiceEntry, echo,
    layout::{self, names},
};

use super::{folder::Folder, v3};
use crate::dataplane::{DataplaneError, Pins, mapped::Mapped};

/// What came of going back to the older layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Downgraded {
    /// Nothing was done: these services do what the older layout cannot, nor does the older daemon read what this one has written down
    /// of them.
    Refused {
        /// They translate addresses.
        translating: Vec<ServiceEntry>,
        /// They have another algorithm than `maglev`.
        scheduled: Vec<ServiceEntry>,
        /// They balance pings, keep clients at their servers, or have datagrams that stand for themselves.
        others: Vec<ServiceEntry>,
    },
    /// It is done.
    Done {
        /// Services of which flows may be left whose slots were picked by the client's address, and are by the hash of the flow from now
        /// on.
        by_source: usize,
    },
    /// There are no maps of this layout.
    NothingThere,
}

/// Makes the folder of the layout before from that of this one, so that an older daemon can take over. The program goes on
/// until that one replaces it. No daemon may run: the caller has its lock.
pub fn downgrade(pins: &Pins) -> Result<Downgraded, DataplaneError> {
    let (old, new) = (Folder::of(pins, v3::VERSION), Folder::current(pins));
    if !new.is_whole() {
        return Ok(Downgraded::NothingThere);
    }
    let services = services(&new)?;
    let (schedulers, affinities) = (words(&new, names::SCHEDULERS)?, words(&new, names::AFFINITIES)?);
    let word = |words: &Option<Mapped>, entry: &ServiceEntry| {
        let number = entry.service.id.get() as usize;
        words.as_ref().map_or(0, |words| words.words64()[number].load(Ordering::Relaxed))
    };
    let translates = |entry: &ServiceEntry| entry.service.nat.is_in_use();
    let is_scheduled = |entry: &ServiceEntry| {
        let scheduler = Scheduler::from_bits(word(&schedulers, entry));
        // One that has not begun yet has its turns already, and one without weights has none.
        scheduler.policy() != Policy::SLOT || scheduler.turns() > 0 || entry.service.hash.now() != HashInput::FLOW
    };
    let is_other = |entry: &ServiceEntry| {
        entry.key.protocol == echo::REQUEST
            || entry.service.datagrams.are_single()
            || Affinity::from_bits(word(&affinities, entry)).is_in_use()
    };
    let of = |is: &dyn Fn(&ServiceEntry) -> bool| services.iter().copied().filter(is).collect::<Vec<_>>();
    let (translating, scheduled, others) = (of(&translates), of(&is_scheduled), of(&is_other));
    if ![&translating, &scheduled, &others].iter().all(|services| services.is_empty()) {
        return Ok(Downgraded::Refused { translating, scheduled, others });
    }
    let by_source = services.iter().filter(|entry| entry.service.hash != HashInputs::default()).count();
    if old.is_whole() && !new.has_same(&old, names::SLOTS)? {
        super::remove_stranger(&old)?;
    }
    if !old.is_whole() {
        old.remove_maps()?;
        v3::share_maps(&new, &old)?;
        v3::convert_counters_to(&old, &new)?;
        v3::convert_directory_to(&old, &new)?;
        old.share_links(&new)?;
        old.make_whole()?;
    }
    new.remove_maps()?;
    new.unpin_links()?;
    Ok(Downgraded::Done { by_source })
}

/// A word for each service. A daemon that has died before it loaded its program has made none.
fn words(folder: &Folder, name: &'static str) -> Result<Option<Mapped>, DataplaneError> {
    let len = layout::MAX_SERVICES as usize * size_of::<u64>();
    folder.has(name).then(|| folder.mapped(name, len)).transpose()
}

fn services(folder: &Folder) -> Result<Vec<ServiceEntry>, DataplaneError> {
    let directories = folder.mapped(names::DIRECTORIES, layout::DIRECTORIES as usize * size_of::<Directory>())?;
    let in_use = folder.directory_in_use()? as usize % layout::DIRECTORIES as usize;
    // SAFETY: any bytes are a directory, and only daemons write to one, none of which runs.
    let directory = unsafe { directories.as_ref::<Directory>(in_use) };
    Ok(directory.services().copied().collect())
}
