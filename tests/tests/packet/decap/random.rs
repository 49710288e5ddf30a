//! Random changes to tunnel packets: each has one verdict, and what is not decapsulated is not touched.

use etherparse::IpNumber;
use fastrand::Rng;
use lb_common::DecapVerdict;

use super::{Decapsulator, MODES, Mode, outer_len, tunnelled_by};
use crate::{
    backend::Gue,
    case::{Action, Datapath as _},
    hexdiff, random_cases,
    world::FAMILIES,
};

#[test]
fn a_damaged_tunnel_packet_is_untouched_unless_it_is_decapsulated() {
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut random = Rng::with_seed(7);
    for number in 0..random_cases(6000) {
        let [inner, outer] = [FAMILIES[random.usize(..2)], FAMILIES[random.usize(..2)]];
        let mode = MODES[random.usize(..2)];
        let client = inner.client_frame(IpNumber::TCP);
        let mut frame = tunnelled_by(mode, &client, inner, outer, random.u8(..)).to_bytes();
        for _ in 0..random.usize(..4) {
            let at = random.usize(..frame.len());
            frame[at] = random.u8(..);
        }
        if random.bool() {
            frame.truncate(random.usize(14..frame.len()));
        }
        let outcome = decapsulator.run(&frame);
        let explain = || format!("frame {number}: {outcome:?}\n{}", hexdiff::dump(&frame));
        let &[(verdict, 1)] = &outcome.verdicts[..] else { panic!("not one verdict: {}", explain()) };
        assert!([Action::Pass, Action::Drop].contains(&outcome.action), "{}", explain());
        if verdict == DecapVerdict::Decapsulated {
            let headers_len = outer_len(outer) + if mode == Mode::Gue { Gue::HEADERS_LEN } else { 0 };
            assert_eq!(outcome.frame.len(), frame.len() - headers_len, "{}", explain());
        } else {
            assert_eq!(outcome.frame, frame, "{}", explain());
        }
    }
}
