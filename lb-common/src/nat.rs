//! The table of translated flows: what the datapath has to know to send both directions of a flow on (RFC 3022, RFC 4787 and
//! RFC 5382 have the terms).
//!
//! A flow is one [`NatRecord`], found by two indices of set-associative buckets, as the flow table's:
//!
//! | index | by | its word is |
//! |---|---|---|
//! | forward | the hash of the packets from the client | that hash; the record stands at the same place as the word |
//! | reverse | the hash of the packets from the backend | a part of that hash, and where the record stands |
//!
//! Words of an index are claimed by compare-and-swap. Whoever has claimed one looks again, and withdraws if the same key stands
//! elsewhere in the two buckets, too: of two that claim the same key at the same time, at least one sees the other. So keys are
//! unique, and with those of the reverse index so are source ports.
//!
//! A record is written by whoever has claimed its forward word, or has made the state of a closed connection free; then its
//! [`NatState`] makes it a flow. From then on only the state changes, by compare-and-swap, until it says that the flow is over; the
//! daemon frees the place when no packet can have it in its hands any more.
//!
//! A SYN after the end of a connection makes the next one in the same record, since it is the same client's, from the same port to the same
//! service. It may get another backend, and so another word of the reverse index. The word before stays where it is, and leads to a
//! record that does not lead back: so the port is held, for this client, until its backend has forgotten the connection. The daemon frees
//! such words after a while; where ports are short a new flow takes one over.
//!
//! Where the latencies of backends decide, a third array of words, as large as an index, holds since when the client of the record at the
//! same place waits for an answer, in nanoseconds; zero: it does not. The state of a flow says whether anybody looks there
//! ([`NatState::is_timed`]), so other flows do not pay for it.

mod hold;
mod index;
mod phase;
mod record;
mod turn;

pub use hold::{Holder, adopt, release};
pub use index::{Claim, Index, ReverseWord, Ways, claim, find, forward_word, likely_way};
pub use phase::{Event, Phase, Side};
pub use record::{NatRecord, NatState, Neighbour, RecordIndex};
pub use turn::Turn;

use crate::{Address, FlowHash, FlowTime, NetU16, NetU32, OuterHeader, flow_table::BucketBits};

/// The largest table: 16,777,216 flows.
pub const MAX_BUCKET_BITS: u32 = 21;
/// How many ports are tried for a new flow before it is refused.
pub const PORT_ATTEMPTS: u32 = 16;
/// From which attempt on ports will do that are held, or whose connection has ended: see [`NatState::leaves_port`].
pub const SECOND_HAND_ATTEMPTS: u32 = 8;

/// How large the table is; zero: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct NatTable(pub u32);

impl NatTable {
    /// A table of this size.
    pub const fn new(bits: BucketBits) -> Self {
        Self(bits.get())
    }

    /// Its size, unless there is no table.
    #[inline(always)]
    pub const fn bits(self) -> Option<BucketBits> {
        if self.0 > MAX_BUCKET_BITS { None } else { BucketBits::new(self.0) }
    }
}

/// An address that flows are given as their source, with ports that nobody else uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NatSource {
    /// The address; unspecified: there is none.
    pub address: Address,
    /// The lowest port, in the host's byte order.
    pub first_port: u16,
    /// How many ports from there on.
    pub ports: u16,
}

impl NatSource {
    /// The port to try at an attempt of a search that begins with any number. Searches that want the same one at first want others
    /// next.
    #[inline(always)]
    pub const fn port(&self, search: FlowHash, attempt: u32) -> NetU16 {
        let ports = if self.ports == 0 { 1 } else { self.ports as u32 };
        let step = (search.0 >> 16) as u16 | 1;
        let offset = (search.entropy() as u64 + attempt as u64 * step as u64) % ports as u64;
        NetU16::new((self.first_port as u32 + offset as u32) as u16)
    }
}

/// What says which port is tried at an attempt, for a flow with this hash at this time.
///
/// At first it is the flow alone: a client that opens a connection by the port of one that it has closed gets the source of that one,
/// and its backend, which may remember it yet, sees that the time stamps go on (RFC 6191). Then it is the time, too: a client that
/// has found no port searches elsewhere when it comes again.
#[inline(always)]
pub const fn search_of(flow: FlowHash, attempt: u32, now: FlowTime) -> FlowHash {
    if attempt == 0 {
        return flow;
    }
    // 2^64 divided by the golden ratio spreads the time to where ports and steps are taken from.
    FlowHash(flow.0 ^ (now.0 >> SEARCH_SHIFT).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Another search begins after 2 to the power of this many nanoseconds, 0.27 s: before a SYN comes again (RFC 6298, section 2).
const SEARCH_SHIFT: u32 = 28;

/// What a backend's row holds in place of an outer header, where addresses are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatTarget {
    /// The backend's port; zero: that of the service.
    pub port: NetU16,
    /// The first of its sources in the map of sources.
    pub first_source: u16,
    /// How many they are; zero: the client's address and port are kept.
    pub sources: u16,
}

impl NatTarget {
    /// The port that a packet to this port of the service goes to.
    #[inline(always)]
    pub const fn port_for(&self, service_port: NetU16) -> NetU16 {
        if self.port.get() == 0 { service_port } else { self.port }
    }

    /// The source to try at an attempt of a search, by its number.
    #[inline(always)]
    pub const fn source_at(&self, search: FlowHash, attempt: u32) -> u16 {
        let sources = if self.sources == 0 { 1 } else { self.sources as u32 };
        let first = search.0 as u32 & 0xffff;
        self.first_source.wrapping_add(((first + attempt) % sources) as u16)
    }

    /// As it stands in a row.
    pub const fn to_outer(self) -> OuterHeader {
        let mut words = [NetU32::new(0); 10];
        words[0] = NetU32::new(self.port.get() as u32);
        words[1] = NetU32::new((self.first_source as u32) << 16 | self.sources as u32);
        OuterHeader(words)
    }

    /// From a row.
    #[inline(always)]
    pub const fn of(outer: &OuterHeader) -> Self {
        let OuterHeader([port, sources, ..]) = *outer;
        let [_, port] = port.halves();
        let [first_source, sources] = sources.halves();
        Self { port, first_source: first_source.get(), sources: sources.get() }
    }
}
