//! The balancer with real parts: namespaces, servers, clients, and the binaries as an operator runs them.
//!
//! | file | what is tried |
//! |---|---|
//! | `traffic.rs` | requests by curl and wrk to nginx in all modes and families; UDP; services of all ports; counters |
//! | `gue.rs` | services whose packets are tunnelled in UDP |
//! | `nat.rs` | services that translate addresses and ports |
//! | `kernel.rs` | a kernel in a virtual machine as the receiver of tunnelled packets |
//! | `modes.rs` | the same traffic in every mode and family |
//! | `health.rs` | backends that die and come back |
//! | `takeover.rs` | `lbd` that dies and starts again, with traffic going on |
//! | `changes.rs` | live changes by `lbctl`, reloads, and what of them outlives `lbd` |
//! | `algorithms.rs` | how new flows get their backends, and changes of that |
//! | `affinity.rs` | clients that stay with their servers |
//! | `leaving.rs` | backends that are to have no new flows, and who waits for that |
//! | `cli.rs` | the commands themselves: their forms, exit codes and refusals |
//! | `placement.rs` | where backends may be, and how the program is attached |
//! | `announce.rs` | virtual IPs on the interface, and `lbd unload` |
//! | `cleanup.rs` | what an interrupted run leaves behind: nothing |

mod affinity;
mod algorithms;
mod announce;
mod changes;
mod cleanup;
mod cli;
mod client;
mod config;
mod gue;
mod health;
mod kernel;
mod leaving;
mod modes;
mod nat;
mod placement;
mod support;
mod takeover;
mod traffic;
