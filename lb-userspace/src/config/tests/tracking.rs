//! Keys that say what becomes of flows when backends come, go and die.

use lb_common::QuicIds;

use super::*;

/// A service with all of them, none as it is by default.
const SAMPLE: &str = r#"[[service]]
name = "web"
address = "192.168.1.10:443"
protocol = "udp"
forwarding = "ipip"
tracking = "always"
on_death = "reset"
idle_timeout = "5m"
drain_timeout = "1h"
slow_start = "90s"

  [service.quic]
  server_id_length = 2
  config_rotation = 3

  [[service.backend]]
  address = "10.0.0.1"
  server_id = "0a0B"

  [[service.backend]]
  address = "10.0.0.2"
  server_id = "0a0c"
"#;

fn sample_with(good: &str, replacement: &str) -> String {
    assert_eq!(SAMPLE.matches(good).count(), 1, "{good:?} in the sample");
    SAMPLE.replace(good, replacement)
}

fn refusal_with(good: &str, bad: &str) -> String {
    refusal(&sample_with(good, bad))
}

fn only_service(text: &str) -> Service {
    config(text).services.swap_remove(0)
}

fn entries(size: &str) -> u64 {
    config(&format!("[node]\nflow_table = {size}")).node.flow_table.entries()
}

#[test]
fn the_keys_of_the_sample_are_read() {
    let service = only_service(SAMPLE);
    assert_eq!(service.tracking, Tracking::Always);
    assert_eq!(service.on_death, OnDeath::Reset);
    assert_eq!(service.idle_timeout(), Duration::from_mins(5));
    assert_eq!(service.drain_timeout, Some(Duration::from_hours(1)));
    assert_eq!(service.slow_start, Some(Duration::from_secs(90)));
    assert_eq!(service.quic.map(Quic::ids), QuicIds::new(3, 2));
    let server_ids: Vec<&[u8]> =
        service.backends.iter().map(|backend| backend.server_id.as_ref().unwrap().bytes()).collect();
    assert_eq!(server_ids, [[0x0a, 0x0b], [0x0a, 0x0c]]);
}

#[test]
fn the_sample_survives_the_way_through_json() {
    let service = only_service(SAMPLE);
    let json = serde_json::to_value(&service).unwrap();
    assert_eq!(json["tracking"], "always");
    assert_eq!(json["on_death"], "reset");
    assert_eq!(json["quic"], serde_json::json!({ "server_id_length": 2, "config_rotation": 3 }));
    assert_eq!(json["backends"][0]["server_id"], "0a0b");
    assert_eq!(serde_json::from_value::<Service>(json).unwrap(), service);
}

#[test]
fn json_with_an_impossible_section_for_quic_is_refused() {
    let mut json = serde_json::to_value(only_service(SAMPLE)).unwrap();
    json["quic"]["server_id_length"] = 16.into();
    let error = serde_json::from_value::<Service>(json).unwrap_err();
    assert_snapshot!(error, @"server_id_length is 1 to 15, config_rotation 0 to 6");
}

#[test]
fn the_idle_timeout_follows_from_the_protocol() {
    let tcp = service("a", "192.168.1.10:80");
    assert_eq!(only_service(&tcp).idle_timeout(), Duration::from_mins(15));
    assert_eq!(only_service(&tcp.replace("tcp", "udp")).idle_timeout(), Duration::from_mins(1));
}

#[test]
fn a_drain_may_take_no_time_or_all_the_time_in_the_world() {
    let timeout = |text| only_service(&sample_with(r#""1h""#, text)).drain_timeout;
    assert_eq!(timeout(r#""0s""#), Some(Duration::ZERO));
    assert_eq!(timeout(r#""24h""#), Some(Duration::from_hours(24)));
    assert_eq!(timeout(r#""none""#), None);
}

#[test]
fn config_rotation_may_be_left_out() {
    let service = only_service(&sample_with("config_rotation = 3", ""));
    assert_eq!(service.quic.map(Quic::ids), QuicIds::new(0, 2));
}

#[test]
fn the_size_of_the_flow_table_is_a_text_or_a_number() {
    assert_eq!(entries(r#""64K""#), 1 << 16);
    assert_eq!(entries(r#""2M""#), 1 << 21);
    assert_eq!(entries(r#""64M""#), 1 << 26);
    assert_eq!(entries(r#""1024K""#), 1 << 20);
    assert_eq!(entries(r#""64k""#), 1 << 16);
    assert_eq!(entries(r#""1m""#), 1 << 20);
    assert_eq!(entries(r#""131072""#), 1 << 17);
    assert_eq!(entries("131072"), 1 << 17);
}

#[test]
fn a_flow_table_that_is_too_small_too_large_or_no_power_of_two_is_refused() {
    let refusals = [r#""32K""#, r#""128M""#, r#""3M""#, "1000000", r#""1g""#, r#""1 M""#, r#""99999999999999999999M""#]
        .map(|size| refusal(&format!("[node]\nflow_table = {size}")));
    assert_snapshot!(refusals.join("\n"), @r#"
    lb.toml:2: node: flow_table "32K" is not the size of a flow table
        write a power of two from "64K" to "64M", such as "1M", or its digits, such as 1048576
    lb.toml:2: node: flow_table "128M" is not the size of a flow table
        write a power of two from "64K" to "64M", such as "1M", or its digits, such as 1048576
    lb.toml:2: node: flow_table "3M" is not the size of a flow table
        write a power of two from "64K" to "64M", such as "1M", or its digits, such as 1048576
    lb.toml:2: node: flow_table 1000000 is not the size of a flow table
        write a power of two from "64K" to "64M", such as "1M", or its digits, such as 1048576
    lb.toml:2: node: flow_table "1g" is not the size of a flow table
        write a power of two from "64K" to "64M", such as "1M", or its digits, such as 1048576
    lb.toml:2: node: flow_table "1 M" is not the size of a flow table
        write a power of two from "64K" to "64M", such as "1M", or its digits, such as 1048576
    lb.toml:2: node: flow_table "99999999999999999999M" is not the size of a flow table
        write a power of two from "64K" to "64M", such as "1M", or its digits, such as 1048576
    "#);
}

#[test]
fn an_unknown_way_of_tracking_is_refused() {
    assert_snapshot!(refusal_with(r#""always""#, r#""sometimes""#), @r#"
    lb.toml:6: service "web": tracking "sometimes" is not known
        write "when-needed", "always" or "never"
    "#);
}

#[test]
fn a_value_without_quotes_is_quoted_as_it_is_written() {
    assert_snapshot!(refusal_with(r#""always""#, "true"), @r#"
    lb.toml:6: service "web": tracking true is not known
        write "when-needed", "always" or "never"
    "#);
}

#[test]
fn an_end_of_flows_that_would_have_no_effect_is_refused() {
    let service = |lines: &str| service("a", "192.168.1.10:80") + lines;
    let health = "[service.health]\ntype = \"tcp\"\n";
    let never = "tracking = \"never\"\non_death = ";
    let refusals = [
        service(&format!("{never}\"keep\"\n{health}")),
        service(&format!("{never}\"reset\"\n{health}")),
        service("on_death = \"keep\""),
    ];
    assert_snapshot!(refusals.map(|text| refusal(&text)).join("\n"), @r#"
    lb.toml:7: service "a": on_death = "keep" has no effect with tracking = "never": no flow is remembered
        remove it, or write another tracking
    lb.toml:7: service "a": on_death = "reset" has no effect with tracking = "never": no flow is remembered
        remove it, or write another tracking
    lb.toml:6: service "a": on_death = "keep" has no effect without [service.health]: nothing says that a backend is dead
        remove it, or add the section
    "#);
    config(&service(&format!("{never}\"reschedule\"\n{health}")));
    config(&service(&format!("on_death = \"keep\"\n{health}")));
    // Connection ids find their backend without the flow table.
    config(&sample_with(r#""always""#, r#""never""#));
}

#[test]
fn an_unknown_end_of_flows_is_refused() {
    assert_snapshot!(refusal_with(r#""reset""#, r#""rst""#), @r#"
    lb.toml:7: service "web": on_death "rst" is not known
        did you mean "reset"?
    "#);
}

#[test]
fn an_idle_timeout_out_of_range_is_refused() {
    assert_snapshot!(refusal_with(r#""5m""#, r#""3h""#), @r#"
    lb.toml:8: service "web": idle_timeout "3h" is out of range
        write a duration from 1s to 2h, with its unit, such as "1s"
    "#);
}

#[test]
fn a_drain_timeout_out_of_range_is_refused() {
    assert_snapshot!(refusal_with(r#""1h""#, r#""25h""#), @r#"
    lb.toml:9: service "web": drain_timeout "25h" is out of range
        write a duration from 0s to 24h, with its unit, such as "1s", or "none"
    "#);
}

#[test]
fn a_slow_start_out_of_range_is_refused() {
    assert_snapshot!(refusal_with(r#""90s""#, r#""100ms""#), @r#"
    lb.toml:10: service "web": slow_start "100ms" is out of range
        write a duration from 1s to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn quic_over_tcp_is_refused_once() {
    assert_snapshot!(refusal_with(r#""udp""#, r#""tcp""#), @r#"
    lb.toml:12: service "web": [service.quic] does not apply to TCP
        remove it, or write protocol = "udp"
    "#);
}

#[test]
fn a_length_of_server_ids_out_of_range_is_refused_once() {
    assert_snapshot!(refusal_with("server_id_length = 2", "server_id_length = 16"), @r#"
    lb.toml:13: service "web", QUIC: server_id_length 16 is out of range
        write a whole number from 1 to 15
    "#);
}

#[test]
fn quic_without_a_length_of_server_ids_is_refused() {
    assert_snapshot!(refusal_with("server_id_length = 2", ""), @r#"
    lb.toml:12: service "web", QUIC: server_id_length is missing
        add it, for example server_id_length = 2
    "#);
}

#[test]
fn the_config_rotation_of_ids_that_name_nobody_is_refused() {
    assert_snapshot!(refusal_with("config_rotation = 3", "config_rotation = 7"), @r#"
    lb.toml:14: service "web", QUIC: config_rotation 7 is out of range
        write a whole number from 0 to 6
    "#);
}

#[test]
fn a_backend_without_a_server_id_is_refused() {
    assert_snapshot!(refusal_with(r#"server_id = "0a0c""#, ""), @r#"
    lb.toml:20: service "web", backend "10.0.0.2": server_id is missing, and the service has [service.quic]
        add the one that the backend has, for example server_id = "0a0a"
    "#);
}

#[test]
fn a_server_id_of_another_length_is_refused() {
    assert_snapshot!(refusal_with(r#""0a0c""#, r#""0a0c0d""#), @r#"
    lb.toml:22: service "web", backend "10.0.0.2": server_id "0a0c0d" is not 2 bytes long
        write two hexadecimal digits for each byte, or another server_id_length in [service.quic]
    "#);
}

#[test]
fn a_server_id_that_is_not_hexadecimal_is_refused() {
    let refusals = ["0a0", "0a+c", ""].map(|id| refusal_with("0a0c", id));
    assert_snapshot!(refusals.join("\n"), @r#"
    lb.toml:22: service "web", backend "10.0.0.2": server_id "0a0" is not a server id
        write two hexadecimal digits for each byte of server_id_length, such as "0a0b"
    lb.toml:22: service "web", backend "10.0.0.2": server_id "0a+c" is not a server id
        write two hexadecimal digits for each byte of server_id_length, such as "0a0b"
    lb.toml:22: service "web", backend "10.0.0.2": server_id "" is not a server id
        write two hexadecimal digits for each byte of server_id_length, such as "0a0b"
    "#);
}

#[test]
fn a_server_id_twice_is_refused() {
    assert_snapshot!(refusal_with(r#""0a0c""#, r#""0A0B""#), @r#"
    lb.toml:22: service "web", backend "10.0.0.2": server_id "0a0b" is that of backend "10.0.0.1" already
        write the one that the backend has: each has its own
    "#);
}

#[test]
fn a_server_id_without_quic_is_refused() {
    let text = service("a", "192.168.1.10:80") + "[[service.backend]]\naddress = \"10.0.0.1\"\nserver_id = \"0a\"";
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:8: service "a", backend "10.0.0.1": server_id applies only in a service with [service.quic]
        remove it, or add the section
    "#);
}

#[test]
fn a_backend_from_the_command_line_needs_a_server_id_of_its_own() {
    let service = only_service(SAMPLE);
    let verdict = |server_id: Option<&str>| {
        let backend = Backend::parse(None, "10.0.0.3", Backend::DEFAULT_WEIGHT).unwrap();
        let server_id = server_id.map(|digits| digits.parse().unwrap());
        service
            .check_backend(&Backend { server_id, ..backend })
            .map_or_else(|problem| problem.to_string(), |()| "accepted".to_owned())
    };
    assert_snapshot!(verdict(Some("0a0d")), @"accepted");
    assert_snapshot!(verdict(None), @r#"
    server_id is missing, and the service has [service.quic]
        add the one that the backend has, for example server_id = "0a0a"
    "#);
    assert_snapshot!(verdict(Some("0a0b")), @r#"
    server_id "0a0b" is that of backend "10.0.0.1" already
        write the one that the backend has: each has its own
    "#);
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
