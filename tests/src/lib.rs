//! What the tests, the benchmarks, and `cargo xtask run` need to put real packets through the balancer.
//!
//! [`lab`] builds a small network out of network namespaces: a client, the balancer, its backends, and the switch between
//! them. Nothing outside those namespaces is touched, and nothing of them stays behind.

pub mod benchmark;
pub mod churn;
pub mod cpu;
pub mod lab;
