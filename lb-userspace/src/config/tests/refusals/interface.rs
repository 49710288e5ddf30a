//! What is refused in `[[interface]]`, and what the operator is told.

use insta::assert_snapshot;

use super::super::refusal_with;

#[test]
fn an_interface_name_that_is_too_long_is_refused() {
    assert_snapshot!(refusal_with(r#"name = "eth1""#, r#"name = "ethernet-uplink-1""#), @r#"
    lb.toml:15: interface #2: name "ethernet-uplink-1" is not an interface name
        write a name that `ip link` shows: 1 to 15 bytes, without spaces, / and :
    "#);
}

#[test]
fn an_interface_without_a_name_is_refused() {
    assert_snapshot!(refusal_with(r#"name = "eth1""#, ""), @r#"
    lb.toml:14: interface #2: name is missing
        add it, for example name = "eth0"
    "#);
}

#[test]
fn an_interface_twice_is_refused() {
    assert_snapshot!(refusal_with(r#"name = "eth1""#, r#"name = "eth0""#), @r#"
    lb.toml:15: interface "eth0": name is the same as in line 10
        write each interface once
    "#);
}

#[test]
fn an_unknown_xdp_mode_is_refused() {
    assert_snapshot!(refusal_with(r#""native""#, r#""offload""#), @r#"
    lb.toml:11: interface "eth0": xdp "offload" is not known
        write "auto", "native" or "generic"
    "#);
}

#[test]
fn a_multicast_gateway_mac_is_refused() {
    assert_snapshot!(refusal_with("02:00:00:00:00:01", "03:00:00:00:00:01"), @r#"
    lb.toml:12: interface "eth0": gateway "03:00:00:00:00:01" is not the MAC address of one host
        write a MAC address such as "02:00:00:00:00:01", or an IP address such as "10.0.0.1"
    "#);
}

#[test]
fn a_gateway_mac_of_zeros_is_refused() {
    assert_snapshot!(refusal_with("02:00:00:00:00:01", "00:00:00:00:00:00"), @r#"
    lb.toml:12: interface "eth0": gateway "00:00:00:00:00:00" is not the MAC address of one host
        write a MAC address such as "02:00:00:00:00:01", or an IP address such as "10.0.0.1"
    "#);
}

#[test]
fn a_gateway_that_is_no_address_is_refused() {
    assert_snapshot!(refusal_with("02:00:00:00:00:01", "02:00:00:00:01"), @r#"
    lb.toml:12: interface "eth0": gateway "02:00:00:00:01" is neither a MAC nor an IP address
        write a MAC address such as "02:00:00:00:00:01", or an IP address such as "10.0.0.1"
    "#);
}

#[test]
fn a_loopback_gateway_is_refused() {
    assert_snapshot!(refusal_with(r#""10.1.0.1""#, r#""127.0.0.1""#), @r#"
    lb.toml:16: interface "eth1": gateway 127.0.0.1 is a loopback address
        write an address that other hosts can reach
    "#);
}

#[test]
fn a_wrong_interface_is_not_reported_twice() {
    assert_snapshot!(refusal_with(r#"interface = "eth0""#, r#"interface = "eth 0""#), @r#"
    lb.toml:25: service "crm-web": interface "eth 0" is not an interface name
        write a name that `ip link` shows: 1 to 15 bytes, without spaces, / and :
    "#);
}
