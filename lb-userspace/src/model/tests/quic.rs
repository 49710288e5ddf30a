//! Server ids of backends that leave.

use super::*;

const QUIC: &str = r#"
[[interface]]
name = "eth0"

[[service]]
name = "quic"
address = "192.0.2.1:443"
protocol = "udp"
forwarding = "l2-dsr"
[service.quic]
server_id_length = 2
[[service.backend]]
name = "first"
address = "10.0.0.1"
server_id = "0a01"
[[service.backend]]
name = "second"
address = "10.0.0.2"
server_id = "0a02"
"#;

const SECOND: &str = "[[service.backend]]\nname = \"second\"\naddress = \"10.0.0.2\"\nserver_id = \"0a02\"\n";

fn server(world: &World, id: [u8; 2]) -> Option<BackendId> {
    let service = world.datapath.service([192, 0, 2, 1]).id;
    world.datapath.quic_servers.get(&QuicServer::new(service, &id).unwrap()).copied()
}

#[test]
fn a_removed_backend_keeps_its_server_id_over_a_restart() {
    let mut world = World::ready(QUIC);
    world.change(Change::Remove(selector("second"), None)).unwrap();
    let id = world.id("quic", "10.0.0.2");
    let world = world.restart_as_it_is();
    assert_eq!(server(&world, [0x0a, 2]), Some(id));
    // Nor does it lose it if it leaves the file while the daemon is away.
    let world = World::ready(QUIC);
    let id = world.id("quic", "10.0.0.2");
    let world = world.restart(desired(&QUIC.replace(SECOND, "")));
    assert_eq!(server(&world, [0x0a, 2]), Some(id));
}

#[test]
fn whether_a_backend_has_flows_that_only_its_packets_show_is_unknown_until_they_are_counted() {
    let mut world = World::ready(QUIC);
    world.change(Change::Weight(selector("second"), 0)).unwrap();
    world.settle();
    let view = world.view("quic", "10.0.0.2");
    assert_eq!((view.slots, view.slots_left, view.hidden_flows), (0, 0, false));
    world.change(Change::Drain(selector("second"), None)).unwrap();
    assert!(world.view("quic", "10.0.0.2").hidden_flows);
    world.census(&HashMap::new());
    assert!(world.view("quic", "10.0.0.2").hidden_flows, "a packet may have come just now");
    world.pass(Duration::from_mins(1));
    assert!(!world.view("quic", "10.0.0.2").hidden_flows);
}
