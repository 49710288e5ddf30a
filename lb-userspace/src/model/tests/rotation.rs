//! The turns that backends take at new flows.

use lb_common::Policy;

use super::*;

const WEB: [u8; 4] = [192, 0, 2, 1];

fn with(algorithm: &str) -> String {
    CONFIG.replacen("protocol = \"tcp\"", &format!("protocol = \"tcp\"\nalgorithm = \"{algorithm}\""), 1)
}

impl World {
    /// The last parts of the addresses of those whose turns they are.
    fn turns(&self) -> Vec<u8> {
        let service = self.datapath.service(WEB).id;
        let address = |id| match self.datapath.rows[&self.datapath.row_of[&id]].address.to_ip() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => panic!("{address} is no backend"),
        };
        self.datapath.rotation(service).into_iter().map(address).collect()
    }

    fn is_scheduled(&self) -> bool {
        let scheduler = self.datapath.schedulers.get(&self.datapath.service(WEB).id).copied().unwrap_or_default();
        scheduler.policy() != Policy::SLOT
    }

    fn remembers_all(&self) -> bool {
        self.datapath.table(&self.datapath.service(WEB)).iter().all(|word| word.look_up() && word.remember())
    }
}

#[test]
fn backends_take_turns_by_their_weights_or_each_once() {
    assert_eq!(World::ready(&with("weighted-round-robin")).turns(), [2, 1, 2, 2]);
    assert_eq!(World::ready(&with("round-robin")).turns(), [1, 2]);
    assert_eq!(World::ready(CONFIG).turns(), [0_u8; 0]);
}

#[test]
fn single_datagrams_go_by_turns_at_once_and_no_slot_remembers() {
    let udp = CONFIG.replacen("protocol = \"tcp\"", "protocol = \"udp\"", 1);
    let mut world = World::ready(&udp);
    world.apply(&udp.replacen("forwarding", "algorithm = \"round-robin\"\none_packet = true\nforwarding", 1));
    assert_eq!((world.turns(), world.is_scheduled()), (vec![1, 2], true));
    assert!(world.datapath.service(WEB).datagrams.are_single());
    assert!(world.datapath.table(&world.datapath.service(WEB)).iter().all(|word| !word.look_up()));
    world.change(Change::Remove(selector("10.0.0.2"), None)).unwrap();
    assert_eq!(world.turns(), [1]);
    assert!(
        !world.datapath.row_of.values().any(|row| {
            let row = world.datapath.rows[row];
            row.service == world.datapath.service(WEB).id && row.address.to_ip().to_string() == "10.0.0.2"
        }),
        "there is no flow to wait for"
    );
}

#[test]
fn a_backend_that_takes_no_new_flows_has_no_turn() {
    let mut world = World::ready(&with("weighted-round-robin"));
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    assert_eq!(world.turns(), [1]);
    world.change(Change::Admin(selector("10.0.0.2"), Admin::Enabled)).unwrap();
    assert_eq!(world.turns(), [2, 1, 2, 2]);
    world.change(Change::Weight(selector("10.0.0.1"), 0)).unwrap();
    assert_eq!(world.turns(), [2]);
    world.change(Change::Weight(selector("10.0.0.1"), 3)).unwrap();
    assert_eq!(world.turns(), [1, 2]);
    world.change(Change::Remove(selector("10.0.0.1"), None)).unwrap();
    assert_eq!(world.turns(), [2]);
    let neighbour: IpAddr = "10.0.0.2".parse().unwrap();
    world.resolve(neighbour, Err(Unresolved::NoAnswer { neighbour, interface: "eth0".to_owned() }));
    assert_eq!(world.turns(), [0_u8; 0]);
    assert!(world.is_scheduled(), "it goes on when there is somebody again");
}

#[test]
fn a_scheduler_remembers_all_flows_and_begins_when_no_handshake_is_under_way_that_it_does_not_know() {
    let mut world = World::ready(CONFIG);
    world.apply(&with("weighted-round-robin"));
    assert!(world.remembers_all() && !world.is_scheduled());
    world.pass(Duration::from_millis(2900));
    assert!(!world.is_scheduled());
    world.pass(Duration::from_millis(200));
    assert!(world.is_scheduled());
    assert_eq!(world.turns(), [2, 1, 2, 2]);
}

#[test]
fn where_flows_have_no_first_packets_it_begins_when_all_that_were_there_are_known_or_over() {
    let udp = |text: &str| text.replacen("protocol = \"tcp\"", "protocol = \"udp\"", 1);
    let mut world = World::ready(&udp(CONFIG));
    world.apply(&udp(&with("weighted-round-robin")));
    world.pass(Duration::from_secs(59));
    assert!(!world.is_scheduled());
    world.pass(Duration::from_secs(2));
    assert!(world.is_scheduled());
}

#[test]
fn a_service_that_is_new_is_scheduled_at_once() {
    assert!(World::new(&with("round-robin")).is_scheduled());
}

#[test]
fn another_scheduler_begins_at_once_and_none_ends_at_once() {
    let mut world = World::ready(&with("weighted-round-robin"));
    world.apply(&with("round-robin"));
    assert_eq!(world.turns(), [1, 2]);
    world.apply(CONFIG);
    assert!(!world.is_scheduled());
    assert!(world.datapath.table(&world.datapath.service(WEB)).iter().all(|word| word.look_up()));
    world.settle();
    assert!(!world.datapath.table(&world.datapath.service(WEB)).iter().any(|word| word.look_up()));
}

#[test]
fn a_restarted_daemon_takes_the_rotation_over() {
    let world = World::ready(&with("weighted-round-robin"));
    let before = world.datapath.schedulers.clone();
    let world = world.restart(desired(&with("weighted-round-robin")));
    assert_eq!(world.datapath.schedulers, before);
    assert_eq!(world.turns(), [2, 1, 2, 2]);
}

#[test]
fn a_service_that_goes_leaves_no_scheduler_behind() {
    let mut world = World::ready(&with("round-robin"));
    let id = world.datapath.service(WEB).id;
    world.apply(CONFIG.split("[[service]]").next().unwrap());
    assert_eq!(world.datapath.schedulers[&id], Scheduler::NONE);
}

#[test]
fn a_rotation_of_many_turns_takes_chunks_of_its_own_and_gives_them_back() {
    let long =
        with("weighted-round-robin").replace("weight = 3", "weight = 60000").replace("weight = 1\n", "weight = 7\n");
    let mut world = World::ready(&with("weighted-round-robin"));
    for _ in 0..200 {
        world.apply(&long);
        assert_eq!(world.turns().len(), 60_007);
        world.apply(&with("weighted-round-robin"));
        assert_eq!(world.turns().len(), 4);
        world.pass(Duration::from_secs(2));
    }
}

/// The same with limits of connections, of the first service's backends.
fn limited(text: &str) -> String {
    text.replacen("weight = 1\n", "weight = 1\nmax_connections = 10\n", 1)
}

impl World {
    fn scheduler(&self) -> Scheduler {
        self.datapath.schedulers.get(&self.datapath.service(WEB).id).copied().unwrap_or_default()
    }

    fn member_count(&self) -> usize {
        self.datapath.members(self.datapath.service(WEB).id).len()
    }
}

#[test]
fn where_backends_have_limits_each_that_takes_new_flows_can_be_found_once() {
    for algorithm in ["maglev", "source-hash", "round-robin", "weighted-round-robin", "random", "least-connections"] {
        let text = limited(&with(algorithm));
        let world = World::ready(&text);
        assert!(world.scheduler().is_limited() && world.member_count() == 2, "{algorithm}");
        let before = world.scheduler().members();
        let mut restarted = world.restart(desired(&text));
        assert_eq!(restarted.scheduler().members(), before);
        restarted.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
        assert_eq!(restarted.member_count(), 1, "{algorithm}");
        restarted.apply(&with(algorithm));
        assert!(!restarted.scheduler().is_limited(), "{algorithm}");
        restarted.apply(&text);
        assert!(restarted.scheduler().is_limited() && restarted.member_count() == 2, "{algorithm}");
    }
}

#[test]
fn limits_hold_at_once_where_first_packets_are_known_and_else_when_all_flows_are() {
    let mut world = World::ready(CONFIG);
    world.apply(&limited(CONFIG));
    assert!(world.scheduler().is_limited());
    let udp = |text: &str| text.replacen("protocol = \"tcp\"", "protocol = \"udp\"", 1);
    let mut world = World::ready(&udp(CONFIG));
    world.apply(&udp(&limited(CONFIG)));
    world.pass(Duration::from_secs(59));
    assert!(!world.scheduler().is_limited());
    world.pass(Duration::from_secs(2));
    assert!(world.scheduler().is_limited());
    assert!(World::new(&udp(&limited(CONFIG))).scheduler().is_limited(), "a new service has no flows");
}

#[test]
fn connections_that_were_there_before_they_were_counted_are_learned_for_an_idle_timeout() {
    for text in [limited(CONFIG), with("least-connections")] {
        let mut world = World::ready(CONFIG);
        world.apply(&text);
        assert!(world.scheduler().is_learning());
        world.pass(Duration::from_secs(15 * 60 - 1));
        assert!(world.scheduler().is_learning());
        world.pass(Duration::from_secs(2));
        assert!(!world.scheduler().is_learning());
    }
    let mut world = World::ready(CONFIG);
    world.apply(&with("round-robin"));
    assert!(!world.scheduler().is_learning(), "it does not ask how many there are");
    assert!(!World::new(&limited(CONFIG)).scheduler().is_learning());
}

#[test]
fn a_scheduler_begins_however_often_slots_move_meanwhile_and_until_then_it_is_seen_that_it_does_not() {
    let udp = |text: &str| text.replacen("protocol = \"tcp\"", "protocol = \"udp\"", 1);
    let mut world = World::ready(&udp(CONFIG));
    let begins_in = |world: &World| world.core.view(world.now)[0].begins_in;
    assert_eq!(begins_in(&world), None);
    world.apply(&udp(&with("weighted-round-robin")));
    assert_eq!(begins_in(&world), Some(Duration::from_mins(1)));
    for step in 0..60 {
        let weight = if step % 2 == 0 { 3 } else { 1 };
        world.change(Change::Weight(selector("10.0.0.1"), weight)).unwrap();
        assert!(!world.is_scheduled());
        world.pass(Duration::from_secs(1));
    }
    world.pass(Duration::from_secs(1));
    assert!(world.is_scheduled());
    assert_eq!(begins_in(&world), None);
}
