//! Translating addresses and ports (`nat`, `full-nat`).
//!
//! What has to come out is built by etherparse, checksums and all, from the addresses and ports that it has to have.

mod algorithms;
mod both_ways;
mod echo;
mod fields;
mod latencies;
mod one_packet;
mod phases;
mod ports;
mod reuse;
mod scene;
mod strangers;
