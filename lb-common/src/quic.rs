//! QUIC connection ids that name their server (draft-ietf-quic-load-balancers-21), unencrypted.

use crate::ServiceId;

/// What the connection ids of a service look like. The first byte of one holds three bits of *config rotation* and five that do
/// not matter here; the server id follows, then a nonce (section 3 of the draft).
///
/// ```text
///  15 ........ 8   7 ................. 0
/// ┌───────────────┬─────────────────────┐
/// │ rotation      │ length of server id │
/// └───────────────┴─────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct QuicIds(u16);

impl QuicIds {
    /// The service does not speak QUIC, or its ids name nobody.
    pub const NONE: Self = Self(0);
    /// The longest server id in bytes.
    pub const MAX_SERVER_ID: usize = 15;
    /// The largest config rotation: 7 stands for ids that name nobody.
    pub const MAX_ROTATION: u8 = 6;

    /// Ids with this config rotation and a server id of `length` bytes: `None` if one of them is not possible.
    pub const fn new(rotation: u8, length: u8) -> Option<Self> {
        if rotation > Self::MAX_ROTATION || length == 0 || length as usize > Self::MAX_SERVER_ID {
            return None;
        }
        Some(Self((rotation as u16) << 8 | length as u16))
    }

    #[inline(always)]
    pub(crate) const fn to_bits(self) -> u16 {
        self.0
    }

    /// Whether connection ids name servers at all.
    #[inline(always)]
    pub const fn is_in_use(self) -> bool {
        self.0 != 0
    }

    /// Length of the server id in bytes.
    #[inline(always)]
    pub const fn length(self) -> u32 {
        (self.0 & 0xf) as u32
    }

    /// The config rotation.
    #[inline(always)]
    pub const fn rotation(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }
}

/// A server id of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct QuicServer {
    /// Two numbers, of the first and of the next eight bytes in network byte order; zeros stand for bytes that are not there.
    id: [u64; 2],
    /// The service: a server id counts in its own service only.
    service: ServiceId,
    /// Always zero: the map compares every byte of the key.
    padding: u32,
}

impl QuicServer {
    /// The server whose id of `length` bytes is at the head of these 16 bytes, read as two numbers in network byte order.
    #[inline(always)]
    pub const fn at_head_of(bytes: [u64; 2], length: u32, service: ServiceId) -> Self {
        let [high, low] = bytes;
        let (in_high, in_low) = if length > 8 { (8, length - 8) } else { (length, 0) };
        Self { id: [first_bytes(high, in_high), first_bytes(low, in_low)], service, padding: 0 }
    }

    /// The server with this id of up to 15 bytes; `None` if it is longer.
    pub fn new(service: ServiceId, id: &[u8]) -> Option<Self> {
        let mut bytes = [0; 16];
        bytes.get_mut(..id.len()).filter(|_| id.len() <= QuicIds::MAX_SERVER_ID)?.copy_from_slice(id);
        let number = u128::from_be_bytes(bytes);
        Some(Self { id: [(number >> 64) as u64, number as u64], service, padding: 0 })
    }
}

/// The first `count` bytes, up to eight, of a number in network byte order.
#[inline(always)]
const fn first_bytes(number: u64, count: u32) -> u64 {
    if count == 0 { 0 } else { number & u64::MAX << (64 - 8 * count) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_server_id_read_from_a_packet_is_the_one_that_was_configured(
            bytes: [u8; 16], length in 1..=QuicIds::MAX_SERVER_ID, service in 1..1000_u32,
        ) {
            let service = ServiceId::new(service).unwrap();
            let number = u128::from_be_bytes(bytes);
            let read = QuicServer::at_head_of([(number >> 64) as u64, number as u64], length as u32, service);
            prop_assert_eq!(Some(read), QuicServer::new(service, &bytes[..length]));
        }
    }

    #[test]
    fn an_id_of_sixteen_bytes_is_too_long() {
        assert_eq!(QuicServer::new(ServiceId::new(1).unwrap(), &[1; 16]), None);
        assert_eq!(QuicIds::new(0, 16), None);
        assert_eq!(QuicIds::new(7, 4), None);
    }
}
