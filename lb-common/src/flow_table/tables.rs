//! Which tables are in use.

use super::BucketBits;

/// Which tables there are, in one word that packets read once: the map of tables has two places, and while a table is
/// replaced by one of another size both are in use.
///
/// ```text
///  31 ........ 24   23 ............ 16   15 ............. 8   0
/// ┌──────────────┬────────────────────┬────────────────────┬───┐
/// │  idle ticks  │ old table's bits   │ table's bits       │ i │
/// └──────────────┴────────────────────┴────────────────────┴───┘
/// ```
///
/// `i` is the place of the table, and the other place is that of the old one. Bits of zero mean that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlowTables(u64);

impl FlowTables {
    /// The table at `place`, 0 or 1, and perhaps an old one at the other place. Flows without a packet for more than
    /// `idle_ticks` of 34.4 s give way to new ones.
    pub const fn new(place: u32, bits: BucketBits, old: Option<BucketBits>, idle_ticks: u8) -> Self {
        let old = match old {
            Some(bits) => bits.get(),
            None => 0,
        };
        Self((place & 1) as u64 | (bits.get() as u64) << 8 | (old as u64) << 16 | (idle_ticks as u64) << 24)
    }

    /// From the word in the map.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word in the map.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Place and size of the table.
    #[inline(always)]
    pub const fn current(self) -> Option<(u32, BucketBits)> {
        match BucketBits::new((self.0 >> 8) as u32 & 0xff) {
            Some(bits) => Some((self.0 as u32 & 1, bits)),
            None => None,
        }
    }

    /// Place and size of the table that is being replaced.
    #[inline(always)]
    pub const fn old(self) -> Option<(u32, BucketBits)> {
        match BucketBits::new((self.0 >> 16) as u32 & 0xff) {
            Some(bits) => Some((self.0 as u32 & 1 ^ 1, bits)),
            None => None,
        }
    }

    /// See [`FlowTables::new`].
    #[inline(always)]
    pub const fn idle_ticks(self) -> u8 {
        (self.0 >> 24) as u8
    }
}
