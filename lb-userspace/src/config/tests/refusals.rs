//! What is refused, and what the operator is told.

use insta::assert_snapshot;

use super::{Backend, DrainTimeout, config, refusal, refusal_with, service};

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
        remove it, or write "name", "address", "weight" or "server_id"
    "#);
}

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
fn a_service_without_its_required_keys_is_refused() {
    assert_snapshot!(refusal("[[service]]\nslots = 1024"), @r#"
    lb.toml:1: service #1: name is missing
        add it, for example name = "crm-web"
    lb.toml:1: service #1: address is missing
        add it, for example address = "192.168.1.10:80"
    lb.toml:1: service #1: protocol is missing
        add it, for example protocol = "tcp"
    lb.toml:1: service #1: forwarding is missing
        add it, for example forwarding = "l2-dsr"
    "#);
}

#[test]
fn a_service_name_with_a_slash_is_refused() {
    assert_snapshot!(refusal_with(r#""crm-web""#, r#""crm/web""#), @r#"
    lb.toml:19: service #1: name "crm/web" is not a name
        write 1 to 64 characters out of letters, digits and _.:-
    "#);
}

#[test]
fn a_service_name_twice_is_refused() {
    assert_snapshot!(refusal_with(r#""crm-web""#, r#""dns""#), @r#"
    lb.toml:48: service "dns": name is the same as in line 19
        write another name
    "#);
}

#[test]
fn a_service_address_twice_is_refused() {
    let text = service("a", "10.0.0.1:80") + &service("b", "10.0.0.1:80");
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:8: service "b": address is the same as in line 3
        write another address, port or protocol, or put the backends into one service
    "#);
}

#[test]
fn a_service_address_that_is_a_name_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.10:80", "crm.example.com:80"), @r#"
    lb.toml:20: service "crm-web": address "crm.example.com:80" is not an IP address and port
        write address and port, as in "192.168.1.10:80" or "[2001:db8::1]:80", with * as the port for all ports
    "#);
}

#[test]
fn a_service_port_out_of_range_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.10:80", "192.168.1.10:70000"), @r#"
    lb.toml:20: service "crm-web": address "192.168.1.10:70000" has a port that is not a number from 0 to 65535
        write address and port, as in "192.168.1.10:80" or "[2001:db8::1]:80", with * as the port for all ports
    "#);
}

#[test]
fn an_ipv6_service_address_without_brackets_is_refused() {
    assert_snapshot!(refusal_with("[2001:db8::53]:*", "2001:db8::53:53"), @r#"
    lb.toml:49: service "dns": address "2001:db8::53:53" is an IPv6 address without brackets
        write address and port, as in "192.168.1.10:80" or "[2001:db8::1]:80", with * as the port for all ports
    "#);
}

#[test]
fn the_unspecified_address_as_service_address_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.10:80", "0.0.0.0:80"), @r#"
    lb.toml:20: service "crm-web": address 0.0.0.0 is the unspecified address
        write the unicast address of one host
    "#);
}

#[test]
fn a_multicast_service_address_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.10:80", "224.0.0.18:80"), @r#"
    lb.toml:20: service "crm-web": address 224.0.0.18 is a multicast address
        write the unicast address of one host
    "#);
}

#[test]
fn a_loopback_service_address_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.10:80", "127.0.0.1:80"), @r#"
    lb.toml:20: service "crm-web": address 127.0.0.1 is a loopback address
        write an address that other hosts can reach
    "#);
}

#[test]
fn the_broadcast_address_as_service_address_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.10:80", "255.255.255.255:80"), @r#"
    lb.toml:20: service "crm-web": address 255.255.255.255 is the broadcast address
        write the unicast address of one host
    "#);
}

#[test]
fn an_ipv4_address_in_ipv6_notation_is_refused() {
    assert_snapshot!(refusal_with("[2001:db8::53]:*", "[::ffff:10.0.0.1]:*"), @r#"
    lb.toml:49: service "dns": address ::ffff:10.0.0.1 is an IPv4 address in IPv6 notation
        write the unicast address of one host
    "#);
}

#[test]
fn an_unknown_protocol_is_refused() {
    assert_snapshot!(refusal_with(r#""udp""#, r#""sctp""#), @r#"
    lb.toml:50: service "dns": protocol "sctp" is not known
        write "tcp" or "udp"
    "#);
}

#[test]
fn an_algorithm_that_is_not_in_this_version_is_refused() {
    assert_snapshot!(refusal_with(r#""maglev""#, r#""least-response-time""#), @r#"
    lb.toml:22: service "crm-web": algorithm "least-response-time" is not in this version
        write "maglev", "source-hash", "round-robin", "weighted-round-robin", "random" or "least-connections": this version has no other
    "#);
}

#[test]
fn a_misspelt_algorithm_is_refused() {
    assert_snapshot!(refusal_with(r#""maglev""#, r#""magelv""#), @r#"
    lb.toml:22: service "crm-web": algorithm "magelv" is not known
        did you mean "maglev"?
    "#);
}

#[test]
fn a_forwarding_mode_that_is_not_in_this_version_is_refused() {
    assert_snapshot!(refusal_with(r#""ipip""#, r#""full-nat""#), @r#"
    lb.toml:51: service "dns": forwarding "full-nat" is not in this version
        write "l2-dsr" or "ipip": this version has no other
    "#);
}

#[test]
fn an_unknown_forwarding_mode_is_refused() {
    assert_snapshot!(refusal_with(r#""ipip""#, r#""vxlan""#), @r#"
    lb.toml:51: service "dns": forwarding "vxlan" is not known
        write "l2-dsr" or "ipip"
    "#);
}

#[test]
fn slots_out_of_range_are_refused() {
    assert_snapshot!(refusal_with("slots = 4096", "slots = 512"), @r#"
    lb.toml:26: service "crm-web": slots 512 is out of range
        write a whole number from 1024 to 65536
    "#);
}

#[test]
fn slots_that_are_not_a_power_of_two_are_refused() {
    assert_snapshot!(refusal_with("slots = 4096", "slots = 5000"), @r#"
    lb.toml:26: service "crm-web": slots 5000 is not a power of two
        write 4096 or 8192
    "#);
}

#[test]
fn an_announcement_that_is_not_a_flag_is_refused() {
    assert_snapshot!(refusal_with("announce = true", r#"announce = "yes""#), @r#"
    lb.toml:24: service "crm-web": announce is a string
        write true or false
    "#);
}

#[test]
fn an_announcement_without_a_choice_of_interface_is_refused() {
    assert_snapshot!(refusal_with(r#"interface = "eth0""#, ""), @r#"
    lb.toml:24: service "crm-web": announce does not say on which interface
        add interface = "eth0", or another [[interface]]
    "#);
}

#[test]
fn an_announcement_on_an_interface_that_is_not_configured_is_refused() {
    assert_snapshot!(refusal_with(r#"interface = "eth0""#, r#"interface = "eth2""#), @r#"
    lb.toml:25: service "crm-web": interface "eth2" is not configured
        add an [[interface]] with name = "eth2", or write the name of one
    "#);
}

#[test]
fn an_announcement_without_any_interface_is_refused() {
    let text = service("a", "10.0.0.1:80") + "announce = true";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:6: service "a": announce needs an interface, and none is configured
        add an [[interface]]
    "#);
}

#[test]
fn an_interface_without_an_announcement_is_refused() {
    assert_snapshot!(refusal_with("announce = true", ""), @r#"
    lb.toml:25: service "crm-web": interface applies only with announce = true
        add announce = true, or remove it
    "#);
}

#[test]
fn a_health_check_without_a_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "http""#, ""), @r#"
    lb.toml:28: service "crm-web", health check: type is missing
        add it, for example type = "tcp"
    "#);
}

#[test]
fn an_unknown_type_of_health_check_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "http""#, r#"type = "icmp""#), @r#"
    lb.toml:29: service "crm-web", health check: type "icmp" is not known
        write "tcp", "http" or "https"
    "#);
}

#[test]
fn a_path_in_a_tcp_check_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "http""#, r#"type = "tcp""#), @r#"
    lb.toml:30: service "crm-web", health check: path does not apply to a check of type "tcp"
        remove it, or write type = "http"
    lb.toml:31: service "crm-web", health check: expected_status does not apply to a check of type "tcp"
        remove it, or write type = "http"
    "#);
}

#[test]
fn certificates_in_an_http_check_are_refused() {
    assert_snapshot!(refusal_with(r#"type = "https""#, r#"type = "http""#), @r#"
    lb.toml:57: service "dns", health check: server_name does not apply to a check of type "http"
        remove it, or write type = "https"
    lb.toml:58: service "dns", health check: ca_file does not apply to a check of type "http"
        remove it, or write type = "https"
    "#);
}

#[test]
fn a_path_that_does_not_begin_with_a_slash_is_refused() {
    assert_snapshot!(refusal_with(r#""/healthz""#, r#""healthz""#), @r#"
    lb.toml:30: service "crm-web", health check: path "healthz" is not the path of a request
        write a path such as "/healthz", with spaces and the like as %20
    "#);
}

#[test]
fn a_path_with_a_space_is_refused() {
    assert_snapshot!(refusal_with(r#""/healthz""#, r#""/health check""#), @r#"
    lb.toml:30: service "crm-web", health check: path "/health check" is not the path of a request
        write a path such as "/healthz", with spaces and the like as %20
    "#);
}

#[test]
fn a_method_in_lower_case_is_refused() {
    assert_snapshot!(refusal_with(r#""HEAD""#, r#""head""#), @r#"
    lb.toml:55: service "dns", health check: method "head" is not known
        write "GET" or "HEAD"
    "#);
}

#[test]
fn a_body_for_head_is_refused() {
    assert_snapshot!(refusal_with(r#"method = "HEAD""#, "method = \"HEAD\"\n  body_contains = \"ok\""), @r#"
    lb.toml:56: service "dns", health check: body_contains needs a body, and the answer to HEAD has none
        remove it, or write method = "GET"
    "#);
}

#[test]
fn an_empty_body_part_is_refused() {
    assert_snapshot!(refusal_with(r#"method = "HEAD""#, r#"body_contains = """#), @r#"
    lb.toml:55: service "dns", health check: body_contains is empty: every body contains that
        remove it, or write what the body must contain
    "#);
}

#[test]
fn an_empty_host_is_refused() {
    assert_snapshot!(refusal_with(r#""dns.example.com""#, r#""""#), @r#"
    lb.toml:56: service "dns", health check: host "" is not a host name
        write a name such as "crm.example.com"
    "#);
}

#[test]
fn a_status_range_that_runs_backwards_is_refused() {
    assert_snapshot!(refusal_with("200,204,301-302", "302-301"), @r#"
    lb.toml:31: service "crm-web", health check: expected_status "302-301" is not a list of status codes
        write codes from 100 to 599, such as "200", "200-299" or "200,204,301-302"
    "#);
}

#[test]
fn a_status_that_is_none_is_refused() {
    assert_snapshot!(refusal_with(r#""200,204,301-302""#, "20"), @r#"
    lb.toml:31: service "crm-web", health check: expected_status 20 is not a list of status codes
        write codes from 100 to 599, such as "200", "200-299" or "200,204,301-302"
    "#);
}

#[test]
fn an_interval_without_a_unit_is_refused() {
    assert_snapshot!(refusal_with(r#""2s""#, "2"), @r#"
    lb.toml:32: service "crm-web", health check: interval 2 is not a duration
        write a duration from 10ms to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn an_interval_that_is_too_long_is_refused() {
    assert_snapshot!(refusal_with(r#""2s""#, r#""2h""#), @r#"
    lb.toml:32: service "crm-web", health check: interval "2h" is out of range
        write a duration from 10ms to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn a_timeout_that_is_too_short_is_refused() {
    assert_snapshot!(refusal_with(r#""250ms""#, r#""10us""#), @r#"
    lb.toml:33: service "crm-web", health check: timeout "10us" is out of range
        write a duration from 1ms to 1m, with its unit, such as "1s"
    "#);
}

#[test]
fn a_timeout_that_is_no_duration_is_refused() {
    assert_snapshot!(refusal_with(r#""250ms""#, r#""soon""#), @r#"
    lb.toml:33: service "crm-web", health check: timeout "soon" is not a duration
        write a duration from 1ms to 1m, with its unit, such as "1s"
    "#);
}

#[test]
fn a_rise_of_0_is_refused() {
    assert_snapshot!(refusal_with("rise = 3", "rise = 0"), @r#"
    lb.toml:34: service "crm-web", health check: rise 0 is out of range
        write a whole number from 1 to 100
    "#);
}

#[test]
fn a_fall_over_100_is_refused() {
    assert_snapshot!(refusal_with("fall = 4", "fall = 101"), @r#"
    lb.toml:35: service "crm-web", health check: fall 101 is out of range
        write a whole number from 1 to 100
    "#);
}

#[test]
fn a_jitter_over_50_percent_is_refused() {
    assert_snapshot!(refusal_with("jitter = 20", "jitter = 51"), @r#"
    lb.toml:36: service "crm-web", health check: jitter 51 is out of range
        write a whole number from 0 to 50
    "#);
}

#[test]
fn a_health_check_without_a_port_for_a_service_with_all_ports_is_refused() {
    assert_snapshot!(refusal_with("port = 8443", ""), @r#"
    lb.toml:53: service "dns", health check: port is missing, and the service has all ports
        add the port to ask, for example port = 80
    "#);
}

#[test]
fn a_health_check_on_port_0_is_refused() {
    assert_snapshot!(refusal_with("port = 8443", "port = 0"), @r#"
    lb.toml:59: service "dns", health check: port 0 is out of range
        write a whole number from 1 to 65535
    "#);
}

#[test]
fn a_weight_out_of_range_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", "weight = 70000"), @r#"
    lb.toml:40: service "crm-web", backend "192.168.1.100": weight 70000 is out of range
        write a whole number from 0 to 65535
    "#);
}

#[test]
fn a_weight_beyond_64_bits_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", "weight = 99999999999999999999"), @r#"
    lb.toml:40: service "crm-web", backend "192.168.1.100": weight 99999999999999999999 is out of range
        write a whole number from 0 to 65535
    "#);
}

#[test]
fn a_negative_weight_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", "weight = -1"), @r#"
    lb.toml:40: service "crm-web", backend "192.168.1.100": weight -1 is out of range
        write a whole number from 0 to 65535
    "#);
}

#[test]
fn a_weight_that_is_a_string_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", r#"weight = "5""#), @r#"
    lb.toml:40: service "crm-web", backend "192.168.1.100": weight is a string
        write a whole number from 0 to 65535
    "#);
}

#[test]
fn a_fractional_weight_is_refused() {
    assert_snapshot!(refusal_with("weight = 5", "weight = 0.5"), @r#"
    lb.toml:40: service "crm-web", backend "192.168.1.100": weight is a decimal number
        write a whole number from 0 to 65535
    "#);
}

#[test]
fn a_backend_without_an_address_is_refused() {
    assert_snapshot!(refusal_with(r#"address = "10.2.0.1""#, ""), @r#"
    lb.toml:61: service "dns", backend #1: address is missing
        add it, for example address = "10.0.0.1"
    "#);
}

#[test]
fn several_addresses_in_one_backend_are_refused() {
    assert_snapshot!(refusal_with(r#""10.2.0.1""#, r#"["10.2.0.1", "10.2.0.2"]"#), @r#"
    lb.toml:62: service "dns", backend #1: address is an array
        write a string in double quotes
    "#);
}

#[test]
fn a_backend_address_that_is_a_name_is_refused() {
    assert_snapshot!(refusal_with(r#""10.2.0.1""#, r#""backend.example.com""#), @r#"
    lb.toml:62: service "dns", backend #1: address "backend.example.com" is not an IP address
        write the address, as in "10.0.0.1" or "2001:db8::1", or with the service's port, as in "10.0.0.1:80" or "[2001:db8::1]:80"
    "#);
}

#[test]
fn a_multicast_backend_address_is_refused() {
    assert_snapshot!(refusal_with(r#""10.2.0.1""#, r#""239.0.0.1""#), @r#"
    lb.toml:62: service "dns", backend #1: address 239.0.0.1 is a multicast address
        write the unicast address of one host
    "#);
}

#[test]
fn a_backend_port_with_a_sign_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.101:80", "192.168.1.101:+80"), @r#"
    lb.toml:44: service "crm-web", backend "spare": address "192.168.1.101:+80" has a port that is not a number from 1 to 65535
        write the address, as in "10.0.0.1" or "2001:db8::1", or with the service's port, as in "10.0.0.1:80" or "[2001:db8::1]:80"
    "#);
}

#[test]
fn a_backend_port_that_is_not_the_services_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.101:80", "192.168.1.101:8080"), @r#"
    lb.toml:44: service "crm-web", backend "spare": port 8080 is not the service's, and l2-dsr does not translate ports
        write port 80, or the address alone
    "#);
}

#[test]
fn a_backend_port_in_a_service_with_all_ports_is_refused() {
    assert_snapshot!(refusal_with(r#""10.2.0.1""#, r#""10.2.0.1:53""#), @r#"
    lb.toml:62: service "dns", backend "10.2.0.1": port 53 is one port, and the service has all ports
        write the address without a port: each flow keeps its own
    "#);
}

#[test]
fn a_backend_of_the_other_family_in_l2_dsr_is_refused() {
    assert_snapshot!(refusal_with(r#""192.168.1.100""#, r#""2001:db8::100""#), @r#"
    lb.toml:39: service "crm-web", backend "2001:db8::100": 2001:db8::100 is not of the address family of 192.168.1.10, and l2-dsr leaves packets as they are
        write an address of the same family, or forwarding = "ipip" in the service
    "#);
}

#[test]
fn a_backend_address_twice_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.101:80", "192.168.1.100"), @r#"
    lb.toml:44: service "crm-web", backend "spare": 192.168.1.100 is the address of backend "192.168.1.100" already
        write each backend of "crm-web" once, with a greater weight for a greater share
    "#);
}

#[test]
fn a_backend_name_twice_is_refused() {
    assert_snapshot!(refusal_with(r#"address = "192.168.1.100""#, "name = \"spare\"\naddress = \"192.168.1.100\""), @r#"
    lb.toml:44: service "crm-web", backend "spare": "spare" is the name of the backend at 192.168.1.100 already
        write another name
    "#);
}

#[test]
fn a_backend_name_with_a_space_is_refused() {
    assert_snapshot!(refusal_with(r#""spare""#, r#""the spare""#), @r#"
    lb.toml:43: service "crm-web", backend #2: name "the spare" is not a name
        write 1 to 64 characters out of letters, digits and _.:-[]
    "#);
}

#[test]
fn a_date_as_a_name_is_refused() {
    assert_snapshot!(refusal_with(r#""crm-web""#, "2026-01-01"), @"
    lb.toml:19: service #1: name is a date or time
        write the same in double quotes
    ");
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

#[test]
fn a_wrong_interface_is_not_reported_twice() {
    assert_snapshot!(refusal_with(r#"interface = "eth0""#, r#"interface = "eth 0""#), @r#"
    lb.toml:25: service "crm-web": interface "eth 0" is not an interface name
        write a name that `ip link` shows: 1 to 15 bytes, without spaces, / and :
    "#);
}

#[test]
fn a_backend_named_by_the_address_of_another_host_is_refused() {
    let text = service("a", "192.168.1.10:80")
        + "[[service.backend]]\naddress = \"10.0.0.1\"\n[[service.backend]]\nname = \"10.0.0.1\"\naddress = \"10.0.0.2\"";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:9: service "a", backend "10.0.0.1": name "10.0.0.1" is an address, and not the one of this backend, 10.0.0.2
        write another name, or none: lbctl finds backends by name and by address
    "#);
    config(&text.replace("name = \"10.0.0.1\"", "name = \"10.0.0.2\""));
    let verdict = Backend::parse(Some("2001:db8:0::1"), "2001:db8::2", 1).unwrap_err();
    assert_snapshot!(verdict, @r#"
    "2001:db8:0::1" is an address, and not the one of this backend, 2001:db8::2
        write another name, or none: lbctl finds backends by name and by address
    "#);
}

#[test]
fn a_backend_that_is_a_virtual_ip_of_this_node_is_refused_wherever_the_service_stands_in_the_file() {
    let backend = |address: &str| format!("[[service.backend]]\naddress = \"{address}\"\n");
    let text = service("a", "192.168.1.10:80")
        + &backend("192.168.1.10")
        + &backend("192.168.1.11")
        + &service("b", "192.168.1.11:80").replace("l2-dsr", "ipip")
        + &backend("192.168.1.10");
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:7: service "a", backend "192.168.1.10": address 192.168.1.10 is the virtual IP of service "a": packets for it would come back to this node
        write the address of the host that serves the flows
    lb.toml:9: service "a", backend "192.168.1.11": address 192.168.1.11 is the virtual IP of service "b": packets for it would come back to this node
        write the address of the host that serves the flows
    lb.toml:16: service "b", backend "192.168.1.10": address 192.168.1.10 is the virtual IP of service "a": packets for it would come back to this node
        write the address of the host that serves the flows
    "#);
}

#[test]
fn backends_that_no_packet_reaches_are_refused() {
    let verdicts = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "ff02::1"]
        .map(|address| Backend::parse(None, address, 1).unwrap_err().message);
    assert_snapshot!(verdicts.join("\n"), @"
    127.0.0.1 is a loopback address
    0.0.0.0 is the unspecified address
    224.0.0.1 is a multicast address
    255.255.255.255 is the broadcast address
    ::1 is a loopback address
    :: is the unspecified address
    ff02::1 is a multicast address
    ");
}

#[test]
fn a_drain_timeout_reads_what_it_writes() {
    for text in ["none", "0s", "10m", "24h", "1h 30m"] {
        let timeout: DrainTimeout = text.parse().unwrap();
        assert_eq!(timeout.to_string(), text);
    }
    assert_snapshot!("48h".parse::<DrainTimeout>().unwrap_err(), @r#"
    "48h" is out of range
        write a duration from 0s to 24h, with its unit, such as "1s", or "none"
    "#);
}
