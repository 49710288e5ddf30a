//! Which servers clients have.

use lb_common::{Affinity, AffinityClient, AffinityEntry, BackendId, FlowTime, ServerOf, ServiceId};

use super::{AFFINITIES, AFFINITY_CLIENTS, AFFINITY_SERVERS, load};

/// How the clients of `service` stay with their servers.
#[inline(always)]
pub fn affinity(service: ServiceId) -> Affinity {
    AFFINITIES.get_ptr(service.get()).map_or(Affinity::NONE, |word| Affinity::from_bits(load(word)))
}

/// What is known of a client. Its place may become another client's at any time.
#[inline(always)]
pub fn affinity_client(client: &AffinityClient) -> Option<MapClient> {
    AFFINITY_CLIENTS.get_ptr_mut(client).map(MapClient)
}

/// Remembers which server a client has. If there is no room, it has none.
#[inline(always)]
pub fn put_affinity_client(client: &AffinityClient, entry: &AffinityEntry) {
    let _ = AFFINITY_CLIENTS.insert(client, entry, 0);
}

/// The backend that takes new flows for a server.
#[inline(always)]
pub fn affinity_backend(server: &ServerOf) -> Option<BackendId> {
    // SAFETY: values are never changed in place; a copy of one that goes at this moment is the one of before.
    unsafe { AFFINITY_SERVERS.get(server) }.copied()
}

/// What is known of a client, in a map that others change at the same time: whoever reads a mixture of two finds some server of his
/// service, or none.
#[derive(Clone, Copy)]
pub struct MapClient(*mut AffinityEntry);

impl MapClient {
    #[inline(always)]
    pub fn get(self) -> AffinityEntry {
        // SAFETY: the entry lies in a map that lives as long as the program; any bytes are one.
        unsafe { self.0.read_volatile() }
    }

    /// Writes down that a new flow has come.
    #[inline(always)]
    pub fn see(self, now: FlowTime) {
        // SAFETY: the entry lies in a map that lives as long as the program, and an aligned word is stored whole.
        unsafe { (&raw mut (*self.0).seen).write_volatile(now.0) };
    }
}
