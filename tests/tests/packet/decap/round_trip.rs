//! What the balancer tunnels, the decapsulator restores.

use fastrand::Rng;

use super::{Case, Decapsulator};
use crate::{
    backend::Backend,
    case::{Datapath as _, check_all},
    fixture::Balancer,
    frame::{Frame, Tag},
    random_cases,
    world::{BACKEND, EGRESS_MAC, FAMILIES, PROTOCOLS},
};

#[test]
fn a_packet_through_the_balancer_and_the_decapsulator_is_what_it_was() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    let Some(mut decapsulator) = Decapsulator::new() else { return };
    let mut random = Rng::with_seed(6);
    let cases: Vec<Case> = (0..random_cases(2000))
        .map(|number| {
            let [family, outer] = [FAMILIES[random.usize(..2)], FAMILIES[random.usize(..2)]];
            let vlan = if random.bool() { random.u16(..) } else { 0 };
            let mut packet = family.packet(PROTOCOLS[random.usize(..2)]);
            packet.source.set_port(random.u16(..));
            let packet = packet.sized(random.usize(68..1400)).traffic_class(random.u8(..));
            let sent = Frame { padding: vec![0; random.usize(..5)], ..family.frame(packet.to_bytes()) };
            let mode = if random.bool() { Backend::tunnel_with_entropy } else { Backend::gue_with_entropy };
            let backend = Backend { vlan, ..mode(outer, 16) };
            balancer.put_row(BACKEND, &backend.row(family));
            let tags = if vlan == 0 { Vec::new() } else { vec![Tag::customer(vlan)] };
            let restored = Frame { destination: backend.mac, source: EGRESS_MAC, tags, ..sent.clone() };
            Case {
                frame: balancer.run(&sent.to_bytes()).frame,
                ..Case::decapsulates(format!("packet {number}, {family:?} over {outer:?}"), &sent, &restored)
            }
        })
        .collect();
    check_all(&mut decapsulator, cases);
}
