//! Strangers on the link, who send what they like.

use proptest::prelude::*;

use super::{bench::*, faults::config, *};
use crate::{config::Authentication, vrrp::seal::Sealer};

const KEY: [u8; 32] = [7; 32];
const PASSWORD: [u8; 8] = *b"s3cret\0\0";

/// What a stranger starts from.
#[derive(Debug, Clone)]
enum Base {
    Noise(Vec<u8>),
    /// An advertisement of this priority, sealed under this key or not at all.
    V3(u8, Option<u8>),
    /// An advertisement of this priority, with this password or none.
    V2(u8, Option<[u8; 8]>),
}

#[derive(Debug, Clone)]
struct Forgery {
    source: u8,
    ttl: u8,
    base: Base,
    /// Bits that are turned over, by their place in the payload.
    flips: Vec<prop::sample::Index>,
    /// How much of it is sent.
    length: Option<prop::sample::Index>,
    /// Time passes before it.
    pause_ms: u64,
}

fn forgery() -> impl Strategy<Value = Forgery> {
    let wrong_key = any::<u8>().prop_filter("the key", |byte| *byte != KEY[0]);
    let wrong_password = any::<[u8; 8]>().prop_filter("the password", |password| *password != PASSWORD);
    let base = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80).prop_map(Base::Noise),
        (any::<u8>(), prop::option::of(wrong_key)).prop_map(|(priority, key)| Base::V3(priority, key)),
        (any::<u8>(), prop::option::of(wrong_password)).prop_map(|(priority, password)| Base::V2(priority, password)),
    ];
    let ttl = prop_oneof![4 => Just(255), 1 => any::<u8>()];
    let flips = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let length = prop::option::weighted(0.2, any::<prop::sample::Index>());
    (1_u8..20, ttl, base, flips, length, 0_u64..1500).prop_map(|(source, ttl, base, flips, length, pause_ms)| Forgery {
        source,
        ttl,
        base,
        flips,
        length,
        pause_ms,
    })
}

impl Forgery {
    fn payload(&self, unix: Duration) -> Vec<u8> {
        let source = node(self.source);
        let encode = |advertisement: &Advertisement| advertisement.encode(source, GROUP, ChecksumHabit::PseudoHeader);
        let mut payload = match &self.base {
            Base::Noise(bytes) => bytes.clone(),
            Base::V3(priority, None) => encode(&advertisement(*priority)).to_vec(),
            Base::V3(priority, Some(key)) => {
                Sealer::new(&[*key; 32]).seal(&encode(&advertisement(*priority)), source, unix).to_vec()
            }
            Base::V2(priority, password) => {
                let version = VrrpVersion::V2;
                encode(&Advertisement { version, password: *password, ..advertisement(*priority) }).to_vec()
            }
        };
        let bits = payload.len() * 8;
        for flip in self.flips.iter().filter(|_| bits > 0).map(|flip| flip.index(bits)) {
            payload[flip / 8] ^= 1 << (flip % 8);
        }
        if let Some(length) = &self.length {
            payload.truncate(length.index(payload.len() + 1));
        }
        payload
    }
}

/// A node that is to be master, and one that is to be backup, as a real master is heard.
fn nodes(config: &Vrrp) -> [Bench; 2] {
    let mut backup = Bench::started(vec![config.clone()]);
    let mut master = Bench::new(vec![config.clone()]);
    master.link("eth0", Some(&link("eth0", &[node(200)])));
    master.now += ms(3610);
    backup.now = ms(3600);
    for effect in master.router.on_time(master.clock()) {
        if let Effect::Send { source, payload, .. } = effect {
            backup.deliver(packet(source, &payload));
        }
    }
    assert_eq!((master.status(), backup.status()), (Status::Master, Status::Backup));
    assert!(backup.router.members()[0].instance().master().is_some());
    [master, backup]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn who_has_no_secret_changes_nothing(
        is_sealed: bool,
        forgeries in prop::collection::vec(forgery(), 1..40),
    ) {
        let (authentication, version) = if is_sealed {
            (Authentication::Hmac(KEY), VrrpVersion::V3)
        } else {
            (Authentication::Password(PASSWORD), VrrpVersion::V2)
        };
        let config = Vrrp { authentication: Some(authentication), version, ..vrrp() };
        for mut bench in nodes(&config) {
            let state = |bench: &Bench| format!("{:?}", bench.router.members()[0].instance());
            let before = state(&bench);
            for forgery in &forgeries {
                let payload = forgery.payload(bench.clock().unix);
                let told = bench.deliver(Packet { ttl: forgery.ttl, ..packet(node(forgery.source), &payload) });
                prop_assert!(told.is_empty(), "{told:?}");
                prop_assert_eq!(state(&bench), before.as_str());
            }
        }
    }

    #[test]
    fn nothing_makes_a_node_without_authentication_fall_over_or_talk_more(
        forgeries in prop::collection::vec(forgery(), 1..40),
    ) {
        for config in [vrrp(), Vrrp { version: VrrpVersion::V2, ..vrrp() }] {
            for mut bench in nodes(&config) {
                let mut sent = Vec::new();
                for forgery in &forgeries {
                    let payload = forgery.payload(bench.clock().unix);
                    let mut told = bench.wait(ms(forgery.pause_ms));
                    told.extend(bench.deliver(Packet { ttl: forgery.ttl, ..packet(node(forgery.source), &payload) }));
                    let count = told.iter().filter(|words| words.starts_with("advertises")).count();
                    sent.extend(std::iter::repeat_n(bench.now, count));
                }
                // In an interval: what is due, an answer, and what it says on becoming master.
                for window in sent.windows(4) {
                    prop_assert!(window[3].abs_diff(window[0]) >= ms(500), "{sent:?}");
                }
            }
        }
    }
}

#[test]
fn a_flood_of_lower_priority_is_answered_once_in_an_interval() {
    let mut bench = Bench::master(vec![vrrp()]);
    let mut advertisements = 0;
    for step in 0..100_000_u32 {
        bench.now += Duration::from_micros(100);
        let source = u8::try_from(100 + step % 100).unwrap();
        let told = bench.hear(source, u8::try_from(step % 100).unwrap());
        let due = bench.wait(Duration::ZERO);
        advertisements += told.iter().chain(&due).filter(|words| words.starts_with("advertises")).count();
    }
    assert!((10..=20).contains(&advertisements), "{advertisements} in ten intervals");
}

#[test]
fn a_flood_of_forged_packets_is_counted_and_nothing_else_grows() {
    let config = Vrrp { authentication: Some(Authentication::Hmac(KEY)), ..vrrp() };
    let mut bench = Bench::master(vec![config]);
    for last in 0..250 {
        bench.receive(IpAddr::from([10, 9, 9, last]), &advertisement(255));
    }
    let counters = bench.router.members()[0].counters();
    assert_eq!(counters.discarded.get(&Discard::Seal), Some(&250));
    assert_eq!((counters.discarded.len(), bench.router.members()[0].history().len()), (1, 2));
}
