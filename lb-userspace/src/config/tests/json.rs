//! What the API and the state files have of a configuration, and what comes by them.

use insta::assert_snapshot;

use super::*;

#[test]
fn the_key_is_neither_printed_nor_serialized() {
    let node = config(SAMPLE).node;
    assert!(format!("{node:?}").contains("hash_key: Some((hidden))"));
    let json = serde_json::to_value(&node).unwrap();
    assert_eq!(json["hash_key"], "(hidden)");
}

#[test]
fn a_service_survives_the_way_through_json() {
    for service in config(SAMPLE).services {
        let json = serde_json::to_string(&service).unwrap();
        assert_eq!(serde_json::from_str::<Service>(&json).unwrap(), service);
    }
}

#[test]
fn a_service_that_an_earlier_version_wrote_down_is_as_it_was() {
    let service = config(SAMPLE).services.swap_remove(0);
    let mut json = serde_json::to_value(&service).unwrap();
    for key in ["tracking", "on_death", "idle_timeout", "drain_timeout", "slow_start", "quic"] {
        assert!(json.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    for backend in json["backends"].as_array_mut().unwrap() {
        assert!(backend.as_object_mut().unwrap().remove("server_id").is_some());
    }
    assert_eq!(serde_json::from_value::<Service>(json).unwrap(), service);
}

#[test]
fn json_has_the_words_of_the_file() {
    let json = serde_json::to_value(config(SAMPLE)).unwrap();
    assert_eq!(json["interfaces"][0]["xdp"], "native");
    let service = &json["services"][0];
    for key in ["protocol", "algorithm", "forwarding"] {
        let word = service[key].as_str().unwrap();
        assert!(SAMPLE.contains(&format!("{key} = {word:?}")), "{key} is {word:?}");
    }
    assert_eq!(json["services"][1]["health"]["kind"]["http"]["method"], "HEAD");
}

#[test]
fn a_backend_from_the_command_line_meets_the_rules_of_the_file() {
    let service = &config(SAMPLE).services[0];
    let verdict = |address: &str| {
        Backend::parse(None, address, Backend::DEFAULT_WEIGHT)
            .and_then(|backend| service.check_backend(&backend))
            .map_or_else(|problem| problem.to_string(), |()| "accepted".to_owned())
    };
    assert_snapshot!(verdict("192.168.1.102:80"), @"accepted");
    assert_snapshot!(verdict("crm.example.com"), @r#"
    "crm.example.com" is not an IP address
        write the address, as in "10.0.0.1" or "2001:db8::1", or with the service's port, as in "10.0.0.1:80" or "[2001:db8::1]:80"
    "#);
    assert_snapshot!(verdict("192.168.1.102:8080"), @r#"
    port 8080 is not the service's, and l2-dsr does not translate ports
        write port 80, or the address alone, or forwarding = "full-nat" in the service
    "#);
    assert_snapshot!(verdict("2001:db8::3"), @r#"
    2001:db8::3 is not of the address family of 192.168.1.10, and l2-dsr leaves packets as they are
        write an address of the same family, or forwarding = "ipip", "gue" or "full-nat" in the service
    "#);
    assert_snapshot!(verdict("192.168.1.100"), @r#"
    192.168.1.100 is the address of backend "192.168.1.100" already
        write each backend of "crm-web" once, with a greater weight for a greater share
    "#);
}

#[test]
fn a_backend_from_json_meets_the_rules_of_the_file() {
    let service = &config(SAMPLE).services[0];
    let backend = Backend {
        name: "a b".to_owned(),
        address: ip("192.168.1.102"),
        port: None,
        weight: 1,
        max_connections: None,
        server_id: None,
    };
    let problem = service.check_backend(&backend).unwrap_err();
    assert_snapshot!(problem.message, @r#""a b" is not a name"#);
}

#[test]
fn a_backend_from_json_may_have_at_least_one_connection() {
    let service = &config(SAMPLE).services[0];
    let backend = Backend::parse(None, "192.168.1.102", 1).unwrap();
    let problem = service.check_backend(&Backend { max_connections: Some(0), ..backend }).unwrap_err();
    assert_snapshot!(problem.message, @"max_connections 0 is out of range");
}
