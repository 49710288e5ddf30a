//! Warnings about what balances nothing.

use insta::assert_snapshot;

use super::config;

const INTERFACE: &str = "[[interface]]\nname = \"eth0\"\n";
const SERVICE: &str =
    "[[service]]\nname = \"web\"\naddress = \"192.0.2.1:80\"\nprotocol = \"tcp\"\nforwarding = \"ipip\"\n";

fn backend(number: u8, weight: u8) -> String {
    format!("[[service.backend]]\naddress = \"10.0.0.{number}\"\nweight = {weight}\n")
}

fn warnings(text: &str) -> String {
    config(text).warnings().join("\n")
}

#[test]
fn a_file_that_leaves_out_what_it_takes_is_warned_of() {
    assert_snapshot!(warnings(""), @"there is no [[service]] and no [[vrrp]]: there is nothing to do");
    assert_snapshot!(warnings(INTERFACE), @"there is no [[service]] and no [[vrrp]]: there is nothing to do");
    let served = SERVICE.to_owned() + &backend(1, 1);
    assert_snapshot!(warnings(&served), @"there is no [[interface]]: no packet comes to the services");
    assert_eq!(warnings(&(INTERFACE.to_owned() + &served)), "");
}

#[test]
fn a_service_that_nobody_serves_is_warned_of() {
    let with = |backends: &str| warnings(&format!("{INTERFACE}{SERVICE}{backends}"));
    assert_snapshot!(with(""), @r#"service "web" has no backend: what comes to it is dropped"#);
    assert_snapshot!(with(&(backend(1, 0) + &backend(2, 0))), @r#"service "web": all backends have weight 0, and get no new flows"#);
    assert_eq!(with(&(backend(1, 0) + &backend(2, 1))), "");
}
