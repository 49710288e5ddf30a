//! What is refused in `[[service.backend]]`, and what the operator is told.

use insta::assert_snapshot;

use super::super::{Backend, config, refusal, refusal_with, service};

#[test]
fn a_link_local_address_is_refused() {
    let file = refusal_with(r#"address = "192.168.1.100""#, r#"address = "fe80::1""#);
    assert_snapshot!(file, @r#"
    lb.toml:39: service "crm-web", backend #1: address fe80::1 is a link-local address, and nothing says by which interface it is reached
        write a global or a unique local address (RFC 4193)
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
        write port 80, or the address alone, or forwarding = "full-nat" in the service
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
        write an address of the same family, or forwarding = "ipip", "gue" or "full-nat" in the service
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
