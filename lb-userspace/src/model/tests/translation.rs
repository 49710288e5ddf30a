//! Services that translate addresses.

use lb_common::{FlowHash, HashInput, HashInputs, Policy};

use super::*;

const TRANSLATING: &str = r#"
[[interface]]
name = "eth0"

[[service]]
name = "web"
address = "192.0.2.1:80"
protocol = "tcp"
forwarding = "full-nat"
[service.nat]
sources = ["10.0.0.9"]
ports = "1024-32767"
[[service.backend]]
address = "10.0.0.1"
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_scheduler_begins_at_once_where_all_flows_are_known_by_their_records() {
    for protocol in ["tcp", "udp"] {
        let text = TRANSLATING.replace("\"tcp\"", &format!("{protocol:?}"));
        // It has just begun to look.
        let mut world = World::ready(&text).restart(desired(&text));
        world.apply(&text.replace("forwarding", "algorithm = \"least-connections\"\nforwarding"));
        let scheduler = world.datapath.schedulers[&world.datapath.service([192, 0, 2, 1]).id];
        assert_eq!((scheduler.policy(), scheduler.is_learning()), (Policy::LEAST, false));
    }
}

#[test]
fn what_picks_slots_changes_at_once_and_as_often_as_one_likes_where_all_flows_are_known_by_their_records() {
    let mut world = World::ready(TRANSLATING);
    let by_source = TRANSLATING.replace("forwarding", "algorithm = \"source-hash\"\nforwarding");
    let by_flow = HashInputs::new(HashInput::FLOW);
    for _ in 0..2 {
        world.apply(&by_source);
        (0..2).for_each(|_| world.pass(Duration::from_millis(1)));
        assert_eq!(world.datapath.service([192, 0, 2, 1]).hash, HashInputs::new(HashInput::source(32).unwrap()));
        world.apply(TRANSLATING);
        (0..2).for_each(|_| world.pass(Duration::from_millis(1)));
        assert_eq!(world.datapath.service([192, 0, 2, 1]).hash, by_flow);
        assert_eq!(world.core.view(world.now)[0].begins_in, None);
    }
}

#[test]
fn a_backend_that_drains_has_no_slots_left_at_once_and_is_empty_when_its_last_flow_has_ended() {
    let mut world = World::ready(&format!("{TRANSLATING}\n[[service.backend]]\naddress = \"10.0.0.2\"\n"));
    let id = world.id("web", "10.0.0.2");
    world.change(Change::Drain(selector("10.0.0.2"), None)).unwrap();
    world.pass(Duration::from_secs(1));
    world.census(&HashMap::from([(id, vec![FlowTag::of(FlowHash(7))])]));
    let drained = |world: &World| {
        let view = world.core.view_of("web", world.now).unwrap();
        (view.backends[1].slots, view.backends[1].slots_left, view.backends[1].flows)
    };
    assert_eq!(drained(&world), (0, 0, Some(1)));
    world.census(&HashMap::new());
    assert_eq!(drained(&world), (0, 0, Some(0)));
}

#[test]
fn replies_to_a_source_that_new_flows_do_not_get_any_more_are_still_known() {
    let mut world = World::ready(TRANSLATING);
    assert_eq!(world.datapath.translated, [ip("10.0.0.9")]);
    world.apply(&TRANSLATING.replace("10.0.0.9", "10.0.0.8"));
    assert_eq!(world.datapath.translated, [ip("10.0.0.8"), ip("10.0.0.9")]);
    world.settle();
    assert_eq!(world.datapath.translated, [ip("10.0.0.8"), ip("10.0.0.9")]);
    // Where the client's address is kept they come from the backend.
    world.apply(
        &TRANSLATING
            .replace("full-nat", "nat")
            .replace("[service.nat]\nsources = [\"10.0.0.9\"]\nports = \"1024-32767\"\n", ""),
    );
    assert_eq!(world.datapath.translated, ["10.0.0.1", "10.0.0.8", "10.0.0.9"].map(ip));
}
