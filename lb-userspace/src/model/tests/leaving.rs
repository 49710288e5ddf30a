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
    let mut core = Core::new(config::Node::default(), world.datapath.live(), HashMap::new());
    let effects = core.apply(services, world.now).unwrap();
    world.core = core;
    world.datapath.run(effects);
    assert_eq!(words(&world), moving);
    world.resolve_all();
    assert_eq!(words(&world), moving);
    world.settle();
    assert!(words(&world).iter().all(|word| *word == SlotWord::stable(word.current()) && word.current() != id));
}

#[test]
fn the_share_of_a_backend_that_comes_up_rises_slowly_and_that_of_the_first_ones_does_not_wait() {
    let slow = CONFIG.replace("forwarding = \"ipip\"", "forwarding = \"ipip\"\nslow_start = \"150s\"");
    let mut world = World::ready(&slow);
    let share = |world: &World| world.datapath.shares([192, 0, 2, 2]).get("10.0.0.3").copied().unwrap_or_default();
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
fn a_backend_that_was_removed_before_a_restart_and_comes_back_after_it_is_checked() {
    let mut world = World::ready(CONFIG);
    let id = world.id("checked", "10.0.0.3");
    world.change(Change::Remove(selector("10.0.0.3"), None)).unwrap();
    world.pass(Duration::from_secs(4));
    let without = CONFIG.replace("[[service.backend]]\naddress = \"10.0.0.3\"\n", "");
    let mut core = Core::new(config::Node::default(), world.datapath.live(), HashMap::new());
    let effects = core.apply(desired(&without), world.now).unwrap();
    world.core = core;
    world.datapath.checks.clear();
    world.datapath.run(effects);
    assert!(world.datapath.checks.contains_key(&id), "while it still has flows");
    let again = config::Backend::parse(None, "10.0.0.3", 1).unwrap();
    world.change(Change::Add("checked".to_owned(), again)).unwrap();
    assert_eq!(world.id("checked", "10.0.0.3"), id);
    assert!(world.datapath.checks.contains_key(&id), "as a member again");
    world.report(id, Health::Down);
    assert_eq!(world.state("checked", "10.0.0.3"), BackendState::Down);
}
