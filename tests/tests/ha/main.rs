//! Virtual IPs that move: `lbd vrrp` on two and three nodes, alone and with keepalived.
//!
//! | file | what is tried |
//! |---|---|
//! | `failover.rs` | a master that dies, stops, or hands over, as clients see it |
//! | `interop.rs` | keepalived and ours in one virtual router: who is master, and what passes between them |
//! | `processes.rs` | processes that are killed or hang: the daemon, the speaker, its watcher, several at once |
//! | `faults.rs` | networks that lose, split and repeat; advertisements of strangers |
//! | `services.rs` | services on virtual IPs that move, and what decides who is master |

mod failover;
mod faults;
mod frames;
mod holders;
mod interop;
mod processes;
mod services;
mod support;
