//! `[service.nat]`, and backends with ports of their own.

use insta::assert_snapshot;

use super::{config, refusal};
use crate::config::{Nat, NatTimeouts, Ports, Tracking};

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
                reset_timeout = \"5s\"\nunreplied_timeout = \"15s\"";
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
            unreplied: seconds(15),
        },
    };
    assert_eq!(service.nat, expected);
    assert_eq!(service.tracking, Tracking::Always, "replies are known by their flows");
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
    assert_eq!(beside(32_768, 60_999), Ports { first: 1024, last: 32_767 });
    assert_eq!(beside(1024, 40_000), Ports { first: 40_001, last: 65_535 });
    assert_eq!(beside(1, 65_535), Ports { first: 1, last: 65_535 }, "there are no others");
}
