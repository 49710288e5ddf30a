//! Which server a client was sent to last, where its later connections are to go there, too.

use crate::{Address, FlowTime, NetU16, NetU32, ServiceId};

/// How the clients of a service stay with their servers, in one word, so that a packet sees all of a change or nothing.
///
/// ```text
///  63 ........... 32   31 ..... 24   23 .......... 0
/// ┌──────────────────┬─────────────┬────────────────┐
/// │      scope       │   prefix    │   timeout (s)  │
/// └──────────────────┴─────────────┴────────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Affinity(u64);

const SCOPE_SHIFT: u32 = 32;
const PREFIX_SHIFT: u32 = 24;
const TIMEOUT_MASK: u64 = (1 << PREFIX_SHIFT) - 1;

impl Affinity {
    /// They do not.
    pub const NONE: Self = Self(0);

    /// For `timeout` seconds, at least one and below 2^24, after their last new flow. As one client counts whoever has the same first
    /// `prefix` bits of its address, 1 to 32 for IPv4 and to 128 for IPv6.
    pub const fn new(scope: AffinityScope, prefix: u8, timeout: u32) -> Self {
        Self((scope.0 as u64) << SCOPE_SHIFT | (prefix as u64) << PREFIX_SHIFT | timeout as u64 & TIMEOUT_MASK)
    }

    /// From the word in the map.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word in the map.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether clients stay with their servers.
    #[inline(always)]
    pub const fn is_in_use(self) -> bool {
        self.0 != 0
    }

    /// Who shares what is known of clients.
    #[inline(always)]
    pub const fn scope(self) -> AffinityScope {
        AffinityScope((self.0 >> SCOPE_SHIFT) as u32)
    }

    /// How many leading bits of a client's address count.
    #[inline(always)]
    pub const fn prefix(self) -> u32 {
        (self.0 >> PREFIX_SHIFT) as u32 & 0xff
    }

    /// How long a client stays, in seconds.
    #[inline(always)]
    pub const fn timeout(self) -> u32 {
        (self.0 & TIMEOUT_MASK) as u32
    }

    /// Whether a client whose last new flow came at `seen` still belongs to its server.
    #[inline(always)]
    pub const fn holds(self, seen: FlowTime, now: FlowTime) -> bool {
        now.0.wrapping_sub(seen.0) < self.timeout() as u64 * 1_000_000_000
    }

    /// The client that a packet from `source` is of.
    #[inline(always)]
    pub fn client(self, source: [NetU32; 4], ipv4: bool) -> AffinityClient {
        let [s0, s1, s2, s3] = source;
        // In an IPv4-mapped address the prefix begins in the last word.
        let before = if ipv4 { 96 } else { 0 };
        let prefix = self.prefix() + before;
        let part = |word: NetU32, bits: u32| word.prefix(prefix.saturating_sub(bits));
        let address = Address::from_words([part(s0, 0), part(s1, 32), part(s2, 64), part(s3, 96)]);
        AffinityClient { scope: self.scope(), padding: 0, address }
    }
}

/// Who shares what is known of clients: one service, or a group of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct AffinityScope(u32);

const GROUP: u32 = 1 << 31;

impl AffinityScope {
    /// This service, for itself.
    pub const fn service(id: ServiceId) -> Self {
        Self(id.get())
    }

    /// The group of this name. Its number is a hash of the name (FNV-1a): so it is the same after a restart, and on other nodes. Two
    /// groups with the same number, one in two billion, would know each other's clients, and each still has its own servers.
    pub const fn group(name: &str) -> Self {
        let bytes = name.as_bytes();
        let (mut hash, mut index) = (0x811c_9dc5_u32, 0);
        while index < bytes.len() {
            hash = (hash ^ bytes[index] as u32).wrapping_mul(0x0100_0193);
            index += 1;
        }
        Self(hash | GROUP)
    }

    /// Whether it is a group.
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0 & GROUP != 0
    }
}

/// A client, or all that are in one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct AffinityClient {
    /// Who knows it.
    pub scope: AffinityScope,
    /// Always zero: the map compares every byte of the key.
    padding: u32,
    /// The bits of its address that count, and zeros.
    pub address: Address,
}

/// What a service takes for one server, the same in all services of a group: there it is an address, as the ports of a server differ
/// from service to service; in a service for itself it is the backend, with its port where that is translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct AffinityServer {
    address: Address,
    port: NetU16,
    /// Always zero: the map compares every byte of the key.
    padding: [u16; 3],
}

impl AffinityServer {
    /// The server that a backend at `address` and `port` is; the port is zero where it is not translated.
    #[inline(always)]
    pub const fn new(scope: AffinityScope, address: Address, port: NetU16) -> Self {
        let port = if scope.is_group() { NetU16::new(0) } else { port };
        Self { address, port, padding: [0; 3] }
    }

    /// Its address.
    pub const fn address(self) -> Address {
        self.address
    }

    /// Its port, or zero.
    pub const fn port(self) -> NetU16 {
        self.port
    }
}

/// What is known of a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AffinityEntry {
    /// Where its last new flow went.
    pub server: AffinityServer,
    /// When that came, in nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub seen: u64,
}

/// A server as one service has it: what is looked up for the backend that takes its new flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServerOf {
    server: AffinityServer,
    service: ServiceId,
    /// Always zero: the map compares every byte of the key.
    padding: u32,
}

impl ServerOf {
    /// The server in that service.
    #[inline(always)]
    pub const fn new(service: ServiceId, server: AffinityServer) -> Self {
        Self { server, service, padding: 0 }
    }

    /// Which service.
    pub const fn service(self) -> ServiceId {
        self.service
    }

    /// Which server.
    pub const fn server(self) -> AffinityServer {
        self.server
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn affinity(prefix: u8) -> Affinity {
        Affinity::new(AffinityScope::group("web"), prefix, 300)
    }

    proptest! {
        #[test]
        fn the_word_keeps_its_parts_apart(id in 1..16_384_u32, prefix in 1..=128_u8, timeout in 1..1_u32 << 24) {
            for scope in [AffinityScope::service(ServiceId::new(id).unwrap()), AffinityScope::group("web")] {
                let affinity = Affinity::from_bits(Affinity::new(scope, prefix, timeout).to_bits());
                prop_assert!(affinity.is_in_use());
                prop_assert_eq!((affinity.scope(), affinity.prefix()), (scope, prefix.into()));
                prop_assert_eq!(affinity.timeout(), timeout);
            }
        }

        #[test]
        fn a_client_is_the_network_of_its_address(v4: u32, v6: u128, prefix in 1..=128_u8) {
            let short = prefix.min(32);
            let network = v4 & u32::MAX.checked_shl(32 - u32::from(short)).unwrap_or(0);
            let client = affinity(short).client(Address::from(Ipv4Addr::from(v4)).words(), true);
            prop_assert_eq!(client.address.to_ip(), Ipv4Addr::from(network));
            let network = v6 & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            let client = affinity(prefix).client(Address::from_v6_wire(v6.to_be_bytes()).words(), false);
            prop_assert_eq!(Ipv6Addr::from(client.address.to_wire()), Ipv6Addr::from(network));
        }
    }

    #[test]
    fn a_client_stays_until_its_time_is_over_and_what_was_seen_in_the_future_does_not_count() {
        const SECOND: u64 = 1_000_000_000;
        let at = |seconds: u64| FlowTime(1000 * SECOND + seconds * SECOND);
        assert!(affinity(32).holds(at(0), at(299)));
        assert!(!affinity(32).holds(at(0), at(300)));
        assert!(!affinity(32).holds(at(1), at(0)));
    }

    #[test]
    fn services_of_a_group_agree_on_a_server_whatever_its_port() {
        let (group, own) = (AffinityScope::group("web"), AffinityScope::service(ServiceId::new(1).unwrap()));
        let server = |scope, port| AffinityServer::new(scope, Address::from(Ipv4Addr::LOCALHOST), NetU16::new(port));
        assert_eq!(server(group, 80), server(group, 443));
        assert_ne!(server(own, 80), server(own, 443));
        assert_ne!(AffinityScope::group("web"), AffinityScope::group("mail"));
    }
}
