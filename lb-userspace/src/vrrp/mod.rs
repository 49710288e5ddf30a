//! VRRP: virtual addresses that move between nodes (RFC 9568; RFC 3768 as keepalived speaks it).
//!
//! What decides knows no socket and no clock:
//!
//! | file | job |
//! |---|---|
//! | `packet.rs` | the messages on the wire: encode, decode (pure) |
//! | `seal.rs` | advertisements that can be trusted: HMAC and replay protection (pure) |
//! | `instance.rs` | the state machine of one virtual router (pure) |
//! | `priority.rs` | what tracking does to the priority (pure) |
//! | `router.rs` | all instances of this node, their groups, counters and history (pure) |
//!
//! What acts decides nothing:
//!
//! | file | job |
//! |---|---|
//! | `socket.rs` | raw sockets for advertisements |
//! | `links.rs` | interfaces and virtual addresses, by netlink; the frames that announce them |
//! | `firewall.rs` | keeps packets to virtual addresses from this host, where it is not to accept them |
//! | `tracks.rs` | watches scripts, files, the daemon |
//! | `launch.rs`, `notify.rs` | starts the operator's programs; tells them of changes |
//! | `firewall.rs` | keeps packets from this host where it is not to accept them |
//! | `place.rs` | where the addresses of an instance are put, and announced |
//! | `realtime.rs` | a place before everything else on the processor |
//! | `lifeline.rs` | how the speaker shows its watcher that it lives |
//! | `speaker.rs` | the process that speaks: one loop around the router |
//! | `watcher.rs` | the process that watches the speaker, and takes its addresses off when it dies |
//! | `api.rs`, `view.rs` | what `lbctl vrrp` asks and sees |

pub mod api;
pub mod firewall;
pub mod instance;
mod launch;
mod lifeline;
pub mod links;
mod notify;
mod packet;
mod place;
pub mod priority;
mod realtime;
pub mod router;
mod seal;
pub mod socket;
pub mod speaker;
pub mod tracks;
mod view;
pub mod watcher;

pub use self::{
    packet::{Advertisement, GROUP_V4, GROUP_V6, Malformed, PROTOCOL},
    router::{Change, Status},
    seal::{SEAL_LEN, SealError, Sealer, Verifier},
    tracks::Fitness,
    view::{CountersView, InstancePatch, InstanceView, MasterView, TimersView, TrackView, VrrpView},
};
