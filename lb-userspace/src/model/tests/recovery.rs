use super::*;

const WEB: [u8; 4] = [192, 0, 2, 1];

/// A new daemon on the datapath that `world` left.
pub(super) fn restart(world: World, text: &str) -> World {
    let mut core = Core::new(config::Node::default(), world.datapath.live(), world.datapath.quic_servers.clone());
    let mut datapath = Datapath { checks: BTreeMap::new(), ..world.datapath };
    datapath.remove_orphans();
    let effects = core.apply(desired(text), world.now).expect("there is room");
    datapath.run(effects);
    World { core, datapath, now: world.now }
}

#[test]
fn a_restarted_daemon_changes_no_slot_no_row_and_no_service() {
    let world = World::ready(CONFIG);
    let before = (world.datapath.slots.clone(), world.datapath.row_of.clone(), world.datapath.services.clone());
    let mut world = restart(world, CONFIG);
    world.resolve_all();
    assert_eq!((world.datapath.slots, world.datapath.row_of, world.datapath.services), before);
}

#[test]
fn a_backend_that_was_in_use_stays_so_until_its_check_fails() {
    let mut world = restart(World::ready(CONFIG), CONFIG);
    let id = world.id("checked", "10.0.0.3");
    assert_eq!(world.datapath.checks[&id], Health::Up);
    assert_eq!(world.state("checked", "10.0.0.3"), BackendState::Up);
    world.report(id, Health::Down);
    assert!(!world.datapath.shares([192, 0, 2, 2]).contains_key("10.0.0.3"));
}

#[test]
fn a_backend_that_was_down_has_to_pass_its_check_first() {
    let mut world = World::ready(CONFIG);
    world.report(world.id("checked", "10.0.0.3"), Health::Down);
    let world = restart(world, CONFIG);
    assert_eq!(world.datapath.checks[&world.id("checked", "10.0.0.3")], Health::Unknown);
    assert!(!world.datapath.shares([192, 0, 2, 2]).contains_key("10.0.0.3"));
}

#[test]
fn what_the_configuration_does_not_want_any_more_is_removed() {
    let only_web = CONFIG.split("[[service]]\nname = \"checked\"").next().unwrap();
    let mut world = restart(World::ready(CONFIG), only_web);
    assert_eq!(world.datapath.services.len(), 1);
    assert_eq!(world.datapath.row_of.len(), 2);
    // Its numbers can be used again, after their rest.
    world.now += Duration::from_secs(2);
    world.apply(CONFIG);
    assert_eq!(world.datapath.services.len(), 2);
}

#[test]
fn a_configuration_that_changed_meanwhile_changes_only_what_it_says() {
    let world = World::ready(CONFIG);
    let before = world.datapath.table(&world.datapath.service(WEB));
    let changed = CONFIG.replace("weight = 3", "weight = 1");
    let mut world = restart(world, &changed);
    world.resolve_all();
    let after = world.datapath.table(&world.datapath.service(WEB));
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    // 768 slots become 512.
    assert!((256..300).contains(&moved), "{moved} slots moved");
}

#[test]
fn a_larger_table_is_written_whole_before_it_is_used() {
    let larger = CONFIG.replace("forwarding = \"l2-dsr\"", "forwarding = \"l2-dsr\"\nslots = 8192");
    let mut world = restart(World::ready(CONFIG), &larger);
    assert_eq!(world.datapath.service(WEB).slot_mask + 1, 8192);
    world.now += Duration::from_secs(2);
    world.apply(CONFIG);
    assert_eq!(
        world.datapath.shares(WEB),
        BTreeMap::from([("10.0.0.1".to_owned(), 2048), ("10.0.0.2".to_owned(), 6144)])
    );
}

#[test]
fn a_daemon_that_is_killed_between_any_two_effects_of_a_change_leaves_what_the_next_one_can_go_on_with() {
    let changed = CONFIG
        .replace("192.0.2.2:80", "192.0.2.3:80")
        .replace("address = \"10.0.0.2\"", "address = \"10.0.0.4\"")
        .replace("forwarding = \"l2-dsr\"", "forwarding = \"l2-dsr\"\nslots = 2048");
    let effects = || {
        let mut world = World::ready(CONFIG);
        let effects = world.core.apply(desired(&changed), world.now).expect("there is room");
        (world, effects)
    };
    let count = effects().1.len();
    assert!(count > 5, "only {count} effects");
    for survivors in 0..=count {
        let (mut world, mut effects) = effects();
        effects.truncate(survivors);
        world.datapath.run(effects);
        world.now += Duration::from_secs(2);
        let mut world = restart(world, &changed);
        world.resolve_all();
        for id in world.datapath.checks.keys().copied().collect::<Vec<_>>() {
            world.report(id, Health::Up);
        }
        world.settle();
        let web = BTreeMap::from([("10.0.0.1".to_owned(), 512), ("10.0.0.4".to_owned(), 1536)]);
        assert_eq!(world.datapath.shares(WEB), web, "killed after {survivors} effects");
        assert_eq!(world.datapath.services.len(), 2, "killed after {survivors} effects");
        assert_eq!(world.datapath.row_of.len(), 4, "killed after {survivors} effects");
    }
}
