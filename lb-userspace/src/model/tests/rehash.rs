//! Changes of what picks the slots of flows.

use lb_common::{HashInput, HashInputs};

use super::*;

const WEB: [u8; 4] = [192, 0, 2, 1];
const BY_FLOW: HashInputs = HashInputs::new(HashInput::FLOW);

fn by_source(prefix: u8) -> HashInput {
    HashInput::source(prefix).unwrap()
}

fn source_hash() -> String {
    CONFIG.replacen("protocol = \"tcp\"", "protocol = \"tcp\"\nalgorithm = \"source-hash\"\nidle_timeout = \"1m\"", 1)
}

impl World {
    fn hash(&self) -> HashInputs {
        self.datapath.service(WEB).hash
    }

    fn looks_up(&self) -> bool {
        self.datapath.table(&self.datapath.service(WEB)).iter().any(|word| word.look_up())
    }
}

#[test]
fn a_service_that_is_new_has_what_it_wants_at_once() {
    let world = World::ready(&source_hash());
    assert_eq!(world.hash(), HashInputs::new(by_source(32)));
    assert!(!world.looks_up());
    let prefix = source_hash().replace("\"source-hash\"", "\"source-hash\"\nsource_prefix = 24");
    assert_eq!(World::ready(&prefix).hash(), HashInputs::new(by_source(24)));
}

#[test]
fn flows_get_new_slots_when_their_handshakes_are_known_and_old_ones_are_forgotten_after_the_idle_timeout() {
    let mut world = World::ready(CONFIG);
    world.apply(&source_hash());
    world.pass(Duration::from_millis(2900));
    assert!(world.looks_up() && world.hash() == BY_FLOW);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.hash(), HashInputs::changed(by_source(32), HashInput::FLOW));
    world.pass(Duration::from_secs(59));
    assert_eq!(world.hash(), HashInputs::changed(by_source(32), HashInput::FLOW));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.hash(), HashInputs::new(by_source(32)));
    world.settle();
    assert!(!world.looks_up());
}

#[test]
fn a_change_of_mind_before_flows_have_new_slots_changes_nothing_and_after_that_follows() {
    let mut world = World::ready(CONFIG);
    world.apply(&source_hash());
    world.apply(CONFIG);
    world.pass(Duration::from_secs(4));
    assert_eq!(world.hash(), BY_FLOW);
    world.apply(&source_hash());
    world.pass(Duration::from_secs(4));
    world.apply(CONFIG);
    world.pass(Duration::from_secs(4));
    assert_eq!(world.hash(), HashInputs::changed(by_source(32), HashInput::FLOW), "first that one has to end");
    assert_eq!(
        world.core.view(world.now)[0].begins_in,
        Some(Duration::from_secs(15 * 60 - 4)),
        "and that is to be seen"
    );
    world.settle();
    assert_eq!(world.hash(), BY_FLOW);
    assert!(!world.looks_up());
}

#[test]
fn a_restarted_daemon_goes_on_with_the_change() {
    let mut world = World::ready(CONFIG);
    world.apply(&source_hash());
    world.pass(Duration::from_secs(4));
    let mut world = world.restart(desired(&source_hash()));
    assert_eq!(world.hash(), HashInputs::changed(by_source(32), HashInput::FLOW));
    world.settle();
    assert_eq!(world.hash(), HashInputs::new(by_source(32)));
}
