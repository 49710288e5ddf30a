//! What is refused in `[[vrrp]]`, and what the operator is told: of an instance as such here, of its parts in modules of their own.

use std::fmt::Write;

use insta::assert_snapshot;

use super::super::{MAX_VRRP, refusal, refusal_with};

mod addresses;
mod authentication;
mod programs;
mod tracks;

/// This many instances with no more than the keys that each must have.
fn instances(count: usize) -> String {
    let mut text = String::new();
    for index in 0..count {
        let [high, low] = u16::try_from(index).unwrap().to_be_bytes();
        writeln!(text, "[[vrrp]]\nname = \"V{index}\"\ninterface = \"eth{index}\"\nrouter_id = 1").unwrap();
        writeln!(text, "addresses = [\"10.4.{high}.{low}\"]").unwrap();
    }
    text
}

#[test]
fn an_instance_without_its_required_keys_is_refused() {
    assert_snapshot!(refusal("[[vrrp]]\npriority = 7"), @r#"
    lb.toml:1: VRRP instance #1: name is missing
        add it, for example name = "VI_1"
    lb.toml:1: VRRP instance #1: interface is missing
        add it, for example interface = "eth0"
    lb.toml:1: VRRP instance #1: router_id is missing
        add it, for example router_id = 51
    lb.toml:1: VRRP instance #1: addresses is missing
        add it, for example addresses = ["192.168.1.10/24"]
    "#);
}

#[test]
fn a_name_twice_is_refused() {
    assert_snapshot!(refusal_with(r#""VI_2""#, r#""VI_1""#), @r#"
    lb.toml:130: VRRP instance "VI_1": name is the same as in line 68
        write another name
    "#);
}

#[test]
fn a_name_with_a_space_is_refused() {
    assert_snapshot!(refusal_with(r#""VI_2""#, r#""VI 2""#), @r#"
    lb.toml:130: VRRP instance #2: name "VI 2" is not a name
        write 1 to 64 characters out of letters, digits and _.:-
    "#);
}

#[test]
fn an_interface_that_is_none_is_refused() {
    assert_snapshot!(refusal_with("\"VI_2\"\ninterface = \"eth2\"", "\"VI_2\"\ninterface = \"eth/2\""), @r#"
    lb.toml:131: VRRP instance "VI_2": interface "eth/2" is not an interface name
        write a name that `ip link` shows: 1 to 15 bytes, without spaces, / and :
    "#);
}

#[test]
fn a_router_id_of_0_is_refused() {
    assert_snapshot!(refusal_with("router_id = 52", "router_id = 0"), @r#"
    lb.toml:132: VRRP instance "VI_2": router_id 0 is out of range
        write a whole number from 1 to 255
    "#);
}

#[test]
fn a_router_id_twice_on_one_interface_in_one_family_is_refused() {
    assert_snapshot!(refusal_with("router_id = 52", "router_id = 51"), @r#"
    lb.toml:132: VRRP instance "VI_2": router_id 51 is that of VRRP instance "VI_1" on "eth2" in IPv4 already
        write another router_id, or put the addresses into one instance
    "#);
}

#[test]
fn an_unknown_version_is_refused() {
    assert_snapshot!(refusal_with("version = 2", "version = 4"), @r#"
    lb.toml:133: VRRP instance "VI_2": version 4 is out of range
        write a whole number from 2 to 3
    "#);
}

#[test]
fn version_2_with_ipv6_is_refused() {
    assert_snapshot!(refusal_with(r#"addresses = ["fe80::10/64", "2001:db8:2::10/64"]"#, "addresses = [\"fe80::10/64\", \"2001:db8:2::10/64\"]\nversion = 2"), @r#"
    lb.toml:149: VRRP instance "VI_6": version 2 has no IPv6
        write version = 3
    "#);
}

#[test]
fn a_priority_of_0_is_refused() {
    assert_snapshot!(refusal_with("priority = 150", "priority = 0"), @r#"
    lb.toml:72: VRRP instance "VI_1": priority 0 means that the sender gives up
        write a whole number from 1 to 254
    "#);
}

#[test]
fn a_priority_of_255_is_refused() {
    assert_snapshot!(refusal_with("priority = 150", "priority = 255"), @r#"
    lb.toml:72: VRRP instance "VI_1": priority 255 means that the sender owns the addresses, and virtual addresses belong to nobody
        write a whole number from 1 to 254
    "#);
}

#[test]
fn a_priority_out_of_range_is_refused() {
    assert_snapshot!(refusal_with("priority = 150", "priority = 256"), @r#"
    lb.toml:72: VRRP instance "VI_1": priority 256 is out of range
        write a whole number from 1 to 254
    "#);
}

#[test]
fn an_interval_of_version_3_beyond_its_12_bits_is_refused() {
    assert_snapshot!(refusal_with(r#""200ms""#, r#""40s 960ms""#), @r#"
    lb.toml:73: VRRP instance "VI_1": interval "40s 960ms" is out of range
        write a duration from 10ms to 40s 950ms, with its unit, such as "1s"
    "#);
}

#[test]
fn an_interval_of_version_3_between_two_hundredths_is_refused() {
    assert_snapshot!(refusal_with(r#""200ms""#, r#""205ms""#), @r#"
    lb.toml:73: VRRP instance "VI_1": interval "205ms" is not a multiple of 10ms, which version 3 counts in
        write "200ms" or "210ms"
    "#);
}

#[test]
fn an_interval_of_version_2_that_is_not_whole_seconds_is_refused() {
    assert_snapshot!(refusal_with(r#""4s""#, r#""4s 500ms""#), @r#"
    lb.toml:134: VRRP instance "VI_2": interval "4s 500ms" is not a multiple of 1s, which version 2 counts in
        write "4s" or "5s"
    "#);
}

#[test]
fn an_interval_of_version_2_below_a_second_is_refused() {
    assert_snapshot!(refusal_with(r#""4s""#, r#""500ms""#), @r#"
    lb.toml:134: VRRP instance "VI_2": interval "500ms" is out of range
        write a duration from 1s to 4m 15s, with its unit, such as "1s"
    "#);
}

#[test]
fn a_virtual_mac_with_unicast_peers_is_refused() {
    assert_snapshot!(refusal_with("virtual_mac = false", "virtual_mac = true"), @r#"
    lb.toml:84: VRRP instance "VI_1": virtual_mac does not go with unicast_peers: only multicast moves a MAC address in the switches
        remove virtual_mac or unicast_peers
    "#);
}

#[test]
fn a_virtual_mac_on_two_interfaces_is_refused() {
    let instance = |name: &str, interface: &str, address: &str| {
        format!(
            "[[vrrp]]\nname = '{name}'\ninterface = '{interface}'\nrouter_id = 7\nvirtual_mac = true\naddresses = ['{address}']\n"
        )
    };
    let file = [instance("A", "eth0", "10.0.0.9"), instance("B", "eth1", "10.1.0.9")].concat();
    assert_snapshot!(refusal(&file), @r#"
    lb.toml:10: VRRP instance "B": router_id 7 makes the virtual MAC address of "A", too
        write another router_id: the MAC address follows from it
    "#);
}

#[test]
fn an_unknown_state_is_refused() {
    assert_snapshot!(refusal_with(r#"state = "master""#, r#"state = "fault""#), @r#"
    lb.toml:78: VRRP instance "VI_1": state "fault" is not known
        write "backup" or "master"
    "#);
}

#[test]
fn a_master_that_does_not_preempt_is_refused() {
    assert_snapshot!(refusal_with(r#"state = "backup""#, r#"state = "master""#), @r#"
    lb.toml:136: VRRP instance "VI_2": state "master" does not go with preempt = false, which leaves a living master alone
        write state = "backup", or remove preempt = false
    "#);
}

#[test]
fn a_preempt_delay_without_preempt_is_refused() {
    assert_snapshot!(refusal_with("preempt = false", "preempt = false\npreempt_delay = \"5s\""), @r#"
    lb.toml:138: VRRP instance "VI_2": preempt_delay applies only with preempt = true
        remove it, or preempt = false
    "#);
}

#[test]
fn a_preempt_delay_over_1000_s_is_refused() {
    assert_snapshot!(refusal_with(r#"preempt_delay = "5s""#, r#"preempt_delay = "1001s""#), @r#"
    lb.toml:80: VRRP instance "VI_1": preempt_delay "1001s" is out of range
        write a duration from 0s to 16m 40s, with its unit, such as "1s"
    "#);
}

#[test]
fn a_checksum_habit_in_version_2_is_refused() {
    assert_snapshot!(refusal_with("version = 2", "version = 2\nchecksum = \"message\""), @r#"
    lb.toml:134: VRRP instance "VI_2": checksum applies only to version 3 over IPv4
        remove it: version 2 has one kind of checksum, and so has IPv6
    "#);
}

#[test]
fn a_checksum_habit_in_ipv6_is_refused() {
    assert_snapshot!(refusal_with(r#"addresses = ["fe80::10/64", "2001:db8:2::10/64"]"#, "addresses = [\"fe80::10/64\", \"2001:db8:2::10/64\"]\nchecksum = \"message\""), @r#"
    lb.toml:149: VRRP instance "VI_6": checksum applies only to version 3 over IPv4
        remove it: version 2 has one kind of checksum, and so has IPv6
    "#);
}

#[test]
fn members_of_a_sync_group_that_differ_are_refused() {
    assert_snapshot!(refusal_with("preempt = false\nvirtual_mac", "preempt = false\nsync_group = \"G1\"\nvirtual_mac"), @r#"
    lb.toml:129: VRRP instance "VI_2": priority is 100, and 150 in "VI_1" of the same sync_group
        write priority = 150, or another sync_group: members that differ fight each other
    lb.toml:129: VRRP instance "VI_2": preempt_delay is "0s", and "5s" in "VI_1" of the same sync_group
        write preempt_delay = "5s", or another sync_group: members that differ fight each other
    lb.toml:136: VRRP instance "VI_2": state is "backup", and "master" in "VI_1" of the same sync_group
        write state = "master", or another sync_group: members that differ fight each other
    lb.toml:137: VRRP instance "VI_2": preempt is false, and true in "VI_1" of the same sync_group
        write preempt = true, or another sync_group: members that differ fight each other
    "#);
}

#[test]
fn a_misspelt_key_is_refused() {
    assert_snapshot!(refusal_with("priority = 150", "prioritiy = 150"), @r#"
    lb.toml:72: VRRP instance "VI_1": unknown key "prioritiy"
        did you mean "priority"?
    "#);
}

#[test]
fn more_instances_than_a_node_carries_are_refused() {
    assert_snapshot!(refusal(&instances(MAX_VRRP + 1)), @r#"
    lb.toml:5001: VRRP instance "V1000": there are more than 1000 VRRP instances
        remove this one and those below, or put their addresses into those above
    "#);
}
