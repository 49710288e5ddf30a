//! Virtual IPs that move: `lbd vrrp` on two and three nodes, alone and with keepalived.
//!
//! | file | what is tried |
//! |---|---|
//! | `failover.rs` | a master that dies, stops, or hands over, as clients see it |

mod failover;
mod support;
