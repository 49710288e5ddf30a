//! What the benchmark's wrapper program and the benchmark agree on (docs/BENCHMARKS.md, "Method").

/// The frame that the wrapper restores before each run of the program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Template {
    /// The first bytes of the frame, in words as the processor stores them.
    pub head: [u64; Template::HEAD_LEN / 8],
    /// Length of the whole frame in bytes.
    pub frame_len: u32,
    /// Where the last four bytes of the source address stand: they tell flows apart.
    pub source_offset: u32,
    /// Number of flows, less one: a power of two less one.
    pub source_mask: u32,
    /// Where the last four bytes of the destination address stand: they tell services apart.
    pub destination_offset: u32,
    /// Number of services that get traffic, less one: a power of two less one.
    pub destination_mask: u32,
    /// One packet in so many is the first one of another flow each time, of 2^32; zero is none.
    pub flood_every: u32,
    /// Where the TCP flags stand.
    pub flags_offset: u32,
    /// Which program to run: its index in [`names::TARGETS`].
    pub target: u32,
}

impl Template {
    /// How many bytes at the head of the frame are restored: more than the programs under test write.
    pub const HEAD_LEN: usize = 64;
}

/// Names of the maps and programs in the benchmark's eBPF object.
pub mod names {
    /// The wrapper.
    pub const WRAPPER: &str = "wrapper";
    /// A program that passes every packet: the floor of everything.
    pub const NOOP: &str = "noop";
    /// A program that makes room for an outer IPv4 header and does nothing else: the floor of an encapsulation.
    pub const ENCAP: &str = "encap";
    /// The one [`super::Template`].
    pub const TEMPLATE: &str = "TEMPLATE";
    /// Programs under test.
    pub const TARGETS: &str = "TARGETS";
}
