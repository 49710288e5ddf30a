//! The balancing program.

mod choice;
mod configured;
mod encapsulation;
mod gue;
mod headers;
mod lengths;
mod mapped;
mod modes;
mod not_ours;
mod random;
mod refusals;
mod services;
mod tracking;
mod truncated;
mod virtual_mac;
mod vlan;
