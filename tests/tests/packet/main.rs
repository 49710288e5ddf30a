//! Packet tests: tables of {description, packet in, verdict, packet out}, run against the loaded programs
//! (`BPF_PROG_TEST_RUN`). No packet leaves the machine.
//!
//! What is expected comes from the RFCs, written out here, and from independent libraries: etherparse builds and sums
//! the headers, siphasher hashes the flows. The code under test says nothing about it.
//!
//! | file | job |
//! |---|---|
//! | `balance/`, `nat/`, `decap/` | the tables, one file per topic |
//! | `case.rs`, `hexdiff.rs` | running a table, and saying what differs |
//! | `fixture.rs`, `sandbox.rs` | the loaded balancer and its maps, of which nothing is left |
//! | `flow_table.rs` | flow tables and their entries |
//! | `world.rs` | the addresses that the tests share |
//! | `live.rs` | the programs that send and count frames for a benchmark |
//! | `logging.rs` | what logging costs |
//! | `packet.rs`, `frame.rs` | building packets and frames |
//! | `backend.rs`, `oracle.rs` | what a backend has to get |
//!
//! `LB_LONG=1` makes the random tests fifty times as long.

mod backend;
mod balance;
mod case;
mod decap;
mod fixture;
mod flow_table;
mod frame;
mod hexdiff;
mod live;
mod logging;
mod nat;
mod oracle;
mod packet;
mod sandbox;
mod world;

/// How many random cases a test runs that takes `fast` of them in everyday use.
fn random_cases(fast: u32) -> u32 {
    if std::env::var_os("LB_LONG").is_some_and(|value| value == "1") { fast * 50 } else { fast }
}
