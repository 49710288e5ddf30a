//! What is refused in `[node]`, and what the operator is told.

use insta::assert_snapshot;

use super::super::refusal_with;

#[test]
fn a_node_name_with_a_space_is_refused() {
    assert_snapshot!(refusal_with(r#""lb-1""#, r#""lb 1""#), @r#"
    lb.toml:3: node: name "lb 1" is not a name
        write 1 to 64 characters out of letters, digits and _.-
    "#);
}

#[test]
fn a_name_that_is_a_number_is_refused() {
    assert_snapshot!(refusal_with(r#""lb-1""#, "7"), @"
    lb.toml:3: node: name is a whole number
        write the same in double quotes
    ");
}

#[test]
fn a_relative_path_is_refused() {
    assert_snapshot!(refusal_with(r#""/run/lb/test.sock""#, r#""lb.sock""#), @r#"
    lb.toml:4: node: socket "lb.sock" is not an absolute path
        write a path that begins with /
    "#);
}

#[test]
fn a_short_hash_key_without_quoting_it_is_refused() {
    assert_snapshot!(refusal_with(r#""000102030405060708090a0b0c0d0e0f""#, r#""00010203""#), @"
    lb.toml:5: node: hash_key is not a key of 32 hexadecimal digits
        write the output of `openssl rand -hex 16`, the same on all nodes that share a virtual IP
    ");
}

#[test]
fn a_hash_key_that_is_not_hexadecimal_without_quoting_it_is_refused() {
    assert_snapshot!(refusal_with(r#""000102030405060708090a0b0c0d0e0f""#, r#""+00102030405060708090a0b0c0d0e0f""#), @"
    lb.toml:5: node: hash_key is not a key of 32 hexadecimal digits
        write the output of `openssl rand -hex 16`, the same on all nodes that share a virtual IP
    ");
}

#[test]
fn a_tunnel_prefix_with_host_bits_is_refused() {
    assert_snapshot!(refusal_with("10.96.0.0/16", "10.96.0.1/16"), @r#"
    lb.toml:6: node: tunnel_source "10.96.0.1/16" has host bits
        write an IPv4 address, or a prefix from /8 to /32 without host bits, as in "10.96.0.0/16"
    "#);
}

#[test]
fn a_tunnel_prefix_that_is_too_short_is_refused() {
    assert_snapshot!(refusal_with("10.96.0.0/16", "10.0.0.0/7"), @r#"
    lb.toml:6: node: tunnel_source "10.0.0.0/7" has a prefix length out of range
        write an IPv4 address, or a prefix from /8 to /32 without host bits, as in "10.96.0.0/16"
    "#);
}

#[test]
fn an_ipv6_tunnel_prefix_with_too_much_entropy_is_refused() {
    assert_snapshot!(refusal_with(r#""2001:db8::1""#, r#""2001:db8::/64""#), @r#"
    lb.toml:7: node: tunnel_source_v6 "2001:db8::/64" has a prefix length out of range
        write an IPv6 address, or a prefix from /96 to /128 without host bits, as in "2001:db8::/96"
    "#);
}

#[test]
fn an_ipv6_tunnel_prefix_of_length_0_is_refused() {
    assert_snapshot!(refusal_with(r#""2001:db8::1""#, r#""::/0""#), @r#"
    lb.toml:7: node: tunnel_source_v6 "::/0" has a prefix length out of range
        write an IPv6 address, or a prefix from /96 to /128 without host bits, as in "2001:db8::/96"
    "#);
}

#[test]
fn a_tunnel_source_of_the_other_family_is_refused() {
    assert_snapshot!(refusal_with(r#""2001:db8::1""#, r#""10.0.0.1""#), @r#"
    lb.toml:7: node: tunnel_source_v6 "10.0.0.1" is of the other address family
        write an IPv6 address, or a prefix from /96 to /128 without host bits, as in "2001:db8::/96"
    "#);
}

#[test]
fn a_tunnel_source_that_is_a_name_is_refused() {
    assert_snapshot!(refusal_with(r#""10.96.0.0/16""#, r#""tunnel0""#), @r#"
    lb.toml:6: node: tunnel_source "tunnel0" is not an address or a prefix
        write an IPv4 address, or a prefix from /8 to /32 without host bits, as in "10.96.0.0/16"
    "#);
}
