//! Whole files in, types or messages out.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use insta::assert_snapshot;
use lb_common::flow_table::BucketBits;
use proptest::prelude::*;

use super::*;

mod affinity;
mod icmp;
mod idle;
mod json;
mod latency;
mod nat;
mod one_packet;
mod refusals;
mod tracking;
mod vrrp;
mod weights;

/// A file that uses every section, and nearly every key.
const SAMPLE: &str = r#"
[node]
name = "lb-1"
socket = "/run/lb/test.sock"
hash_key = "000102030405060708090a0b0c0d0e0f"
tunnel_source = "10.96.0.0/16"
tunnel_source_v6 = "2001:db8::1"

[[interface]]
name = "eth0"
xdp = "native"
gateway = "02:00:00:00:00:01"

[[interface]]
name = "eth1"
gateway = "10.1.0.1"

[[service]]
name = "crm-web"
address = "192.168.1.10:80"
protocol = "tcp"
algorithm = "maglev"
forwarding = "l2-dsr"
announce = true
interface = "eth0"
slots = 4096

  [service.health]
  type = "http"
  path = "/healthz"
  expected_status = "200,204,301-302"
  interval = "2s"
  timeout = "250ms"
  rise = 3
  fall = 4
  jitter = 20

  [[service.backend]]
  address = "192.168.1.100"
  weight = 5

  [[service.backend]]
  name = "spare"
  address = "192.168.1.101:80"
  weight = 0

[[service]]
name = "dns"
address = "[2001:db8::53]:*"
protocol = "udp"
forwarding = "ipip"

  [service.health]
  type = "https"
  method = "HEAD"
  host = "dns.example.com"
  server_name = "dns.example.net"
  ca_file = "/etc/lb/ca.pem"
  port = 8443

  [[service.backend]]
  address = "10.2.0.1"

  [[service.backend]]
  address = "2001:db8::2"

[[vrrp]]
name = "VI_1"
interface = "eth2"
router_id = 51
version = 3
priority = 150
interval = "200ms"
addresses = [
  "192.168.2.10/24",
  "192.168.2.11",
]
state = "master"
preempt = true
preempt_delay = "5s"
unicast_peers = ["10.3.0.2", "10.3.0.3"]
source = "10.3.0.1"
accept = false
virtual_mac = false
checksum = "message"
sync_group = "G1"
notify = ["/usr/local/bin/notify", "vip 1"]
notify_master = "/usr/local/bin/master"
notify_backup = "/usr/local/bin/backup"
notify_fault = "/usr/local/bin/fault"
notify_stop = ["/usr/local/bin/stop"]

  [vrrp.authentication]
  type = "hmac-sha256"
  key = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"

  [vrrp.announcement]
  repeat = 5
  delay = "3s"
  refresh = "30s"

  [[vrrp.track]]
  type = "interface"
  interface = "eth3"
  weight = -20

  [[vrrp.track]]
  type = "service"
  service = "dns"
  min_backends = 2

  [[vrrp.track]]
  type = "script"
  command = ["/usr/local/bin/check", "--fast"]
  interval = "1m"
  timeout = "10s"
  rise = 5
  fall = 6
  weight = 30

  [[vrrp.track]]
  type = "file"
  path = "/run/lb/priority"
  weight = 1

  [[vrrp.track]]
  type = "datapath"

[[vrrp]]
name = "VI_2"
interface = "eth2"
router_id = 52
version = 2
interval = "4s"
addresses = ["192.168.2.12/24"]
state = "backup"
preempt = false
virtual_mac = true

  [vrrp.authentication]
  type = "pass"
  password = "s3cret"

[[vrrp]]
name = "VI_6"
interface = "eth2"
router_id = 51
addresses = ["fe80::10/64", "2001:db8:2::10/64"]
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The configuration that `text` means.
fn config(text: &str) -> Config {
    Config::parse("lb.toml", text).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The messages for `text`.
fn refusal(text: &str) -> String {
    match Config::parse("lb.toml", text) {
        Ok(config) => panic!("accepted as {config:#?}"),
        Err(errors) => errors.to_string(),
    }
}

/// The sample, with the one place that reads `good` replaced.
fn sample_with(good: &str, replacement: &str) -> String {
    assert_eq!(SAMPLE.matches(good).count(), 1, "{good:?} in the sample");
    SAMPLE.replace(good, replacement)
}

/// A service with no more than the keys that it must have.
fn service(name: &str, address: &str) -> String {
    format!("[[service]]\nname = {name:?}\naddress = {address:?}\nprotocol = \"tcp\"\nforwarding = \"ipip\"\n")
}

/// The messages for the sample with `good` replaced by `bad`.
fn refusal_with(good: &str, bad: &str) -> String {
    refusal(&sample_with(good, bad))
}

#[test]
fn an_empty_file_has_the_defaults() {
    let Config { node, interfaces, services, vrrp } = config("");
    assert_eq!(node.name, "lb");
    assert_eq!(node.socket, PathBuf::from("/run/lb/lb.sock"));
    assert_eq!(node.pins, PathBuf::from("/sys/fs/bpf/lb"));
    assert_eq!(node.state, PathBuf::from("/var/lib/lb"));
    assert_eq!(node.hash_key, None);
    assert_eq!(node.tunnel_source, None);
    assert_eq!(node.tunnel_source_v6, None);
    assert_eq!(node.flow_table.entries(), 1 << 20);
    assert_eq!(interfaces, []);
    assert_eq!(services, []);
    assert_eq!(vrrp, []);
}

#[test]
fn the_node_of_the_sample_is_read_in_full() {
    let expected = Node {
        name: "lb-1".to_owned(),
        socket: PathBuf::from("/run/lb/test.sock"),
        pins: PathBuf::from("/sys/fs/bpf/lb"),
        state: PathBuf::from("/var/lib/lb"),
        hash_key: Some(HashKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])),
        tunnel_source: Some(TunnelSource { address: ip("10.96.0.0"), entropy_bits: 16 }),
        tunnel_source_v6: Some(TunnelSource { address: ip("2001:db8::1"), entropy_bits: 0 }),
        flow_table: BucketBits::new(17).unwrap(),
        nat_table: BucketBits::new(15).unwrap(),
        affinity_table: 1 << 16,
        nat_sources: Vec::new(),
    };
    assert_eq!(config(SAMPLE).node, expected);
}

#[test]
fn the_keys_of_the_node_that_have_changed_are_named() {
    let of = |keys: &str| config(&format!("[node]\n{keys}")).node;
    let keys = "name = \"a\"\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\nnat_table = \"256K\"";
    assert_eq!(of(keys).differences(&of(keys)), [""; 0]);
    let other = keys.replace("0f\"", "0e\"").replace("256K", "512K");
    assert_eq!(of(keys).differences(&of(&other)), ["hash_key", "nat_table"]);
}

#[test]
fn the_interfaces_of_the_sample_are_read_in_full() {
    let expected = [
        Interface { name: "eth0".to_owned(), xdp: XdpMode::Native, gateway: Some(Gateway::Mac([2, 0, 0, 0, 0, 1])) },
        Interface { name: "eth1".to_owned(), xdp: XdpMode::Auto, gateway: Some(Gateway::Address(ip("10.1.0.1"))) },
    ];
    assert_eq!(config(SAMPLE).interfaces, expected);
}

#[test]
fn the_services_of_the_sample_are_read_in_full() {
    let crm_web = Service {
        name: "crm-web".to_owned(),
        address: ip("192.168.1.10"),
        port: 80,
        protocol: Protocol::Tcp,
        algorithm: Algorithm::Maglev,
        source_prefix: None,
        affinity: None,
        one_packet: false,
        on_full: OnFull::Drop,
        forwarding: Forwarding::L2Dsr,
        gue_port: None,
        announce: Some("eth0".to_owned()),
        slots: Some(4096),
        health: Some(HealthCheck {
            kind: CheckKind::Http(HttpCheck {
                tls: None,
                method: Method::Get,
                path: "/healthz".to_owned(),
                host: None,
                expected_status: vec![
                    StatusRange { first: 200, last: 200 },
                    StatusRange { first: 204, last: 204 },
                    StatusRange { first: 301, last: 302 },
                ],
                body_contains: None,
            }),
            interval: Duration::from_secs(2),
            timeout: Duration::from_millis(250),
            rise: 3,
            fall: 4,
            jitter: 20,
            port: None,
        }),
        tracking: Tracking::WhenNeeded,
        on_death: OnDeath::Reschedule,
        idle_timeout: None,
        drain_timeout: Some(Duration::from_mins(10)),
        slow_start: None,
        quic: None,
        nat: Nat::default(),
        backends: vec![
            Backend {
                name: "192.168.1.100".to_owned(),
                address: ip("192.168.1.100"),
                port: None,
                weight: 5,
                max_connections: None,
                server_id: None,
            },
            Backend {
                name: "spare".to_owned(),
                address: ip("192.168.1.101"),
                port: Some(80),
                weight: 0,
                max_connections: None,
                server_id: None,
            },
        ],
    };
    let dns = Service {
        name: "dns".to_owned(),
        address: ip("2001:db8::53"),
        port: 0,
        protocol: Protocol::Udp,
        algorithm: Algorithm::Maglev,
        source_prefix: None,
        affinity: None,
        one_packet: false,
        on_full: OnFull::Drop,
        forwarding: Forwarding::Ipip,
        gue_port: None,
        announce: None,
        slots: None,
        health: Some(HealthCheck {
            kind: CheckKind::Http(HttpCheck {
                tls: Some(TlsCheck {
                    server_name: Some("dns.example.net".to_owned()),
                    ca_file: Some(PathBuf::from("/etc/lb/ca.pem")),
                }),
                method: Method::Head,
                path: "/".to_owned(),
                host: Some("dns.example.com".to_owned()),
                expected_status: vec![StatusRange { first: 200, last: 399 }],
                body_contains: None,
            }),
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            jitter: 10,
            port: Some(8443),
        }),
        tracking: Tracking::WhenNeeded,
        on_death: OnDeath::Reschedule,
        idle_timeout: None,
        drain_timeout: Some(Duration::from_mins(10)),
        slow_start: None,
        quic: None,
        nat: Nat::default(),
        backends: vec![
            Backend {
                name: "10.2.0.1".to_owned(),
                address: ip("10.2.0.1"),
                port: None,
                weight: 1,
                max_connections: None,
                server_id: None,
            },
            Backend {
                name: "2001:db8::2".to_owned(),
                address: ip("2001:db8::2"),
                port: None,
                weight: 1,
                max_connections: None,
                server_id: None,
            },
        ],
    };
    assert_eq!(config(SAMPLE).services, [crm_web, dns]);
}

#[test]
fn port_0_is_all_ports() {
    for address in ["192.168.1.10:0", "192.168.1.10:*"] {
        assert_eq!(config(&service("a", address)).services[0].port, 0, "{address}");
    }
}

#[test]
fn a_service_without_backends_is_accepted() {
    let text = service("a", "192.168.1.10:80");
    assert_eq!(config(&text).services[0].backends, []);
}

#[test]
fn services_may_share_an_address_with_another_port_or_protocol() {
    let text = service("a", "192.168.1.10:80")
        + &service("b", "192.168.1.10:81")
        + &service("c", "192.168.1.10:80").replace("tcp", "udp");
    assert_eq!(config(&text).services.len(), 3);
}

#[test]
fn the_only_interface_is_the_one_to_announce_on() {
    let text = "[[interface]]\nname = \"eth7\"\n".to_owned() + &service("a", "192.168.1.10:80") + "announce = true";
    assert_eq!(config(&text).services[0].announce.as_deref(), Some("eth7"));
}

#[test]
fn a_status_may_be_a_number() {
    let text = sample_with(r#"expected_status = "200,204,301-302""#, "expected_status = 204");
    let check = config(&text).services[0].health.clone().unwrap();
    let CheckKind::Http(http) = check.kind else {
        panic!("{check:?}");
    };
    let passes = |status| http.expected_status.iter().any(|range| range.contains(status));
    assert_eq!([203, 204, 205].map(passes), [false, true, false]);
}

#[test]
fn gue_goes_to_its_own_port_or_to_the_one_that_is_written() {
    let port = |keys: &str| config(&sample_with("forwarding = \"ipip\"", keys)).services[1].gue_port();
    assert_eq!(port("forwarding = \"gue\""), Some(6080));
    assert_eq!(port("forwarding = \"gue\"\ngue_port = 19523"), Some(19_523));
    assert_eq!(port("forwarding = \"ipip\""), None);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/lb.toml")).unwrap_err();
    assert_snapshot!(error, @"cannot read the configuration file /nonexistent/lb.toml");
}

#[test]
fn all_faults_of_a_file_are_reported_in_the_order_of_its_lines() {
    let text = sample_with("weight = 5", "wieght = 5")
        .replace("rise = 3", "rise = 0")
        .replace("\"lb-1\"", "\"lb 1\"")
        .replace("\"ipip\"", "\"ipop\"");
    assert_snapshot!(refusal(&text), @r#"
    lb.toml:3: node: name "lb 1" is not a name
        write 1 to 64 characters out of letters, digits and _.-
    lb.toml:34: service "crm-web", health check: rise 0 is out of range
        write a whole number from 1 to 100
    lb.toml:40: service "crm-web", backend "192.168.1.100": unknown key "wieght"
        did you mean "weight"?
    lb.toml:51: service "dns": forwarding "ipop" is not known
        did you mean "ipip"?
    "#);
}

proptest! {
    #[test]
    fn no_mutation_of_a_file_makes_the_parser_panic(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..12, "\\PC{0,4}|[\\[\\]=\"'\n.,:0-9-]{0,4}"),
            1..8,
        ),
    ) {
        let mut text: Vec<char> = SAMPLE.chars().collect();
        for (place, removed, inserted) in edits {
            let start = place.index(text.len());
            let end = text.len().min(start + removed);
            text.splice(start..end, inserted.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(ConfigErrors(errors)) = Config::parse("lb.toml", &text) {
            prop_assert!(!errors.is_empty());
            let lines = text.split('\n').count();
            for error in errors {
                prop_assert!((1..=lines).contains(&error.line), "{}", error);
            }
        }
    }
}
