//! `lb_userspace::neighbour` against the kernel: the balancer of a lab, whose neighbours are the lab's other nodes.
//!
//! | file | what is tried |
//! |---|---|
//! | `next_hops.rs` | how the next hop of a target is found, and the reasons why there is none |
//! | `changes.rs` | changes of neighbours, routes and interfaces: each is reported, none is missed |
//! | `announce.rs` | virtual IPs on the interface, and in the neighbour tables of the link |
//! | `watch.rs` | a resolver under test, and its reports |
//! | `support.rs` | what the tests of all files need |

mod announce;
mod changes;
mod next_hops;
mod support;
mod watch;
