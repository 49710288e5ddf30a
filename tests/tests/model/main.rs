//! The datapath against models of it: random histories of clients, slots, backends and time, run through the loaded program
//! (`BPF_PROG_TEST_RUN`) with a clock that the test sets.
//!
//! | file | job |
//! |---|---|
//! | `exact.rs`, `rules.rs` | each packet reaches what a plain model says, and leaves what it says |
//! | `promise.rs`, `mover.rs` | whatever an operator does, a connection stays with its backend, in a crowded table too |
//! | `threads.rs` | packets on all CPUs and a sweeper, on the same buckets at once |
//! | `history.rs` | random histories, and the shortest one that fails |
//! | `datapath.rs`, `clients.rs` | the loaded program and its maps, the clients' packets |
//!
//! The models are written from the design and share no code with what is under test. Where the design leaves a choice, `rules.rs`
//! says what docs/ARCHITECTURE.md says ("The flow table"): when a flow is over, when an end is taken back, and that a flow whose
//! backend is gone moves only if its slot has another one. `promise.rs` knows nothing of that. A history that fails is cut down
//! to the steps that matter, and printed. `LB_LONG=1` makes everything a hundred times as long, with another seed each time;
//! `LB_SEED` repeats one.

mod clients;
mod datapath;
mod exact;
#[path = "../packet/flow_table.rs"]
mod flow_table;
mod history;
mod mover;
#[path = "../packet/oracle.rs"]
mod oracle;
mod promise;
mod rules;
#[path = "../packet/sandbox.rs"]
mod sandbox;
mod threads;

/// Whether there is all the time in the world.
fn is_long() -> bool {
    std::env::var_os("LB_LONG").is_some_and(|value| value == "1")
}
