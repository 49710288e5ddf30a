//! Backends that drain, are removed or die, while the flow table knows flows of theirs.

use lb_common::FlowHash;

use super::*;

const WEB: [u8; 4] = [192, 0, 2, 1];
const MINUTE: Duration = Duration::from_mins(1);

fn words(world: &World) -> Vec<SlotWord> {
    world.datapath.table(&world.datapath.service(WEB))
}

fn condition(world: &World, id: BackendId) -> Option<Condition> {
    world.datapath.row_of.get(&id).map(|row| world.datapath.rows[row].condition)
}

/// A flow in the first slot of backend `id`.
fn flow_of(world: &World, id: BackendId) -> FlowTag {
    let slot = words(world).iter().position(|word| word.current() == id).expect("it has a slot");
    FlowTag::of(FlowHash(u64::try_from(slot).unwrap()))
}

fn with_policy(policy: &str) -> World {
    World::ready(&CONFIG.replace("forwarding = \"ipip\"", &format!("forwarding = \"ipip\"\non_death = \"{policy}\"")))
}

#[test]
fn a_backend_that_drains_keeps_its_flows_and_its_row_until_its_deadline() {
    let mut world = World::ready(CONFIG);
    let id = world.id("web", "10.0.0.2");
    let flow = flow_of(&world, id);
    world.change(Change::Drain(selector("10.0.0.2"), Some(5 * MINUTE))).unwrap();
    assert_eq!(world.state("web", "10.0.0.2"), BackendState::Draining);
    world.pass(Duration::from_secs(2));
    assert!(words(&world).iter().any(|word| word.current() == id), "a SYN may come again");
    world.pass(Duration::from_secs(2));
    assert!(words(&world).iter().all(|word| word.current() != id));
    assert!(words(&world).iter().any(|word| word.previous() == id && word.remember()));
    world.pass(4 * MINUTE);
    world.census(&HashMap::from([(id, vec![flow])]));
    let view = world.core.view_of("web", world.now).unwrap();
    let backend = &view.backends[1];
    assert_eq!((backend.flows, backend.slots, backend.slots_left), (Some(1), 0, 768));
    assert_eq!(condition(&world, id), Some(Condition::SERVING));
    world.pass(MINUTE);
    assert!(words(&world).iter().all(|word| word.current() != id && word.previous() != id));
    assert_eq!(condition(&world, id), Some(Condition::RESCHEDULE));
}

#[test]
fn a_drain_that_is_called_off_at_once_leaves_the_slots_as_they_were() {
    let mut world = World::ready(CONFIG);
    let before = words(&world);
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    world.pass(Duration::from_millis(500));
    world.change(Change::Admin(selector("10.0.0.2"), Admin::Enabled)).unwrap();
    let owners = |words: &[SlotWord]| words.iter().map(|word| (word.current(), word.previous())).collect::<Vec<_>>();
    assert_eq!(owners(&words(&world)), owners(&before));
    world.settle();
    assert_eq!(words(&world), before);
}

#[test]
fn a_removed_backend_is_there_until_its_flows_have_ended_and_its_id_rests_until_no_entry_names_it() {
    let mut world = World::ready(CONFIG);
    let id = world.id("web", "10.0.0.2");
    let flow = flow_of(&world, id);
    world.change(Change::Remove(selector("10.0.0.2"), Some(60 * MINUTE))).unwrap();
    assert_eq!(world.state("web", "10.0.0.2"), BackendState::Removed);
    assert!(world.datapath.watched.contains(&"10.0.0.2".parse().unwrap()));
    // Its slots are settled after the idle timeout, and its flow lives on.
    world.pass(Duration::from_secs(4));
    for _ in 0..20 {
        world.pass(MINUTE);
        world.census(&HashMap::from([(id, vec![flow])]));
    }
    assert!(words(&world).iter().all(|word| word.current() != id && word.previous() != id));
    assert_eq!(condition(&world, id), Some(Condition::SERVING));
    for _ in 0..2 {
        world.pass(MINUTE);
        world.census(&HashMap::new());
    }
    assert_eq!(condition(&world, id), None);
    assert!(!world.datapath.watched.contains(&"10.0.0.2".parse().unwrap()));
    world.settle();
    assert!(world.core.quarantine.is_empty());
}

#[test]
fn an_id_is_not_given_to_another_backend_while_the_flow_table_names_it() {
    let mut world = World::ready(CONFIG);
    let id = world.id("web", "10.0.0.2");
    let flow = flow_of(&world, id);
    world.change(Change::Remove(selector("10.0.0.2"), Some(Duration::ZERO))).unwrap();
    for _ in 0..3 {
        world.pass(MINUTE);
        world.census(&HashMap::from([(id, vec![flow])]));
    }
    assert_eq!(condition(&world, id), None, "its time was up");
    assert!(world.core.quarantine.contains_key(&id));
    let mut world = world.restart_as_it_is();
    assert!(world.core.quarantine.contains_key(&id), "another daemon does not know the backend, but its flows");
    for number in 20..30 {
        let backend = config::Backend::parse(None, &format!("10.0.0.{number}"), 1).unwrap();
        world.change(Change::Add("web".to_owned(), backend)).unwrap();
        assert_ne!(world.view("web", &format!("10.0.0.{number}")).id, id.get());
    }
    world.pass(MINUTE);
    world.census(&HashMap::new());
    assert!(!world.core.quarantine.contains_key(&id));
}

#[test]
fn a_backend_that_comes_back_while_its_flows_are_still_there_is_the_same() {
    let mut world = World::ready(CONFIG);
    let id = world.id("web", "10.0.0.2");
    world.change(Change::Remove(selector("10.0.0.2"), None)).unwrap();
    world.pass(Duration::from_secs(10));
    let again = config::Backend::parse(None, "10.0.0.2", 3).unwrap();
    world.change(Change::Add("web".to_owned(), again)).unwrap();
    assert_eq!(world.id("web", "10.0.0.2"), id);
    world.settle();
    assert_eq!(world.datapath.shares(WEB)["10.0.0.2"], 768);
}

#[test]
fn a_death_moves_slots_at_once_and_flows_as_the_service_says() {
    for (policy, dead, previous_stays) in [
        ("reschedule", Condition::RESCHEDULE, false),
        ("reset", Condition::RESET, true),
        ("keep", Condition::SERVING, true),
    ] {
        let mut world = with_policy(policy);
        let id = world.id("checked", "10.0.0.3");
        world.report(id, Health::Down);
        let words = world.datapath.table(&world.datapath.service([192, 0, 2, 2]));
        assert!(words.iter().all(|word| word.current() != id), "{policy}");
        assert_eq!(words.iter().any(|word| word.previous() == id && word.remember()), previous_stays, "{policy}");
        assert_eq!(condition(&world, id), Some(dead), "{policy}");
        world.report(id, Health::Up);
        assert_eq!(condition(&world, id), Some(Condition::SERVING), "{policy}");
        world.settle();
        assert_eq!(world.datapath.shares([192, 0, 2, 2])["10.0.0.3"], 512, "{policy}");
    }
}

#[test]
fn a_restarted_daemon_takes_over_slots_that_move_and_lets_them_settle() {
    let mut world = World::ready(CONFIG);
    let id = world.id("web", "10.0.0.2");
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    world.pass(Duration::from_secs(4));
    let moving = words(&world);
    assert!(moving.iter().any(|word| word.previous() == id));
    let mut services = desired(CONFIG);
    services[0].admin.insert("10.0.0.2".to_owned(), Admin::Draining);
    let mut world = world.restart(services);
    assert_eq!(words(&world), moving);
    world.resolve_all();
    assert_eq!(words(&world), moving);
    world.settle();
    assert!(words(&world).iter().all(|word| *word == SlotWord::stable(word.current()) && word.current() != id));
}

#[test]
fn a_backend_that_was_removed_before_a_restart_and_comes_back_after_it_is_checked() {
    let mut world = World::ready(CONFIG);
    let id = world.id("checked", "10.0.0.3");
    world.change(Change::Remove(selector("10.0.0.3"), None)).unwrap();
    world.pass(Duration::from_secs(4));
    let without = CONFIG.replace("[[service.backend]]\naddress = \"10.0.0.3\"\n", "");
    let mut world = world.restart(desired(&without));
    assert!(world.datapath.checks.contains_key(&id), "while it still has flows");
    let again = config::Backend::parse(None, "10.0.0.3", 1).unwrap();
    world.change(Change::Add("checked".to_owned(), again)).unwrap();
    assert_eq!(world.id("checked", "10.0.0.3"), id);
    assert!(world.datapath.checks.contains_key(&id), "as a member again");
    world.report(id, Health::Down);
    assert_eq!(world.state("checked", "10.0.0.3"), BackendState::Down);
}

fn outage(world: &World) -> Option<String> {
    world.core.view_of("web", world.now).unwrap().outage()
}

#[test]
fn new_connections_go_on_to_the_last_backend_that_drains_and_this_is_said() {
    let mut world = World::ready(CONFIG);
    world.change(Change::Drain(selector("10.0.0.2"), Some(5 * MINUTE))).unwrap();
    assert_eq!(outage(&world), None, "another one is there");
    world.settle();
    world.change(Change::Drain(selector("10.0.0.1"), Some(5 * MINUTE))).unwrap();
    assert_eq!(
        outage(&world).unwrap(),
        "no other backend can take new connections: they go on to 10.0.0.1 (draining) for another 5m; after that the service \
         has none"
    );
    world.pass(5 * MINUTE);
    assert_eq!(outage(&world).unwrap(), "no backend takes flows, its packets are dropped");
    world.change(Change::Admin(selector("10.0.0.1"), Admin::Enabled)).unwrap();
    assert_eq!(outage(&world), None);
}

#[test]
fn a_last_backend_that_drains_for_ever_or_has_no_weight_is_named_without_a_time() {
    let mut world = World::ready(CONFIG);
    world.change(Change::Admin(selector("10.0.0.2"), Admin::Disabled)).unwrap();
    world.change(Change::Drain(selector("10.0.0.1"), Some(ENDLESS))).unwrap();
    let view = &world.core.view_of("web", world.now).unwrap().backends[0];
    assert_eq!((view.state, view.time_left), (BackendState::Draining, None));
    let for_ever = "no other backend can take new connections: they go on to 10.0.0.1";
    assert_eq!(outage(&world).unwrap(), format!("{for_ever} (draining)"));
    world.change(Change::Admin(selector("10.0.0.1"), Admin::Enabled)).unwrap();
    world.change(Change::Weight(selector("10.0.0.1"), 0)).unwrap();
    assert_eq!(outage(&world).unwrap(), format!("{for_ever} (weight 0)"));
}

#[test]
fn a_removal_without_a_deadline_lets_flows_live() {
    let mut world = World::ready(CONFIG);
    world.change(Change::Remove(selector("10.0.0.2"), Some(ENDLESS))).unwrap();
    let id = world.id("web", "10.0.0.2");
    let flow = flow_of(&world, id);
    for _ in 0..48 {
        world.pass(60 * MINUTE);
        world.census(&HashMap::from([(id, vec![flow])]));
    }
    assert_eq!(condition(&world, id), Some(Condition::SERVING));
}

#[test]
fn a_last_backend_that_is_dead_does_not_count_as_one() {
    let mut world = with_policy("keep");
    let outage = |world: &World| world.core.view_of("checked", world.now).unwrap().outage();
    for address in ["10.0.0.1", "10.0.0.3"] {
        assert_eq!(outage(&world), None);
        let id = world.id("checked", address);
        world.report(id, Health::Down);
    }
    assert_eq!(outage(&world).unwrap(), "no backend can take new connections, and they fail: 10.0.0.3 is down");
}

#[test]
fn connection_ids_may_name_a_backend_that_drains_until_its_packets_have_been_counted() {
    let quic = CONFIG
        .replace(
            "\"tcp\"\nforwarding = \"l2-dsr\"",
            "\"udp\"\nforwarding = \"l2-dsr\"\n[service.quic]\nserver_id_length = 1",
        )
        .replace("weight = 1", "weight = 1\nserver_id = \"01\"")
        .replace("weight = 3", "weight = 3\nserver_id = \"02\"");
    let mut world = World::ready(&quic);
    let hidden = |world: &World| world.core.view_of("web", world.now).unwrap().backends[1].hidden_flows;
    assert!(!hidden(&world), "it is to have new flows");
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    assert!(hidden(&world));
}

#[test]
fn a_backend_is_not_added_at_the_virtual_ip_of_any_service() {
    let mut world = World::ready(CONFIG);
    for (address, service) in [("192.0.2.1", "web"), ("192.0.2.2", "checked")] {
        let backend = config::Backend::parse(None, address, 1).unwrap();
        let refused = world.change(Change::Add("web".to_owned(), backend)).unwrap_err().to_string();
        let expected = format!("{address} is the virtual IP of service {service:?}");
        assert!(refused.starts_with(&expected), "{refused}");
    }
}

/// What no census has counted is not known, and none of it is taken for no flows.
#[test]
fn the_flows_of_a_backend_are_unknown_until_a_census_has_counted_them() {
    let mut world = World::ready(CONFIG);
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    assert_eq!(world.view("web", "10.0.0.2").flows, Some(0));
    let mut world = world.restart_as_it_is();
    assert_eq!(world.view("web", "10.0.0.2").flows, None);
    let census = world.core.census(world.now);
    world.change(Change::Add("web".to_owned(), config::Backend::parse(None, "10.0.0.9", 1).unwrap())).unwrap();
    let findings = Findings {
        census,
        flows: HashMap::new(),
        losses: world.datapath.losses,
        packets: HashMap::new(),
        replies: HashMap::new(),
    };
    world.core.on_census(findings, world.now);
    assert_eq!(world.view("web", "10.0.0.2").flows, Some(0));
    assert_eq!(world.view("web", "10.0.0.9").flows, None, "it has come since the census began");
    world.census(&HashMap::new());
    assert_eq!(world.view("web", "10.0.0.9").flows, Some(0));
}

/// `CONFIG` with a name for the backend 10.0.0.2, and without a limit for those that leave.
fn named() -> String {
    CONFIG
        .replace("address = \"10.0.0.2\"", "name = \"second\"\naddress = \"10.0.0.2\"")
        .replace("forwarding = \"l2-dsr\"", "forwarding = \"l2-dsr\"\ndrain_timeout = \"none\"")
}

#[test]
fn a_removed_backend_keeps_its_name_its_weight_and_its_deadline_over_a_restart() {
    let mut world = World::ready(&named());
    let flow = flow_of(&world, world.id("web", "10.0.0.2"));
    world.change(Change::Remove(selector("second"), Some(5 * MINUTE))).unwrap();
    world.pass(2 * MINUTE);
    let before = world.view("web", "10.0.0.2");
    let mut world = world.restart_as_it_is();
    let after = world.view("web", "10.0.0.2");
    assert_eq!((&*after.name, after.weight, after.state), ("second@10.0.0.2", 3, BackendState::Removed));
    assert_eq!((after.time_left, after.id), (Some(3 * MINUTE), before.id));
    world.resolve_all();
    world.pass(3 * MINUTE);
    let persisted = world.datapath.persisted;
    world.census(&HashMap::from([(world.id("web", "10.0.0.2"), vec![flow])]));
    assert_eq!(world.core.view_of("web", world.now).unwrap().backends.len(), 1, "its time was up");
    assert_eq!(world.datapath.persisted, persisted + 1, "that it is gone is written down");
}

#[test]
fn a_backend_that_was_removed_before_a_restart_is_as_much_there_as_one_that_is_removed_after_it() {
    let mut world = World::ready(CONFIG);
    let id = world.id("checked", "10.0.0.3");
    world.change(Change::Remove(selector("10.0.0.3"), None)).unwrap();
    world.pass(Duration::from_secs(4));
    let mut world = world.restart_as_it_is();
    world.resolve_all();
    world.change(Change::Remove(selector("10.0.0.3"), Some(MINUTE))).unwrap();
    assert_eq!(world.view("checked", "10.0.0.3").time_left, Some(MINUTE));
    assert_eq!(condition(&world, id), Some(Condition::SERVING));
    world.report(id, Health::Down);
    assert_eq!(condition(&world, id), Some(Condition::RESCHEDULE), "its death counts");
}

#[test]
fn a_backend_that_left_the_file_while_the_daemon_was_away_leaves_by_its_own_name() {
    let world = World::ready(&named());
    let without = named().replace("[[service.backend]]\nname = \"second\"\naddress = \"10.0.0.2\"\nweight = 3\n", "");
    let world = world.restart(desired(&without));
    let view = world.view("web", "10.0.0.2");
    assert_eq!((&*view.name, view.weight, view.state), ("second@10.0.0.2", 3, BackendState::Removed));
    assert_eq!(view.time_left, None);
}

#[test]
fn a_removed_backend_can_be_given_another_deadline_by_each_of_its_names() {
    let address = "10.0.0.2".parse().unwrap();
    let remove = |name: &str, timeout| Change::Remove(selector(name), timeout);
    let drain = |name: &str, timeout| Change::Drain(selector(name), timeout);
    let cases = [
        (Change::Remove as fn(Selector, Option<Duration>) -> Change, "second"),
        (Change::Remove, "second@10.0.0.2"),
        (Change::Drain, "second"),
        (Change::Drain, "10.0.0.2"),
    ];
    let mut world = World::ready(&named());
    let id = world.id("web", "10.0.0.2");
    world.change(remove("second", None)).unwrap();
    assert_eq!(world.view("web", "10.0.0.2").time_left, None);
    world.pass(Duration::from_secs(4));
    for (change, name) in cases {
        let persisted = world.datapath.persisted;
        let applied = world.change(change(selector(name), Some(MINUTE))).unwrap();
        let backend = "second@10.0.0.2".to_owned();
        assert_eq!(applied, [Applied { service: "web".to_owned(), backend, address, port: 0 }], "{name}");
        assert_eq!(world.view("web", "10.0.0.2").time_left, Some(MINUTE), "{name}");
        assert_eq!(world.datapath.persisted, persisted + 1, "{name}");
        world.pass(Duration::from_secs(10));
    }
    // Without a deadline it keeps the one that it has.
    for change in [remove("second", None), drain("second", None)] {
        assert_eq!(world.change(change).unwrap().len(), 1);
        assert_eq!(world.view("web", "10.0.0.2").time_left, Some(50 * Duration::from_secs(1)));
    }
    let refused = world.change(Change::Weight(selector("second"), 1)).unwrap_err();
    insta::assert_snapshot!(refused, @r#"backend "second@10.0.0.2" was removed from service "web", and only keeps the flows that it has; bring it back with `lbctl backend add`, or change for how long: lbctl backend remove second@10.0.0.2 --service web --deadline 10m"#);
    assert!(words(&world).iter().any(|word| word.previous() == id));
    world.change(remove("second", Some(Duration::ZERO))).unwrap();
    assert!(words(&world).iter().all(|word| word.previous() != id && word.current() != id));
    assert_eq!(condition(&world, id), Some(Condition::RESCHEDULE));
}

#[test]
fn a_removed_backend_and_the_new_one_of_its_name_are_told_apart() {
    let mut world = World::ready(&named());
    world.change(Change::Remove(selector("second"), None)).unwrap();
    let again = config::Backend::parse(Some("second"), "10.0.0.9", 1).unwrap();
    world.change(Change::Add("web".to_owned(), again)).unwrap();
    let names = |world: &World| -> Vec<String> {
        world.core.view_of("web", world.now).unwrap().backends.into_iter().map(|backend| backend.name).collect()
    };
    assert_eq!(names(&world), ["10.0.0.1", "second", "second@10.0.0.2"]);
    // The name alone is that of the new one.
    world.change(Change::Weight(selector("second"), 7)).unwrap();
    assert_eq!(world.view("web", "10.0.0.9").weight, 7);
    world.change(Change::Remove(selector("second@10.0.0.2"), Some(MINUTE))).unwrap();
    assert_eq!(world.view("web", "10.0.0.2").time_left, Some(MINUTE));
    assert_eq!(world.view("web", "10.0.0.9").state, BackendState::Unresolved);
    // Its deadline is none of the new one's, which drains for as long as the service has it.
    world.change(Change::Drain(selector("second"), None)).unwrap();
    assert_eq!(world.view("web", "10.0.0.9").time_left, None);
}

#[test]
fn what_was_said_of_a_backend_that_is_gone_is_not_meant_for_the_next_one_of_its_name() {
    let mut world = World::ready(&named());
    world.change(Change::Remove(selector("second"), Some(MINUTE))).unwrap();
    world.pass(2 * MINUTE);
    world.settle();
    let again = config::Backend::parse(Some("second"), "10.0.0.2", 1).unwrap();
    world.change(Change::Add("web".to_owned(), again)).unwrap();
    world.resolve_all();
    world.settle();
    world.change(Change::Remove(selector("second"), None)).unwrap();
    assert_eq!(world.view("web", "10.0.0.2").time_left, None);
}

#[test]
fn a_second_drain_keeps_the_deadline_unless_it_gives_another() {
    let mut world = World::ready(CONFIG);
    let left = |world: &World| world.view("web", "10.0.0.2").time_left;
    world.change(Change::Drain(selector("10.0.0.2"), Some(5 * MINUTE))).unwrap();
    world.pass(MINUTE);
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    assert_eq!(left(&world), Some(4 * MINUTE));
    world.change(Change::Drain(selector("10.0.0.2"), Some(2 * MINUTE))).unwrap();
    assert_eq!(left(&world), Some(2 * MINUTE));
    world.pass(MINUTE);
    // Nor does the removal of one that drains give it more time.
    world.change(Change::Remove(selector("10.0.0.2"), None)).unwrap();
    assert_eq!(left(&world), Some(MINUTE));
}

#[test]
fn a_deadline_beyond_the_end_of_the_clock_is_far_away() {
    let mut world = World::ready(CONFIG);
    world.change(Change::Drain(selector("10.0.0.2"), Some(Duration::MAX))).unwrap();
    assert_eq!(world.view("web", "10.0.0.2").time_left, None, "it is not worth saying");
}

#[test]
fn a_backend_that_was_dead_is_dead_after_a_restart_too() {
    let mut world = with_policy("reset");
    let id = world.id("checked", "10.0.0.3");
    world.report(id, Health::Down);
    assert_eq!(condition(&world, id), Some(Condition::RESET));
    let mut world = world.restart_as_it_is();
    world.resolve_all();
    assert_eq!(condition(&world, id), Some(Condition::RESET));
    assert_eq!(world.state("checked", "10.0.0.3"), BackendState::Down);
    world.report(id, Health::Up);
    assert_eq!(condition(&world, id), Some(Condition::SERVING));
}

/// Flows that are lost between the start of a daemon and its first census may be those of a slot that is to settle.
#[test]
fn a_loss_before_the_first_census_counts() {
    let settles = |lost: u64| {
        let mut world = World::ready(CONFIG);
        world.change(Change::Drain(selector("10.0.0.2"), Some(60 * MINUTE))).unwrap();
        world.pass(MINUTE);
        let mut world = world.restart_as_it_is();
        world.resolve_all();
        world.pass(14 * MINUTE + 30 * Duration::from_secs(1));
        world.datapath.losses += lost;
        world.census(&HashMap::new());
        world.pass(MINUTE);
        world.census(&HashMap::new());
        world.view("web", "10.0.0.2").slots_left == 0
    };
    assert!(settles(0));
    assert!(!settles(1));
}

/// Where all backends leave, and one of them is no more, its slots go to the others, as long as these serve.
#[test]
fn while_all_backends_leave_each_slot_has_one_that_serves() {
    let text = CONFIG.replace(
        "[[service.backend]]\naddress = \"10.0.0.2\"",
        "[[service.backend]]\naddress = \"10.0.0.4\"\nweight = 2\n[[service.backend]]\naddress = \"10.0.0.2\"",
    );
    let slots = |world: &World| world.datapath.shares(WEB).values().sum::<usize>();
    let leaves: [fn(&mut World); 4] = [
        |world| {
            world.change(Change::Admin(selector("10.0.0.2"), Admin::Disabled)).unwrap();
        },
        |world| {
            world.change(Change::Drain(selector("10.0.0.2"), Some(MINUTE))).unwrap();
            world.pass(MINUTE);
        },
        |world| {
            world.change(Change::Remove(selector("10.0.0.2"), Some(Duration::ZERO))).unwrap();
        },
        |world| {
            world.change(Change::Weight(selector("10.0.0.2"), 0)).unwrap();
            world.change(Change::Admin(selector("10.0.0.2"), Admin::Disabled)).unwrap();
        },
    ];
    for leave in leaves {
        let mut world = World::ready(&text);
        for address in ["10.0.0.1", "10.0.0.4"] {
            world.change(Change::Drain(selector(address), Some(60 * MINUTE))).unwrap();
        }
        let id = world.id("web", "10.0.0.2");
        leave(&mut world);
        assert_eq!(slots(&world), 1024);
        assert!(!world.datapath.shares(WEB).contains_key("10.0.0.2"));
        assert!(words(&world).iter().all(|word| word.current() != id), "nothing goes there");
        assert!(outage(&world).unwrap().starts_with("no other backend can take new connections"));
    }
}

#[test]
fn a_dead_backend_that_drains_leaves_its_slots_to_others_that_drain_and_takes_them_if_there_is_none() {
    let mut world = World::ready(CONFIG);
    let slots = |world: &World, address: &str| world.view("checked", address).slots;
    let ids = ["10.0.0.1", "10.0.0.3"].map(|address| world.id("checked", address));
    for address in ["10.0.0.1", "10.0.0.3"] {
        world.change(Change::Drain(selector(address), Some(60 * MINUTE))).unwrap();
    }
    world.report(ids[0], Health::Down);
    assert_eq!(slots(&world, "10.0.0.3"), 1024);
    world.report(ids[1], Health::Down);
    assert_eq!(slots(&world, "10.0.0.3"), 0);
    world.report(ids[0], Health::Up);
    assert_eq!(slots(&world, "10.0.0.1"), 1024);
}

/// Who never had flows, and is to have none, gets none.
#[test]
fn a_service_whose_backends_have_no_weight_has_no_slots() {
    let world = World::ready(&CONFIG.replace("weight = 1", "weight = 0").replace("weight = 3", "weight = 0"));
    assert!(["10.0.0.1", "10.0.0.2"].iter().all(|address| world.view("web", address).slots == 0));
}

#[test]
fn a_backend_whose_time_is_up_or_whose_service_tracks_nothing_has_no_flows_whatever_the_table_knows() {
    let mut world = World::ready(CONFIG);
    let id = world.id("web", "10.0.0.2");
    let flows = HashMap::from([(id, vec![flow_of(&world, id)])]);
    world.change(Change::Drain(selector("10.0.0.2"), Some(5 * MINUTE))).unwrap();
    world.census(&flows);
    assert_eq!(world.view("web", "10.0.0.2").flows, Some(1));
    world.pass(5 * MINUTE);
    world.census(&flows);
    assert_eq!(world.view("web", "10.0.0.2").flows, Some(0));
    let untracked = CONFIG.replacen("protocol = \"tcp\"", "protocol = \"tcp\"\ntracking = \"never\"", 1);
    let mut world = World::ready(&untracked);
    world.census(&flows);
    assert_eq!(world.view("web", "10.0.0.2").flows, Some(0));
}

/// It is no live change, so the configuration file and the service agree.
#[test]
fn a_backend_that_a_reload_has_removed_keeps_its_name_and_deadline_over_a_restart() {
    let text = CONFIG.replace("address = \"10.0.0.2\"", "name = \"second\"\naddress = \"10.0.0.2\"");
    let mut world = World::ready(&text);
    world.apply(&text.replace("[[service.backend]]\nname = \"second\"\naddress = \"10.0.0.2\"\nweight = 3\n", ""));
    world.pass(MINUTE);
    let before = world.view("web", "10.0.0.2");
    assert_eq!((&*before.name, before.time_left), ("second@10.0.0.2", Some(9 * MINUTE)));
    let after = world.restart_as_it_is().view("web", "10.0.0.2");
    assert_eq!((after.name, after.weight, after.time_left), (before.name, 3, before.time_left));
}
