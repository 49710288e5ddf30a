//! What is refused in `[[service]]`, and what the operator is told.

use insta::assert_snapshot;

use super::super::{refusal, refusal_with, service};

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

/// It would take all ports, that of SSH among them, from the host that has the address.
#[test]
fn a_service_address_without_a_port_is_refused() {
    assert_snapshot!(refusal_with("192.168.1.10:80", "192.168.1.10"), @r#"
    lb.toml:20: service "crm-web": address "192.168.1.10" has no port
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
        write "tcp", "udp" or "icmp"
    "#);
}

#[test]
fn an_algorithm_by_latency_that_nobody_can_measure_is_refused() {
    let text = service("a", "10.0.0.1:80") + "algorithm = \"least-response-time\"";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:6: service "a": algorithm = "least-response-time" with forwarding = "ipip" needs a health check: replies do not pass here, so only its probes say how fast a backend is
        add [service.health], or write algorithm = "least-connections"
    "#);
    for measured in [text.replace("ipip", "full-nat"), text + "\n[service.health]\ntype = \"tcp\""] {
        assert!(crate::config::Config::parse("lb.toml", &measured).is_ok(), "{measured}");
    }
}

#[test]
fn a_misspelt_algorithm_is_refused() {
    assert_snapshot!(refusal_with(r#""maglev""#, r#""magelv""#), @r#"
    lb.toml:22: service "crm-web": algorithm "magelv" is not known
        did you mean "maglev"?
    "#);
}

#[test]
fn an_algorithm_by_the_name_that_another_balancer_has_is_told_its_name() {
    assert_snapshot!(refusal_with(r#""maglev""#, r#""wlc""#), @r#"
    lb.toml:22: service "crm-web": algorithm "wlc" is not known
        did you mean "least-connections"?
    "#);
}

#[test]
fn an_unknown_forwarding_mode_is_refused() {
    assert_snapshot!(refusal_with(r#""ipip""#, r#""vxlan""#), @r#"
    lb.toml:51: service "dns": forwarding "vxlan" is not known
        write "l2-dsr", "ipip", "gue", "nat" or "full-nat"
    "#);
}

#[test]
fn a_gue_port_without_gue_is_refused() {
    assert_snapshot!(refusal_with(r#""ipip""#, "\"ipip\"\ngue_port = 6080"), @r#"
    lb.toml:52: service "dns": gue_port applies only with forwarding = "gue", and the service has ipip
        remove it, or write forwarding = "gue"
    "#);
}

#[test]
fn a_gue_port_that_is_none_is_refused() {
    assert_snapshot!(refusal_with(r#""ipip""#, "\"gue\"\ngue_port = 0"), @r#"
    lb.toml:52: service "dns": gue_port 0 is out of range
        write a whole number from 1 to 65535
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
fn a_scheduler_that_is_not_to_remember_flows_is_refused() {
    let text = service("a", "10.0.0.1:80") + "algorithm = \"random\"\ntracking = \"when-needed\"";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:7: service "a": tracking = "when-needed" does not go with algorithm = "random": only the flow table knows whose a flow is
        remove it: each flow is remembered
    "#);
}

#[test]
fn a_limit_of_connections_that_nobody_counts_is_refused() {
    let text = service("a", "10.0.0.1:80")
        + "tracking = \"never\"\n[[service.backend]]\naddress = \"10.0.0.2\"\nmax_connections = 10";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:9: service "a", backend "10.0.0.2": max_connections does not go with tracking = "never": connections that are not remembered cannot be counted
        remove it, or write another tracking in the service
    "#);
}

#[test]
fn what_needs_a_count_of_connections_is_refused_where_connection_ids_name_backends() {
    let quic = "[service.quic]\nserver_id_length = 1\n";
    let backend = "[[service.backend]]\naddress = \"10.0.0.2\"\nserver_id = \"01\"\nmax_connections = 10";
    let udp = service("a", "10.0.0.1:80").replace("tcp", "udp");
    assert_snapshot!(refusal(&(udp.clone() + quic + backend)), @r#"
    lb.toml:11: service "a", backend "10.0.0.2": max_connections does not go with [service.quic]: connection ids take packets past the flow table, so nobody counts connections
        remove it, or the section
    "#);
    assert_snapshot!(refusal(&(udp.clone() + "algorithm = \"least-connections\"\n" + quic)), @r#"
    lb.toml:6: service "a": algorithm = "least-connections" does not go with [service.quic]: connection ids take packets past the flow table, so nobody counts connections
        remove it, or the section
    "#);
    let health = "[service.health]\ntype = \"tcp\"\nport = 80\n";
    assert_snapshot!(refusal(&(udp + "algorithm = \"least-response-time\"\n" + health + quic)), @r#"
    lb.toml:6: service "a": algorithm = "least-response-time" does not go with [service.quic]: connection ids take packets past the flow table, so nobody counts connections
        remove it, or the section
    "#);
}

#[test]
fn a_limit_of_no_connections_is_refused() {
    let text = service("a", "10.0.0.1:80") + "[[service.backend]]\naddress = \"10.0.0.2\"\nmax_connections = 0";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:8: service "a", backend "10.0.0.2": max_connections 0 is out of range
        write a whole number from 1 to 67108864
    "#);
}

#[test]
fn a_source_prefix_that_is_longer_than_an_address_is_refused() {
    let text = service("a", "10.0.0.1:80") + "algorithm = \"source-hash\"\nsource_prefix = 33";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:7: service "a": source_prefix 33 is out of range
        write a whole number from 1 to 32
    "#);
}

#[test]
fn a_source_prefix_for_another_algorithm_is_refused() {
    let text = service("a", "10.0.0.1:80") + "algorithm = \"maglev\"\nsource_prefix = 24";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:7: service "a": source_prefix has no effect with algorithm = "maglev"
        remove it, or write algorithm = "source-hash"
    "#);
}

#[test]
fn resets_for_udp_when_backends_are_full_are_refused() {
    let text = service("a", "10.0.0.1:80").replace("tcp", "udp") + "on_full = \"reset\"";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:6: service "a": on_full = "reset" does not apply to UDP
        remove it, or write "drop"
    "#);
}

#[test]
fn slow_start_where_all_have_equal_turns_is_refused() {
    let text = service("a", "10.0.0.1:80") + "algorithm = \"round-robin\"\nslow_start = \"10s\"";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:7: service "a": slow_start has no effect with algorithm = "round-robin": each backend has as many turns as the others
        remove it, or write algorithm = "weighted-round-robin"
    "#);
}
