//! `lb_userspace::vrrp::links` and its firewall against the kernel, on the balancer of a lab. The client stands for the link's other
//! hosts.
//!
//! | file | what is tried |
//! |---|---|
//! | `addresses.rs` | virtual addresses: put, renewed, taken, and gone when nobody renews them |
//! | `announce.rs` | the neighbour tables of the link |
//! | `crowd.rs` | a hundred virtual routers at once |
//! | `firewall.rs` | what reaches this host without accept mode |
//! | `state.rs` | how an interface is, and what is reported when that changes |
//! | `virtual_mac.rs` | virtual routers with a MAC address of their own |
//! | `support.rs` | what the tests of all files need |

mod addresses;
mod announce;
mod crowd;
mod firewall;
mod state;
mod support;
mod virtual_mac;
