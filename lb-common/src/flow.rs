use crate::{Address, BackendId, NetU16, NetU32};

/// The key of the flow hash. Whoever knows it can aim at a backend, so it is never shown.
///
/// It is kept as the four words of the hash's state, after that part of the first round which no packet has a say in.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct HashKey(SipState);

impl HashKey {
    /// From 16 bytes, each half little-endian as in the `SipHash` paper.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        let k0 = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let k1 = u64::from_le_bytes([i, j, k, l, m, n, o, p]);
        let mut state = SipState {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        };
        state.mix_without_v3();
        Self(state)
    }

    /// SipHash-1-3 over the four bytes of an IPv4 address.
    #[inline(always)]
    pub(crate) fn hash_of_v4(self, address: NetU32) -> FlowHash {
        let Self(mut state) = self;
        state.absorb_first(address.siphash_block(NetU32::from_wire([0, 0, 0, 4])));
        FlowHash(state.finish())
    }

    /// SipHash-1-3 over the 16 bytes of an IPv6 address.
    #[inline(always)]
    pub(crate) fn hash_of_v6(self, [a, b, c, d]: [NetU32; 4]) -> FlowHash {
        let Self(mut state) = self;
        state.absorb_first(a.siphash_block(b));
        state.absorb(c.siphash_block(d));
        state.absorb(NetU32::default().siphash_block(NetU32::from_wire([0, 0, 0, 16])));
        FlowHash(state.finish())
    }

    /// The words as the program has them.
    pub const fn to_words(self) -> [u64; 4] {
        let Self(SipState { v0, v1, v2, v3 }) = self;
        [v0, v1, v2, v3]
    }
}

impl Default for HashKey {
    fn default() -> Self {
        Self::from_bytes([0; 16])
    }
}

impl core::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HashKey(…)")
    }
}

/// The keyed hash of a flow. Different users take different bits, so that what they do is independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// Picks a slot: bits 0 to 15.
    #[inline(always)]
    pub const fn slot(self, mask: u32) -> u32 {
        self.0 as u32 & mask
    }

    /// The same in the slot of another, whatever the size of the table.
    #[inline(always)]
    #[must_use]
    pub const fn in_slot_of(self, other: Self) -> Self {
        Self(self.0 & !0xffff | other.0 & 0xffff)
    }

    /// The same for one backend of several that have packets of this flow at the same time.
    #[inline(always)]
    #[must_use]
    pub const fn of_backend(self, backend: BackendId) -> Self {
        // 2^64 divided by the golden ratio spreads the number over all bits.
        Self(self.0 ^ (backend.get() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// 32 bits of entropy for the outer header of a tunnel: bits 32 to 63.
    #[inline(always)]
    pub const fn entropy(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The 5-tuple of a packet on its way from a client to a service.
///
/// Aligned, as the compiler reads two words of an address at once, and the verifier allows that on the stack at such places only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Flow {
    /// The client.
    pub source: Address,
    /// The virtual IP.
    pub destination: Address,
    /// The client's port, then the service's.
    pub ports: NetU32,
    /// The protocol number: 6 for TCP, 17 for UDP; of ICMP what [`crate::echo`] says.
    pub protocol: u8,
    /// Whether both addresses are IPv4 addresses.
    pub ipv4: bool,
}

impl Flow {
    /// The service's port.
    #[inline(always)]
    pub const fn destination_port(&self) -> NetU16 {
        let [_, port] = self.ports.halves();
        port
    }

    /// SipHash-1-3 (Aumasson and Bernstein, INDOCRYPT 2012) over source address, destination address, source port,
    /// destination port and protocol, as they stand in the packet (of ICMP as [`crate::echo`] says): 13 bytes for IPv4, 37 for IPv6.
    #[inline(always)]
    pub fn hash(&self, key: HashKey) -> FlowHash {
        let HashKey(mut state) = key;
        let [s0, s1, s2, s3] = self.source.words();
        let [d0, d1, d2, d3] = self.destination.words();
        if self.ipv4 {
            state.absorb_first(s3.siphash_block(d3));
        } else {
            state.absorb_first(s0.siphash_block(s1));
            state.absorb(s2.siphash_block(s3));
            state.absorb(d0.siphash_block(d1));
            state.absorb(d2.siphash_block(d3));
        }
        let length = if self.ipv4 { 13 } else { 37 };
        state.absorb(self.ports.siphash_block(NetU32::from_wire([self.protocol, 0, 0, length])));
        FlowHash(state.finish())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct SipState {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipState {
    /// The part of a round that does without `v3`, in which a block has been mixed.
    #[inline(always)]
    const fn mix_without_v3(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
    }

    /// The rest of a round.
    #[inline(always)]
    const fn mix_with_v3(&mut self) {
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.mix_without_v3();
        self.mix_with_v3();
    }

    /// Absorbs the first block, in the round that [`HashKey`] has begun.
    #[inline(always)]
    const fn absorb_first(&mut self, block: u64) {
        self.v3 ^= block;
        self.mix_with_v3();
        self.v0 ^= block;
    }

    #[inline(always)]
    const fn absorb(&mut self, block: u64) {
        self.v3 ^= block;
        self.round();
        self.v0 ^= block;
    }

    #[inline(always)]
    const fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::hash::Hasher as _;
    use std::vec::Vec;

    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;
    use crate::HashInput;

    /// The same hash by an independent library.
    fn reference(key: [u8; 16], message: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&key);
        hasher.write(message);
        hasher.finish()
    }

    fn message(parts: [&[u8]; 5]) -> Vec<u8> {
        parts.concat()
    }

    proptest! {
        #[test]
        fn the_hash_of_a_source_is_that_of_its_prefix_and_zeros(
            key: [u8; 16], source: [u8; 16], ipv4: bool, prefix in 1..=128_u32,
        ) {
            let len: usize = if ipv4 { 4 } else { 16 };
            let prefix = prefix.min(len as u32 * 8);
            let address = if ipv4 {
                Address::from_v4_wire([source[0], source[1], source[2], source[3]])
            } else {
                Address::from_v6_wire(source)
            };
            let mut bytes = source;
            for (index, byte) in (0..).zip(&mut bytes) {
                *byte &= !(0xff_u32 >> prefix.saturating_sub(8 * index).min(8)) as u8;
            }
            let hash = HashInput::hash_of_source(address.words(), ipv4, prefix, HashKey::from_bytes(key));
            prop_assert_eq!(hash.0, reference(key, &bytes[..len]));
        }

        #[test]
        fn an_ipv4_flow_hashes_as_siphash_1_3_over_its_thirteen_bytes(
            key: [u8; 16], source: [u8; 4], destination: [u8; 4], ports: [[u8; 2]; 2], protocol: u8,
        ) {
            let flow = Flow {
                source: Address::from_v4_wire(source),
                destination: Address::from_v4_wire(destination),
                ports: NetU32::from_wire([ports[0][0], ports[0][1], ports[1][0], ports[1][1]]),
                protocol,
                ipv4: true,
            };
            let expected = reference(key, &message([&source, &destination, &ports[0], &ports[1], &[protocol]]));
            prop_assert_eq!(flow.hash(HashKey::from_bytes(key)).0, expected);
        }

        #[test]
        fn an_ipv6_flow_hashes_as_siphash_1_3_over_its_thirty_seven_bytes(
            key: [u8; 16], source: [u8; 16], destination: [u8; 16], ports: [[u8; 2]; 2], protocol: u8,
        ) {
            let flow = Flow {
                source: Address::from_v6_wire(source),
                destination: Address::from_v6_wire(destination),
                ports: NetU32::from_wire([ports[0][0], ports[0][1], ports[1][0], ports[1][1]]),
                protocol,
                ipv4: false,
            };
            let expected = reference(key, &message([&source, &destination, &ports[0], &ports[1], &[protocol]]));
            prop_assert_eq!(flow.hash(HashKey::from_bytes(key)).0, expected);
        }
    }
}
