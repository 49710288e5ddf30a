//! From one layout of the maps to the next, and back, while packets go on.
//!
//! Most maps are the same in both layouts: they are pinned in both folders, so that the old program and the new one share them.
//! The others are converted. A folder is *whole* when it has the pin of `DIRECTORY_IN_USE`, which is made last and removed
//! first. As long as a whole folder of the older layout is there, it is the truth, and the other one is made anew from it: so a
//! change that was interrupted is just begun again, by whichever daemon comes next. Programs keep the maps that they use,
//! pinned or not, and links are unpinned in one folder only when they are pinned in the other.

mod downgrade;
mod folder;
mod traffic;
mod v2;
mod v3;
mod verdicts;

use lb_common::layout::names;

pub use self::downgrade::{Downgraded, downgrade};
use self::folder::Folder;
use super::{DataplaneError, Pins};

/// The older layouts that there may be folders of, the oldest first.
const OLDER: [u32; 2] = [v2::VERSION, v3::VERSION];

/// Makes the folder of this layout from that of an older one, if there is one; whether there was. The older folder stays until
/// [`finish`].
pub(super) fn upgrade(pins: &Pins) -> Result<bool, DataplaneError> {
    // If there are two, it is the older one that is the truth: an upgrade of it was interrupted.
    for version in OLDER {
        if upgrade_from(version, pins)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn upgrade_from(version: u32, pins: &Pins) -> Result<bool, DataplaneError> {
    let (old, new) = (Folder::of(pins, version), Folder::current(pins));
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
    if version == v2::VERSION {
        v2::convert_from(&old, &new)?;
        new.share_links(&old)?;
        new.make_whole()?;
    } else {
        v3::convert_from(&old, &new)?;
        new.share_links(&old)?;
        new.share_maps(&old, &[names::DIRECTORY_IN_USE])?;
    }
    Ok(true)
}

/// Makes an end of the older folders, when no program of the older daemon is attached any more.
pub(super) fn finish(pins: &Pins) -> Result<(), DataplaneError> {
    OLDER.into_iter().map(|version| Folder::of(pins, version)).try_for_each(|old| {
        old.remove_maps()?;
        old.unpin_links()
    })
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
    OLDER.into_iter().map(|version| Folder::of(pins, version)).try_for_each(|old| {
        old.detach_links()?;
        old.remove()
    })
}

#[cfg(test)]
mod tests;
