//! Whose packets are taken.

use lb_common::DecapVerdict;
use lb_userspace::dataplane::Network;

use super::{Case, Decapsulator, MODES, tunnelled, tunnelled_by};
use crate::{
    case::check_all,
    world::{FAMILIES, Family, PROTOCOLS},
};

#[test]
fn a_balancer_in_one_of_the_networks_is_taken_and_a_stranger_goes_to_the_kernel() {
    let [tcp, _] = PROTOCOLS;
    for trusted in FAMILIES {
        let len = if trusted == Family::V4 { 24 } else { 64 };
        let network: Network = format!("{}/{len}", trusted.tunnel_source()).parse().expect("a network");
        let Some(mut decapsulator) = Decapsulator::with_sources(&[network]) else { return };
        let cases = FAMILIES.into_iter().flat_map(|outer| MODES.map(|mode| (outer, mode))).map(|(outer, mode)| {
            let frame = Family::V4.client_frame(tcp);
            let packet = tunnelled_by(mode, &frame, Family::V4, outer, 0);
            if outer == trusted {
                Case::decapsulates(format!("{mode:?} over {outer:?} from {network:?}"), &packet, &frame)
            } else {
                let description = format!("{mode:?} over {outer:?}, where {network:?} is trusted");
                Case::leaves_alone(description, DecapVerdict::PassStranger, packet.to_bytes())
            }
        });
        check_all(&mut decapsulator, cases);
    }
}

#[test]
fn a_network_is_no_longer_than_its_prefix_says() {
    let [tcp, _] = PROTOCOLS;
    // A network beside the balancer's own.
    let beside: Network = "198.18.99.0/25".parse().expect("a network");
    let Some(mut decapsulator) = Decapsulator::with_sources(&[beside]) else { return };
    let packet = tunnelled(&Family::V4.client_frame(tcp), Family::V4, Family::V4, 0);
    let case = Case::leaves_alone("from outside of the network", DecapVerdict::PassStranger, packet.to_bytes());
    check_all(&mut decapsulator, [case]);
}
