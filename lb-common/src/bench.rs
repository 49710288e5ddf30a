//! What the benchmark's wrapper program and the benchmark agree on (docs/BENCHMARKS.md, "Method").

/// The frame that the wrapper restores before each run of the program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Template {
    /// The first bytes of the frame.
    pub head: [u8; Template::HEAD_LEN],
    /// Length of the whole frame in bytes.
    pub frame_len: u32,
    /// Where the four bytes stand that tell flows apart: the end of the source address.
    pub flow_offset: u32,
    /// Number of flows, less one: a power of two less one.
    pub flow_mask: u32,
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
