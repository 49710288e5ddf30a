//! `[service.nat]`, and backends with ports of their own.

use insta::assert_snapshot;

use super::{config, refusal};
use crate::config::{Config, Nat, NatTimeouts, Ports, Tracking};

/// A service with these keys, sections and backends.
fn file(forwarding: &str, keys: &str, backends: &[&str]) -> String {
    let backends: Vec<String> =
        backends.iter().map(|address| format!("[[service.backend]]\naddress = {address:?}\n")).collect();
    let backends = backends.concat();
    format!(
        "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"web\"\naddress = \"192.0.2.1:80\"\nprotocol = \"tcp\"\n\
         forwarding = {forwarding:?}\n{keys}\n{backends}"
    )
}

#[test]
fn a_section_is_read_in_full() {
    let keys = "[service.nat]\nsources = [\"10.0.0.5\", \"2001:db8::5\"]\nports = \"20000-29999\"\n\
                opening_timeout = \"10s\"\nhalf_closed_timeout = \"20s\"\ntime_wait_timeout = \"30s\"\n\
                reset_timeout = \"5s\"";
    let service = config(&file("full-nat", keys, &["10.0.0.1:8080"])).services.remove(0);
    let seconds = std::time::Duration::from_secs;
    let expected = Nat {
        sources: vec!["10.0.0.5".parse().unwrap(), "2001:db8::5".parse().unwrap()],
        ports: Some(Ports { first: 20_000, last: 29_999 }),
        timeouts: NatTimeouts {
            opening: seconds(10),
            half_closed: seconds(20),
            time_wait: seconds(30),
            reset: seconds(5),
            ..NatTimeouts::default()
        },
    };
    assert_eq!(service.nat, expected);
    assert_eq!(service.tracking, Tracking::Always, "replies are known by their flows");
}

#[test]
fn a_timeout_is_read_where_it_is_of_the_services_protocol_and_refused_elsewhere() {
    let of = |protocol: &str, key: &str| {
        let port = if protocol == "icmp" { "" } else { ":80" };
        let file = file("full-nat", &format!("[service.nat]\n{key} = \"17s\""), &["10.0.0.1"]);
        let file = file.replace("\"tcp\"", &format!("{protocol:?}")).replace(":80", port);
        Config::parse("lb.toml", &file).map(|config| config.services[0].nat.timeouts)
    };
    for (key, protocol) in [
        ("opening_timeout", "tcp"),
        ("half_closed_timeout", "tcp"),
        ("time_wait_timeout", "tcp"),
        ("reset_timeout", "tcp"),
        ("unreplied_timeout", "udp"),
        ("icmp_timeout", "icmp"),
    ] {
        for other in ["tcp", "udp", "icmp"] {
            let read = of(other, key);
            assert_eq!(read.is_ok(), other == protocol, "{key} with {other}: {read:?}");
        }
        assert_ne!(of(protocol, key).unwrap(), NatTimeouts::default(), "{key}");
    }
    assert_snapshot!(of("udp", "time_wait_timeout").unwrap_err(), @r#"
    lb.toml:9: service "web", translation: time_wait_timeout is for TCP, and the service's flows are UDP
        remove it
    "#);
}

#[test]
fn a_source_of_one_interface_only_is_refused() {
    assert_snapshot!(refusal(&file("full-nat", "[service.nat]\nsources = [\"fe80::5\"]", &["2001:db8::1"])), @r#"
    lb.toml:9: service "web", translation: sources #1 fe80::5 is a link-local address, and nothing says by which interface it is reached
        write a global or a unique local address (RFC 4193)
    "#);
}

#[test]
fn sources_of_the_node_that_a_service_cannot_use_are_warned_of() {
    let with = |sources: &str, forwarding: &str, keys: &str| {
        let file = file(forwarding, keys, &["10.0.0.1", "10.0.0.2"]);
        config(&format!("[node]\nnat_sources = {sources}\n{file}")).warnings().join("\n")
    };
    assert_snapshot!(with("[\"2001:db8::5\"]", "full-nat", ""), @r#"service "web": [node] nat_sources has no IPv4 address, and backend "10.0.0.1" needs one: its flows have the address of the interface to it"#);
    for (sources, forwarding, keys) in [
        ("[\"2001:db8::5\", \"10.0.0.5\"]", "full-nat", ""),
        ("[\"2001:db8::5\"]", "nat", ""),
        ("[\"2001:db8::5\"]", "full-nat", "[service.nat]\nsources = [\"10.0.0.5\"]"),
        ("[]", "full-nat", ""),
    ] {
        assert_eq!(with(sources, forwarding, keys), "", "{sources} {forwarding} {keys}");
    }
}

#[test]
fn two_ports_of_one_host_are_two_backends() {
    let service = config(&file("full-nat", "", &["10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.1"])).services.remove(0);
    let names: Vec<&str> = service.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.1"]);
}

#[test]
fn the_same_port_of_one_host_twice_is_refused() {
    assert_snapshot!(refusal(&file("full-nat", "", &["10.0.0.1:80", "10.0.0.1"])), @r#"
    lb.toml:12: service "web", backend "10.0.0.1": 10.0.0.1:80 is the address of backend "10.0.0.1:80" already
        write each backend of "web" once, with a greater weight for a greater share
    "#);
}

#[test]
fn a_backend_of_the_other_family_with_nat_is_refused() {
    assert_snapshot!(refusal(&file("nat", "", &["2001:db8::1"])), @r#"
    lb.toml:10: service "web", backend "2001:db8::1": 2001:db8::1 is not of the address family of 192.0.2.1, and nat keeps the client's address
        write an address of the same family, or forwarding = "full-nat" in the service
    "#);
}

#[test]
fn a_section_where_nothing_is_translated_is_refused() {
    assert_snapshot!(refusal(&file("ipip", "[service.nat]", &[])), @r#"
    lb.toml:8: service "web": [service.nat] does not apply to forwarding = "ipip"
        remove it, or write forwarding = "full-nat"
    "#);
}

#[test]
fn sources_where_the_clients_are_kept_are_refused() {
    assert_snapshot!(refusal(&file("nat", "[service.nat]\nsources = [\"10.0.0.5\"]", &[])), @r#"
    lb.toml:8: service "web": sources and ports do not apply to forwarding = "nat", which keeps the client's
        remove them, or write forwarding = "full-nat"
    "#);
}

#[test]
fn another_tracking_than_always_is_refused() {
    assert_snapshot!(refusal(&file("full-nat", "tracking = \"never\"", &[])), @r#"
    lb.toml:8: service "web": tracking = "never" does not go with forwarding = "full-nat": replies are known by their flows
        remove it: each flow is remembered
    "#);
}

#[test]
fn ports_that_are_no_range_are_refused() {
    for ports in ["", "80", "0-80", "90-80", "1-65536", "a-b"] {
        let text = refusal(&file("full-nat", &format!("[service.nat]\nports = {ports:?}"), &[]));
        assert!(text.contains("is not a range of ports"), "{ports:?}: {text}");
    }
}

#[test]
fn the_larger_part_of_the_ports_that_the_kernel_leaves_is_taken() {
    let beside = |first, last| Ports::beside(Ports { first, last });
    assert_eq!(beside(32_768, 60_999), Some(Ports { first: 1024, last: 32_767 }));
    assert_eq!(beside(1024, 40_000), Some(Ports { first: 40_001, last: 65_535 }));
}

#[test]
fn a_kernel_that_uses_all_ports_leaves_none() {
    assert_eq!(Ports::beside(Ports { first: 1024, last: 65_535 }), None);
    assert_eq!(Ports::beside(Ports { first: 1, last: 65_535 }), None);
}

#[test]
fn connection_ids_of_quic_where_flows_are_known_by_addresses_are_refused() {
    for forwarding in ["nat", "full-nat"] {
        let file = file(forwarding, "[service.quic]\nserver_id_length = 1", &[]).replace("tcp", "udp");
        let text = refusal(&file);
        assert!(text.contains(&format!("[service.quic] does not apply to forwarding = \"{forwarding}\"")), "{text}");
    }
}

#[test]
fn too_many_sources_and_those_that_stand_twice_are_refused_in_the_node_too() {
    let sources: Vec<String> = (1..=65).map(|host| format!("\"10.0.1.{host}\"")).collect();
    let many = sources.join(", ");
    assert_snapshot!(refusal(&format!("[node]\nnat_sources = [{many}]")), @r"
    lb.toml:2: node: 65 sources are too many
        write 64 at most
    ");
    assert_snapshot!(refusal("[node]\nnat_sources = [\"10.0.1.1\", \"10.0.1.2\", \"10.0.1.1\"]"), @r"
    lb.toml:2: node: nat_sources has 10.0.1.1 twice
        write each source once
    ");
}

#[test]
fn a_backend_for_whose_family_the_service_names_no_source_is_refused() {
    let keys = "[service.nat]\nsources = [\"10.0.0.5\"]";
    assert_snapshot!(refusal(&file("full-nat", keys, &["10.0.0.1", "2001:db8::1"])), @r#"
    lb.toml:13: service "web", backend "2001:db8::1": 2001:db8::1 needs a source of its address family, and [service.nat] has none in sources
        add one there, or remove sources: without them it is the address of the interface to the backend
    "#);
}

#[test]
fn a_name_that_is_another_port_of_the_same_host_is_refused() {
    let file = file("full-nat", "", &["10.0.0.1:8080"]) + "name = \"10.0.0.1:8081\"\n";
    assert_snapshot!(refusal(&file), @r#"
    lb.toml:11: service "web", backend "10.0.0.1:8081": name "10.0.0.1:8081" is an address, and not the one of this backend, 10.0.0.1:8080
        write another name, or none: lbctl finds backends by name and by address
    "#);
}

#[test]
fn a_source_that_is_a_backend_is_refused() {
    let keys = "[service.nat]\nsources = [\"10.0.0.9\", \"10.0.0.2\"]";
    assert_snapshot!(refusal(&file("full-nat", keys, &["10.0.0.1", "10.0.0.2"])), @r#"
    lb.toml:8: service "web": source 10.0.0.2 is backend "10.0.0.2": it would keep its replies for itself
        write an address of this node, or one that VRRP brings to it
    "#);
}

/// `file` and one more service at `address`.
fn with_another(address: &str, file: &str) -> String {
    format!("{file}[[service]]\nname = \"api\"\naddress = {address:?}\nprotocol = \"tcp\"\nforwarding = \"ipip\"\n")
}

#[test]
fn a_source_with_ports_of_a_service_is_refused() {
    let keys = |ports: &str| format!("[service.nat]\nsources = [\"192.0.2.7\"]\n{ports}");
    let with = |ports: &str, other: &str| with_another(other, &file("full-nat", &keys(ports), &["10.0.0.1"]));
    assert_snapshot!(refusal(&with("", "192.0.2.7:8080")), @r#"
    lb.toml:8: service "web": source 192.0.2.7 with ports 1024-32767 meets port 8080/tcp of service "api": replies would be taken for its requests
        write another source, or ports in [service.nat] without those of services there
    "#);
    assert_snapshot!(refusal(&with("ports = \"40000-50000\"", "192.0.2.7:*")), @r#"
    lb.toml:8: service "web": source 192.0.2.7 with ports 40000-50000 meets all tcp ports of service "api": replies would be taken for its requests
        write another source, or ports in [service.nat] without those of services there
    "#);
    // Elsewhere there is room for both.
    for accepted in [with("ports = \"40000-50000\"", "192.0.2.7:8080"), with("", "192.0.2.8:8080")] {
        config(&accepted);
    }
    config(&with("", "192.0.2.7:8080").replacen("tcp", "udp", 1));
}

#[test]
fn a_source_of_the_node_with_ports_of_a_service_is_refused_where_it_is_used() {
    let node = "[node]\nnat_sources = [\"192.0.2.7\"]\n";
    let with = |forwarding: &str, backend: &str| {
        format!("{node}{}", with_another("192.0.2.7:8080", &file(forwarding, "", &[backend])))
    };
    assert!(
        refusal(&with("full-nat", "10.0.0.1")).contains("source 192.0.2.7 with ports 1024-32767 meets port 8080/tcp")
    );
    config(&with("full-nat", "2001:db8::1"));
    config(&with("nat", "10.0.0.1"));
}

/// Two services with these forwardings and backends, each with its virtual IP in a VRRP instance of its own, with these keys.
fn two_nodes(forwarding: &str, keys: &str, [one, two]: [&str; 2], vrrp: &str) -> String {
    let service = |number: u8, backend: &str| {
        format!(
            "[[service]]\nname = \"s{number}\"\naddress = \"192.0.2.{number}:80\"\nprotocol = \"tcp\"\nforwarding = {forwarding:?}\n\
             {keys}\n[[service.backend]]\naddress = {backend:?}\n[[vrrp]]\nname = \"V{number}\"\ninterface = \"eth0\"\n\
             router_id = {number}\naddresses = [\"192.0.2.{number}/24\", \"192.0.2.{number}0/24\"]\n{vrrp}\n"
        )
    };
    service(1, one) + &service(2, two) + "[[interface]]\nname = \"eth0\"\n"
}

#[test]
fn services_with_nat_that_share_a_backend_and_not_a_master_are_refused() {
    assert_snapshot!(refusal(&two_nodes("nat", "", ["10.0.0.1", "10.0.0.1"], "")), @r#"
    lb.toml:19: service "s2": 10.0.0.1 is a backend of "s1", too, whose virtual IP is in VRRP instance "V1", and this one's is in "V2": they may have different masters, and with nat all replies of a backend pass the node that is its gateway
        put both virtual IPs and the gateway into one instance or one sync_group, or write forwarding = "full-nat"
    "#);
    let group = "sync_group = \"all\"";
    for (forwarding, vrrp) in [("nat", group), ("full-nat", ""), ("ipip", "")] {
        let config = config(&two_nodes(forwarding, "", ["10.0.0.1", "10.0.0.1"], vrrp));
        assert_eq!(config.warnings(), [""; 0], "{forwarding} {vrrp}");
    }
}

#[test]
fn services_with_nat_whose_backends_need_different_gateways_are_warned_of() {
    assert_snapshot!(config(&two_nodes("nat", "", ["10.0.0.1", "10.0.0.2"], "")).warnings().join("\n"), @r#"services "s1" and "s2" have forwarding = "nat", and their virtual IPs are in VRRP instances "V1" and "V2", which may have different masters: the backends of each need a gateway that is an address of the same instance"#);
}

#[test]
fn a_source_that_may_be_on_another_node_than_the_virtual_ip_is_refused() {
    let file = |vrrp| two_nodes("full-nat", "nat.sources = [\"192.0.2.20\"]", ["10.0.0.1", "10.0.0.2"], vrrp);
    assert_snapshot!(refusal(&file("")), @r#"
    lb.toml:6: service "s1": source 192.0.2.20 is in VRRP instance "V2", and the virtual IP in "V1": they may have different masters, and replies go to that of the source
        put both into one instance or one sync_group, or write a source that does not move
    "#);
    config(&file("sync_group = \"all\""));
}
