//! The router on a simulated clock: alone on a bench, and with others on a simulated link.

mod announcements;
mod bench;
mod conversations;
mod faults;
mod groups;
mod hostile;
mod lan;
mod links;
mod reception;
mod reload;
mod requests;
mod tracks;

use std::net::Ipv4Addr;

use super::*;
use crate::{
    config::{Announcement, ChecksumHabit, InitialState, Notify, VirtualAddress, Vrrp, VrrpVersion},
    vrrp::packet::Advertisement,
};

/// Where the simulated clocks begin, since the Unix epoch.
const EPOCH: Duration = Duration::from_hours(500_000);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A node's address on a link.
const fn node(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("it is an address")
}

fn virtual_address(text: &str) -> VirtualAddress {
    VirtualAddress { address: ip(text), prefix_length: 24 }
}

/// An instance of priority 100 with an interval of a second, which announces its addresses once.
fn vrrp() -> Vrrp {
    Vrrp {
        name: "VI_1".to_owned(),
        interface: "eth0".to_owned(),
        router_id: 51,
        version: VrrpVersion::V3,
        priority: 100,
        interval: ms(1000),
        addresses: vec![virtual_address("192.0.2.1")],
        initial_state: InitialState::Backup,
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast_peers: Vec::new(),
        source: None,
        accept: false,
        virtual_mac: false,
        checksum: ChecksumHabit::PseudoHeader,
        authentication: None,
        sync_group: None,
        announcement: Announcement { repeat: 1, delay: Duration::ZERO, refresh: Duration::ZERO },
        notify: Notify::default(),
        tracks: Vec::new(),
    }
}

/// Another instance, with another name, router id and interface, in the same group as [`grouped`] ones.
fn grouped(name: &str, router_id: u8, interface: &str) -> Vrrp {
    Vrrp {
        name: name.to_owned(),
        router_id,
        interface: interface.to_owned(),
        sync_group: Some("G".to_owned()),
        ..vrrp()
    }
}

/// An interface that is up. Those of a node have the numbers of their names: `eth0` is 10.
fn link(interface: &str, addresses: &[IpAddr]) -> LinkState {
    let ifindex = 10 + interface.trim_start_matches(char::is_alphabetic).parse::<u32>().expect("a number");
    LinkState {
        ifindex,
        up: true,
        mac: Some([2, 0, 0, 0, 0, 1]),
        receiver: ifindex,
        xdp: true,
        addresses: addresses.to_vec(),
    }
}

/// What an instance of [`vrrp`] says with that priority.
fn advertisement(priority: u8) -> Advertisement {
    Advertisement {
        version: VrrpVersion::V3,
        router_id: 51,
        priority,
        interval: ms(1000),
        addresses: vec![ip("192.0.2.1")],
        password: None,
    }
}

/// Effects in words, each with the name of its instance where there are several.
fn in_words(router: &Router, effects: &[Effect]) -> Vec<String> {
    effects.iter().map(|effect| effect_in_words(router, effect)).collect()
}

fn effect_in_words(router: &Router, effect: &Effect) -> String {
    let (index, words) = match effect {
        Effect::Send { instance, source, destination, payload } => {
            let (sent, _) = Advertisement::decode(payload, *source, *destination).expect("it can be read");
            let what = match sent.priority {
                0 => "says farewell".to_owned(),
                priority => format!("advertises {priority}"),
            };
            let to_all = router.members()[*instance].config().unicast_peers.is_empty();
            (*instance, if to_all { what } else { format!("{what} to {destination}") })
        }
        Effect::Acquire(index) => (*index, "acquires".to_owned()),
        Effect::Announce(index, times) => (*index, format!("announces {times}")),
        Effect::Release(index) => (*index, "releases".to_owned()),
        Effect::Changed(index, Change { from, to, reason, .. }) => {
            (*index, format!("{} -> {} ({reason})", from.name(), to.name()))
        }
    };
    match router.members() {
        [_] => words,
        members => format!("{} {words}", members[index].config().name),
    }
}
