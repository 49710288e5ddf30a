//! What a node has no room for.

use std::fmt::Write as _;

use insta::assert_snapshot;

use super::super::{MAX_BACKENDS, config, refusal, service};

/// So many services, with these keys.
fn many_services(count: u16, keys: &str) -> String {
    let service = |index: u16| {
        let [high, low] = index.to_be_bytes();
        service(&format!("s{index}"), &format!("10.1.{high}.{low}:80")) + keys + "\n"
    };
    (0..count).map(service).collect()
}

#[test]
fn services_whose_slots_find_no_room_are_refused() {
    for (count, keys) in [(4096, ""), (2048, "algorithm = \"random\""), (64, "slots = 65536")] {
        config(&many_services(count, keys));
    }
    assert_snapshot!(refusal(&many_services(4097, "")), @r#"
    lb.toml:24577: service "s4096": there is no room for its slots and turns: it takes 1 of 4096 pages of memory, and the services above take 4096
        remove this one and those below, move them to another node, or write a smaller slots where it is large
    "#);
    assert_snapshot!(refusal(&many_services(2050, "algorithm = \"random\"")), @r#"
    lb.toml:12289: service "s2048": there is no room for its slots and turns: it takes 2 of 4096 pages of memory, and the services above take 4096
        remove this one and those below, move them to another node, or write a smaller slots where it is large
    "#);
    assert_snapshot!(refusal(&many_services(65, "slots = 65536")), @r#"
    lb.toml:385: service "s64": there is no room for its slots and turns: it takes 64 of 4096 pages of memory, and the services above take 4096
        remove this one and those below, move them to another node, or write a smaller slots where it is large
    "#);
}

#[test]
fn more_backends_than_a_node_carries_are_refused() {
    let mut text = String::new();
    for index in 0..=u16::try_from(MAX_BACKENDS).unwrap() {
        let [high, low] = index.to_be_bytes();
        if low == 0 {
            text += &service(&format!("s{high}"), &format!("10.1.0.{high}:80"));
        }
        writeln!(text, "[[service.backend]]\naddress = \"10.2.{high}.{low}\"").unwrap();
    }
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:66175: service "s127", backend #256: there are more than 32767 backends in all
        remove this one and those below, or move them to another node
    "#);
}
