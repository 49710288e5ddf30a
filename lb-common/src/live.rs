//! What the programs that send and count live frames agree on with the benchmark that uses them (docs/BENCHMARKS.md, "veth").

use core::ops::Range;

use crate::{NetU32, checksum::Sum};

/// Frames to generate: UDP over IPv4, untagged and without IPv4 options or UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Stream {
    /// The whole frame, in words as the processor stores them. Of the source address the bits of [`Stream::SOURCE_MASK`] are zero, of the
    /// source port all but the highest bit. Where the header's checksum stands is its sum instead, not complemented.
    pub frame: [u64; Stream::FRAME_LEN / 8],
    /// How many flows the frames belong to; zero: each to one of its own, of 2^32.
    pub flows: u64,
}

impl Stream {
    /// Length of a frame in bytes.
    pub const FRAME_LEN: usize = 64;
    /// The bits of the source address that tell flows apart. The others do so by their source port.
    pub const SOURCE_MASK: u32 = (1 << 17) - 1;

    /// Frames like this one, of so many flows, or each of its own if none. Its source has to be as [`Stream::frame`] says.
    pub fn new(frame: &[u8; Self::FRAME_LEN], flows: u32) -> Self {
        const HEADER: Range<usize> = 14..34;
        const CHECKSUM: Range<usize> = 24..26;
        const CHECKSUM_AND_SOURCE: Range<usize> = 24..30;
        let mut without = *frame;
        without[CHECKSUM_AND_SOURCE].fill(0);
        let sum = Sum::default().bytes(&without[HEADER]).fold();
        let mut frame = *frame;
        frame[CHECKSUM].copy_from_slice(&sum.to_wire());
        let mut stream = Self { frame: [0; Self::FRAME_LEN / 8], flows: flows.into() };
        for (place, word) in stream.frame.iter_mut().zip(frame.as_chunks().0) {
            *place = u64::from_ne_bytes(*word);
        }
        stream
    }
}

/// The frames that are counted where they arrive, by the outer IPv4 header. All others pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Arrival {
    /// Their destination.
    pub destination: NetU32,
    /// Their protocol.
    pub protocol: u32,
}

/// Where the relay sends packets for an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Hop {
    /// The address.
    pub destination: NetU32,
    /// The host that they go to.
    pub mac: [u8; 6],
    /// Nothing.
    pub unused: [u8; 2],
}

impl Hop {
    /// How many there are: two by the last but one bit of the source port, and one for all.
    pub const COUNT: u32 = 3;
}

/// Names of the maps and programs in the eBPF object.
pub mod names {
    /// Makes a frame, and sends it.
    pub const GENERATE: &str = "generate";
    /// Sends every frame back to where it comes from.
    pub const REFLECT: &str = "reflect";
    /// Sends every frame on to the host that its address has.
    pub const RELAY: &str = "relay";
    /// Takes the frames in that are waited for.
    pub const COUNT: &str = "count";
    /// The one [`super::Stream`].
    pub const STREAM: &str = "STREAM";
    /// The one [`super::Arrival`].
    pub const ARRIVAL: &str = "ARRIVAL";
    /// The [`super::Hop`]s.
    pub const HOPS: &str = "HOPS";
    /// How many frames have arrived, per CPU.
    pub const ARRIVED: &str = "ARRIVED";
}
