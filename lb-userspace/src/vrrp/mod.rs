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
//! | `notify.rs` | runs the operator's programs |
//! | `speaker.rs` | the process that speaks: one loop around the router |
//! | `watcher.rs` | the process that watches the speaker, and takes its addresses off when it dies |
//! | `api.rs`, `view.rs` | what `lbctl vrrp` asks and sees |

pub mod firewall;
pub mod links;
