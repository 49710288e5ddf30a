//! The ECN field of decapsulated packets.

use etherparse::IpNumber;
use lb_common::DecapVerdict;

use super::{Case, Decapsulator, MODES, combinations, tunnelled_by};
use crate::case::check_all;

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// RFC 6040, figure 4: inner, outer, outgoing.
const FIGURE_4: [(u8, u8, Option<u8>); 16] = [
    (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
    (NOT_ECT, ECT_0, Some(NOT_ECT)),
    (NOT_ECT, ECT_1, Some(NOT_ECT)),
    (NOT_ECT, CE, None),
    (ECT_0, NOT_ECT, Some(ECT_0)),
    (ECT_0, ECT_0, Some(ECT_0)),
    (ECT_0, ECT_1, Some(ECT_1)),
    (ECT_0, CE, Some(CE)),
    (ECT_1, NOT_ECT, Some(ECT_1)),
    (ECT_1, ECT_0, Some(ECT_1)),
    (ECT_1, ECT_1, Some(ECT_1)),
    (ECT_1, CE, Some(CE)),
    (CE, NOT_ECT, Some(CE)),
    (CE, ECT_0, Some(CE)),
    (CE, ECT_1, Some(CE)),
    (CE, CE, Some(CE)),
];

#[test]
fn ecn_comes_out_as_rfc_6040_says_and_the_inner_dscp_stays() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut cases = Vec::new();
    for ((inner, outer), mode) in combinations().flat_map(|families| MODES.map(|mode| (families, mode))) {
        for (inner_ecn, outer_ecn, outgoing) in FIGURE_4 {
            for (inner_dscp, outer_dscp) in [(0, 0), (46, 0), (0, 46), (0b10_1010, 0b01_0101), (63, 63)] {
                let with_ecn = |ecn| {
                    let packet = inner.packet(IpNumber::TCP).traffic_class(inner_dscp << 2 | ecn);
                    inner.frame(packet.to_bytes())
                };
                let frame = tunnelled_by(mode, &with_ecn(inner_ecn), inner, outer, outer_dscp << 2 | outer_ecn);
                let description = format!(
                    "ECN {inner_ecn:02b} (DSCP {inner_dscp}) of {inner:?} in {outer_ecn:02b} (DSCP {outer_dscp}) of {outer:?}, {mode:?}"
                );
                cases.push(match outgoing {
                    Some(ecn) => Case::decapsulates(description, &frame, &with_ecn(ecn)),
                    None => Case::drops(description, DecapVerdict::DropCongested, frame.to_bytes()),
                });
            }
        }
    }
    check_all(&mut decapsulator, cases);
}
