//! Next hops to the backends, and virtual IPs on our own interfaces, by netlink.
//!
//! | file | job |
//! |---|---|
//! | `resolve.rs` | from what the kernel says to a next hop, or the reason why there is none (pure) |
//! | `resolver.rs` | the task that asks again whenever the kernel reports a change |
//! | `announce.rs` | puts virtual IPs on an interface, and tells the link where they are |
//! | `frame.rs` | the frames that tell it: gratuitous ARP, unsolicited neighbour advertisement (pure) |
//! | `packet_socket.rs` | the socket that sends them |
//! | `netlink.rs` | questions, orders and notifications, in our own types |

mod announce;
pub(crate) mod frame;
pub(crate) mod netlink;
pub(crate) mod packet_socket;
mod resolve;
mod resolver;

pub use announce::{AnnounceError, Announcer, Placement};
pub use resolve::{Egress, Gateways, NextHop, Refusal, Resolution, Unresolved};
pub use resolver::{Resolver, ResolverHandle};

/// How the kernel is told which addresses and neighbour entries are ours (`IFA_PROTO`, `NDA_PROTOCOL`):
/// addresses that a crash leaves behind are found again. `ip` shows it as `proto`; no routing daemon of
/// `/etc/iproute2/rt_protos` uses the number.
pub const PROTOCOL: u8 = 108;
