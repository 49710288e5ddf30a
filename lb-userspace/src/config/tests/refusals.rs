//! What is refused, and what the operator is told: in the file as a whole here, in each section in a module of its own.

use insta::assert_snapshot;

use super::{refusal, refusal_with};

mod backend;
mod health;
mod interface;
mod node;
mod room;
mod service;
mod vrrp;

#[test]
fn broken_syntax_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", "weight = = 5"), @"
    lb.toml:40: extra `=`, expected nothing
        correct the TOML here (https://toml.io has a summary)
    lb.toml:40: unexpected key or value, expected newline, `#`
        correct the TOML here (https://toml.io has a summary)
    ");
}

#[test]
fn a_key_twice_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", "weight = 5\n  weight = 6"), @"
    lb.toml:41: duplicate key
        correct the TOML here (https://toml.io has a summary)
    ");
}

#[test]
fn an_unclosed_string_is_refused() {
    assert_snapshot!(refusal_with(r#"name = "dns""#, r#"name = "dns"#), @r#"
    lb.toml:48: invalid basic string, expected `"`
        correct the TOML here (https://toml.io has a summary)
    "#);
}

#[test]
fn a_section_written_as_an_array_is_refused() {
    assert_snapshot!(refusal_with("[node]", "[[node]]"), @"
    lb.toml:2: node is an array
        write the section as [node]
    ");
}

#[test]
fn an_array_written_as_a_section_is_refused() {
    assert_snapshot!(refusal("[service]\nname = 'a'"), @"
    lb.toml:1: service is a table
        write each section as [[service]]
    ");
}

#[test]
fn an_unknown_section_with_a_guess_is_refused() {
    assert_snapshot!(refusal_with("[node]", "[nodes]"), @r#"
    lb.toml:2: unknown key "nodes"
        did you mean "node"?
    "#);
}

#[test]
fn a_misspelt_key_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", "wieght = 5"), @r#"
    lb.toml:40: service "crm-web", backend "192.168.1.100": unknown key "wieght"
        did you mean "weight"?
    "#);
}

#[test]
fn a_key_that_resembles_none_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", "persistence = 5"), @r#"
    lb.toml:40: service "crm-web", backend "192.168.1.100": unknown key "persistence"
        remove it, or write "name", "address", "weight", "max_connections" or "server_id"
    "#);
}

#[test]
fn entries_that_are_no_sections_are_refused() {
    assert_snapshot!(refusal("service = [1, {}]"), @r#"
    lb.toml:1: service is a whole number
        write each section as [[service]]
    lb.toml:1: service #2: name is missing
        add it, for example name = "crm-web"
    lb.toml:1: service #2: address is missing
        add it, for example address = "192.168.1.10:80"
    lb.toml:1: service #2: protocol is missing
        add it, for example protocol = "tcp"
    lb.toml:1: service #2: forwarding is missing
        add it, for example forwarding = "l2-dsr"
    "#);
}
