//! Which backend a flow reaches when its slot asks for a look into the flow table, and what is remembered of it ("Just
//! enough tracking" in docs/ARCHITECTURE.md).
//!
//! | file | job |
//! |---|---|
//! | `states.rs` | each state of a slot, each kind of packet, each entry |
//! | `segments.rs` | what a TCP segment says about its flow |
//! | `room.rs` | a full table, and who has to go |
//! | `gone.rs`, `reset.rs` | flows whose backend is gone, and the answer they get |
//! | `quic.rs` | connection ids |
//! | `tables.rs` | tables of all sizes, and one that replaces another |
//! | `clock.rs` | the time of entries |
//! | `scene.rs`, `answer.rs` | what is in the maps before a packet, what has to come of it |

mod answer;
mod clock;
mod gone;
mod quic;
mod reset;
mod room;
mod scene;
mod segments;
mod states;
mod tables;
