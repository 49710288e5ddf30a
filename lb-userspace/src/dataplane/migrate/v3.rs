//! What is different in version 3 of the layout: nobody counts connections or takes turns, and a verdict is missing. The slots of all
//! services are picked by the hash of the flow, for which there was a zero.

use lb_common::{Verdict, layout::names};

use super::folder::Folder;
use crate::dataplane::{DataplaneError, flow_tables};

pub(super) const VERSION: u32 = 3;

/// The maps that both layouts have, but for those of flow tables, of which there are one or two.
const SAME_MAPS: [&str; 13] = [
    names::DIRECTORIES,
    names::SLOTS,
    names::ROW_OF,
    names::ROWS,
    names::FLOW_TABLES,
    names::FLOW_TABLES_IN_USE,
    names::TRACKING,
    names::QUIC_SERVERS,
    names::INTERFACES,
    names::VIRTUAL_MACS,
    names::EGRESS,
    names::RETIRED_TRAFFIC,
    names::BACKEND_TRAFFIC,
];

/// The verdicts in the order of their counters.
pub(super) const VERDICTS: [Verdict; 14] = [
    Verdict::PassNotIp,
    Verdict::PassOtherHost,
    Verdict::PassMalformed,
    Verdict::PassFragment,
    Verdict::PassOtherProtocol,
    Verdict::PassNoService,
    Verdict::Local,
    Verdict::Transmitted,
    Verdict::Redirected,
    Verdict::Reset,
    Verdict::DropNoBackend,
    Verdict::DropBackendGone,
    Verdict::DropTooBig,
    Verdict::DropInternal,
];

/// The names of the maps that are in `old` and the same now.
pub(super) fn same_maps(old: &Folder) -> Vec<&'static str> {
    // A daemon that could not load its program has made not all of them.
    SAME_MAPS.into_iter().chain(flow_tables::PINS).filter(|name| old.has(name)).collect()
}

/// Makes the folder of this layout, except for the links. The old program goes on with the same maps until the
/// new one replaces it. What it does not count meanwhile is found by a recount of the flow table.
pub(super) fn convert_from(old: &Folder, new: &Folder) -> Result<(), DataplaneError> {
    new.share_maps(old, &same_maps(old))?;
    super::verdicts::convert_from(old, &VERDICTS, new)
}
