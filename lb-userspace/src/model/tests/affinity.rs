//! Clients that stay with their servers.

use lb_common::{AffinityScope, AffinityServer};

use super::*;

const WEB: [u8; 4] = [192, 0, 2, 1];
const CHECKED: [u8; 4] = [192, 0, 2, 2];

/// The services, of which the first has this section.
fn with(section: &str) -> String {
    CONFIG.replacen("[[service.backend]]", &format!("{section}\n[[service.backend]]"), 1)
}

fn with_timeout() -> String {
    with("[service.affinity]\ntimeout = \"5m\"")
}

impl World {
    fn affinity(&self, address: [u8; 4]) -> Affinity {
        self.datapath.affinities.get(&self.datapath.service(address).id).copied().unwrap_or_default()
    }

    /// The servers of a service, and the last parts of the addresses of the backends that take their new flows.
    fn servers(&self, address: [u8; 4]) -> Vec<(AffinityServer, u8)> {
        let service = self.datapath.service(address).id;
        let last = |id: &BackendId| match self.datapath.rows[&self.datapath.row_of[id]].address.to_ip() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => panic!("{address} is no backend"),
        };
        let servers = self.datapath.servers.iter().filter(|(server, _)| server.service() == service);
        let mut servers: Vec<_> = servers.map(|(server, backend)| (server.server(), last(backend))).collect();
        servers.sort_unstable_by_key(|(_, backend)| *backend);
        servers
    }

    fn takers(&self, address: [u8; 4]) -> Vec<u8> {
        self.servers(address).into_iter().map(|(_, backend)| backend).collect()
    }
}

#[test]
fn a_service_has_the_servers_that_take_new_flows() {
    let mut world = World::ready(&with_timeout());
    assert_eq!(world.takers(WEB), [1, 2]);
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    assert_eq!(world.takers(WEB), [1]);
    world.change(Change::Admin(selector("10.0.0.2"), Admin::Enabled)).unwrap();
    assert_eq!(world.takers(WEB), [1, 2]);
    let in_web = |backend: &str| Selector { backend: backend.to_owned(), service: Some("web".to_owned()) };
    world.change(Change::Weight(in_web("10.0.0.1"), 0)).unwrap();
    assert_eq!(world.takers(WEB), [2]);
    world.change(Change::Weight(in_web("10.0.0.1"), 3)).unwrap();
    world.change(Change::Remove(in_web("10.0.0.1"), None)).unwrap();
    assert_eq!(world.takers(WEB), [2]);
    let neighbour: IpAddr = "10.0.0.2".parse().unwrap();
    world.resolve(neighbour, Err(Unresolved::NoAnswer { neighbour, interface: "eth0".to_owned() }));
    assert_eq!(world.takers(WEB), [0_u8; 0]);
    assert!(world.affinity(WEB).is_in_use());
}

#[test]
fn the_datapath_is_told_timeout_and_prefix_and_nothing_of_services_without_affinity() {
    let world = World::ready(&with("[service.affinity]\ntimeout = \"90s\"\nprefix = 24"));
    let affinity = world.affinity(WEB);
    assert_eq!((affinity.timeout(), affinity.prefix()), (90, 24));
    assert_eq!(affinity.scope(), AffinityScope::service(world.datapath.service(WEB).id));
    assert_eq!(World::ready(&with_timeout()).affinity(WEB).prefix(), 32);
    assert_eq!((world.affinity(CHECKED), world.takers(CHECKED)), (Affinity::NONE, vec![]));
}

#[test]
fn services_of_a_group_know_the_same_clients_and_the_same_servers() {
    let group = "[service.affinity]\ntimeout = \"5m\"\ngroup = \"shop\"\n[[service.backend]]";
    let world = World::ready(
        &CONFIG
            .replacen("[[service.backend]]", group, 1)
            .replace("type = \"tcp\"\n[[service.backend]]", &format!("type = \"tcp\"\n{group}")),
    );
    assert_eq!(world.affinity(WEB), world.affinity(CHECKED));
    assert_eq!(world.takers(CHECKED), [1, 3]);
    assert_eq!(world.servers(WEB)[0], world.servers(CHECKED)[0]);
}

#[test]
fn affinity_that_comes_to_a_running_service_waits_until_all_handshakes_are_remembered() {
    let mut world = World::ready(CONFIG);
    world.apply(&with_timeout());
    world.pass(Duration::from_millis(2900));
    assert_eq!(world.affinity(WEB), Affinity::NONE);
    world.pass(Duration::from_millis(200));
    assert!(world.affinity(WEB).is_in_use());
    assert!(world.datapath.table(&world.datapath.service(WEB)).iter().all(|word| word.look_up() && word.remember()));
    world.apply(CONFIG);
    assert_eq!((world.affinity(WEB), world.takers(WEB)), (Affinity::NONE, vec![]), "it goes at once");
}

#[test]
fn affinity_of_a_running_service_changes_at_once() {
    let mut world = World::ready(&with_timeout());
    world.apply(&with("[service.affinity]\ntimeout = \"1h\"\ngroup = \"shop\""));
    assert_eq!(world.affinity(WEB), Affinity::new(AffinityScope::group("shop"), 32, 3600));
    assert_eq!(world.takers(WEB), [1, 2]);
}

#[test]
fn a_new_daemon_leaves_affinity_as_it_is() {
    let world = World::ready(&with_timeout());
    let before = (world.affinity(WEB), world.servers(WEB));
    let world = world.restart_as_it_is();
    assert_eq!((world.affinity(WEB), world.servers(WEB)), before);
    let world = world.restart(desired(CONFIG));
    assert_eq!((world.affinity(WEB), world.takers(WEB)), (Affinity::NONE, vec![]));
}

#[test]
fn of_a_service_that_is_no_more_nothing_is_left() {
    let mut world = World::ready(&with_timeout());
    let id = world.datapath.service(WEB).id;
    world.apply("");
    assert_eq!(world.datapath.affinities[&id], Affinity::NONE);
    assert!(world.datapath.servers.is_empty());
}
