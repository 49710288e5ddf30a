//! `one_packet`.

use std::time::Duration;

use insta::assert_snapshot;

use super::{config, refusal};
use crate::config::Tracking;

fn dns(forwarding: &str, keys: &str, backend: &str) -> String {
    format!(
        "[[service]]\nname = \"dns\"\naddress = \"192.0.2.1:53\"\nprotocol = \"udp\"\nforwarding = {forwarding:?}\n\
         one_packet = true\n{keys}\n[[service.backend]]\naddress = \"10.0.0.1\"\n{backend}"
    )
}

#[test]
fn where_replies_go_another_way_nothing_is_remembered_and_where_they_come_back_for_a_short_time() {
    let service = config(&dns("l2-dsr", "algorithm = \"round-robin\"", "")).services.remove(0);
    assert!(service.one_packet);
    assert_eq!(service.effective_tracking(), Tracking::Never);
    let service = config(&dns("full-nat", "algorithm = \"least-connections\"", "")).services.remove(0);
    assert_eq!((service.effective_tracking(), service.idle_timeout()), (Tracking::Always, Duration::from_secs(10)));
    assert!(!config(&dns("ipip", "", "").replace("true", "false")).services[0].one_packet);
}

#[test]
fn single_packets_of_what_has_connections_are_refused() {
    assert_snapshot!(refusal(&dns("l2-dsr", "", "").replace("udp", "tcp")), @r#"
    lb.toml:6: service "dns": one_packet does not apply to TCP, whose segments belong together
        remove it, or write protocol = "udp"
    "#);
    let quic = dns("l2-dsr", "[service.quic]\nserver_id_length = 1", "server_id = \"0a\"");
    assert_snapshot!(refusal(&quic), @r#"
    lb.toml:6: service "dns": one_packet does not go with [service.quic]: the packets of a connection belong together
        remove one of them
    "#);
}

#[test]
fn clients_that_stay_are_refused() {
    assert_snapshot!(refusal(&dns("full-nat", "[service.affinity]", "")), @r#"
    lb.toml:6: service "dns": one_packet does not go with [service.affinity]: each datagram gets a backend of its own
        remove one of them
    "#);
}

#[test]
fn what_counts_or_remembers_flows_is_refused_where_there_are_none() {
    assert_snapshot!(refusal(&dns("gue", "algorithm = \"least-connections\"", "")), @r#"
    lb.toml:6: service "dns": one_packet does not go with algorithm = "least-connections": without flows there is nothing to count
        write another algorithm, such as "weighted-round-robin", or forwarding = "full-nat"
    "#);
    assert_snapshot!(refusal(&dns("full-nat", "algorithm = \"least-response-time\"", "")), @r#"
    lb.toml:6: service "dns": one_packet does not go with algorithm = "least-response-time": without flows there is nothing to measure
        write another algorithm, such as "weighted-round-robin"
    "#);
    assert_snapshot!(refusal(&dns("gue", "", "max_connections = 5")), @r#"
    lb.toml:10: service "dns", backend "10.0.0.1": max_connections does not go with one_packet: datagrams are no connections
        remove one of them
    "#);
    assert_snapshot!(refusal(&dns("gue", "tracking = \"always\"", "")), @r#"
    lb.toml:7: service "dns": tracking = "always" does not go with one_packet: no flow is remembered
        remove it
    "#);
    assert_snapshot!(refusal(&dns("gue", "on_death = \"reset\"", "")), @r#"
    lb.toml:7: service "dns": on_death = "reset" has no effect with one_packet: no flow is remembered
        remove it
    "#);
}
