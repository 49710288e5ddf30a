//! `lbd downgrade`: the way back to an older lbd.

use std::path::Path;

use anyhow::bail;
use lb_userspace::dataplane::{Downgraded, Pins, downgrade};

/// Leaves the maps below `pins` as the older lbd knows them.
pub(crate) fn run(pins: &Path) -> anyhow::Result<()> {
    let Some(found) = Pins::existing(pins)? else {
        bail!("there are no pins in {}", pins.display());
    };
    match downgrade(&found)? {
        Downgraded::NothingThere => bail!(
            "there are no maps of this lbd below {}: an older one finds what it has left, if anything",
            pins.display()
        ),
        Downgraded::Done { flows, slots } => {
            if slots > 0 {
                log::warn!(
                    "{slots} slots were on the move: flows of theirs that were known to nobody, and stayed with the backend of \
                     before, change it now, and connections among them break. (`lbctl slots` shows when none move)"
                );
            }
            if flows > 0 {
                log::warn!(
                    "{flows} flows were with another backend than new ones like them: what was known of them is gone, so they \
                     change their backend now, and connections among them break"
                );
            }
            log::info!("start the older lbd now: it takes over. (Packets go on to be forwarded meanwhile)");
            Ok(())
        }
    }
}
