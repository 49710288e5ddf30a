//! What the RFCs say of any payload, computed with etherparse's sums instead of ours.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

use super::super::*;

pub(super) const HABITS: [ChecksumHabit; 2] = [ChecksumHabit::PseudoHeader, ChecksumHabit::Message];

/// How long the message is, by its version and its count; `None` where that is not to be said, or more than there is.
fn length(payload: &[u8], source: IpAddr) -> Option<usize> {
    let addresses = usize::from(*payload.get(3)?) * if source.is_ipv4() { 4 } else { 16 };
    let length = match payload.first()? >> 4 {
        2 => 8 + addresses + 8,
        3 => 8 + addresses,
        _ => return None,
    };
    (length <= payload.len()).then_some(length)
}

/// Gives the message in the payload the checksum it should have, if there is a message.
pub(super) fn correct_checksum(payload: &mut [u8], source: IpAddr, destination: IpAddr, habit: ChecksumHabit) {
    let Some(length) = length(payload, source) else {
        return;
    };
    let message = &mut payload[..length];
    message[6..8].fill(0);
    let mut sum = Sum16BitWords::new().add_slice(message);
    if message[0] >> 4 == 3 && (source.is_ipv6() || habit == ChecksumHabit::PseudoHeader) {
        for address in [source, destination] {
            sum = match address {
                IpAddr::V4(address) => sum.add_4bytes(address.octets()),
                IpAddr::V6(address) => sum.add_16bytes(address.octets()),
            };
        }
        let length = u16::try_from(length).expect("at most 8 + 255 * 16");
        sum = sum.add_2bytes([0, 112]).add_2bytes(length.to_be_bytes());
    }
    message[6..8].copy_from_slice(&sum.ones_complement().to_ne_bytes());
}

/// Decodes any payload. What is accepted has to be within its bounds, and it has to be the same bytes again when it is
/// encoded, apart from the bits that a receiver must ignore.
pub(super) fn decode(payload: &[u8], source: IpAddr, destination: IpAddr) -> Result<Advertisement, Malformed> {
    let (advertisement, rest) = Advertisement::decode(payload, source, destination)?;

    assert!((1..=255).contains(&advertisement.addresses.len()), "{advertisement:?}");
    assert!(advertisement.addresses.iter().all(|address| address.is_ipv4() == source.is_ipv4()), "{advertisement:?}");
    let longest = match advertisement.version {
        VrrpVersion::V2 => Duration::from_secs(255),
        VrrpVersion::V3 => Duration::from_millis(40_950),
    };
    assert!(!advertisement.interval.is_zero() && advertisement.interval <= longest, "{advertisement:?}");
    assert!(advertisement.version == VrrpVersion::V2 || advertisement.password.is_none(), "{advertisement:?}");

    let length = length(payload, source).expect("a message");
    assert_eq!(rest, &payload[length..], "what follows");
    let mut message = payload[..length].to_vec();
    match advertisement.version {
        VrrpVersion::V2 if advertisement.password.is_none() => message[length - 8..].fill(0),
        VrrpVersion::V2 => {}
        VrrpVersion::V3 => message[4] &= 0xf,
    }
    let again = HABITS.map(|habit| advertisement.encode(source, destination, habit));
    if message != payload[..length] {
        // With other bits it has another checksum.
        message[6..8].copy_from_slice(&again[0][6..8]);
    } else if message[6..8] == [0xff, 0xff] {
        // The other zero of one's complement.
        message[6..8].fill(0);
    }
    assert!(again.iter().any(|again| *again == message), "{message:02x?} became {again:02x?}");
    Ok(advertisement)
}
