//! No flow is broken by a change: thousands of live connections, and a balancer whose backends change all the time.
//!
//! | file | what is tried |
//! |---|---|
//! | `steady.rs` | random changes, and nothing else |
//! | `restarts.rs` | `lbd` dies, or is told to end, and starts again between them |
//! | `resize.rs` | the flow table grows and shrinks between them |
//! | `floods.rs` | ten times as many packets of unknown flows as the flow table has room for |
//! | `handshakes.rs` | connections whose first packets are lost while backends change |

mod floods;
mod handshakes;
mod resize;
mod restarts;
mod steady;
mod support;
