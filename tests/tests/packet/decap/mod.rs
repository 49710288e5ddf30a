//! The decapsulating program.

mod ecn;
mod malformed;
mod random;
mod round_trip;
mod sources;
mod tunnels;

use std::net::IpAddr;

use aya::programs::Xdp;
use lb_common::DecapVerdict;
use lb_tests::lab::require_root;
use lb_userspace::dataplane::{Decap, Network};

use crate::{
    backend::{outer_ipv4, outer_ipv6},
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
        if !require_root() {
            return None;
        }
        let mut decap = Decap::load(networks).expect("the program can be loaded");
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

/// `inner`, a frame with a packet of `family`, in an outer header of family `outer`, with that traffic class, to the
/// tunnel address.
fn tunnelled(inner: &Frame, family: Family, outer: Family, traffic_class: u8) -> Frame {
    let header = match (outer.tunnel_source(), outer.backend()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = outer_ipv4(family, source, destination);
            header.dscp = dscp(traffic_class);
            header.ecn = ecn(traffic_class);
            header.set_payload_len(inner.packet.len()).expect("a short packet");
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = outer_ipv6(family, source, destination);
            header.traffic_class = traffic_class;
            header.set_payload_length(inner.packet.len()).expect("a short packet");
            header.to_bytes().to_vec()
        }
        mixed => panic!("{mixed:?} are of two families"),
    };
    let packet = [&header[..], &inner.packet].concat();
    Frame { ether_type: outer.ether_type(), packet, ..inner.clone() }
}

/// Length of an outer header in bytes.
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
