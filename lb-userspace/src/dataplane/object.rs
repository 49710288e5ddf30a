//! The eBPF objects, built by `build.rs` and embedded, so that `lbd` is one file.

use aya::include_bytes_aligned;

/// The balancing program and its maps.
pub static BALANCE: &[u8] = include_bytes_aligned!(concat!(env!("LB_EBPF_OBJECTS"), "/balance"));
/// The decapsulating program for backends.
pub static DECAP: &[u8] = include_bytes_aligned!(concat!(env!("LB_EBPF_OBJECTS"), "/decap"));
/// The benchmark's programs.
pub static BENCH: &[u8] = include_bytes_aligned!(concat!(env!("LB_EBPF_OBJECTS"), "/bench"));
/// The programs of the benchmark with live frames.
pub static LIVE: &[u8] = include_bytes_aligned!(concat!(env!("LB_EBPF_OBJECTS"), "/live"));
