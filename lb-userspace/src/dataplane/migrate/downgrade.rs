use lb_common::{
    Directory, HashInputs, Service,
    layout::{self, names},
};

use super::{folder::Folder, v3};
use crate::dataplane::{DataplaneError, Pins};

/// What came of going back to the older layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Downgraded {
    /// Nothing was done: so many services translate addresses. The older layout cannot, nor does the older daemon read what this one
    /// has written down of them.
    Translating(usize),
    /// It is done.
    Done {
        /// Services whose slots are picked by the client's address, and by the hash of the flow from now on.
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
    let translating = services.iter().filter(|service| service.nat.is_in_use()).count();
    if translating > 0 {
        return Ok(Downgraded::Translating(translating));
    }
    let by_source = services.iter().filter(|service| service.hash != HashInputs::default()).count();
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

fn services(folder: &Folder) -> Result<Vec<Service>, DataplaneError> {
    let directories = folder.mapped(names::DIRECTORIES, layout::DIRECTORIES as usize * size_of::<Directory>())?;
    let in_use = folder.directory_in_use()? as usize % layout::DIRECTORIES as usize;
    // SAFETY: any bytes are a directory, and only daemons write to one, none of which runs.
    let directory = unsafe { directories.as_ref::<Directory>(in_use) };
    Ok(directory.services().map(|entry| entry.service).collect())
}
