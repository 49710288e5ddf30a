//! Where a flow stands in a table of whatever size.

use super::WAYS;
use crate::FlowHash;

/// The smallest table has 2 to the power of this many buckets: 65,536 entries.
pub const MIN_BUCKET_BITS: u32 = BASE_BITS;
/// The largest table: 67,108,864 entries in 512 MiB.
pub const MAX_BUCKET_BITS: u32 = 23;

const BASE_BITS: u32 = 13;
const BASE_MASK: u32 = (1 << BASE_BITS) - 1;
const TAG_BITS: u32 = 39;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
const BASE_SHIFT: u32 = TAG_BITS - 1;
/// Below these are the slot bits.
const UPPER_SHIFT: u32 = 16;

/// What of a flow's hash an entry keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowTag(pub(super) u64);

impl FlowTag {
    /// The tag of the flow with this hash.
    #[inline(always)]
    pub const fn of(hash: FlowHash) -> Self {
        Self(hash.0 & TAG_MASK)
    }

    /// The number itself: 39 bits.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The flow's slot in a table with this mask.
    #[inline(always)]
    pub const fn slot(self, mask: u32) -> u32 {
        self.0 as u32 & mask
    }

    /// In what the base bits of the two buckets differ: an odd number.
    #[inline(always)]
    pub(super) const fn detour(self) -> u32 {
        // 2^64 divided by the golden ratio spreads all bits of the tag to the top.
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BASE_BITS)) as u32 | 1
    }
}

/// How many buckets a table has: 2 to the power of this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketBits(u32);

impl BucketBits {
    /// From [`MIN_BUCKET_BITS`] to [`MAX_BUCKET_BITS`].
    #[inline(always)]
    pub const fn new(bits: u32) -> Option<Self> {
        if bits < MIN_BUCKET_BITS || bits > MAX_BUCKET_BITS { None } else { Some(Self(bits)) }
    }

    /// The exponent.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Buckets in the table.
    pub const fn buckets(self) -> u32 {
        1 << self.0
    }

    /// Entries that the table holds.
    pub const fn entries(self) -> u64 {
        (WAYS as u64) << self.0
    }

    /// The first and the second choice of a flow.
    #[inline(always)]
    pub const fn buckets_of(self, hash: FlowHash) -> [u32; 2] {
        let first = self.place((hash.0 >> BASE_SHIFT) as u32 & BASE_MASK, FlowTag::of(hash));
        [first, first ^ FlowTag::of(hash).detour()]
    }

    /// The first and the second choice in this table for an entry that stands in `bucket` of a table of whatever size.
    pub const fn buckets_of_entry(self, tag: FlowTag, bucket: u32) -> [u32; 2] {
        let one = self.place(bucket & BASE_MASK, tag);
        let other = one ^ tag.detour();
        if one & 1 == (tag.0 >> BASE_SHIFT) as u32 { [one, other] } else { [other, one] }
    }

    #[inline(always)]
    const fn place(self, base: u32, tag: FlowTag) -> u32 {
        let upper = (tag.0 >> UPPER_SHIFT) as u32 & ((1 << (self.0 - BASE_BITS)) - 1);
        base | upper << BASE_BITS
    }
}
