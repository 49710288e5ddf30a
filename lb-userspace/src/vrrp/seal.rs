//! Advertisements that can be trusted, between our own nodes, in version 3: behind the message stands a seal. Pure.
//!
//! ```text
//! +-- message ... --+-- sequence: 8 bytes --+-- tag: 32 bytes --+
//! ```
//!
//! - **Sequence**: big endian. The sender's Unix time in microseconds, or one more than its last sequence where that is
//!   greater: it grows with each advertisement even when the clock stands still or is set back, and the sender needs to
//!   remember nothing when it starts anew.
//! - **Tag**: HMAC-SHA-256 (RFC 2104) over the source address in the IP header as 16 bytes (IPv4 in its mapped form,
//!   RFC 4291, section 2.5.5.2), the message with its checksum, and the sequence.
//!
//! The message itself, its length and its checksum are those of RFC 9568: the seal is no part of them.
//!
//! # What it protects against
//!
//! Someone on the link who does not have the key can read everything and send anything, but
//!
//! - cannot make up or change an advertisement: neither take the addresses over with a high priority, nor make the
//!   master seem to give up, nor speak in the name of another source address;
//! - cannot have an old one taken again: of each source a verifier takes growing sequences only, and none that is more
//!   than [`WINDOW`] away from its own clock.
//!
//! # What it does not protect against
//!
//! - One who has the key. It should belong to one virtual router on one link: what is sealed says neither the link nor
//!   the destination, so that under a key in two places an advertisement of one can be shown in the other.
//! - A replay within the window after the verifier has started anew, as it has forgotten the last sequences. A former
//!   master can seem to be alive for at most that long.
//! - One who can hold packets back: advertisements that are dropped, or come late by less than the window.
//! - Anything but advertisements: ARP, neighbour discovery and the addresses' traffic are as open as ever. And nothing
//!   here is secret.
//!
//! The clocks of the nodes have to agree to within the window. A sender that starts anew after its clock was set back is
//! not heard until the clock has passed the last sequence it sent.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use ring::hmac;

#[cfg(test)]
mod tests;

const SEQUENCE_LEN: usize = size_of::<u64>();
const TAG_LEN: usize = 32;

/// The length of a seal, in bytes.
pub const SEAL_LEN: usize = SEQUENCE_LEN + TAG_LEN;

/// How far a sequence may be from the verifier's clock, before or after.
const WINDOW: Duration = Duration::from_secs(30);

/// Seals what one virtual router of this node sends.
#[derive(Debug)]
pub struct Sealer {
    key: hmac::Key,
    /// The last sequence.
    last: u64,
}

impl Sealer {
    /// Seals under this key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), last: 0 }
    }

    /// The message and its seal, to be sent from `source`. The time is that since the Unix epoch.
    pub fn seal(&mut self, message: &[u8], source: IpAddr, unix_time: Duration) -> Bytes {
        self.last = self.last.saturating_add(1).max(microseconds(unix_time));
        let tag = hmac::sign(&self.key, &sealed(message, self.last, source));

        let mut payload = BytesMut::with_capacity(message.len() + SEAL_LEN);
        payload.put_slice(message);
        payload.put_u64(self.last);
        payload.put_slice(tag.as_ref());
        payload.freeze()
    }
}

/// Verifies what one virtual router of this node receives.
#[derive(Debug)]
pub struct Verifier {
    key: hmac::Key,
    /// The last sequence of each source. Only who has the key can make it grow.
    last: HashMap<Ipv6Addr, u64>,
}

impl Verifier {
    /// Takes what was sealed under this key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), last: HashMap::new() }
    }

    /// Whether `seal` is one that was put behind `message` by the node with that address, a short time ago, and was not
    /// here before. The time is that since the Unix epoch.
    pub fn verify(
        &mut self,
        message: &[u8],
        seal: &[u8],
        source: IpAddr,
        unix_time: Duration,
    ) -> Result<(), SealError> {
        if seal.len() < SEAL_LEN {
            return Err(SealError::Missing);
        }
        let (&sequence, tag) = seal.split_first_chunk().ok_or(SealError::Missing)?;
        let sequence = u64::from_be_bytes(sequence);
        hmac::verify(&self.key, &sealed(message, sequence, source), tag).map_err(|_| SealError::Wrong)?;

        if sequence.abs_diff(microseconds(unix_time)) > microseconds(WINDOW) {
            return Err(SealError::Stale);
        }
        let last = self.last.entry(mapped(source)).or_default();
        if sequence <= *last {
            return Err(SealError::Replayed);
        }
        *last = sequence;
        Ok(())
    }
}

/// Why an advertisement is not to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SealError {
    /// There is none, or only a part of one.
    #[error("the advertisement has no seal")]
    Missing,
    /// It was made under another key, or the message, the sequence or the source is not what was sealed.
    #[error("the seal is wrong: another key, or the advertisement was changed on its way")]
    Wrong,
    /// The sequence is not greater than the last one of this source.
    #[error("the advertisement was here before")]
    Replayed,
    /// The sequence is too far from this node's clock.
    #[error("the time in the seal is more than {} s away from this node's clock; synchronise the clocks", WINDOW.as_secs())]
    Stale,
}

/// What the tag is computed over.
fn sealed(message: &[u8], sequence: u64, source: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + message.len() + SEQUENCE_LEN);
    bytes.put_slice(&mapped(source).octets());
    bytes.put_slice(message);
    bytes.put_u64(sequence);
    bytes
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Enough for 584,000 years.
fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
