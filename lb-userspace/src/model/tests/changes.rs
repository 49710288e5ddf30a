use super::*;

const WEB: [u8; 4] = [192, 0, 2, 1];
const CHECKED: [u8; 4] = [192, 0, 2, 2];

#[test]
fn a_backend_takes_flows_once_its_next_hop_is_known() {
    let mut world = World::new(CONFIG);
    assert_eq!(world.datapath.shares(WEB), BTreeMap::from([("nobody".to_owned(), 1024)]));
    assert_eq!(world.state("web", "10.0.0.1"), BackendState::Unresolved);
    world.resolve_all();
    let expected = BTreeMap::from([("10.0.0.1".to_owned(), 256), ("10.0.0.2".to_owned(), 768)]);
    assert_eq!(world.datapath.shares(WEB), expected);
}

#[test]
fn a_checked_backend_takes_flows_once_its_check_succeeds_and_loses_them_when_it_fails() {
    let mut world = World::new(CONFIG);
    world.resolve_all();
    let first = world.id("checked", "10.0.0.1");
    assert_eq!(world.datapath.shares(CHECKED), BTreeMap::from([("nobody".to_owned(), 1024)]));
    assert_eq!(world.state("checked", "10.0.0.1"), BackendState::Checking);
    world.report(first, Health::Up);
    // The other one may be as well, in a moment.
    assert_eq!(world.datapath.shares(CHECKED), BTreeMap::from([("nobody".to_owned(), 1024)]));
    world.pass(Duration::from_millis(500));
    assert_eq!(world.datapath.shares(CHECKED), BTreeMap::from([("10.0.0.1".to_owned(), 1024)]));
    world.report(first, Health::Down);
    assert_eq!(world.datapath.shares(CHECKED), BTreeMap::from([("nobody".to_owned(), 1024)]));
    assert_eq!(world.state("checked", "10.0.0.1"), BackendState::Down);
}

#[test]
fn a_backend_whose_neighbour_stops_answering_loses_its_flows() {
    let mut world = World::ready(CONFIG);
    let neighbour: IpAddr = "10.0.0.2".parse().unwrap();
    let interface = "eth0".to_owned();
    world.resolve(neighbour, Err(Unresolved::NoAnswer { neighbour, interface }));
    assert_eq!(world.datapath.shares(WEB), BTreeMap::from([("10.0.0.1".to_owned(), 1024)]));
}

#[test]
fn a_neighbour_that_is_asked_again_keeps_its_flows() {
    let mut world = World::ready(CONFIG);
    let before = world.datapath.shares(WEB);
    let neighbour: IpAddr = "10.0.0.2".parse().unwrap();
    world.resolve(neighbour, Err(Unresolved::Resolving { neighbour, interface: "eth0".to_owned() }));
    assert_eq!(world.datapath.shares(WEB), before);
}

#[test]
fn a_new_mac_address_gets_a_new_row_and_moves_no_slot() {
    let mut world = World::ready(CONFIG);
    let id = world.id("web", "10.0.0.1");
    let (table, old) = (world.datapath.table(&world.datapath.service(WEB)), world.datapath.row_of[&id]);
    world.resolve("10.0.0.1".parse().unwrap(), Ok(via(9)));
    let new = world.datapath.row_of[&id];
    assert_ne!(new, old);
    assert_eq!(world.datapath.rows[&new].destination_mac, [2, 0, 0, 0, 0, 9]);
    assert_eq!(world.datapath.table(&world.datapath.service(WEB)), table);
}

#[test]
fn a_local_backend_needs_no_next_hop() {
    let mut world = World::ready(CONFIG);
    world.resolve("10.0.0.1".parse().unwrap(), Ok(NextHop::Local));
    let row = world.datapath.row_of[&world.id("web", "10.0.0.1")];
    assert_eq!(world.datapath.rows[&row].encapsulation, Encapsulation::LOCAL);
}

#[test]
fn draining_and_disabling_take_the_slots_and_enabling_gives_the_same_ones_back() {
    let mut world = World::ready(CONFIG);
    let before = world.datapath.table(&world.datapath.service(WEB));
    for change in [Change::Drain(selector("10.0.0.2"), None), Change::Admin(selector("10.0.0.2"), Admin::Disabled)] {
        let applied = world.change(change).unwrap();
        let address = [10, 0, 0, 2].into();
        assert_eq!(applied, [Applied { service: "web".to_owned(), backend: "10.0.0.2".to_owned(), address, port: 0 }]);
        world.settle();
        assert_eq!(world.datapath.shares(WEB), BTreeMap::from([("10.0.0.1".to_owned(), 1024)]));
        world.change(Change::Admin(selector("10.0.0.2"), Admin::Enabled)).unwrap();
        world.settle();
        assert_eq!(world.datapath.table(&world.datapath.service(WEB)), before);
    }
}

#[test]
fn a_disabled_backend_is_not_checked_and_an_enabled_one_has_to_pass_its_check_first() {
    let mut world = World::ready(CONFIG);
    let id = world.id("checked", "10.0.0.3");
    world.change(Change::Admin(selector("10.0.0.3"), Admin::Disabled)).unwrap();
    assert!(!world.datapath.checks.contains_key(&id));
    world.change(Change::Admin(selector("10.0.0.3"), Admin::Enabled)).unwrap();
    assert_eq!(world.datapath.checks[&id], Health::Unknown);
    assert_eq!(world.datapath.shares(CHECKED), BTreeMap::from([("10.0.0.1".to_owned(), 1024)]));
}

#[test]
fn a_change_without_a_service_meets_the_backend_in_all_that_have_it() {
    let mut world = World::ready(CONFIG);
    let persisted = world.datapath.persisted;
    let applied = world.change(Change::Weight(selector("10.0.0.1"), 0)).unwrap();
    assert_eq!(applied.len(), 2);
    world.settle();
    assert!(!world.datapath.shares(WEB).contains_key("10.0.0.1"));
    assert!(!world.datapath.shares(CHECKED).contains_key("10.0.0.1"));
    assert_eq!(world.datapath.persisted, persisted + 1);
}

#[test]
fn an_added_backend_takes_its_share_and_a_removed_one_leaves_nothing() {
    let mut world = World::ready(CONFIG);
    let backend = config::Backend::parse(Some("new"), "10.0.0.9", 4).unwrap();
    world.change(Change::Add("web".to_owned(), backend)).unwrap();
    world.resolve_all();
    world.settle();
    assert_eq!(world.datapath.shares(WEB)["10.0.0.9"], 512);
    let (rows, id) = (world.datapath.row_of.len(), world.id("web", "10.0.0.9"));
    world.change(Change::Remove(selector("new"), None)).unwrap();
    world.settle();
    assert!(!world.datapath.row_of.contains_key(&id));
    assert_eq!(world.datapath.row_of.len(), rows - 1);
    assert!(!world.datapath.watched.contains(&"10.0.0.9".parse().unwrap()));
}

#[test]
fn a_change_that_makes_no_sense_changes_nothing_and_says_why() {
    let mut world = World::ready(CONFIG);
    let before = world.core.view(world.now);
    let double = config::Backend::parse(None, "10.0.0.1", 1).unwrap();
    let refusals = [
        world.change(Change::Remove(selector("10.9.9.9"), None)).unwrap_err(),
        world.change(Change::Add("nix".to_owned(), double.clone())).unwrap_err(),
        world.change(Change::Add("web".to_owned(), double)).unwrap_err(),
        world
            .change(Change::Weight(Selector { backend: "10.0.0.3".to_owned(), service: Some("web".to_owned()) }, 1))
            .unwrap_err(),
    ];
    insta::assert_snapshot!(refusals.map(|refusal| refusal.to_string()).join("\n---\n"), @r#"
    there is no backend "10.9.9.9" in any service; `lbctl backend list` shows them
    ---
    there is no service "nix"; `lbctl service list` shows them
    ---
    10.0.0.1 is the address of backend "10.0.0.1" already
        write each backend of "web" once, with a greater weight for a greater share
    ---
    there is no backend "10.0.0.3" in service "web"; `lbctl backend list` shows them
    "#);
    assert_eq!(world.core.view(world.now), before);
}

#[test]
fn the_table_grows_when_it_has_less_than_twenty_five_slots_for_each_backend() {
    let mut world = World::ready(CONFIG);
    for (number, slots) in [(40, 1024), (41, 8192)] {
        for last_byte in world.core.view(world.now)[0].backends.len()..number {
            let backend = config::Backend::parse(None, &format!("10.0.1.{last_byte}"), 1).unwrap();
            world.change(Change::Add("web".to_owned(), backend)).unwrap();
        }
        world.resolve_all();
        assert_eq!(world.datapath.service(WEB).slot_mask + 1, slots, "{number} backends");
    }
}

#[test]
fn a_full_datapath_refuses_a_service_and_changes_nothing() {
    let mut world = World::ready(CONFIG);
    let before = world.core.view(world.now);
    let mut services = desired(CONFIG);
    for number in 0..layout::SLOT_CHUNKS / 64 {
        let mut service = services[0].clone();
        service.spec.name = format!("large-{number}");
        service.spec.address = Ipv4Addr::from_bits(0xc633_6400 + number).into();
        service.spec.slots = Some(layout::MAX_SLOTS);
        services.push(service);
    }
    let full = world.core.apply(services, world.now).unwrap_err();
    assert!(full.to_string().contains("more slots"), "{full}");
    assert_eq!(world.core.view(world.now), before);
    // What was reserved in vain is free again, after its rest.
    world.now += Duration::from_secs(2);
    let mut services = desired(CONFIG);
    services[0].spec.slots = Some(layout::MAX_SLOTS);
    assert!(world.core.apply(services, world.now).is_ok());
}

#[test]
fn a_larger_table_without_one_of_the_backends_leaves_no_packet_without_a_row() {
    // The datapath of this test checks that after every effect.
    let mut world = World::ready(CONFIG);
    let larger = CONFIG
        .replace("forwarding = \"l2-dsr\"", "forwarding = \"l2-dsr\"\nslots = 4096")
        .replace("[[service.backend]]\naddress = \"10.0.0.2\"\nweight = 3\n", "");
    world.apply(&larger);
    world.settle();
    assert_eq!(world.datapath.shares(WEB), BTreeMap::from([("10.0.0.1".to_owned(), 4096)]));
    assert_eq!(world.datapath.row_of.len(), 3);
}

#[test]
fn a_late_report_of_a_stopped_check_brings_no_backend_down() {
    let mut world = World::ready(CONFIG);
    let id = world.id("checked", "10.0.0.3");
    world.apply(&CONFIG.replace("[service.health]\ntype = \"tcp\"\n", ""));
    let before = world.datapath.shares(CHECKED);
    world.report(id, Health::Down);
    assert_eq!(world.datapath.shares(CHECKED), before);
}

#[test]
fn more_backends_than_slots_are_refused() {
    let services = CONFIG.replace("forwarding = \"l2-dsr\"", "forwarding = \"l2-dsr\"\nslots = 1024");
    let mut world = World::ready(&services);
    let added = (0..2000_u16).find_map(|number| {
        let address = Ipv4Addr::from([10, 1, (number >> 8).to_le_bytes()[0], number.to_le_bytes()[0]]).to_string();
        let backend = config::Backend::parse(None, &address, 1).unwrap();
        world.change(Change::Add("web".to_owned(), backend)).err()
    });
    assert!(matches!(added, Some(ChangeError::Refused(reason)) if reason.contains("1024 slots")));
    assert_eq!(world.core.view(world.now)[0].backends.len(), 1024);
}

#[test]
fn what_a_reload_takes_away_is_said() {
    let mut world = World::ready(CONFIG);
    assert!(world.core.lost_by(&desired(CONFIG)).is_empty());
    world.change(Change::Add("web".to_owned(), config::Backend::parse(None, "10.0.0.9", 1).unwrap())).unwrap();
    world.change(Change::Weight(selector("10.0.0.1"), 7)).unwrap();
    world.change(Change::Drain(selector("10.0.0.3"), None)).unwrap();
    world.change(Change::Remove(selector("10.0.0.2"), None)).unwrap();
    // With the live changes, as a reload of an unchanged file has them.
    let as_it_is: Vec<_> = world.core.services.iter().map(|state| state.desired.clone()).collect();
    assert!(world.core.lost_by(&as_it_is).is_empty());
    insta::assert_snapshot!(world.core.lost_by(&desired(CONFIG)).join("\n"), @r#"
    service "web" was edited in the configuration file, so the changes made with lbctl are dropped: 10.0.0.1 had weight 7, 10.0.0.9 was added, 10.0.0.2 was removed
    service "checked" was edited in the configuration file, so the changes made with lbctl are dropped: 10.0.0.1 had weight 7, 10.0.0.3 drained
    "#);
    // What is in the file by now is not lost.
    let written_down: Vec<_> =
        as_it_is.iter().map(|service| DesiredService::as_declared(service.spec.clone())).collect();
    insta::assert_snapshot!(
        world.core.lost_by(&written_down).join("\n"),
        @r#"service "checked" was edited in the configuration file, so the changes made with lbctl are dropped: 10.0.0.3 drained"#
    );
    let moved = desired(&CONFIG.replace("192.0.2.1:80", "192.0.2.1:81"));
    insta::assert_snapshot!(
        world.core.lost_by(&moved)[0],
        @r#"service "web" is no more, or has another address, port or protocol: its connections are cut"#
    );
    let untracked = CONFIG.replace("forwarding", "tracking = \"never\"\nforwarding");
    insta::assert_snapshot!(World::ready(CONFIG).core.lost_by(&desired(&untracked)).join("\n"), @r#"
    service "web" has tracking = "never" from now on: connections are cut that are not with the owner of their slot
    service "checked" has tracking = "never" from now on: connections are cut that are not with the owner of their slot
    "#);
}

#[test]
fn what_a_reload_changes_is_said() {
    let mut world = World::ready(CONFIG);
    assert_eq!(world.core.changed_by(&desired(CONFIG)), [""; 0]);
    world.change(Change::Drain(selector("10.0.0.3"), None)).unwrap();
    let edited = CONFIG
        .replacen("forwarding", "algorithm = \"random\"\nidle_timeout = \"1m\"\nforwarding", 1)
        .replacen("address = \"10.0.0.1\"", "address = \"10.0.0.9\"", 1)
        .replacen("weight = 3", "weight = 5", 1)
        + "[[service]]\nname = \"new\"\naddress = \"192.0.2.9:80\"\nprotocol = \"tcp\"\nforwarding = \"l2-dsr\"\n";
    insta::assert_snapshot!(world.core.changed_by(&desired(&edited)).join("\n"), @r#"
    service "web": other algorithm, idle_timeout, tracking
    service "web": backend "10.0.0.9" at 10.0.0.9: added, with weight 1
    service "web": backend "10.0.0.2" at 10.0.0.2: other weight
    service "web": backend "10.0.0.1" at 10.0.0.1: removed
    service "checked": backend "10.0.0.3" at 10.0.0.3: enabled
    service "new": added, with 0 backends
    "#);
    insta::assert_snapshot!(world.core.changed_by(&[]).join("\n"), @r#"
    service "web": removed
    service "checked": removed
    "#);
}

#[test]
fn a_backend_of_weight_0_does_not_count_as_one_that_is_up() {
    let mut world = World::ready(CONFIG);
    assert_eq!(world.view("web", "10.0.0.2").summary(), "up");
    world.change(Change::Weight(selector("10.0.0.2"), 0)).unwrap();
    assert_eq!(world.view("web", "10.0.0.2").summary(), "with weight 0");
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    assert_eq!(world.view("web", "10.0.0.2").summary(), "draining");
}

#[test]
fn a_change_is_described_in_words() {
    let second = Duration::from_secs(1);
    let backend = config::Backend::parse(None, "10.0.0.9", 3).unwrap();
    let changes = [
        Change::Add("web".to_owned(), backend),
        Change::Remove(selector("a"), None),
        Change::Weight(selector("a"), 0),
        Change::Admin(selector("a"), Admin::Enabled),
        Change::Drain(selector("a"), Some(second)),
        Change::Drain(selector("a"), Some(ENDLESS)),
    ];
    let expected = [
        "added, with weight 3",
        "removed",
        "has weight 0",
        "enabled",
        "drains, and keeps its flows for 1s at most",
        "drains, and keeps its flows as long as they live",
    ];
    assert_eq!(changes.map(|change| change.describe()), expected);
}

#[test]
fn a_backend_that_was_added_in_place_of_another_is_named_when_the_file_brings_that_back() {
    let mut world = World::ready(CONFIG);
    let in_web = Selector { service: Some("web".to_owned()), ..selector("10.0.0.1") };
    world.change(Change::Remove(in_web, None)).unwrap();
    // As it was, and then with another name.
    let same = desired(CONFIG)[0].spec.backends.iter().find(|backend| backend.name == "10.0.0.1").cloned().unwrap();
    let added = |backend: &config::Backend| Change::Add("web".to_owned(), backend.clone());
    world.change(added(&same)).unwrap();
    assert!(world.core.lost_by(&desired(CONFIG)).is_empty(), "it is as the file has it but for the order");
    world.change(Change::Remove(Selector { service: Some("web".to_owned()), ..selector("10.0.0.1") }, None)).unwrap();
    world.change(added(&config::Backend { name: "other".to_owned(), ..same })).unwrap();
    insta::assert_snapshot!(
        world.core.lost_by(&desired(CONFIG)).join("\n"),
        @r#"service "web" was edited in the configuration file, so the changes made with lbctl are dropped: other was added in place of 10.0.0.1"#
    );
}

#[test]
fn a_removed_backend_is_meant_only_if_no_service_has_one_of_that_name() {
    let mut world = World::ready(CONFIG);
    let in_web = || Selector { service: Some("web".to_owned()), ..selector("10.0.0.1") };
    world.change(Change::Remove(in_web(), None)).unwrap();
    let before = world.view("web", "10.0.0.1").time_left;
    let drained = world.change(Change::Drain(selector("10.0.0.1"), Some(Duration::from_secs(1)))).unwrap();
    assert_eq!(drained.iter().map(|applied| &*applied.service).collect::<Vec<_>>(), ["checked"]);
    assert_eq!(world.view("web", "10.0.0.1").time_left, before);
    world.change(Change::Drain(in_web(), Some(Duration::from_secs(1)))).unwrap();
    assert_eq!(world.view("web", "10.0.0.1").time_left, Some(Duration::from_secs(1)));
}
