//! The flow table: which backend a flow belongs to, for the flows for which the slot alone does not say so.
//!
//! It is built like the cache of a CPU: an array of buckets of one cache line each, with eight ways. A flow may stand in
//! either of two buckets. An entry is one 64-bit word that is only ever changed by compare-and-swap, by packets on all
//! CPUs and by the daemon at once, so it is never torn and never lost.
//!
//! Which bits of the flow's hash are where:
//!
//! ```text
//!  63       51 50      39 38 37           16 15         0
//! ┌───────────┬──────────┬──┬───────────────┬────────────┐
//! │  unused   │  base (13)  │               │ slot bits  │
//! └───────────┴──────────┴──┴───────────────┴────────────┘
//!                        │    └ upper bits ┘             │
//!                        └────────── tag (39) ───────────┘
//! ```
//!
//! The number of a bucket is base bits below, upper bits above; the other bucket differs in the base only, by an odd number
//! that follows from the tag. So from the tag and the place of an entry follow its slot and the two buckets it may stand in in
//! a table of any size: the daemon can copy entries to a larger or smaller table without knowing the flows. Which of the two
//! is the first choice follows too, since the lowest bit of the base is also the highest of the tag. The base is independent
//! of the slot: when one slot in a hundred moves, its flows spread over all buckets.
//!
//! Two flows are taken for one if they share the tag and the pair of buckets, 51 of 64 bits: with a million entries that
//! happens to one new flow in two billion.

mod bucket;
mod entry;
mod geometry;
mod tables;

pub use bucket::{Bucket, Inserted, insert};
#[cfg(target_has_atomic = "64")]
pub use bucket::{ConnectionCounter, MemoryBucket};
pub use entry::{FlowEntry, FlowState, FlowTime, Signal, idle_ticks, ticks_ns};
pub use geometry::{BucketBits, FlowTag, MAX_BUCKET_BITS, MIN_BUCKET_BITS};
pub use tables::FlowTables;

/// Ways of a bucket.
pub const WAYS: usize = 8;

#[cfg(test)]
mod tests;
