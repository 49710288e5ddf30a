//! Virtual IPs that move: `lbd vrrp` on two and three nodes, alone and with keepalived.
//!
//! | file | what is tried |
//! |---|---|
//! | `failover.rs` | a master that dies, stops, or hands over, as clients see it |
//! | `interop.rs` | keepalived and ours in one virtual router: who is master, and what passes between them |

mod failover;
mod interop;
mod support;
