//! The Internet checksum (RFC 1071) as partial sums, and its incremental update (RFC 1624).
//!
//! A sum of 16-bit words does not depend on the byte order they are read in, as long as it is always the same
//! (RFC 1071, section 2 (B)), so words are taken from the packet in the host's order and never swapped.

use crate::{NetU16, NetU32};

/// A one's complement sum that is still being added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u32);

impl Sum {
    /// Nothing.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0)
    }

    /// What a header was summed up to that has this checksum.
    #[inline(always)]
    pub const fn of_checksum(check: NetU16) -> Self {
        Self(0).word(complement(check))
    }

    /// Takes another sum out again.
    #[inline(always)]
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        self.word(complement(other.fold()))
    }

    /// Adds one 16-bit word of the packet, or a folded sum. Up to 65,536 words can be added.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, word: NetU16) -> Self {
        Self(self.0 + u16::from_ne_bytes(word.to_wire()) as u32)
    }

    /// Takes away one 16-bit word that was added, or is a part of what is added later.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, word: NetU16) -> Self {
        self.word(complement(word))
    }

    /// Adds the two words of a 32-bit value.
    #[inline(always)]
    #[must_use]
    pub const fn words(self, words: NetU32) -> Self {
        let raw = u32::from_ne_bytes(words.to_wire());
        Self(self.0 + (raw >> 16) + (raw & 0xffff))
    }

    /// Adds another sum.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Adds all bytes. Behind an odd last one stands a zero that is not there (RFC 1071, section 1), so that nothing can
    /// be added after it.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (words, odd) = bytes.as_chunks();
        let last = odd.iter().map(|&byte| [byte, 0]);
        words.iter().copied().chain(last).fold(self, |sum, word| sum.word(NetU16::from_wire(word)))
    }

    /// The sum in 16 bits, not complemented.
    #[inline(always)]
    pub const fn fold(self) -> NetU16 {
        let once = (self.0 >> 16) + (self.0 & 0xffff);
        NetU16::from_wire((((once >> 16) + once) as u16).to_ne_bytes())
    }

    /// The checksum as it stands in a header.
    #[inline(always)]
    pub const fn finish(self) -> NetU16 {
        complement(self.fold())
    }
}

/// The checksum `check` of a header after one of its 16-bit words changed from `old` to `new` (RFC 1624, equation 3).
#[inline(always)]
pub const fn update(check: NetU16, old: NetU16, new: NetU16) -> NetU16 {
    Sum(0).word(complement(check)).word(complement(old)).word(new).finish()
}

const fn complement(word: NetU16) -> NetU16 {
    NetU16::new(!word.get())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header_strategy() -> impl Strategy<Value = etherparse::Ipv4Header> {
        (any::<[u8; 4]>(), any::<[u8; 4]>(), 0..1400_u16, any::<u8>()).prop_map(
            |(source, destination, payload, ttl)| {
                etherparse::Ipv4Header::new(payload, ttl, etherparse::IpNumber::IPV4, source, destination)
                    .expect("a payload below 1,400 bytes fits")
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_summed_word_by_word_has_the_checksum_that_etherparse_computes(header in header_strategy()) {
            let mut sum = Sum::default();
            let mut bytes = header.to_bytes();
            bytes[10..12].fill(0);
            for word in bytes.chunks_exact(4) {
                sum = sum.words(NetU32::from_wire([word[0], word[1], word[2], word[3]]));
            }
            prop_assert_eq!(sum.finish().get(), header.calc_header_checksum());
        }

        #[test]
        fn bytes_at_once_are_words_one_by_one_and_an_odd_last_byte_is_the_first_of_its_word(
            header in header_strategy(),
            last: u8,
        ) {
            let header = header.to_bytes();
            let words = header.chunks_exact(2).map(|word| NetU16::from_wire([word[0], word[1]]));
            let sum = words.fold(Sum::default(), Sum::word);
            prop_assert_eq!(Sum::default().bytes(&header), sum);
            prop_assert_eq!(sum.bytes(&[last]), sum.word(NetU16::from_wire([last, 0])));
        }

        #[test]
        fn a_word_that_was_taken_away_does_not_count(header in header_strategy(), word: [u8; 2]) {
            let word = NetU16::from_wire(word);
            let sum = Sum::default().bytes(&header.to_bytes());
            prop_assert_eq!(sum.without(word).word(word).finish(), sum.finish());
        }

        #[test]
        fn an_incremental_update_equals_a_new_checksum(mut header in header_strategy(), dscp_ecn: u8) {
            let before = NetU16::new(header.calc_header_checksum());
            let old = header.to_bytes();
            header.dscp = etherparse::IpDscp::try_new(dscp_ecn >> 2).expect("six bits");
            header.ecn = etherparse::IpEcn::try_new(dscp_ecn & 3).expect("two bits");
            let new = header.to_bytes();
            prop_assert_eq!(
                update(before, NetU16::from_wire([old[0], old[1]]), NetU16::from_wire([new[0], new[1]])).get(),
                header.calc_header_checksum()
            );
        }
    }
}
