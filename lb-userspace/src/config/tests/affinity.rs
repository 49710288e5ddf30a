//! `[service.affinity]`.

use std::time::Duration;

use insta::assert_snapshot;

use super::{config, refusal};
use crate::config::{Affinity, Tracking};

/// A service with these keys and sections, and two backends.
fn service(name: &str, address: &str, keys: &str) -> String {
    let addresses = if address.starts_with('[') { ["2001:db8::1", "2001:db8::2"] } else { ["10.0.0.1", "10.0.0.2"] };
    let backends = addresses.map(|address| format!("[[service.backend]]\naddress = {address:?}\n")).concat();
    format!(
        "[[service]]\nname = {name:?}\naddress = {address:?}\nprotocol = \"tcp\"\nforwarding = \"nat\"\n{keys}\n{backends}"
    )
}

fn web(keys: &str) -> String {
    service("web", "192.0.2.1:80", keys)
}

#[test]
fn a_section_is_read_in_full_and_its_keys_have_defaults() {
    let of = |section: &str| config(&web(section)).services.remove(0);
    let full = of("[service.affinity]\ntimeout = \"1h\"\nprefix = 24\ngroup = \"shop\"");
    let expected = Affinity { timeout: Duration::from_hours(1), prefix: Some(24), group: Some("shop".to_owned()) };
    assert_eq!(full.affinity, Some(expected));
    assert_eq!(full.effective_tracking(), Tracking::Always, "only so is it known which flows are new");
    let short = of("[service.affinity]").affinity.expect("the section is there");
    assert_eq!(short, Affinity { timeout: Duration::from_mins(5), prefix: None, group: None });
    assert_eq!([short.prefix_of(true), short.prefix_of(false)], [32, 128]);
}

#[test]
fn the_size_of_the_table_of_clients_is_written_as_those_of_others() {
    let size = |value: &str| config(&format!("[node]\naffinity_table = {value}")).node.affinity_table;
    assert_eq!([r#""64K""#, r#""1m""#, r#""16M""#, "131072"].map(size), [1 << 16, 1 << 20, 1 << 24, 1 << 17]);
    assert_eq!(config("").node.affinity_table, 1 << 16);
    let refusals =
        [r#""32K""#, r#""32M""#, "100000"].map(|value| refusal(&format!("[node]\naffinity_table = {value}")));
    assert_snapshot!(refusals.join("\n"), @r#"
    lb.toml:2: node: affinity_table "32K" is not the size of a table of clients
        write a power of two from "64K" to "16M", such as "256K", or its digits, such as 262144
    lb.toml:2: node: affinity_table "32M" is not the size of a table of clients
        write a power of two from "64K" to "16M", such as "256K", or its digits, such as 262144
    lb.toml:2: node: affinity_table 100000 is not the size of a table of clients
        write a power of two from "64K" to "16M", such as "256K", or its digits, such as 262144
    "#);
}

#[test]
fn a_timeout_that_is_no_time_or_not_in_whole_seconds_is_refused() {
    assert_snapshot!(refusal(&web("[service.affinity]\ntimeout = \"0s\"")), @r#"
    lb.toml:7: service "web", affinity: timeout "0s" is out of range
        write a duration from 1s to 168h, with its unit, such as "1s"
    "#);
    assert_snapshot!(refusal(&web("[service.affinity]\ntimeout = \"1500ms\"")), @r#"
    lb.toml:7: service "web", affinity: timeout "1500ms" is not in whole seconds
        write whole seconds, such as "300s"
    "#);
}

#[test]
fn a_prefix_that_is_longer_than_an_address_is_refused() {
    assert_snapshot!(refusal(&web("[service.affinity]\nprefix = 33")), @r#"
    lb.toml:7: service "web", affinity: prefix 33 is out of range
        write a whole number from 1 to 32
    "#);
}

#[test]
fn a_misspelt_key_is_refused() {
    assert_snapshot!(refusal(&web("[service.affinity]\ngruop = \"shop\"")), @r#"
    lb.toml:7: service "web", affinity: unknown key "gruop"
        did you mean "group"?
    "#);
}

#[test]
fn affinity_where_flows_are_not_remembered_is_refused() {
    let text = web("tracking = \"never\"\n[service.affinity]").replace("\"nat\"", "\"l2-dsr\"");
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:6: service "web": tracking = "never" does not go with [service.affinity]: only the flow table knows which flows are new
        remove it: each flow is remembered
    "#);
}

#[test]
fn services_of_a_group_have_one_prefix() {
    let section = |prefix| format!("[service.affinity]\ngroup = \"shop\"\nprefix = {prefix}");
    let secure = service("secure", "192.0.2.1:443", &section(24));
    let six = service("six", "[2001:db8::9]:80", &section(64));
    assert_eq!(config(&(web(&section(24)) + &secure + &six)).services.len(), 3, "IPv6 has clients of its own");
    assert_snapshot!(refusal(&(web(&section(16)) + &secure)), @r#"
    lb.toml:18: service "secure": the affinity group "shop" has prefix 24 here, and 16 in service "web"
        write the same prefix in all services of a group: they know a client by it
    "#);
}

#[test]
fn two_backends_at_one_address_in_a_group_are_refused() {
    let second = "[[service.backend]]\naddress = \"10.0.0.1:8080\"\n";
    assert_eq!(config(&(web("[service.affinity]") + second)).services[0].backends.len(), 3);
    assert_snapshot!(refusal(&(web("[service.affinity]\ngroup = \"shop\"") + second)), @r#"
    lb.toml:13: service "web", backend "10.0.0.1": 10.0.0.1 is the address of backend "10.0.0.1" already, and in the affinity group "shop" a server is its address
        write one backend for each address, or remove the group
    "#);
}
