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
        Downgraded::Translating(services) => bail!(
            "{services} services translate addresses, which the older lbd cannot: start this one again, give them another forwarding than \
             nat and full-nat in the configuration file, `lbctl reload`, end it, and run this command again"
        ),
        Downgraded::Done { by_source } => {
            if by_source > 0 {
                log::warn!(
                    "{by_source} services have algorithm = \"source-hash\", which the older lbd does not know: flows that are in no flow \
                     table go to other backends from now on"
                );
            }
            log::info!("start the older lbd now: it takes over. (Packets go on to be forwarded meanwhile)");
            Ok(())
        }
    }
}
