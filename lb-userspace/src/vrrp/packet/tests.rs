mod capture;
mod mutation;
mod oracle;

use etherparse::checksum::Sum16BitWords;
use proptest::prelude::*;

use self::{
    capture::Capture,
    oracle::{HABITS, correct_checksum},
};
use super::*;

const FILES: [(&str, &str); 6] = [
    ("v2", include_str!("fixtures/v2.hex")),
    ("v2-pass", include_str!("fixtures/v2-pass.hex")),
    ("v3-ipv4", include_str!("fixtures/v3-ipv4.hex")),
    ("v3-ipv4-unicast", include_str!("fixtures/v3-ipv4-unicast.hex")),
    ("v3-ipv6", include_str!("fixtures/v3-ipv6.hex")),
    ("v3-ipv6-unicast", include_str!("fixtures/v3-ipv6-unicast.hex")),
];

fn captures() -> Vec<Capture> {
    FILES.iter().flat_map(|(_, hex)| capture::pair(hex)).collect()
}

/// What the configurations at the top of [`FILES`] say.
fn configured() -> [Advertisement; 6] {
    let new = |version, router_id, priority, milliseconds, addresses: &[&str]| Advertisement {
        version,
        router_id,
        priority,
        interval: Duration::from_millis(milliseconds),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
        password: None,
    };
    [
        new(VrrpVersion::V2, 51, 100, 1000, &["198.51.100.10"]),
        Advertisement {
            password: Some(*b"s3cret\0\0"),
            ..new(VrrpVersion::V2, 52, 200, 3000, &["198.51.100.10", "198.51.100.11", "203.0.113.7"])
        },
        new(VrrpVersion::V3, 53, 150, 100, &["198.51.100.10", "198.51.100.11"]),
        new(VrrpVersion::V3, 54, 254, 1000, &["198.51.100.10"]),
        new(VrrpVersion::V3, 55, 100, 1000, &["fe80::10", "2001:db8::10", "2001:db8::11"]),
        new(VrrpVersion::V3, 56, 1, 3000, &["fe80::10"]),
    ]
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// Each capture, what it says, and its name.
fn known() -> impl Iterator<Item = (Capture, Advertisement, String)> {
    FILES.into_iter().zip(configured()).flat_map(|((name, hex), master)| {
        let [capture, last] = capture::pair(hex);
        let gives_up = Advertisement { priority: 0, ..master.clone() };
        [(capture, master, name.to_owned()), (last, gives_up, format!("{name}, giving up"))]
    })
}

#[test]
fn what_keepalived_sends_is_what_it_is_configured_with() {
    for (capture, expected, name) in known() {
        let decoded = Advertisement::decode(&capture.payload, capture.source, capture.destination);
        assert_eq!(decoded, Ok((expected, &[][..])), "{name}");
    }
}

#[test]
fn what_we_send_is_what_keepalived_sends() {
    for (capture, advertisement, name) in known() {
        let encoded = advertisement.encode(capture.source, capture.destination, ChecksumHabit::PseudoHeader);
        assert_eq!(encoded, capture.payload, "{name}");
    }
}

#[test]
fn the_habit_makes_a_difference_in_version_3_over_ipv4_only() {
    for (capture, advertisement, name) in known() {
        let [with, without] = HABITS.map(|habit| advertisement.encode(capture.source, capture.destination, habit));
        if advertisement.version == VrrpVersion::V2 || capture.source.is_ipv6() {
            assert_eq!(with, without, "{name}");
            continue;
        }
        assert_ne!(with, without, "{name}");
        let sum = Sum16BitWords::new().add_slice(&without[..6]).add_slice(&without[8..]);
        assert_eq!(without[6..8], sum.ones_complement().to_ne_bytes(), "{name}: the sum over the message alone");
        let decoded = Advertisement::decode(&without, capture.source, capture.destination);
        assert_eq!(decoded, Ok((advertisement, &[][..])), "{name}");
    }
}

#[test]
fn no_other_value_of_any_byte_is_taken() {
    for (capture, _, name) in known() {
        for place in 0..capture.payload.len() {
            for change in 1..=u8::MAX {
                let mut payload = capture.payload.clone();
                payload[place] ^= change;
                let decoded = Advertisement::decode(&payload, capture.source, capture.destination);
                assert!(decoded.is_err(), "{name}, byte {place} ^ {change:#04x}: {decoded:?}");
            }
        }
    }
}

#[test]
fn no_other_address_in_the_ip_header_is_taken_where_the_checksum_covers_it() {
    for (capture, advertisement, name) in
        known().filter(|(_, advertisement, _)| advertisement.version == VrrpVersion::V3)
    {
        let (source, destination) = match capture.source {
            IpAddr::V4(_) => (ip("192.0.2.99"), ip("192.0.2.98")),
            IpAddr::V6(_) => (ip("2001:db8::99"), ip("2001:db8::98")),
        };
        for (source, destination) in [(source, capture.destination), (capture.source, destination)] {
            let decoded = Advertisement::decode(&capture.payload, source, destination);
            assert_eq!(decoded, Err(Malformed::Checksum), "{name}: {advertisement:?}");
        }
    }
}

#[test]
fn an_advertisement_that_is_cut_anywhere_is_too_short() {
    for (capture, _, name) in known() {
        for length in 0..capture.payload.len() {
            let decoded = Advertisement::decode(&capture.payload[..length], capture.source, capture.destination);
            assert_eq!(decoded, Err(Malformed::TooShort), "{name}, {length} bytes");
        }
    }
}

#[test]
fn what_follows_is_handed_back_in_version_3_and_refused_in_version_2() {
    for (mut capture, advertisement, name) in known() {
        capture.payload.extend([7, 8, 9]);
        let expected = match advertisement.version {
            VrrpVersion::V2 => Err(Malformed::TooLong),
            VrrpVersion::V3 => Ok((advertisement, &[7, 8, 9][..])),
        };
        let decoded = Advertisement::decode(&capture.payload, capture.source, capture.destination);
        assert_eq!(decoded, expected, "{name}");
    }
}

#[test]
fn each_malformed_message_has_its_reason() {
    let v4 = (ip("192.0.2.1"), GROUP_V4.into());
    let v6 = (ip("fe80::1"), GROUP_V6.into());
    let address = [198, 51, 100, 10];
    let v2 = |header: [u8; 8]| [&header[..], &address, &[0; 8]].concat();
    let v3 = |header: [u8; 8]| [&header[..], &address].concat();
    let v3_v6 = |header: [u8; 8]| [&header[..], &[0xfe; 16]].concat();

    for (description, mut payload, (source, destination), reason) in [
        ("nothing", vec![], v4, Malformed::TooShort),
        ("a header of seven bytes", vec![0x31, 1, 100, 1, 0, 100, 0], v4, Malformed::TooShort),
        ("version 3 with one address of two", v3([0x31, 1, 100, 2, 0, 100, 0, 0]), v4, Malformed::TooShort),
        ("version 3 with an IPv4 address over IPv6", v3([0x31, 1, 100, 1, 0, 100, 0, 0]), v6, Malformed::TooShort),
        ("version 3 with a count of 255", v3([0x31, 1, 100, 255, 0, 100, 0, 0]), v4, Malformed::TooShort),
        (
            "version 2 without authentication data",
            [&[0x21, 1, 100, 1, 0, 1, 0, 0][..], &address].concat(),
            v4,
            Malformed::TooShort,
        ),
        ("version 2 with an address too many", v2([0x21, 1, 100, 0, 0, 1, 0, 0]), v4, Malformed::NoAddress),
        (
            "version 2 with four more bytes",
            [v2([0x21, 1, 100, 1, 0, 1, 0, 0]), vec![0; 4]].concat(),
            v4,
            Malformed::TooLong,
        ),
        ("version 0", v3([0x01, 1, 100, 1, 0, 100, 0, 0]), v4, Malformed::Version(0)),
        ("version 1", v3([0x11, 1, 100, 1, 0, 100, 0, 0]), v4, Malformed::Version(1)),
        ("version 4", v3([0x41, 1, 100, 1, 0, 100, 0, 0]), v4, Malformed::Version(4)),
        ("version 15", v3([0xf1, 1, 100, 1, 0, 100, 0, 0]), v4, Malformed::Version(15)),
        ("version 3 of type 0", v3([0x30, 1, 100, 1, 0, 100, 0, 0]), v4, Malformed::Type(0)),
        ("version 2 of type 2", v2([0x22, 1, 100, 1, 0, 1, 0, 0]), v4, Malformed::Type(2)),
        ("version 3 of type 15", v3_v6([0x3f, 1, 100, 1, 0, 100, 0, 0]), v6, Malformed::Type(15)),
        ("version 2 with type 2, AH", v2([0x21, 1, 100, 1, 2, 1, 0, 0]), v4, Malformed::Authentication(2)),
        ("version 2 with type 255", v2([0x21, 1, 100, 1, 255, 1, 0, 0]), v4, Malformed::Authentication(255)),
        ("version 3 without addresses", vec![0x31, 1, 100, 0, 0, 100, 0, 0], v4, Malformed::NoAddress),
        ("version 2 over IPv6", v2([0x21, 1, 100, 1, 0, 1, 0, 0]), v6, Malformed::Family),
        ("version 2 with no interval", v2([0x21, 1, 100, 1, 0, 0, 0, 0]), v4, Malformed::ZeroInterval),
        ("version 3 with no interval", v3([0x31, 1, 100, 1, 0, 0, 0, 0]), v4, Malformed::ZeroInterval),
        ("version 3 with reserved bits only", v3([0x31, 1, 100, 1, 0xf0, 0, 0, 0]), v4, Malformed::ZeroInterval),
        ("version 3 over IPv6 with no interval", v3_v6([0x31, 1, 100, 1, 0, 0, 0, 0]), v6, Malformed::ZeroInterval),
    ] {
        correct_checksum(&mut payload, source, destination, ChecksumHabit::PseudoHeader);
        let decoded = Advertisement::decode(&payload, source, destination);
        assert_eq!(decoded, Err(reason), "{description}");
    }
}

#[test]
fn over_ipv6_a_checksum_without_pseudo_header_is_wrong() {
    let mut message = [&[0x31, 1, 100, 1, 0, 100, 0, 0][..], &[0xfe; 16]].concat();
    let sum = Sum16BitWords::new().add_slice(&message).ones_complement();
    message[6..8].copy_from_slice(&sum.to_ne_bytes());
    let decoded = Advertisement::decode(&message, ip("fe80::1"), GROUP_V6.into());
    assert_eq!(decoded, Err(Malformed::Checksum));
}

#[test]
fn bits_that_a_receiver_must_ignore_are_ignored() {
    for (mut capture, expected, name) in known().filter(|(_, expected, _)| expected.password.is_none()) {
        match expected.version {
            VrrpVersion::V2 => *capture.payload.last_mut().expect("some bytes") = 0x55,
            VrrpVersion::V3 => capture.payload[4] |= 0xa0,
        }
        correct_checksum(&mut capture.payload, capture.source, capture.destination, ChecksumHabit::PseudoHeader);
        let decoded = Advertisement::decode(&capture.payload, capture.source, capture.destination);
        assert_eq!(decoded, Ok((expected, &[][..])), "{name}");
    }
}

#[test]
fn what_does_not_fit_into_a_message_is_not_in_it() {
    let [v2, _, v3, ..] = configured();
    let interval = |advertisement: &Advertisement, milliseconds| Advertisement {
        interval: Duration::from_millis(milliseconds),
        ..advertisement.clone()
    };
    let addresses = |addresses: Vec<IpAddr>| Advertisement { addresses, password: Some([1; 8]), ..v3.clone() };
    let many: Vec<_> = (0..300).map(|number| IpAddr::from(Ipv4Addr::from_bits(number))).collect();

    for (description, given, sent) in [
        ("no time, version 2", interval(&v2, 0), interval(&v2, 1000)),
        ("half seconds, version 2", interval(&v2, 2500), interval(&v2, 2000)),
        ("256 s, version 2", interval(&v2, 256_000), interval(&v2, 255_000)),
        ("9 ms, version 3", interval(&v3, 9), interval(&v3, 10)),
        ("half hundredths, version 3", interval(&v3, 125), interval(&v3, 120)),
        ("40.96 s, version 3", interval(&v3, 40_960), interval(&v3, 40_950)),
        ("for ever, version 3", Advertisement { interval: Duration::MAX, ..v3.clone() }, interval(&v3, 40_950)),
        (
            "300 addresses, and a password in version 3",
            addresses(many.clone()),
            Advertisement { password: None, ..addresses(many[..255].to_vec()) },
        ),
        (
            "an address of the other family",
            addresses(vec![ip("2001:db8::10"), ip("198.51.100.10")]),
            Advertisement { password: None, ..addresses(vec![ip("198.51.100.10")]) },
        ),
    ] {
        let (source, destination) = (ip("192.0.2.1"), GROUP_V4.into());
        let encoded = given.encode(source, destination, ChecksumHabit::PseudoHeader);
        assert_eq!(Advertisement::decode(&encoded, source, destination), Ok((sent, &[][..])), "{description}");
    }
}

/// Source and destination of one family.
fn ends(ipv6: bool) -> BoxedStrategy<(IpAddr, IpAddr)> {
    let address = move || any_address(ipv6);
    (address(), address()).boxed()
}

fn any_address(ipv6: bool) -> BoxedStrategy<IpAddr> {
    if ipv6 {
        any::<Ipv6Addr>().prop_map(IpAddr::from).boxed()
    } else {
        any::<Ipv4Addr>().prop_map(IpAddr::from).boxed()
    }
}

/// An advertisement that fits into a message, and the addresses in the IP header.
fn advertisement() -> impl Strategy<Value = (Advertisement, (IpAddr, IpAddr))> {
    let kind =
        prop_oneof![Just((VrrpVersion::V2, false)), Just((VrrpVersion::V3, false)), Just((VrrpVersion::V3, true))];
    kind.prop_flat_map(|(version, ipv6)| {
        let (interval, password) = match version {
            VrrpVersion::V2 => ((1..=255_u64).prop_map(Duration::from_secs).boxed(), any::<Option<[u8; 8]>>().boxed()),
            VrrpVersion::V3 => {
                ((1..=4095_u64).prop_map(|number| Duration::from_millis(number * 10)).boxed(), Just(None).boxed())
            }
        };
        let addresses = prop::collection::vec(any_address(ipv6), 1..=255);
        let advertisement = (any::<(u8, u8)>(), interval, addresses, password).prop_map(
            move |((router_id, priority), interval, addresses, password)| Advertisement {
                version,
                router_id,
                priority,
                interval,
                addresses,
                password,
            },
        );
        (advertisement, ends(ipv6))
    })
}

proptest! {
    #[test]
    fn any_advertisement_is_the_same_after_its_way_over_the_wire(
        (advertisement, (source, destination)) in advertisement(),
        habit in prop::sample::select(&HABITS),
    ) {
        let encoded = advertisement.encode(source, destination, habit);
        prop_assert_eq!(oracle::decode(&encoded, source, destination), Ok(advertisement));
    }

    #[test]
    fn any_bytes_are_refused_or_are_the_same_bytes_when_encoded_again(
        mut payload in prop::collection::vec(any::<u8>(), 0..200),
        header in prop::option::of((prop::sample::select(&[0x21_u8, 0x31]), 0_u8..12)),
        (source, destination) in any::<bool>().prop_flat_map(ends),
        habit in prop::option::of(prop::sample::select(&HABITS)),
    ) {
        if let (Some((version_and_type, count)), [first, _, _, fourth, ..]) = (header, &mut payload[..]) {
            (*first, *fourth) = (version_and_type, count);
        }
        if let Some(habit) = habit {
            correct_checksum(&mut payload, source, destination, habit);
        }
        let _ = oracle::decode(&payload, source, destination);
    }
}
