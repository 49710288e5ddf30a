//! What `[[vrrp]]` means.

use super::*;

fn command(program: &str, arguments: &[&str]) -> Command {
    Command { program: PathBuf::from(program), arguments: arguments.iter().copied().map(str::to_owned).collect() }
}

fn virtual_address(address: &str, prefix_length: u8) -> VirtualAddress {
    VirtualAddress { address: ip(address), prefix_length }
}

#[test]
fn an_instance_with_every_key_is_read_in_full() {
    let expected = Vrrp {
        name: "VI_1".to_owned(),
        interface: "eth2".to_owned(),
        router_id: 51,
        version: VrrpVersion::V3,
        priority: 150,
        interval: Duration::from_millis(200),
        addresses: vec![virtual_address("192.168.2.10", 24), virtual_address("192.168.2.11", 32)],
        initial_state: InitialState::Master,
        preempt: true,
        preempt_delay: Duration::from_secs(5),
        unicast_peers: vec![ip("10.3.0.2"), ip("10.3.0.3")],
        source: Some(ip("10.3.0.1")),
        accept: false,
        virtual_mac: false,
        checksum: ChecksumHabit::Message,
        authentication: Some(Authentication::Hmac([
            32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58,
            59, 60, 61, 62, 63,
        ])),
        sync_group: Some("G1".to_owned()),
        announcement: Announcement { repeat: 5, delay: Duration::from_secs(3), refresh: Duration::from_secs(30) },
        notify: Notify {
            any: Some(command("/usr/local/bin/notify", &["vip 1"])),
            master: Some(command("/usr/local/bin/master", &[])),
            backup: Some(command("/usr/local/bin/backup", &[])),
            fault: Some(command("/usr/local/bin/fault", &[])),
            stop: Some(command("/usr/local/bin/stop", &[])),
        },
        tracks: vec![
            Track { what: Tracked::Interface { name: "eth3".to_owned() }, weight: Some(-20) },
            Track { what: Tracked::Service { name: "dns".to_owned(), min_backends: 2 }, weight: None },
            Track {
                what: Tracked::Script {
                    command: command("/usr/local/bin/check", &["--fast"]),
                    interval: Duration::from_mins(1),
                    timeout: Duration::from_secs(10),
                    rise: 5,
                    fall: 6,
                },
                weight: Some(30),
            },
            Track { what: Tracked::File { path: PathBuf::from("/run/lb/priority") }, weight: Some(1) },
            Track { what: Tracked::Datapath, weight: None },
        ],
    };
    assert_eq!(config(SAMPLE).vrrp[0], expected);
}

#[test]
fn a_version_2_instance_has_a_password_padded_with_zeros() {
    let vrrp = &config(SAMPLE).vrrp[1];
    assert_eq!((vrrp.version, vrrp.interval), (VrrpVersion::V2, Duration::from_secs(4)));
    assert_eq!((vrrp.initial_state, vrrp.preempt, vrrp.virtual_mac), (InitialState::Backup, false, true));
    assert_eq!(vrrp.authentication, Some(Authentication::Password(*b"s3cret\0\0")));
}

#[test]
fn an_instance_with_the_required_keys_only_has_the_defaults() {
    let expected = Vrrp {
        name: "VI_6".to_owned(),
        interface: "eth2".to_owned(),
        router_id: 51,
        version: VrrpVersion::V3,
        priority: 100,
        interval: Duration::from_secs(1),
        addresses: vec![virtual_address("fe80::10", 64), virtual_address("2001:db8:2::10", 64)],
        initial_state: InitialState::Backup,
        preempt: true,
        preempt_delay: Duration::ZERO,
        unicast_peers: Vec::new(),
        source: None,
        accept: true,
        virtual_mac: false,
        checksum: ChecksumHabit::PseudoHeader,
        authentication: None,
        sync_group: None,
        announcement: Announcement { repeat: 3, delay: Duration::from_secs(1), refresh: Duration::from_mins(1) },
        notify: Notify::default(),
        tracks: Vec::new(),
    };
    assert_eq!(config(SAMPLE).vrrp[2], expected);
}

#[test]
fn an_address_without_a_prefix_length_is_a_host() {
    let text = sample_with("2001:db8:2::10/64", "2001:db8:2::10");
    assert_eq!(config(&text).vrrp[2].addresses[1], virtual_address("2001:db8:2::10", 128));
}

#[test]
fn a_router_id_may_be_used_again_on_another_interface() {
    let text = sample_with("router_id = 52", "router_id = 51")
        .replace("\"VI_2\"\ninterface = \"eth2\"", "\"VI_2\"\ninterface = \"eth4\"");
    assert_eq!(config(&text).vrrp[1].router_id, 51);
}

#[test]
fn the_longest_interval_of_version_3_is_accepted() {
    let text = sample_with(r#""200ms""#, r#""40s 950ms""#);
    assert_eq!(config(&text).vrrp[0].interval, Duration::from_millis(40_950));
}

#[test]
fn a_password_of_8_characters_is_accepted() {
    let text = sample_with(r#""s3cret""#, r#""s3cret 8""#);
    assert_eq!(config(&text).vrrp[1].authentication, Some(Authentication::Password(*b"s3cret 8")));
}

#[test]
fn a_track_of_a_script_has_defaults() {
    let text = sample_with("  interval = \"1m\"\n  timeout = \"10s\"\n  rise = 5\n  fall = 6\n", "");
    let expected = Tracked::Script {
        command: command("/usr/local/bin/check", &["--fast"]),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 1,
    };
    assert_eq!(config(&text).vrrp[0].tracks[2].what, expected);
}

#[test]
fn a_tracked_service_needs_one_backend_by_default() {
    let text = sample_with("min_backends = 2", "");
    let expected = Tracked::Service { name: "dns".to_owned(), min_backends: 1 };
    assert_eq!(config(&text).vrrp[0].tracks[1].what, expected);
}

#[test]
fn a_sync_group_may_have_members_of_both_families_that_agree() {
    let second = "addresses = [\"fe80::10/64\", \"2001:db8:2::10/64\"]";
    let agreeing = "priority = 150\nstate = \"master\"\npreempt_delay = \"5s\"\nsync_group = \"G1\"";
    let text = sample_with(second, &format!("{second}\n{agreeing}"));
    assert_eq!(config(&text).vrrp[2].sync_group.as_deref(), Some("G1"));
}

#[test]
fn an_address_of_a_service_that_is_not_announced_may_be_virtual() {
    let text = sample_with("192.168.2.10/24", "192.168.1.10/24").replace("announce = true\ninterface = \"eth0\"", "");
    assert_eq!(config(&text).vrrp[0].addresses[0], virtual_address("192.168.1.10", 24));
}

#[test]
fn secrets_are_neither_printed_nor_serialized() {
    let instances = config(SAMPLE).vrrp;
    for text in [format!("{instances:?}"), serde_json::to_string(&instances).unwrap()] {
        // The key as digits, and as an array of bytes.
        for secret in ["s3cret", "20212223", "32, 33, 34", "32,33,34", "115"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[test]
fn json_has_the_words_of_the_file() {
    let json = serde_json::to_value(&config(SAMPLE).vrrp[0]).unwrap();
    assert_eq!(json["version"], "3");
    assert_eq!(json["addresses"][0], "192.168.2.10/24");
    assert_eq!(json["initial_state"], "master");
    assert_eq!(json["checksum"], "message");
    assert_eq!(json["authentication"], "hmac-sha256");
    assert_eq!(json["tracks"][4]["what"]["type"], "datapath");
}
