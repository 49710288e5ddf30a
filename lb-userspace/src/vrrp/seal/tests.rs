use std::net::Ipv4Addr;

use super::*;

const KEY: &[u8; 32] = b"thirty-two bytes that nobody has";
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OTHER_NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const NOW: Duration = Duration::from_micros(1_700_000_000_123_456);
const MICROSECOND: Duration = Duration::from_micros(1);
const MESSAGE: [u8; 12] = [0x31, 0x36, 0xfe, 1, 0, 0x64, 0x21, 0xa5, 198, 51, 100, 10];

/// The seal of a node that has just started.
fn seal(source: IpAddr, time: Duration) -> Vec<u8> {
    Sealer::new(KEY).seal(&MESSAGE, source, time)[MESSAGE.len()..].to_vec()
}

fn sequence(payload: &[u8]) -> u64 {
    let (_, seal) = payload.split_at(payload.len() - SEAL_LEN);
    u64::from_be_bytes(*seal.first_chunk().expect("a seal"))
}

#[test]
fn a_seal_is_what_another_implementation_computes() {
    // import hmac
    // key, message = b"thirty-two bytes that nobody has", bytes.fromhex("3136fe01006421a5c633640a")
    // for source in bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]), bytes.fromhex("20010db8") + bytes(11) + b"\x01":
    //     sequence = (1700000000123456).to_bytes(8, "big")
    //     print((sequence + hmac.digest(key, source + message + sequence, "sha256")).hex())
    for (source, golden) in [
        (NODE, "00060a241820224065d58563dc328ecec10b7e291512f455cd6d263e79e7339da7ab628ad7657658"),
        (
            "2001:db8::1".parse().expect("an address"),
            "00060a24182022408f890810a91d695fa81944612ef85233aa85f2e412be87298e53ccce82bfc2df",
        ),
    ] {
        let payload = Sealer::new(KEY).seal(&MESSAGE, source, NOW);
        let (message, seal) = payload.split_at(MESSAGE.len());
        assert_eq!(message, MESSAGE, "{source}");
        let seal = seal.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        assert_eq!(seal, golden, "{source}");
    }
}

#[test]
fn each_advertisement_of_a_sender_is_taken_once() {
    let mut sealer = Sealer::new(KEY);
    let mut verifier = Verifier::new(KEY);
    for seconds in 0..100 {
        let time = NOW + Duration::from_secs(seconds);
        let payload = sealer.seal(&MESSAGE, NODE, time);
        let (message, seal) = payload.split_at(MESSAGE.len());
        assert_eq!(verifier.verify(message, seal, NODE, time), Ok(()), "after {seconds} s");
        assert_eq!(verifier.verify(message, seal, NODE, time), Err(SealError::Replayed), "after {seconds} s, again");
    }
}

#[test]
fn an_older_advertisement_is_not_taken_after_a_newer_one() {
    let mut sealer = Sealer::new(KEY);
    let [older, newer] = [NOW, NOW].map(|time| sealer.seal(&MESSAGE, NODE, time).split_off(MESSAGE.len()));
    let mut verifier = Verifier::new(KEY);
    assert_eq!(verifier.verify(&MESSAGE, &newer, NODE, NOW), Ok(()));
    assert_eq!(verifier.verify(&MESSAGE, &older, NODE, NOW), Err(SealError::Replayed));
}

#[test]
fn no_other_value_of_any_byte_is_taken() {
    let payload = Sealer::new(KEY).seal(&MESSAGE, NODE, NOW);
    let mut verifier = Verifier::new(KEY);
    for place in 0..payload.len() {
        for change in 1..=u8::MAX {
            let mut payload = payload.to_vec();
            payload[place] ^= change;
            let (message, seal) = payload.split_at(MESSAGE.len());
            let verdict = verifier.verify(message, seal, NODE, NOW);
            assert_eq!(verdict, Err(SealError::Wrong), "byte {place} ^ {change:#04x}");
        }
    }
    let (message, seal) = payload.split_at(MESSAGE.len());
    assert_eq!(verifier.verify(message, seal, NODE, NOW), Ok(()), "none of those left a trace");
}

#[test]
fn a_seal_that_is_cut_is_missing_and_one_that_is_too_long_is_wrong() {
    let mut seal = seal(NODE, NOW);
    let mut verifier = Verifier::new(KEY);
    for length in 0..SEAL_LEN {
        let verdict = verifier.verify(&MESSAGE, &seal[..length], NODE, NOW);
        assert_eq!(verdict, Err(SealError::Missing), "{length} bytes");
    }
    seal.push(0);
    assert_eq!(verifier.verify(&MESSAGE, &seal, NODE, NOW), Err(SealError::Wrong));
}

#[test]
fn a_byte_moved_between_message_and_seal_is_noticed() {
    let payload = Sealer::new(KEY).seal(&MESSAGE, NODE, NOW);
    let (message, seal) = payload.split_at(MESSAGE.len() - 1);
    assert_eq!(Verifier::new(KEY).verify(message, seal, NODE, NOW), Err(SealError::Wrong));
}

#[test]
fn a_seal_under_another_key_is_wrong() {
    let verdict = Verifier::new(&[0; 32]).verify(&MESSAGE, &seal(NODE, NOW), NODE, NOW);
    assert_eq!(verdict, Err(SealError::Wrong));
}

#[test]
fn a_seal_is_good_for_its_source_only() {
    let seal = seal(NODE, NOW);
    let mut verifier = Verifier::new(KEY);
    for source in [OTHER_NODE, "::c000:201".parse().expect("an address"), "fe80::1".parse().expect("an address")] {
        assert_eq!(verifier.verify(&MESSAGE, &seal, source, NOW), Err(SealError::Wrong), "{source}");
    }
    assert_eq!(verifier.verify(&MESSAGE, &seal, NODE, NOW), Ok(()));
}

#[test]
fn two_senders_do_not_disturb_each_other() {
    let mut verifier = Verifier::new(KEY);
    let behind = NOW.saturating_sub(Duration::from_secs(20));
    assert_eq!(verifier.verify(&MESSAGE, &seal(NODE, NOW), NODE, NOW), Ok(()));
    assert_eq!(verifier.verify(&MESSAGE, &seal(OTHER_NODE, behind), OTHER_NODE, NOW), Ok(()), "its clock is behind");
    assert_eq!(verifier.verify(&MESSAGE, &seal(NODE, NOW + MICROSECOND), NODE, NOW), Ok(()));
    assert_eq!(verifier.verify(&MESSAGE, &seal(OTHER_NODE, behind), OTHER_NODE, NOW), Err(SealError::Replayed));
}

#[test]
fn a_seal_is_stale_when_it_is_more_than_the_window_away() {
    let stale = Err(SealError::Stale);
    for (description, sealed_at, verdict) in [
        ("30 s ago", NOW.saturating_sub(WINDOW), Ok(())),
        ("more than 30 s ago", NOW.saturating_sub(WINDOW + MICROSECOND), stale),
        ("in 30 s", NOW + WINDOW, Ok(())),
        ("in more than 30 s", NOW + WINDOW + MICROSECOND, stale),
        ("in 1970", Duration::ZERO, stale),
        ("at the end of time", Duration::MAX, stale),
    ] {
        let seal = seal(NODE, sealed_at);
        assert_eq!(Verifier::new(KEY).verify(&MESSAGE, &seal, NODE, NOW), verdict, "{description}");
    }
}

#[test]
fn a_stale_seal_leaves_no_trace() {
    let mut verifier = Verifier::new(KEY);
    let ahead = seal(NODE, NOW + WINDOW + MICROSECOND);
    assert_eq!(verifier.verify(&MESSAGE, &ahead, NODE, NOW), Err(SealError::Stale));
    assert_eq!(verifier.verify(&MESSAGE, &seal(NODE, NOW), NODE, NOW), Ok(()));
}

#[test]
fn the_sequence_grows_whatever_the_clock_does() {
    let mut sealer = Sealer::new(KEY);
    let mut last = 0;
    for (description, time, expected) in [
        ("the first is the time", NOW, 1_700_000_000_123_456),
        ("the clock stands still", NOW, 1_700_000_000_123_457),
        ("the clock is set back", NOW.saturating_sub(Duration::from_hours(1)), 1_700_000_000_123_458),
        ("the clock is at its start", Duration::ZERO, 1_700_000_000_123_459),
        ("the clock goes on", NOW + Duration::from_secs(1), 1_700_000_001_123_456),
    ] {
        let sequence = sequence(&sealer.seal(&MESSAGE, NODE, time));
        assert_eq!(sequence, expected, "{description}");
        assert!(sequence > last, "{description}");
        last = sequence;
    }
}
