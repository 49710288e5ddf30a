//! Services of ICMP, which has no ports.

use std::time::Duration;

use insta::assert_snapshot;

use super::{config, refusal};
use crate::config::{Protocol, Service};

/// A service with this address, forwarding, and keys and sections.
fn file(address: &str, forwarding: &str, keys: &str) -> String {
    format!(
        "[[service]]\nname = \"ping\"\naddress = {address:?}\nprotocol = \"icmp\"\nforwarding = {forwarding:?}\n{keys}\n"
    )
}

fn service(address: &str, forwarding: &str, keys: &str) -> Service {
    config(&file(address, forwarding, keys)).services.remove(0)
}

const BACKEND: &str = "[[service.backend]]\naddress = \"10.0.0.1\"";

#[test]
fn a_service_has_an_address_of_either_family_alone() {
    for address in ["192.0.2.1", "[2001:db8::1]", "2001:db8::1"] {
        for forwarding in ["l2-dsr", "ipip", "gue", "nat", "full-nat"] {
            let service = service(address, forwarding, "");
            assert_eq!((service.protocol, service.port), (Protocol::Icmp, 0));
        }
    }
}

#[test]
fn it_stands_beside_services_of_the_same_address() {
    let other = |protocol: &str| {
        file("192.0.2.1", "l2-dsr", "").replace("icmp", protocol).replace("ping", protocol).replace("2.1", "2.1:*")
    };
    let file = file("192.0.2.1", "full-nat", BACKEND) + &other("tcp") + &other("udp");
    assert_eq!(config(&file).services.len(), 3);
}

#[test]
fn a_port_is_refused() {
    assert_snapshot!(refusal(&file("192.0.2.1:80", "full-nat", "")), @r#"
    lb.toml:3: service "ping": port 80 does not apply to ICMP, which has no ports
        write the address alone, as in "192.0.2.1", or protocol = "tcp" or "udp"
    "#);
    assert_snapshot!(refusal(&file("[2001:db8::1]:80", "full-nat", "")), @r#"
    lb.toml:3: service "ping": port 80 does not apply to ICMP, which has no ports
        write the address alone, as in "[2001:db8::1]", or protocol = "tcp" or "udp"
    "#);
}

#[test]
fn a_port_of_a_backend_is_refused() {
    assert_snapshot!(refusal(&file("192.0.2.1", "full-nat", &BACKEND.replace("0.1", "0.1:80"))), @r#"
    lb.toml:7: service "ping", backend "10.0.0.1": port 80 does not apply to ICMP, which has no ports
        write the address without a port
    "#);
}

#[test]
fn a_health_check_needs_a_port_of_its_own() {
    let check = "[service.health]\ntype = \"tcp\"";
    assert_snapshot!(refusal(&file("192.0.2.1", "full-nat", check)), @r#"
    lb.toml:6: service "ping", health check: port is missing, and the service has none of its own
        add the port to ask, for example port = 80
    "#);
    service("192.0.2.1", "full-nat", &format!("{check}\nport = 22"));
}

#[test]
fn what_only_other_protocols_have_is_refused() {
    assert_snapshot!(refusal(&file("192.0.2.1", "l2-dsr", "on_full = \"reset\"\n[service.quic]\nserver_id_length = 1")), @r#"
    lb.toml:6: service "ping": on_full = "reset" does not apply to ICMP
        remove it, or write "drop"
    lb.toml:7: service "ping": [service.quic] does not apply to ICMP
        remove it, or write protocol = "udp"
    "#);
}

#[test]
fn its_flows_have_a_minute_replied_to_or_not_or_what_the_file_says() {
    let of = |service: &Service| [service.idle_timeout(), service.nat.timeouts.icmp];
    assert_eq!(of(&service("192.0.2.1", "full-nat", "")), [Duration::from_mins(1); 2], "RFC 5508, REQ-2");
    let keys = "idle_timeout = \"90s\"\n[service.nat]\nicmp_timeout = \"2m\"";
    assert_eq!(of(&service("192.0.2.1", "full-nat", keys)), [90, 120].map(Duration::from_secs));
    for wrong in ["1s", "3h"] {
        let keys = format!("[service.nat]\nicmp_timeout = {wrong:?}");
        assert!(refusal(&file("192.0.2.1", "full-nat", &keys)).contains("icmp_timeout"), "{wrong}");
    }
}

/// Its own pings are answered with replies, which no service takes for requests.
#[test]
fn a_source_may_be_the_virtual_ip_of_a_service_of_icmp() {
    let keys = format!("[service.nat]\nsources = [\"192.0.2.1\"]\n{BACKEND}");
    service("192.0.2.1", "full-nat", &keys);
}
