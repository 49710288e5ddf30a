//! What of a packet picks its slot.

use crate::{Flow, FlowHash, HashKey, NetU32};

/// What is hashed to pick a slot.
///
/// A bare byte, zero or the length of a prefix: the datapath reads it from a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct HashInput(u8);

impl HashInput {
    /// The 5-tuple: each flow has a slot of its own.
    pub const FLOW: Self = Self(0);

    /// So many leading bits of the client's address, 1 to 32 for IPv4 and to 128 for IPv6: all flows of a client have one slot.
    pub const fn source(prefix: u8) -> Option<Self> {
        if prefix == 0 || prefix > 128 { None } else { Some(Self(prefix)) }
    }

    /// The length of the prefix in bits; zero for the 5-tuple.
    #[inline(always)]
    pub const fn prefix(self) -> u8 {
        self.0
    }

    /// The hash of `flow`: the bits that pick the slot come from the input, all others from the 5-tuple, so that the flows of one
    /// client are no neighbours in the flow table.
    pub fn hash(self, flow: &Flow, key: HashKey) -> FlowHash {
        let hash = flow.hash(key);
        if self == Self::FLOW {
            return hash;
        }
        hash.in_slot_of(Self::hash_of_source(flow.source.words(), flow.ipv4, self.0.into(), key))
    }

    /// The hash of the first `prefix` bits of a client's address and zeros, 4 bytes for IPv4 and 16 for IPv6, as that of a flow.
    #[inline(always)]
    pub fn hash_of_source(source: [NetU32; 4], ipv4: bool, prefix: u32, key: HashKey) -> FlowHash {
        let [s0, s1, s2, s3] = source;
        let rest = |bits| prefix.saturating_sub(bits);
        if ipv4 {
            key.hash_of_v4(s3.prefix(prefix))
        } else {
            key.hash_of_v6([s0.prefix(prefix), s1.prefix(rest(32)), s2.prefix(rest(64)), s3.prefix(rest(96))])
        }
    }
}

/// What picks slots now, and what did before, as long as flows may be left that are where that has put them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct HashInputs(u16);

impl HashInputs {
    /// Always this one.
    pub const fn new(now: HashInput) -> Self {
        Self(now.0 as u16)
    }

    /// This one, and before it another.
    pub const fn changed(now: HashInput, before: HashInput) -> Self {
        Self(now.0 as u16 | (before.0 as u16 + 1) << 8)
    }

    #[inline(always)]
    pub(crate) const fn to_bits(self) -> u16 {
        self.0
    }

    /// What picks slots.
    #[inline(always)]
    pub const fn now(self) -> HashInput {
        HashInput(self.0 as u8)
    }

    /// What did before, if flows of then may be left.
    #[inline(always)]
    pub const fn before(self) -> Option<HashInput> {
        match (self.0 >> 8) as u8 {
            0 => None,
            prefix => Some(HashInput(prefix - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn input(prefix: u8) -> HashInput {
        HashInput::source(prefix).unwrap_or(HashInput::FLOW)
    }

    proptest! {
        #[test]
        fn now_and_before_are_kept_apart(now in 0..=128_u8, before in 0..=128_u8) {
            let [now, before] = [now, before].map(input);
            prop_assert_eq!((HashInputs::new(now).now(), HashInputs::new(now).before()), (now, None));
            let changed = HashInputs::changed(now, before);
            prop_assert_eq!((changed.now(), changed.before()), (now, Some(before)));
        }
    }
}
