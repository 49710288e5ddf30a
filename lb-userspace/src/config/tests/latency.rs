//! Warnings about health checks on which `least-response-time` depends.

use insta::assert_snapshot;

use super::{config, service};

fn warnings(keys: &str, health: &str) -> String {
    let service = service("a", "10.0.0.1:80").replace("forwarding = \"ipip\"\n", "");
    let rest = "[[service.backend]]\naddress = \"10.0.0.2\"\n[[interface]]\nname = \"eth0\"";
    config(&format!("{service}{keys}\n[service.health]\n{health}\n{rest}\n")).warnings().join("\n")
}

const LATENCY: &str = "algorithm = \"least-response-time\"\n";

#[test]
fn a_check_that_comes_too_late_is_warned_of() {
    let direct = LATENCY.to_owned() + "forwarding = \"ipip\"";
    assert_snapshot!(warnings(&direct, "type = \"http\"\ninterval = \"5s\""), @r#"service "a": with algorithm = "least-response-time" and forwarding = "ipip" only the health check says how fast a backend is, and it comes up to 5s 500ms after the one before: to see a slow backend within two seconds, write interval = "1s""#);
    assert_eq!(warnings(&direct, "type = \"http\"\ninterval = \"1500ms\""), "");
    assert_ne!(warnings(&direct, "type = \"http\"\ninterval = \"1500ms\"\njitter = 20"), "");
}

#[test]
fn a_check_that_asks_the_kernel_only_is_warned_of() {
    assert_snapshot!(warnings(&(LATENCY.to_owned() + "forwarding = \"l2-dsr\""), "type = \"tcp\""), @r#"service "a": with algorithm = "least-response-time" and forwarding = "l2-dsr" only the health check says how fast a backend is, and type = "tcp" asks its kernel only, which takes connections however slow the application is: write type = "http", if it speaks that"#);
}

#[test]
fn where_the_datapath_measures_or_latencies_do_not_matter_any_check_will_do() {
    for keys in ["forwarding = \"ipip\"".to_owned(), LATENCY.to_owned() + "forwarding = \"nat\""] {
        assert_eq!(warnings(&keys, "type = \"tcp\"\ninterval = \"1m\""), "", "{keys}");
    }
}
