//! Backends that come up, where weights rise slowly.

use super::*;

const CHECKED: [u8; 4] = [192, 0, 2, 2];
const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);

/// A service without checks, of two backends with half of the slots each.
const PLAIN: &str = r#"
[[interface]]
name = "eth0"

[[service]]
name = "web"
address = "192.0.2.1:80"
protocol = "tcp"
forwarding = "l2-dsr"
slow_start = "150s"
[[service.backend]]
address = "10.0.0.1"
[[service.backend]]
address = "10.0.0.2"
"#;

fn checked() -> World {
    World::ready(&CONFIG.replace("forwarding = \"ipip\"", "forwarding = \"ipip\"\nslow_start = \"150s\""))
}

fn share(world: &World, service: [u8; 4], backend: &str) -> usize {
    world.datapath.shares(service).get(backend).copied().unwrap_or_default()
}

fn enable(world: &mut World, backend: &str) {
    world.change(Change::Admin(selector(backend), Admin::Enabled)).unwrap();
}

/// The share of 10.0.0.2 of the service without checks when all handshakes are over.
fn share_after_handshakes(world: &mut World) -> usize {
    world.pass(4 * SECOND);
    share(world, [192, 0, 2, 1], "10.0.0.2")
}

#[test]
fn the_share_of_a_backend_that_comes_up_rises_slowly_and_that_of_the_first_ones_does_not_wait() {
    let mut world = checked();
    let share = |world: &World| share(world, CHECKED, "10.0.0.3");
    assert_eq!(share(&world), 512);
    let id = world.id("checked", "10.0.0.3");
    world.report(id, Health::Down);
    world.pass(MINUTE);
    world.report(id, Health::Up);
    let mut before = 0;
    for step in 1..=16 {
        world.pass(Duration::from_secs(5));
        let now = share(&world);
        assert!(now > before, "step {step}: {now} slots after {before}");
        before = now;
        world.pass(Duration::from_secs(5));
    }
    world.settle();
    assert_eq!(share(&world), 512);
}

#[test]
fn a_restart_lets_a_weight_rise_on_from_where_it_was() {
    let mut world = checked();
    let id = world.id("checked", "10.0.0.3");
    world.report(id, Health::Down);
    world.pass(MINUTE);
    let persisted = world.datapath.persisted;
    world.report(id, Health::Up);
    world.pass(SECOND);
    assert_eq!(world.datapath.persisted, persisted + 1, "that it rises is written down");
    world.pass(69 * SECOND);
    world.pass(4 * SECOND);
    let before = share(&world, CHECKED, "10.0.0.3");
    assert!((300..400).contains(&before), "{before} slots");
    let mut world = world.restart_as_it_is();
    world.resolve_all();
    world.pass(4 * SECOND);
    assert_eq!(share(&world, CHECKED, "10.0.0.3"), before);
    assert_eq!(share(&world, CHECKED, "10.0.0.1"), 1024 - before);
    world.pass(MINUTE);
    world.pass(4 * SECOND);
    assert!(share(&world, CHECKED, "10.0.0.3") > before);
    world.pass(MINUTE);
    world.settle();
    assert_eq!(share(&world, CHECKED, "10.0.0.3"), 512);
}

#[test]
fn a_restart_leaves_whole_weights_whole() {
    let world = checked();
    let mut world = world.restart_as_it_is();
    world.resolve_all();
    world.pass(4 * SECOND);
    assert_eq!(share(&world, CHECKED, "10.0.0.3"), 512);
}

#[test]
fn a_backend_that_had_new_flows_all_the_time_has_its_whole_weight() {
    let flaps: [(&str, Flap); 4] = [
        ("drained", |world| drop(world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap())),
        ("weight 0", |world| drop(world.change(Change::Weight(selector("10.0.0.2"), 0)).unwrap())),
        ("removed", |world| drop(world.change(Change::Remove(selector("10.0.0.2"), None)).unwrap())),
        ("drained and removed", |world| {
            world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
            world.change(Change::Remove(selector("10.0.0.2"), None)).unwrap();
        }),
    ];
    for (what, leave) in flaps {
        let mut world = World::ready(PLAIN);
        leave(&mut world);
        world.pass(SECOND);
        come_back(&mut world);
        assert_eq!(share_after_handshakes(&mut world), 512, "{what} for a second");
        leave(&mut world);
        world.pass(4 * SECOND);
        assert_eq!(share(&world, [192, 0, 2, 1], "10.0.0.2"), 0, "{what}");
        come_back(&mut world);
        let share = share_after_handshakes(&mut world);
        assert!((1..200).contains(&share), "{what} until its slots were others': {share} slots");
    }
}

/// What is done to 10.0.0.2.
type Flap = fn(&mut World);

/// Makes 10.0.0.2 what it was, whatever has become of it.
fn come_back(world: &mut World) {
    let again = config::Backend::parse(None, "10.0.0.2", 1).unwrap();
    let _ = world.change(Change::Add("web".to_owned(), again));
    world.change(Change::Weight(selector("10.0.0.2"), 1)).unwrap();
    enable(world, "10.0.0.2");
}

/// A packet that may be the first one of a flow goes to the old owner for as long as the slot moves.
#[test]
fn without_first_packets_the_old_owner_of_slots_that_move_has_new_flows() {
    let mut world = World::ready(&PLAIN.replace("\"tcp\"", "\"udp\""));
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    world.pass(10 * SECOND);
    assert_eq!(share(&world, [192, 0, 2, 1], "10.0.0.2"), 0);
    enable(&mut world, "10.0.0.2");
    assert_eq!(share(&world, [192, 0, 2, 1], "10.0.0.2"), 512);
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    world.settle();
    enable(&mut world, "10.0.0.2");
    assert!((1..200).contains(&share_after_handshakes(&mut world)));
}

#[test]
fn a_backend_that_was_down_comes_up_slowly_even_if_flows_were_left_to_it() {
    for policy in ["reschedule", "reset", "keep"] {
        let mut world = World::ready(
            &CONFIG
                .replace("protocol = \"tcp\"\nforwarding = \"ipip\"", "protocol = \"udp\"\nforwarding = \"ipip\"")
                .replace(
                    "forwarding = \"ipip\"",
                    &format!("forwarding = \"ipip\"\nslow_start = \"150s\"\non_death = \"{policy}\""),
                ),
        );
        let id = world.id("checked", "10.0.0.3");
        world.report(id, Health::Down);
        world.pass(SECOND);
        world.report(id, Health::Up);
        world.pass(4 * SECOND);
        let view = world.core.slots_of("checked", world.now);
        let rising =
            world.core.written_down().any(|(_, memory)| memory.rising.contains_key(&"10.0.0.3".parse().unwrap()));
        assert!(rising, "{policy}: {view:?}");
    }
}

/// Checks take their time, each another one: whoever comes later than the others have waited is not spared for that.
#[test]
fn the_backends_of_a_new_service_share_it_whoever_is_found_well_first() {
    let slow = CONFIG.replace("forwarding = \"ipip\"", "forwarding = \"ipip\"\nslow_start = \"150s\"");
    let share_of = |world: &World, backend| share(world, CHECKED, backend);
    let share = |world: &World| share_of(world, "10.0.0.3");
    for first_result in [Health::Up, Health::Down] {
        let mut world = World::new(&slow);
        world.resolve_all();
        world.report(world.id("checked", "10.0.0.1"), Health::Up);
        world.pass(3 * SECOND);
        assert_eq!(share(&world), 0, "nothing is known of it");
        let id = world.id("checked", "10.0.0.3");
        world.report(id, first_result);
        world.report(id, Health::Up);
        world.pass(4 * SECOND);
        match first_result {
            Health::Up => assert_eq!(share(&world), 512),
            _ => assert!((1..200).contains(&share(&world)), "it was down before: {} slots", share(&world)),
        }
    }
    // Who comes to a service that is there comes up slowly.
    let mut world = World::ready(&slow);
    let other = config::Backend::parse(None, "10.0.0.9", 1).unwrap();
    world.change(Change::Add("checked".to_owned(), other)).unwrap();
    world.resolve_all();
    world.report(world.id("checked", "10.0.0.9"), Health::Up);
    world.pass(4 * SECOND);
    assert!((1..100).contains(&share_of(&world, "10.0.0.9")));
}
