//! What is refused in `[[vrrp]]`: tracks.

use insta::assert_snapshot;

use super::super::super::refusal_with;

#[test]
fn a_track_without_a_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "datapath""#, ""), @r#"
    lb.toml:126: VRRP instance "VI_1", track #5: type is missing
        add it, for example type = "interface"
    "#);
}

#[test]
fn a_track_of_an_unknown_type_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "datapath""#, r#"type = "process""#), @r#"
    lb.toml:127: VRRP instance "VI_1", track #5: type "process" is not known
        write "interface", "service", "script", "file" or "datapath"
    "#);
}

#[test]
fn a_track_of_the_instances_own_interface_is_refused() {
    assert_snapshot!(refusal_with(r#""eth3""#, r#""eth2""#), @r#"
    lb.toml:104: VRRP instance "VI_1", track #1: interface "eth2" is the interface of the instance, which is watched in any case
        remove the track, or write another interface
    "#);
}

#[test]
fn a_track_without_an_interface_is_refused() {
    assert_snapshot!(refusal_with(r#"interface = "eth3""#, ""), @r#"
    lb.toml:102: VRRP instance "VI_1", track #1: interface is missing
        add it, for example interface = "eth1"
    "#);
}

#[test]
fn a_weight_of_0_is_refused() {
    assert_snapshot!(refusal_with("weight = -20", "weight = 0"), @r#"
    lb.toml:105: VRRP instance "VI_1", track #1: weight 0 has no effect
        write a whole number from -253 to 253, or remove it: without a weight, failure is a fault
    "#);
}

#[test]
fn a_weight_of_minus_254_is_refused() {
    assert_snapshot!(refusal_with("weight = -20", "weight = -254"), @r#"
    lb.toml:105: VRRP instance "VI_1", track #1: weight -254 is out of range
        write a whole number from -253 to 253
    "#);
}

#[test]
fn a_key_of_another_type_of_track_is_refused() {
    assert_snapshot!(refusal_with(r#"type = "datapath""#, "type = \"datapath\"\n  path = \"/run/lb/file\""), @r#"
    lb.toml:128: VRRP instance "VI_1", track #5: path does not apply to a track of type "datapath"
        remove it, or write type = "file"
    "#);
}

#[test]
fn a_track_of_a_service_that_is_not_configured_with_a_guess_is_refused() {
    assert_snapshot!(refusal_with(r#"service = "dns""#, r#"service = "crm-wbe""#), @r#"
    lb.toml:109: VRRP instance "VI_1", track #2: service "crm-wbe" is not configured
        did you mean "crm-web"?
    "#);
}

#[test]
fn a_track_of_a_service_that_resembles_none_is_refused() {
    assert_snapshot!(refusal_with(r#"service = "dns""#, r#"service = "mail""#), @r#"
    lb.toml:109: VRRP instance "VI_1", track #2: service "mail" is not configured
        add a [[service]] with name = "mail", or write the name of one
    "#);
}

#[test]
fn a_track_of_0_backends_is_refused() {
    assert_snapshot!(refusal_with("min_backends = 2", "min_backends = 0"), @r#"
    lb.toml:110: VRRP instance "VI_1", track #2: min_backends 0 is out of range
        write a whole number from 1 to 65535
    "#);
}

#[test]
fn a_script_without_a_command_is_refused() {
    assert_snapshot!(refusal_with(r#"command = ["/usr/local/bin/check", "--fast"]"#, ""), @r#"
    lb.toml:112: VRRP instance "VI_1", track #3: command is missing
        add it, for example command = "/usr/local/bin/check"
    "#);
}

#[test]
fn a_script_more_often_than_each_100_ms_is_refused() {
    assert_snapshot!(refusal_with(r#"interval = "1m""#, r#"interval = "50ms""#), @r#"
    lb.toml:115: VRRP instance "VI_1", track #3: interval "50ms" is out of range
        write a duration from 100ms to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn a_script_timeout_of_0_is_refused() {
    assert_snapshot!(refusal_with(r#"timeout = "10s""#, r#"timeout = "0s""#), @r#"
    lb.toml:116: VRRP instance "VI_1", track #3: timeout "0s" is out of range
        write a duration from 10ms to 1h, with its unit, such as "1s"
    "#);
}

#[test]
fn a_script_rise_of_0_is_refused() {
    assert_snapshot!(refusal_with("rise = 5", "rise = 0"), @r#"
    lb.toml:117: VRRP instance "VI_1", track #3: rise 0 is out of range
        write a whole number from 1 to 100
    "#);
}

#[test]
fn a_script_fall_over_100_is_refused() {
    assert_snapshot!(refusal_with("fall = 6", "fall = 101"), @r#"
    lb.toml:118: VRRP instance "VI_1", track #3: fall 101 is out of range
        write a whole number from 1 to 100
    "#);
}

#[test]
fn a_relative_path_of_a_file_is_refused() {
    assert_snapshot!(refusal_with(r#""/run/lb/priority""#, r#""priority""#), @r#"
    lb.toml:123: VRRP instance "VI_1", track #4: path "priority" is not an absolute path
        write a path that begins with /
    "#);
}
