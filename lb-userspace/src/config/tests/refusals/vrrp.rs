//! What is refused in `[[vrrp]]`, and what the operator is told.

use std::fmt::Write;

use insta::assert_snapshot;

use super::super::{MAX_VRRP, refusal, refusal_with};

/// An array of this many addresses.
fn addresses(count: u16) -> String {
    let addresses: Vec<String> = (0..count)
        .map(|index| {
            let [high, low] = index.to_be_bytes();
            format!("\"10.4.{high}.{low}\"")
        })
        .collect();
    format!("[{}]", addresses.join(", "))
}

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
fn no_addresses_are_refused() {
    assert_snapshot!(refusal_with(r#"["192.168.2.12/24"]"#, "[]"), @r#"
    lb.toml:135: VRRP instance "VI_2": addresses is empty
        write at least one, as in ["192.168.1.10/24"]
    "#);
}

#[test]
fn addresses_that_are_no_array_are_refused() {
    assert_snapshot!(refusal_with(r#"["192.168.2.12/24"]"#, r#""192.168.2.12/24""#), @r#"
    lb.toml:135: VRRP instance "VI_2": addresses is a string
        write strings in double quotes, with commas between them and [ ] around them
    "#);
}

#[test]
fn an_address_that_is_a_name_is_refused() {
    assert_snapshot!(refusal_with(r#""192.168.2.11""#, r#""vip.example.com""#), @r#"
    lb.toml:76: VRRP instance "VI_1": addresses #2 "vip.example.com" is not an IP address with a prefix length
        write an address with the length of its prefix, as in "192.168.1.10/24" or "2001:db8::10/64"; without a length it is /32 or /128
    "#);
}

#[test]
fn an_address_that_is_a_number_is_refused() {
    assert_snapshot!(refusal_with(r#""192.168.2.11""#, "5"), @r#"
    lb.toml:76: VRRP instance "VI_1": addresses #2 5 is not an IP address with a prefix length
        write an address with the length of its prefix, as in "192.168.1.10/24" or "2001:db8::10/64"; without a length it is /32 or /128
    "#);
}

#[test]
fn a_prefix_length_of_0_is_refused() {
    assert_snapshot!(refusal_with("192.168.2.12/24", "192.168.2.12/0"), @r#"
    lb.toml:135: VRRP instance "VI_2": addresses #1 "192.168.2.12/0" has a prefix length out of range
        write an address with the length of its prefix, as in "192.168.1.10/24" or "2001:db8::10/64"; without a length it is /32 or /128
    "#);
}

#[test]
fn an_ipv4_prefix_length_over_32_is_refused() {
    assert_snapshot!(refusal_with("192.168.2.12/24", "192.168.2.12/33"), @r#"
    lb.toml:135: VRRP instance "VI_2": addresses #1 "192.168.2.12/33" has a prefix length out of range
        write an address with the length of its prefix, as in "192.168.1.10/24" or "2001:db8::10/64"; without a length it is /32 or /128
    "#);
}

#[test]
fn an_ipv6_prefix_length_over_128_is_refused() {
    assert_snapshot!(refusal_with("2001:db8:2::10/64", "2001:db8:2::10/129"), @r#"
    lb.toml:148: VRRP instance "VI_6": addresses #2 "2001:db8:2::10/129" has a prefix length out of range
        write an address with the length of its prefix, as in "192.168.1.10/24" or "2001:db8::10/64"; without a length it is /32 or /128
    "#);
}

#[test]
fn a_prefix_length_with_a_sign_is_refused() {
    assert_snapshot!(refusal_with("192.168.2.12/24", "192.168.2.12/+24"), @r#"
    lb.toml:135: VRRP instance "VI_2": addresses #1 "192.168.2.12/+24" has a prefix length out of range
        write an address with the length of its prefix, as in "192.168.1.10/24" or "2001:db8::10/64"; without a length it is /32 or /128
    "#);
}

#[test]
fn a_multicast_address_is_refused() {
    assert_snapshot!(refusal_with("192.168.2.12/24", "224.0.0.18/24"), @r#"
    lb.toml:135: VRRP instance "VI_2": addresses #1 224.0.0.18 is a multicast address
        write the unicast address of one host
    "#);
}

#[test]
fn a_loopback_address_is_refused() {
    assert_snapshot!(refusal_with(r#""2001:db8:2::10/64""#, r#""::1""#), @r#"
    lb.toml:148: VRRP instance "VI_6": addresses #2 ::1 is a loopback address
        write an address that other hosts can reach
    "#);
}

#[test]
fn addresses_of_two_families_in_one_instance_are_refused() {
    assert_snapshot!(refusal_with(r#""192.168.2.11""#, r#""2001:db8::11/64""#), @r#"
    lb.toml:76: VRRP instance "VI_1": addresses #2 2001:db8::11 is IPv6, and 192.168.2.10 is IPv4
        write a second [[vrrp]] for it, with the same sync_group
    "#);
}

#[test]
fn an_address_twice_in_one_instance_is_refused() {
    assert_snapshot!(refusal_with(r#""192.168.2.11""#, r#""192.168.2.10/32""#), @r#"
    lb.toml:76: VRRP instance "VI_1": addresses #2 192.168.2.10 is an address of VRRP instance "VI_1" already
        write each virtual address once
    "#);
}

#[test]
fn an_address_in_two_instances_is_refused() {
    assert_snapshot!(refusal_with("192.168.2.12/24", "192.168.2.11/24"), @r#"
    lb.toml:135: VRRP instance "VI_2": addresses #1 192.168.2.11 is an address of VRRP instance "VI_1" already
        write each virtual address once
    "#);
}

#[test]
fn more_addresses_than_an_advertisement_counts_are_refused() {
    assert_snapshot!(refusal_with(r#"["192.168.2.12/24"]"#, &addresses(256)), @r#"
    lb.toml:135: VRRP instance "VI_2": addresses has 256 entries, more than 255
        write a second [[vrrp]] for the others
    "#);
}

#[test]
fn an_announced_address_is_refused() {
    assert_snapshot!(refusal_with("192.168.2.12/24", "192.168.1.10/24"), @r#"
    lb.toml:24: service "crm-web": announce puts 192.168.1.10 on an interface, and so does VRRP instance "VI_2"
        remove announce, and interface with it: VRRP puts the address on the interface of the master
    "#);
}

#[test]
fn a_source_of_the_other_family_is_refused() {
    assert_snapshot!(refusal_with(r#""10.3.0.1""#, r#""2001:db8:3::1""#), @r#"
    lb.toml:82: VRRP instance "VI_1": source 2001:db8:3::1 is not of the address family of 192.168.2.10
        write an IPv4 address
    "#);
}

#[test]
fn a_source_that_is_a_virtual_address_is_refused() {
    assert_snapshot!(refusal_with(r#""10.3.0.1""#, r#""192.168.2.10""#), @r#"
    lb.toml:82: VRRP instance "VI_1": source 192.168.2.10 is a virtual address, which moves between the nodes
        write an address that stays on its node
    "#);
}

#[test]
fn a_source_with_a_prefix_length_is_refused() {
    assert_snapshot!(refusal_with(r#""10.3.0.1""#, r#""10.3.0.1/24""#), @r#"
    lb.toml:82: VRRP instance "VI_1": source "10.3.0.1/24" is not an IP address
        write the address of a node, without the length of a prefix, such as "10.0.0.2"
    "#);
}

#[test]
fn a_peer_of_the_other_family_is_refused() {
    assert_snapshot!(refusal_with(r#""10.3.0.3""#, r#""2001:db8:3::3""#), @r#"
    lb.toml:81: VRRP instance "VI_1": unicast_peers #2 2001:db8:3::3 is not of the address family of 192.168.2.10
        write an IPv4 address
    "#);
}

#[test]
fn a_peer_that_is_a_virtual_address_is_refused() {
    assert_snapshot!(refusal_with(r#""10.3.0.3""#, r#""192.168.2.11""#), @r#"
    lb.toml:81: VRRP instance "VI_1": unicast_peers #2 192.168.2.11 is a virtual address, which moves between the nodes
        write an address that stays on its node
    "#);
}

#[test]
fn a_peer_that_is_the_source_is_refused() {
    assert_snapshot!(refusal_with(r#""10.3.0.3""#, r#""10.3.0.1""#), @r#"
    lb.toml:81: VRRP instance "VI_1": unicast_peers #2 10.3.0.1 is the source, and thus this node
        remove it: the peers are the other nodes
    "#);
}

#[test]
fn a_peer_twice_is_refused() {
    assert_snapshot!(refusal_with(r#""10.3.0.3""#, r#""10.3.0.2""#), @r#"
    lb.toml:81: VRRP instance "VI_1": unicast_peers #2 10.3.0.2 is a peer already
        write each peer once
    "#);
}

#[test]
fn a_multicast_peer_is_refused() {
    assert_snapshot!(refusal_with(r#""10.3.0.3""#, r#""224.0.0.18""#), @r#"
    lb.toml:81: VRRP instance "VI_1": unicast_peers #2 224.0.0.18 is a multicast address
        write the unicast address of one host
    "#);
}

#[test]
fn more_than_255_peers_are_refused() {
    assert_snapshot!(refusal_with(r#"["10.3.0.2", "10.3.0.3"]"#, &addresses(256)), @r#"
    lb.toml:81: VRRP instance "VI_1": unicast_peers has 256 entries, more than 255
        remove the others
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
fn a_password_in_version_3_is_refused() {
    assert_snapshot!(refusal_with("version = 2", "version = 3"), @r#"
    lb.toml:141: VRRP instance "VI_2", authentication: type "pass" is only in version 2
        write version = 2 in the instance, or type = "hmac-sha256" here
    "#);
}

#[test]
fn an_hmac_in_version_2_is_refused() {
    assert_snapshot!(refusal_with("type = \"pass\"\n  password = \"s3cret\"", "type = \"hmac-sha256\"\n  key = \"202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e40\""), @r#"
    lb.toml:141: VRRP instance "VI_2", authentication: type "hmac-sha256" is only in version 3
        write version = 3 in the instance, or type = "pass" here
    "#);
}

#[test]
fn authentication_without_a_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "pass""#, ""), @r#"
    lb.toml:140: VRRP instance "VI_2", authentication: type is missing
        add it, for example type = "hmac-sha256"
    "#);
}

#[test]
fn authentication_of_an_unknown_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "pass""#, r#"type = "ah""#), @r#"
    lb.toml:141: VRRP instance "VI_2", authentication: type "ah" is not known
        write "pass" or "hmac-sha256"
    "#);
}

#[test]
fn a_missing_password_is_refused() {
    assert_snapshot!(refusal_with(r#"password = "s3cret""#, ""), @r#"
    lb.toml:140: VRRP instance "VI_2", authentication: password is missing
        add it, for example password = "1to8char"
    "#);
}

#[test]
fn a_missing_hmac_key_is_refused() {
    assert_snapshot!(refusal_with(r#"key = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f""#, ""), @r#"
    lb.toml:93: VRRP instance "VI_1", authentication: key is missing
        add it, for example key = "(the output of `openssl rand -hex 32`)"
    "#);
}

#[test]
fn a_key_beside_a_password_is_refused() {
    assert_snapshot!(refusal_with(r#"password = "s3cret""#, "password = \"s3cret\"\n  key = \"00\""), @r#"
    lb.toml:143: VRRP instance "VI_2", authentication: key does not apply to authentication of type "pass"
        remove it, or write type = "hmac-sha256"
    "#);
}

#[test]
fn a_long_password_without_quoting_it_is_refused() {
    assert_snapshot!(refusal_with(r#""s3cret""#, r#""s3cret-s3cret""#), @r#"
    lb.toml:142: VRRP instance "VI_2", authentication: password has 13 characters, and an advertisement has room for 8
        write the first 8 of them: keepalived sends no more either
    "#);
}

#[test]
fn an_empty_password_is_refused() {
    assert_snapshot!(refusal_with(r#""s3cret""#, r#""""#), @r#"
    lb.toml:142: VRRP instance "VI_2", authentication: password is empty
        write 1 to 8 letters, digits and other printable ASCII characters
    "#);
}

#[test]
fn a_password_that_is_not_ascii_without_quoting_it_is_refused() {
    assert_snapshot!(refusal_with(r#""s3cret""#, r#""s3crét""#), @r#"
    lb.toml:142: VRRP instance "VI_2", authentication: password has characters that are not printable ASCII
        write 1 to 8 letters, digits and other printable ASCII characters
    "#);
}

#[test]
fn an_hmac_key_that_is_too_short_without_quoting_it_is_refused() {
    assert_snapshot!(refusal_with(r#""202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f""#, r#""2021""#), @r#"
    lb.toml:95: VRRP instance "VI_1", authentication: key is not a key of 64 hexadecimal digits
        write the output of `openssl rand -hex 32`, the same on all nodes of the virtual router
    "#);
}

#[test]
fn a_repeat_of_0_is_refused() {
    assert_snapshot!(refusal_with("repeat = 5", "repeat = 0"), @r#"
    lb.toml:98: VRRP instance "VI_1", announcement: repeat 0 is out of range
        write a whole number from 1 to 20
    "#);
}

#[test]
fn an_announcement_delay_over_a_minute_is_refused() {
    assert_snapshot!(refusal_with(r#"delay = "3s""#, r#"delay = "61s""#), @r#"
    lb.toml:99: VRRP instance "VI_1", announcement: delay "61s" is out of range
        write a duration from 0s to 1m, with its unit, such as "1s"
    "#);
}

#[test]
fn a_refresh_over_an_hour_is_refused() {
    assert_snapshot!(refusal_with(r#"refresh = "30s""#, r#"refresh = "2h""#), @r#"
    lb.toml:100: VRRP instance "VI_1", announcement: refresh "2h" is out of range
        write a duration from 0s to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn a_program_with_a_relative_path_is_refused() {
    assert_snapshot!(refusal_with(r#""/usr/local/bin/fault""#, r#""fault""#), @r#"
    lb.toml:90: VRRP instance "VI_1": notify_fault "fault" is not an absolute path
        write a path that begins with /
    "#);
}

#[test]
fn a_program_with_a_relative_path_and_arguments_is_refused() {
    assert_snapshot!(refusal_with(r#"["/usr/local/bin/notify", "vip 1"]"#, r#"["notify", "vip 1"]"#), @r#"
    lb.toml:87: VRRP instance "VI_1": notify "notify" is not an absolute path
        write a path that begins with /
    "#);
}

#[test]
fn a_program_with_arguments_in_one_string_is_refused() {
    assert_snapshot!(refusal_with(r#""/usr/local/bin/fault""#, r#""/usr/local/bin/fault  now""#), @r#"
    lb.toml:90: VRRP instance "VI_1": notify_fault "/usr/local/bin/fault  now" has a space in it
        write ["/usr/local/bin/fault", "now"] for a program with arguments, or ["/usr/local/bin/fault  now"] for a path with a space
    "#);
}

#[test]
fn no_program_is_refused() {
    assert_snapshot!(refusal_with(r#"["/usr/local/bin/stop"]"#, "[]"), @r#"
    lb.toml:91: VRRP instance "VI_1": notify_stop is empty
        write a program and its arguments, as in ["/usr/local/bin/notify", "vip"]
    "#);
}

#[test]
fn an_argument_that_is_a_number_is_refused() {
    assert_snapshot!(refusal_with(r#""vip 1""#, "1"), @r#"
    lb.toml:87: VRRP instance "VI_1": notify #2 is a whole number
        write the same in double quotes
    "#);
}

#[test]
fn an_argument_with_a_zero_is_refused() {
    assert_snapshot!(refusal_with(r#""vip 1""#, r#""vip\u00001""#), @r#"
    lb.toml:87: VRRP instance "VI_1": notify #2 has a zero character in it
        remove the character
    "#);
}

#[test]
fn a_track_without_a_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "datapath""#, ""), @r#"
    lb.toml:126: VRRP instance "VI_1", track #5: type is missing
        add it, for example type = "interface"
    "#);
}

#[test]
fn a_track_of_an_unknown_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "datapath""#, r#"type = "process""#), @r#"
    lb.toml:127: VRRP instance "VI_1", track #5: type "process" is not known
        write "interface", "service", "script", "file" or "datapath"
    "#);
}

#[test]
fn a_track_of_the_instances_own_interface_is_refused() {
    assert_snapshot!(refusal_with(r#""eth3""#, r#""eth2""#), @r#"
    lb.toml:104: VRRP instance "VI_1", track #1: interface "eth2" is the interface of the instance, which is watched in any case
        remove the track, or write another interface
    "#);
}

#[test]
fn a_track_without_an_interface_is_refused() {
    assert_snapshot!(refusal_with(r#"interface = "eth3""#, ""), @r#"
    lb.toml:102: VRRP instance "VI_1", track #1: interface is missing
        add it, for example interface = "eth1"
    "#);
}

#[test]
fn a_weight_of_0_is_refused() {
    assert_snapshot!(refusal_with("weight = -20", "weight = 0"), @r#"
    lb.toml:105: VRRP instance "VI_1", track #1: weight 0 has no effect
        write a whole number from -253 to 253, or remove it: without a weight, failure is a fault
    "#);
}

#[test]
fn a_weight_of_minus_254_is_refused() {
    assert_snapshot!(refusal_with("weight = -20", "weight = -254"), @r#"
    lb.toml:105: VRRP instance "VI_1", track #1: weight -254 is out of range
        write a whole number from -253 to 253
    "#);
}

#[test]
fn a_key_of_another_type_of_track_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "datapath""#, "type = \"datapath\"\n  path = \"/run/lb/file\""), @r#"
    lb.toml:128: VRRP instance "VI_1", track #5: path does not apply to a track of type "datapath"
        remove it, or write type = "file"
    "#);
}

#[test]
fn a_track_of_a_service_that_is_not_configured_with_a_guess_is_refused() {
    assert_snapshot!(refusal_with(r#"service = "dns""#, r#"service = "crm-wbe""#), @r#"
    lb.toml:109: VRRP instance "VI_1", track #2: service "crm-wbe" is not configured
        did you mean "crm-web"?
    "#);
}

#[test]
fn a_track_of_a_service_that_resembles_none_is_refused() {
    assert_snapshot!(refusal_with(r#"service = "dns""#, r#"service = "mail""#), @r#"
    lb.toml:109: VRRP instance "VI_1", track #2: service "mail" is not configured
        add a [[service]] with name = "mail", or write the name of one
    "#);
}

#[test]
fn a_track_of_0_backends_is_refused() {
    assert_snapshot!(refusal_with("min_backends = 2", "min_backends = 0"), @r#"
    lb.toml:110: VRRP instance "VI_1", track #2: min_backends 0 is out of range
        write a whole number from 1 to 65535
    "#);
}

#[test]
fn a_script_without_a_command_is_refused() {
    assert_snapshot!(refusal_with(r#"command = ["/usr/local/bin/check", "--fast"]"#, ""), @r#"
    lb.toml:112: VRRP instance "VI_1", track #3: command is missing
        add it, for example command = "/usr/local/bin/check"
    "#);
}

#[test]
fn a_script_more_often_than_each_100_ms_is_refused() {
    assert_snapshot!(refusal_with(r#"interval = "1m""#, r#"interval = "50ms""#), @r#"
    lb.toml:115: VRRP instance "VI_1", track #3: interval "50ms" is out of range
        write a duration from 100ms to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn a_script_timeout_of_0_is_refused() {
    assert_snapshot!(refusal_with(r#"timeout = "10s""#, r#"timeout = "0s""#), @r#"
    lb.toml:116: VRRP instance "VI_1", track #3: timeout "0s" is out of range
        write a duration from 10ms to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn a_script_rise_of_0_is_refused() {
    assert_snapshot!(refusal_with("rise = 5", "rise = 0"), @r#"
    lb.toml:117: VRRP instance "VI_1", track #3: rise 0 is out of range
        write a whole number from 1 to 100
    "#);
}

#[test]
fn a_script_fall_over_100_is_refused() {
    assert_snapshot!(refusal_with("fall = 6", "fall = 101"), @r#"
    lb.toml:118: VRRP instance "VI_1", track #3: fall 101 is out of range
        write a whole number from 1 to 100
    "#);
}

#[test]
fn a_relative_path_of_a_file_is_refused() {
    assert_snapshot!(refusal_with(r#""/run/lb/priority""#, r#""priority""#), @r#"
    lb.toml:123: VRRP instance "VI_1", track #4: path "priority" is not an absolute path
        write a path that begins with /
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
