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

fn backend(name: &str, address: &str, server_id: &str) -> Change {
    let backend = config::Backend::parse(Some(name), address, 1).unwrap();
    Change::Add("quic".to_owned(), config::Backend { server_id: Some(server_id.parse().unwrap()), ..backend })
}

#[test]
fn a_server_id_of_connections_that_are_kept_can_name_no_other_backend() {
    let mut world = World::ready(QUIC);
    world.change(Change::Remove(selector("second"), Some(Duration::from_mins(5)))).unwrap();
    let id = world.id("quic", "10.0.0.2");
    world.pass(Duration::from_millis(1500));
    let refusals = [
        world.change(backend("third", "10.0.0.3", "0a02")).unwrap_err(),
        world.change(backend("second", "10.0.0.2", "0a03")).unwrap_err(),
    ];
    insta::assert_snapshot!(refusals.map(|refusal| refusal.to_string()).join("\n---\n"), @r#"
    server_id "0a02" names backend "second@10.0.0.2" in connections of service "quic" that it keeps for another 4m 59s at most
        write another server_id, or end those connections: lbctl backend remove second@10.0.0.2 --service quic --deadline 0s
    ---
    server_id "0a02" names backend "second@10.0.0.2" in connections of service "quic" that it keeps for another 4m 59s at most
        bring it back with this server_id, or end those connections: lbctl backend remove second@10.0.0.2 --service quic --deadline 0s
    "#);
    assert_eq!(server(&world, [0x0a, 2]), Some(id));
    world.change(backend("third", "10.0.0.3", "0a04")).unwrap();
    world.change(backend("second", "10.0.0.2", "0a02")).unwrap();
    assert_eq!(server(&world, [0x0a, 2]), Some(id));
}

#[test]
fn a_reload_that_gives_the_server_id_of_a_backend_to_another_one_is_refused() {
    let mut world = World::ready(QUIC);
    let moved = QUIC.replace("10.0.0.2", "10.0.0.3");
    let before = world.core.view(world.now);
    let refusal = world.core.apply(desired(&moved), world.now).unwrap_err();
    insta::assert_snapshot!(refusal, @r#"
    server_id "0a02" names backend "second" in connections of service "quic" that it keeps for another 10m at most
        write another server_id, or end those connections: lbctl backend remove second --service quic --deadline 0s
    "#);
    assert_eq!(world.core.view(world.now), before);
    // As it says, that is possible without those connections.
    world.change(Change::Remove(selector("second"), Some(Duration::ZERO))).unwrap();
    world.apply(&moved);
    assert_eq!(server(&world, [0x0a, 2]), Some(world.id("quic", "10.0.0.3")));
}

#[test]
fn a_removed_backend_keeps_its_server_id_over_a_restart() {
    let mut world = World::ready(QUIC);
    world.change(Change::Remove(selector("second"), None)).unwrap();
    let id = world.id("quic", "10.0.0.2");
    let mut world = world.restart_as_it_is();
    assert_eq!(server(&world, [0x0a, 2]), Some(id));
    assert!(world.change(backend("third", "10.0.0.3", "0a02")).is_err());
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
