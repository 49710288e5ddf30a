//! What the eBPF programs and the daemon have to agree on: the layout of the maps, the slot word, the flow hash and
//! the checksum arithmetic.
//!
//! Nothing here knows about eBPF or about the kernel, so everything is tested on the host.

#![no_std]
#![warn(missing_docs)]

mod address;
mod affinity;
mod backend;
pub mod bench;
pub mod checksum;
pub mod choice;
mod connections;
mod counters;
mod directory;
pub mod echo;
mod flow;
pub mod flow_table;
pub mod gue;
mod latency;
pub mod layout;
pub mod live;
pub mod nat;
mod quic;
mod scheduler;
mod service;
mod slot;
mod source;
pub mod translate;
mod virtual_router;

pub use address::{Address, NetU16, NetU32};
pub use affinity::{Affinity, AffinityClient, AffinityEntry, AffinityScope, AffinityServer, ServerOf};
pub use backend::{BackendId, BackendRow, Condition, Encapsulation, MacAddress, OuterHeader, RowIndex, mac_word};
pub use connections::{Connections, HotLoad, Load, Tally};
pub use counters::{DecapVerdict, Tracking, Traffic, Verdict};
pub use directory::{Directory, ServiceEntry};
pub use flow::{Flow, FlowHash, HashKey};
pub use flow_table::{FlowEntry, FlowState, FlowTables, FlowTime};
pub use latency::{Answer, Latency};
pub use quic::{QuicIds, QuicServer};
pub use scheduler::{Policy, Ring, Scheduler};
pub use service::{Datagrams, NatMode, Service, ServiceId, ServiceKey};
pub use slot::SlotWord;
pub use source::{HashInput, HashInputs};
pub use virtual_router::VirtualRouter;

#[cfg(feature = "userspace")]
mod pod {
    //! aya copies values between maps and memory byte by byte, so it wants to know that they are plain data.

    use crate::{
        Address, AffinityClient, AffinityEntry, BackendId, BackendRow, QuicServer, RowIndex, ServerOf, Traffic,
        bench::Template,
        live::{Arrival, Hop, Stream},
        nat::NatSource,
    };

    macro_rules! pod {
        ($($type:ty),+) => {
            // SAFETY: `repr(C)` or `repr(transparent)` over integers and bytes: every bit pattern is a value, and all
            // values live as long as the program.
            $(unsafe impl aya::Pod for $type {})+
        };
    }

    pod!(
        Address,
        AffinityClient,
        AffinityEntry,
        Arrival,
        BackendId,
        BackendRow,
        Hop,
        NatSource,
        QuicServer,
        RowIndex,
        ServerOf,
        Stream,
        Template,
        Traffic
    );
}
