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
        Downgraded::Done { translating } => {
            if translating > 0 {
                log::warn!(
                    "{translating} services translate addresses, which the older lbd cannot: their packets are dropped from now on, \
                     until its configuration gives them another forwarding"
                );
            }
            log::info!("start the older lbd now: it takes over. (Packets go on to be forwarded meanwhile)");
            Ok(())
        }
    }
}
