//! Which backend a flow belongs to.

use lb_common::{BackendId, FlowHash, Service, Verdict};

use crate::maps;

/// The owner of the flow's slot.
#[inline(always)]
pub fn backend_of(service: &Service, hash: FlowHash) -> Result<BackendId, Verdict> {
    let (chunk, index) = service.locate(hash.slot(service.slot_mask));
    let backend = maps::slot(chunk, index).ok_or(Verdict::DropInternal)?.current();
    if backend == BackendId::NONE {
        return Err(Verdict::DropNoBackend);
    }
    Ok(backend)
}
