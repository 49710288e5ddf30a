//! What is refused in `[[vrrp]]`: virtual addresses, the source and the peers.

use insta::assert_snapshot;

use super::super::super::refusal_with;

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
