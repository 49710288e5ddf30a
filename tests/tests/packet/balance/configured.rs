//! From the text of a configuration to the packet at the backend: the rows, slots and services are those of the daemon's
//! core.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use etherparse::IpNumber;
use lb_common::BackendId;
use lb_userspace::{
    config::Config,
    model::{Core, DesiredService, Effect, Findings, Found},
    neighbour::{Egress, NextHop},
};

use crate::{
    backend::{Backend, Forwarding},
    case::check_all,
    fixture::{Balancer, Case},
    world::{EGRESS_MAC, FAMILIES, Family, INGRESS_IFINDEX, OTHER_IFINDEX, SERVICE_PORT},
};

/// A service with these `keys` and one backend, which is reached over `outer`.
fn configuration(keys: &str, inner: Family, outer: Family) -> Config {
    let address = std::net::SocketAddr::new(inner.virtual_ip(), SERVICE_PORT);
    let backend = outer.backend();
    let text = format!(
        r#"
        [node]
        tunnel_source = "10.96.0.0/16"
        tunnel_source_v6 = "2001:db8:7::/96"

        [[service]]
        name = "web"
        address = "{address}"
        protocol = "tcp"
        {keys}

          [[service.backend]]
          address = "{backend}"
        "#
    );
    Config::parse("lb.toml", &text).expect("the configuration is valid")
}

/// What the daemon would do with `config` when the next hop of the backend is known.
fn effects(config: Config, backend: &Backend, outer: Family) -> Vec<Effect> {
    let now = Instant::now();
    let mut core = Core::new(config.node, Found::default(), now);
    let services = config.services.into_iter().map(DesiredService::as_declared).collect();
    let mut effects = core.apply(services, now).expect("the maps have room");
    let egress = Egress {
        ifindex: backend.egress_ifindex,
        interface: "eth1".to_owned(),
        vlan: (backend.vlan != 0).then_some(backend.vlan),
        source_mac: EGRESS_MAC,
        destination_mac: backend.mac,
        mtu: backend.mtu,
        preferred_source: None,
    };
    effects.extend(core.on_next_hops(vec![(outer.backend(), Ok(NextHop::Via(egress)))], now));
    // No flow is remembered: the slots are at rest then.
    let later = now + Duration::from_secs(1);
    let findings = Findings {
        census: core.census(later),
        flows: HashMap::new(),
        losses: 0,
        packets: HashMap::new(),
        replies: HashMap::new(),
    };
    effects.extend(core.on_census(findings, later));
    effects
}

/// Writes what is for the datapath; the backend that came of it.
fn carry_out(balancer: &mut Balancer, effects: Vec<Effect>) -> BackendId {
    let mut written = None;
    for effect in effects {
        let maps = balancer.maps();
        match effect {
            Effect::StoreServices(services, _) => {
                maps.store_services(&services, &[]).expect("the directory takes them");
            }
            Effect::StoreSlots(service, words) => {
                for (slot, word) in words {
                    maps.store_slot(&service, slot, word);
                }
            }
            Effect::PutRow(backend, index, row) => {
                maps.put_row(backend, index, &row).expect("the row map takes it");
                balancer.watch(backend);
                written = Some(backend);
            }
            _ => {}
        }
    }
    written.expect("the daemon writes a row")
}

#[test]
fn what_the_daemon_writes_takes_packets_to_the_backend() {
    let Some(mut balancer) = Balancer::empty() else { return };
    let ways_out = [(INGRESS_IFINDEX, 0), (OTHER_IFINDEX, 0), (OTHER_IFINDEX, 300)];
    for inner in FAMILIES {
        let tunnels = [(Family::V4, 16), (Family::V6, 32)].into_iter().flat_map(|(outer, entropy)| {
            let gue = Backend::gue_with_entropy(outer, entropy);
            let Forwarding::Gue(tunnel, _) = gue.forwarding else { unreachable!("it is GUE") };
            [
                (r#"forwarding = "ipip""#, outer, Backend::tunnel_with_entropy(outer, entropy)),
                (r#"forwarding = "gue""#, outer, gue),
                (
                    "forwarding = \"gue\"\ngue_port = 19523",
                    outer,
                    Backend { forwarding: Forwarding::Gue(tunnel, 19_523), ..gue },
                ),
            ]
        });
        for (keys, outer, backend) in [(r#"forwarding = "l2-dsr""#, inner, Backend::L2_DSR)].into_iter().chain(tunnels)
        {
            for (egress_ifindex, vlan) in ways_out {
                let backend = Backend { vlan, egress_ifindex, ..backend };
                let effects = effects(configuration(keys, inner, outer), &backend, outer);
                let id = carry_out(&mut balancer, effects);
                let cases = (1..=20_u16).map(|port| {
                    let mut packet = inner.packet(IpNumber::TCP);
                    packet.source.set_port(port);
                    let frame = inner.frame(packet.to_bytes());
                    Case {
                        description: format!(
                            "{inner:?} by {keys} over {outer:?}, interface {egress_ifindex}, VLAN {vlan}, port {port}"
                        ),
                        setup: Vec::new(),
                        frame: frame.to_bytes(),
                        expected: backend.receives_as(id, &frame),
                    }
                });
                check_all(&mut balancer, cases);
            }
        }
    }
}
