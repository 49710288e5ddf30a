use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    Affinity, BackendId, BackendRow, QuicServer, RowIndex, Scheduler, ServerOf, Service, ServiceEntry, ServiceId,
    SlotWord,
};

use crate::{config, health::Health};

/// What the shell has to do, in the order given: a row stands before a slot names its backend, and a service goes
/// before its slots do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Make these the services in the datapath, all at once, and these the addresses that replies of translated flows come to or
    /// from.
    StoreServices(Vec<ServiceEntry>, Vec<IpAddr>),
    /// Store these slot words of a service.
    StoreSlots(Service, Vec<(u32, SlotWord)>),
    /// Store these turns of a rotation from that chunk of the slot array on.
    StoreTurns(u32, Vec<BackendId>),
    /// Let new flows of a service get their backends in this way.
    StoreScheduler(ServiceId, Scheduler),
    /// Let a backend's connections count by this weight, and let it have at most so many; zero is any number.
    StoreCapacity(BackendId, u32, u32),
    /// Let clients of a service stay with their servers in this way.
    StoreAffinity(ServiceId, Affinity),
    /// Let the backend take new flows for a server of a service.
    PutServer(ServerOf, BackendId),
    /// Let no backend take any.
    RemoveServer(ServerOf),
    /// Take note of how long a probe of a backend took.
    NoteLatency(BackendId, Duration),
    /// End the translated flows of a service: their packets are others' from now on.
    EndTranslated(ServiceId),
    /// Write a row and make it the backend's.
    PutRow(BackendId, RowIndex, Box<BackendRow>),
    /// Leave the backend without a row.
    RemoveRow(BackendId),
    /// Let QUIC packets whose connection id names this server go to the backend.
    PutQuicServer(QuicServer, BackendId),
    /// Let such connection ids count for nothing.
    RemoveQuicServer(QuicServer),
    /// The id names a new service: its counters start at zero.
    ResetServiceTraffic(ServiceId),
    /// The service has that backend no longer, and keeps its counters.
    RetireTraffic(ServiceId, BackendId),
    /// The id names a new backend: its counters start at zero.
    ResetBackendTraffic(BackendId),
    /// Check the health of a backend from now on, in place of an earlier check.
    StartCheck {
        /// The backend.
        id: BackendId,
        /// Where to.
        target: SocketAddr,
        /// How.
        check: Box<config::HealthCheck>,
        /// What is known so far.
        initial: Health,
    },
    /// Check it no longer.
    StopCheck(BackendId),
    /// Find and keep the next hops of exactly these addresses.
    WatchNextHops(Vec<IpAddr>),
    /// Put a virtual IP on an interface.
    Announce(String, IpAddr),
    /// Take it off.
    Withdraw(String, IpAddr),
    /// Write down the services as the configuration file has them.
    PersistDeclared,
    /// Live changes are to be written down.
    Persist,
}
