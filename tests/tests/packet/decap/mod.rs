//! The decapsulating program.

mod ecn;
mod gue;
mod malformed;
mod random;
mod round_trip;
mod sources;
mod tunnels;

use std::net::IpAddr;

use aya::programs::Xdp;
use etherparse::{IpHeaders, IpNumber, Ipv4Extensions, Ipv6Extensions};
use lb_common::DecapVerdict;
use lb_tests::lab::require_root;
use lb_userspace::dataplane::{Decap, Network};

use crate::{
    backend::{GUE_PORT, Gue, outer_ipv4, outer_ipv6},
    case::{Action, Datapath, Outcome, increments, test_run},
    frame::Frame,
    packet::{dscp, ecn},
    world::{FAMILIES, Family},
};

/// The program, with the backend's address of each family as tunnel address.
struct Decapsulator {
    decap: Decap,
    verdicts: Vec<(DecapVerdict, u64)>,
}

impl Decapsulator {
    /// `None`, and a loud notice, without root.
    fn new() -> Option<Self> {
        Self::with_sources(&[])
    }

    /// One that takes packets only from these networks.
    fn with_sources(networks: &[Network]) -> Option<Self> {
        Self::with(networks, GUE_PORT)
    }

    /// One that takes packets only from these networks, and GUE at this port.
    fn with(networks: &[Network], gue_port: u16) -> Option<Self> {
        if !require_root() {
            return None;
        }
        let mut decap = Decap::load(networks, gue_port).expect("the program can be loaded");
        decap.set_addresses(&FAMILIES.map(Family::backend)).expect("the addresses can be set");
        let verdicts = decap.verdicts().expect("the counters can be read");
        Some(Self { decap, verdicts })
    }
}

impl Datapath for Decapsulator {
    type Verdict = DecapVerdict;
    type Setup = ();

    fn prepare(&mut self, (): &()) {}

    fn run(&mut self, frame: &[u8]) -> Outcome<DecapVerdict> {
        let program: &Xdp = self.decap.program().expect("the program is loaded");
        let (action, frame) = test_run(program, frame);
        let verdicts = self.decap.verdicts().expect("the counters can be read");
        let increments = increments(&self.verdicts, &verdicts);
        self.verdicts = verdicts;
        Outcome::untracked(action, increments, Vec::new(), frame)
    }
}

/// A line of a table for the decapsulator.
type Case = crate::case::Case<Decapsulator>;

impl Case {
    /// The kernel gets the frame without its outer header: as `inner`.
    fn decapsulates(description: impl Into<String>, frame: &Frame, inner: &Frame) -> Self {
        let verdicts = vec![(DecapVerdict::Decapsulated, 1)];
        let expected = Outcome::untracked(Action::Pass, verdicts, Vec::new(), inner.to_bytes());
        Self { description: description.into(), setup: (), frame: frame.to_bytes(), expected }
    }

    /// The kernel gets the frame as it is.
    fn leaves_alone(description: impl Into<String>, verdict: DecapVerdict, frame: Vec<u8>) -> Self {
        let expected = Outcome::passed(verdict, &frame);
        Self { description: description.into(), setup: (), frame, expected }
    }

    fn drops(description: impl Into<String>, verdict: DecapVerdict, frame: Vec<u8>) -> Self {
        let expected = Outcome::dropped(verdict, &frame);
        Self { description: description.into(), setup: (), frame, expected }
    }
}

/// Inner and outer family.
fn combinations() -> impl Iterator<Item = (Family, Family)> {
    FAMILIES.into_iter().flat_map(|inner| FAMILIES.map(|outer| (inner, outer)))
}

/// What stands between the outer IP header and the inner packet.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Nothing.
    Ipip,
    /// UDP with a checksum, and GUE.
    Gue,
}

const MODES: [Mode; 2] = [Mode::Ipip, Mode::Gue];

/// `inner`, a frame with a packet of `family`, in an outer header of family `outer`, with that traffic class, to the
/// tunnel address.
fn tunnelled(inner: &Frame, family: Family, outer: Family, traffic_class: u8) -> Frame {
    let payload = inner.packet.clone();
    in_outer(inner, family.as_payload(), outer, traffic_class, |_| payload)
}

/// The same in that mode.
fn tunnelled_by(mode: Mode, inner: &Frame, family: Family, outer: Family, traffic_class: u8) -> Frame {
    match mode {
        Mode::Ipip => tunnelled(inner, family, outer, traffic_class),
        Mode::Gue => {
            let gue = Gue::new(SOURCE_PORT, GUE_PORT, family, &inner.packet);
            in_gue(inner, gue, outer, traffic_class, true)
        }
    }
}

const SOURCE_PORT: u16 = 60_001;

/// `inner`, a frame, with `gue` as its packet, with or without a checksum.
fn in_gue(inner: &Frame, gue: Gue, outer: Family, traffic_class: u8, has_checksum: bool) -> Frame {
    in_outer(inner, IpNumber::UDP, outer, traffic_class, |header| {
        let gue = match header {
            _ if !has_checksum => gue,
            IpHeaders::Ipv4(header, _) => gue.summed_up_ipv4(header),
            IpHeaders::Ipv6(header, _) => gue.summed_up_ipv6(header),
        };
        gue.to_bytes()
    })
}

/// `inner`, a frame, with the packet whose `payload` may depend on the header.
fn in_outer(
    inner: &Frame,
    protocol: IpNumber,
    outer: Family,
    traffic_class: u8,
    payload: impl FnOnce(&IpHeaders) -> Vec<u8>,
) -> Frame {
    let packet = match (outer.tunnel_source(), outer.backend()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = outer_ipv4(protocol, source, destination);
            header.dscp = dscp(traffic_class);
            header.ecn = ecn(traffic_class);
            let payload = payload(&IpHeaders::Ipv4(header.clone(), Ipv4Extensions::default()));
            header.set_payload_len(payload.len()).expect("a short packet");
            header.header_checksum = header.calc_header_checksum();
            [&header.to_bytes()[..], &payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = outer_ipv6(protocol, source, destination);
            header.traffic_class = traffic_class;
            let payload = payload(&IpHeaders::Ipv6(header.clone(), Ipv6Extensions::default()));
            header.set_payload_length(payload.len()).expect("a short packet");
            [&header.to_bytes()[..], &payload].concat()
        }
        mixed => panic!("{mixed:?} are of two families"),
    };
    Frame { ether_type: outer.ether_type(), packet, ..inner.clone() }
}

/// Length of an outer IP header in bytes.
const fn outer_len(outer: Family) -> usize {
    match outer {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Gives the outer IPv4 header of `frame` the checksum of what it holds now.
fn sum_up(frame: &mut Frame) {
    let (mut header, _) = etherparse::Ipv4Header::from_slice(&frame.packet).expect("an IPv4 header");
    header.header_checksum = header.calc_header_checksum();
    let bytes = header.to_bytes();
    frame.packet[..bytes.len()].copy_from_slice(&bytes);
}
