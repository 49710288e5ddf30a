//! What is refused in `[service.health]`, and what the operator is told.

use insta::assert_snapshot;

use super::super::refusal_with;

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
    lb.toml:53: service "dns", health check: port is missing, and the service has none of its own
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
