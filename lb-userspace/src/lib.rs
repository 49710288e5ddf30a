//! The load balancer's daemon and command line, as a library.

pub mod api;
pub mod config;
pub mod daemon;
pub mod dataplane;
pub mod health;
pub mod model;
pub mod neighbour;
pub mod schedule;
pub mod vrrp;
