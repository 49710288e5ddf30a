//! Advertisements on the wire, the only message of VRRP: version 3 (RFC 9568, section 5) and version 2 (RFC 3768,
//! section 5) as keepalived speaks it. Pure.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |Version| Type 1| Virtual Rtr ID|   Priority    |Count of addrs |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |reserved| interval, 1/100 s    |           Checksum            |  version 3
//! |   Auth Type   | interval, s   |           Checksum            |  version 2
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |              addresses, 4 or 16 bytes each ...                |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |              8 bytes of authentication data                   |  version 2 only
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lb_common::checksum::Sum;

use crate::{
    checksum::sum_with_pseudo_header,
    config::{ChecksumHabit, VrrpVersion},
};

#[cfg(test)]
mod tests;

/// The protocol number in the IP header.
pub const PROTOCOL: u8 = 112;
/// All VRRP routers of a link (RFC 9568, section 5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// All VRRP routers of a link (RFC 9568, section 5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

const TYPE_ADVERTISEMENT: u8 = 1;
const HEADER_LEN: usize = 8;
const CHECKSUM_AT: usize = 6;

/// Twelve bits.
const MAX_CENTISECONDS: u16 = 0xfff;

const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 1;
const AUTHENTICATION_LEN: usize = 8;

/// What a master tells the other routers of its virtual router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// The version of the protocol.
    pub version: VrrpVersion,
    /// The virtual router identifier (VRID).
    pub router_id: u8,
    /// The sender's priority; zero: it gives up being master.
    pub priority: u8,
    /// The time until its next advertisement: in version 3 whole hundredths of a second, 10 ms to 40.95 s, in version 2
    /// whole seconds, 1 s to 255 s.
    pub interval: Duration,
    /// The virtual addresses, 1 to 255, of the same family as the addresses in the IP header.
    pub addresses: Vec<IpAddr>,
    /// Version 2 only: the password in clear text (RFC 2338, section 5.3.6, type 1), padded with zeros.
    pub password: Option<[u8; AUTHENTICATION_LEN]>,
}

/// Why a payload is not an advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Malformed {
    /// The header or the addresses it counts are not all there.
    #[error("the message is cut short")]
    TooShort,
    /// Version 2: something follows the authentication data.
    #[error("the message is followed by bytes that version 2 has no place for")]
    TooLong,
    /// Neither version 2 nor version 3.
    #[error("version {0} is not known")]
    Version(u8),
    /// Not an advertisement, and there is no other type.
    #[error("type {0} is not known")]
    Type(u8),
    /// Version 2: neither without authentication nor with a password.
    #[error("authentication type {0} is not known")]
    Authentication(u8),
    /// The count of addresses is zero.
    #[error("it names no virtual address")]
    NoAddress,
    /// Version 2 over IPv6.
    #[error("version 2 is for IPv4 only")]
    Family,
    /// The checksum fits neither with a pseudo-header nor, where that is allowed, without one.
    #[error("the checksum is wrong")]
    Checksum,
    /// The advertisement interval is zero: a backup would take over at once.
    #[error("the advertisement interval is zero")]
    ZeroInterval,
}

impl Advertisement {
    /// The message as the payload of a packet with these addresses in its IP header.
    ///
    /// What does not fit into the message is not in it: an interval out of range becomes the nearest one in range,
    /// addresses of the other family and those beyond the 255th are left out, and so is the password in version 3.
    /// `habit` is about version 3 over IPv4 only.
    pub fn encode(&self, source: IpAddr, destination: IpAddr, habit: ChecksumHabit) -> Bytes {
        let of_family = self.addresses.iter().filter(|address| address.is_ipv4() == source.is_ipv4());
        let addresses: Vec<_> = of_family.take(u8::MAX.into()).collect();

        let mut message = BytesMut::with_capacity(HEADER_LEN + 16 * addresses.len() + AUTHENTICATION_LEN);
        message.put_u8(self.version.number() << 4 | TYPE_ADVERTISEMENT);
        message.put_u8(self.router_id);
        message.put_u8(self.priority);
        message.put_u8(u8::try_from(addresses.len()).unwrap_or(u8::MAX));
        match self.version {
            VrrpVersion::V2 => {
                message.put_u8(if self.password.is_some() { PASSWORD } else { NO_AUTHENTICATION });
                message.put_u8(u8::try_from(self.interval.as_secs()).unwrap_or(u8::MAX).max(1));
            }
            VrrpVersion::V3 => {
                let centiseconds = u16::try_from(self.interval.as_millis() / 10).unwrap_or(u16::MAX);
                message.put_u16(centiseconds.clamp(1, MAX_CENTISECONDS));
            }
        }
        message.put_u16(0);
        for address in addresses {
            match address {
                IpAddr::V4(address) => message.put_slice(&address.octets()),
                IpAddr::V6(address) => message.put_slice(&address.octets()),
            }
        }
        if self.version == VrrpVersion::V2 {
            message.put_slice(&self.password.unwrap_or_default());
        }

        let sum = match (self.version, source, habit) {
            (VrrpVersion::V2, ..) | (VrrpVersion::V3, IpAddr::V4(_), ChecksumHabit::Message) => {
                Sum::default().bytes(&message)
            }
            (VrrpVersion::V3, IpAddr::V4(_), ChecksumHabit::PseudoHeader) | (VrrpVersion::V3, IpAddr::V6(_), _) => {
                sum_with_pseudo_header(source, destination, PROTOCOL, &message)
            }
        };
        message[CHECKSUM_AT..HEADER_LEN].copy_from_slice(&sum.finish().to_wire());
        message.freeze()
    }

    /// Reads the message at the start of the payload of a packet with these addresses in its IP header, and returns what
    /// follows it. In version 2 nothing may.
    ///
    /// As the RFCs demand, the reserved bits of version 3 are ignored, and in version 2 the authentication data where
    /// there is no authentication.
    pub fn decode(payload: &[u8], source: IpAddr, destination: IpAddr) -> Result<(Self, &[u8]), Malformed> {
        let Some(&[version_and_type, router_id, priority, count, high, low, _, _]) = payload.first_chunk() else {
            return Err(Malformed::TooShort);
        };
        let version = match version_and_type >> 4 {
            2 => VrrpVersion::V2,
            3 => VrrpVersion::V3,
            other => return Err(Malformed::Version(other)),
        };
        match version_and_type & 0xf {
            TYPE_ADVERTISEMENT => {}
            other => return Err(Malformed::Type(other)),
        }
        if version == VrrpVersion::V2 && source.is_ipv6() {
            return Err(Malformed::Family);
        }
        if count == 0 {
            return Err(Malformed::NoAddress);
        }

        let trailer_len = if version == VrrpVersion::V2 { AUTHENTICATION_LEN } else { 0 };
        let address_len = if source.is_ipv4() { 4 } else { 16 };
        let length = HEADER_LEN + usize::from(count) * address_len + trailer_len;
        let (message, rest) = payload.split_at_checked(length).ok_or(Malformed::TooShort)?;
        if version == VrrpVersion::V2 && !rest.is_empty() {
            return Err(Malformed::TooLong);
        }
        if !checksum_holds(version, message, source, destination) {
            return Err(Malformed::Checksum);
        }

        let (interval, authenticated) = match version {
            VrrpVersion::V2 => {
                let authenticated = match high {
                    NO_AUTHENTICATION => false,
                    PASSWORD => true,
                    other => return Err(Malformed::Authentication(other)),
                };
                (Duration::from_secs(low.into()), authenticated)
            }
            VrrpVersion::V3 => {
                let centiseconds = u16::from_be_bytes([high, low]) & MAX_CENTISECONDS;
                (Duration::from_millis(u64::from(centiseconds) * 10), false)
            }
        };
        if interval.is_zero() {
            return Err(Malformed::ZeroInterval);
        }

        let mut fields = &message[HEADER_LEN..];
        let addresses = (0..count)
            .map(|_| match source {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::from(fields.get_u32())),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::from(fields.get_u128())),
            })
            .collect();
        let password = authenticated.then(|| fields.get_u64().to_be_bytes());
        Ok((Self { version, router_id, priority, interval, addresses, password }, rest))
    }
}

/// Whether the sum over everything, with the checksum in its place, is zero (RFC 1071, section 1).
fn checksum_holds(version: VrrpVersion, message: &[u8], source: IpAddr, destination: IpAddr) -> bool {
    let with = || sum_with_pseudo_header(source, destination, PROTOCOL, message).finish().get() == 0;
    let without = || Sum::default().bytes(message).finish().get() == 0;
    match (version, source) {
        (VrrpVersion::V2, _) => without(),
        (VrrpVersion::V3, IpAddr::V4(_)) => with() || without(),
        (VrrpVersion::V3, IpAddr::V6(_)) => with(),
    }
}
