//! The balancing program.

mod affinity;
mod algorithms;
mod choice;
mod configured;
mod connections;
mod echo;
mod encapsulation;
mod gue;
mod headers;
mod lengths;
mod mapped;
mod modes;
mod not_ours;
mod one_packet;
mod random;
mod refusals;
mod schedule;
mod services;
mod source_hash;
mod tracking;
mod truncated;
mod virtual_mac;
mod vlan;
