//! Which packets are taken in (RFC 9568, section 7.1; RFC 3768, section 7.1).

use std::{net::IpAddr, time::Duration};

use super::{Member, Packet};
use crate::{
    config::{Authentication, VrrpVersion},
    vrrp::{
        instance::Heard,
        packet::{Advertisement, Malformed},
        seal::SealError,
    },
};

/// Only a host on the same link can send a packet that arrives with this TTL (RFC 9568, section 5.1.1.3).
const TTL: u8 = 255;

/// Why a packet was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discard {
    /// It may have been routed: its TTL or hop limit is not 255.
    Ttl,
    /// It is shorter than it says, or longer.
    Length,
    /// It is of a version or type that this version does not know.
    Kind,
    /// It makes no sense otherwise.
    Malformed,
    /// Its checksum is wrong.
    Checksum,
    /// No instance of this node has its router id.
    UnknownRouter,
    /// It came back to its sender.
    Own,
    /// Its source is not one of the unicast peers.
    NotAPeer,
    /// It is of the other version.
    Version,
    /// Its kind of authentication is not this node's.
    AuthenticationType,
    /// Its password is wrong.
    Password,
    /// It has no seal, or a wrong one.
    Seal,
    /// Its seal was seen before.
    Replayed,
    /// Its seal is too old, or the clocks of the nodes differ.
    Stale,
    /// Version 2: its interval is not this node's.
    Interval,
    /// Version 2: its addresses are not this node's.
    Addresses,
}

impl Discard {
    /// The word for it, in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Length => "length",
            Self::Kind => "kind",
            Self::Malformed => "malformed",
            Self::Checksum => "checksum",
            Self::UnknownRouter => "unknown-router-id",
            Self::Own => "own",
            Self::NotAPeer => "not-a-peer",
            Self::Version => "version",
            Self::AuthenticationType => "authentication-type",
            Self::Password => "password",
            Self::Seal => "seal",
            Self::Replayed => "replayed",
            Self::Stale => "stale",
            Self::Interval => "interval",
            Self::Addresses => "addresses",
        }
    }
}

impl From<Malformed> for Discard {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::TooShort | Malformed::TooLong => Self::Length,
            Malformed::Version(_) | Malformed::Type(_) => Self::Kind,
            Malformed::Authentication(_) => Self::AuthenticationType,
            Malformed::Checksum => Self::Checksum,
            _ => Self::Malformed,
        }
    }
}

impl From<SealError> for Discard {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Missing | SealError::Wrong => Self::Seal,
            SealError::Replayed => Self::Replayed,
            SealError::Stale => Self::Stale,
        }
    }
}

/// What can be checked without knowing the instance. The second part is the seal, or nothing.
pub(super) fn read(packet: Packet<'_>) -> Result<(Advertisement, &[u8]), Discard> {
    Ok(Advertisement::decode(packet.payload, packet.source, packet.destination)?)
}

impl Member {
    /// Checks an advertisement for this instance, and counts it.
    pub(super) fn check(
        &mut self,
        packet: Packet<'_>,
        advertisement: &Advertisement,
        seal: &[u8],
        unix: Duration,
    ) -> Result<Heard, Discard> {
        let checked = self.examine(packet, advertisement, seal, unix);
        match checked {
            Ok(heard) => {
                self.counters.received += 1;
                self.counters.farewells_received += u64::from(heard.priority == 0);
                self.counters.other_addresses += u64::from(!self.has_addresses(&advertisement.addresses));
            }
            Err(discard) => self.count_discard(discard, packet.source, unix),
        }
        checked
    }

    pub(super) fn count_discard(&mut self, discard: Discard, source: IpAddr, unix: Duration) {
        *self.counters.discarded.entry(discard).or_default() += 1;
        self.counters.last_discarded = Some((source, discard));
        self.counters.last_discarded_at = unix;
    }

    fn examine(
        &mut self,
        packet: Packet<'_>,
        advertisement: &Advertisement,
        seal: &[u8],
        unix: Duration,
    ) -> Result<Heard, Discard> {
        if self.source() == Some(packet.source) {
            return Err(Discard::Own);
        }
        let peers = &self.config.unicast_peers;
        // keepalived 2.2 sends IPv6 unicast with the default hop limit, so that it says nothing there, unless a seal says that
        // this is not keepalived.
        let is_unicast_v6 = !peers.is_empty() && packet.source.is_ipv6() && self.verifier.is_none();
        if packet.ttl != TTL && !is_unicast_v6 {
            return Err(Discard::Ttl);
        }
        if !peers.is_empty() && !peers.contains(&packet.source) {
            return Err(Discard::NotAPeer);
        }
        if advertisement.version != self.config.version {
            return Err(Discard::Version);
        }
        match (&self.config.authentication, advertisement.password) {
            (Some(Authentication::Password(ours)), Some(theirs)) if *ours != theirs => return Err(Discard::Password),
            (Some(Authentication::Password(_)), None) | (None, Some(_)) => return Err(Discard::AuthenticationType),
            _ => {}
        }
        match &mut self.verifier {
            Some(verifier) => {
                let message = &packet.payload[..packet.payload.len() - seal.len()];
                verifier.verify(message, seal, packet.source, unix)?;
            }
            None if !seal.is_empty() => return Err(Discard::Length),
            None => {}
        }
        if self.config.version == VrrpVersion::V2 {
            if advertisement.interval != self.config.interval {
                return Err(Discard::Interval);
            }
            if !self.has_addresses(&advertisement.addresses) {
                return Err(Discard::Addresses);
            }
        }
        Ok(Heard { source: packet.source, priority: advertisement.priority, interval: advertisement.interval })
    }

    fn has_addresses(&self, theirs: &[IpAddr]) -> bool {
        let ours = &self.config.addresses;
        ours.len() == theirs.len() && ours.iter().all(|entry| theirs.contains(&entry.address))
    }
}
