//! From one layout of the maps to the next, and back, while packets go on.
//!
//! Most maps are the same in both layouts: they are pinned in both folders, so that the old program and the new one share them.
//! The others are converted. A folder is *whole* when it has the pin of `DIRECTORY_IN_USE`, which is made last and removed
//! first. As long as a whole folder of the older layout is there, it is the truth, and the other one is made anew from it: so a
//! change that was interrupted is just begun again, by whichever daemon comes next. Programs keep the maps that they use,
//! pinned or not, and links are unpinned in one folder only when they are pinned in the other.

mod downgrade;
mod folder;
mod v3;

use lb_common::layout::names;

pub use self::downgrade::{Downgraded, downgrade};
use self::folder::Folder;
use super::{DataplaneError, Pins};

/// A layout that only versions in development had. What they left is not read.
const UNRELEASED: u32 = 4;

/// Makes the folder of this layout from that of the layout before, if there is one; whether there was. The older folder stays
/// until [`finish`].
pub(super) fn upgrade(pins: &Pins) -> Result<bool, DataplaneError> {
    let unreleased = Folder::of(pins, UNRELEASED);
    if unreleased.is_whole() {
        return Err(DataplaneError::UnknownLayout { path: unreleased.path().to_owned() });
    }
    let (old, new) = (Folder::of(pins, v3::VERSION), Folder::current(pins));
    if !old.is_whole() {
        old.remove_maps()?;
        old.unpin_links()?;
        return Ok(false);
    }
    if new.is_whole() && !new.has_same(&old, names::SLOTS)? {
        remove_stranger(&old)?;
        return Ok(false);
    }
    log::info!("taking over {}, from an older lbd", old.path().display());
    new.remove_maps()?;
    v3::share_maps(&old, &new)?;
    v3::convert_counters_from(&old, &new)?;
    v3::convert_directory_from(&old, &new)?;
    new.share_links(&old)?;
    new.make_whole()?;
    Ok(true)
}

/// Makes an end of the older folder, when no program of the older daemon is attached any more.
pub(super) fn finish(pins: &Pins) -> Result<(), DataplaneError> {
    let old = Folder::of(pins, v3::VERSION);
    old.remove_maps()?;
    old.unpin_links()
}

/// The folder of an older daemon that was started where the maps have this layout already.
fn remove_stranger(old: &Folder) -> Result<(), DataplaneError> {
    log::warn!(
        "removing {}: an older lbd has made it beside the one in use. (To go back to that lbd, use `lbd downgrade` first)",
        old.path().display()
    );
    old.remove_maps()?;
    old.detach_links()
}

/// The folders of older layouts, for those who remove all.
pub(super) fn remove_older(pins: &Pins) -> Result<(), DataplaneError> {
    for version in [v3::VERSION, UNRELEASED] {
        let old = Folder::of(pins, version);
        old.detach_links()?;
        old.remove()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
