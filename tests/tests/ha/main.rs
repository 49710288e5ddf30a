//! Virtual IPs that move: `lbd vrrp` on two and three nodes, alone and with keepalived.
//!
//! | file | what is tried |
//! |---|---|
//! | `failover.rs` | a master that dies, stops, or hands over, as clients see it |
//! | `processes.rs` | processes that are killed or hang: the daemon, the speaker, its watcher, several at once |

mod failover;
mod holders;
mod processes;
mod support;
