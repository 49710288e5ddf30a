//! Weights that mean nothing.

use super::*;

#[test]
fn weights_that_mean_nothing_are_warned_of() {
    let with = |algorithm: &str, weight: u32| {
        let text = format!(
            "[[interface]]\nname = \"eth0\"\n[[service]]\nname = \"web\"\naddress = \"192.0.2.1:80\"\nprotocol = \"tcp\"\n\
             forwarding = \"ipip\"\nalgorithm = {algorithm:?}\n[[service.backend]]\naddress = \"10.0.0.1\"\nweight = {weight}\n"
        );
        Config::parse("lb.toml", &text).unwrap().warnings()
    };
    assert!(with("round-robin", 2)[0].contains("write \"weighted-round-robin\""));
    for silent in [with("round-robin", 1), with("weighted-round-robin", 2)] {
        assert_eq!(silent, [""; 0]);
    }
}
