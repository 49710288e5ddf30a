use crate::{Address, HashInputs, NetU16, QuicIds, Ring, layout};

/// What a packet's destination is looked up by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ServiceKey {
    /// The virtual IP.
    pub address: Address,
    /// The port; zero stands for all ports that have no service of their own.
    pub port: NetU16,
    /// The protocol number: 6 for TCP, 17 for UDP, 1 for ICMP of both families.
    pub protocol: u8,
    /// Always zero: the map compares every byte of the key.
    pub padding: u8,
}

impl ServiceKey {
    /// Whether both are the same: written out, because the eBPF compiler would compare byte by byte.
    #[inline(always)]
    pub(crate) fn matches(&self, other: &Self) -> bool {
        self.port == other.port && self.protocol == other.protocol && self.address.matches(other.address)
    }

    /// The key of {`address`, `port`, `protocol`}.
    #[inline(always)]
    pub const fn new(address: Address, port: NetU16, protocol: u8) -> Self {
        Self { address, port, protocol, padding: 0 }
    }
}

/// Names a service in the maps: from 1 to [`layout::MAX_SERVICES`]`- 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct ServiceId(u32);

impl ServiceId {
    /// The id `raw`, if it is one.
    pub const fn new(raw: u32) -> Option<Self> {
        if raw == 0 || raw >= layout::MAX_SERVICES { None } else { Some(Self(raw)) }
    }

    /// The number itself: the index of the service's counters.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A service as the datapath knows it: where its slot table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// Index of its counters.
    pub id: ServiceId,
    /// Its first chunk of [`layout::CHUNK_SLOTS`] slots; the others follow.
    pub first_chunk: u32,
    /// The number of its slots, less one: a power of two less one.
    pub slot_mask: u32,
    /// What its QUIC connection ids look like, if it speaks QUIC.
    pub quic: QuicIds,
    /// What of a packet picks its slot.
    pub hash: HashInputs,
    /// Whether, and how, addresses are translated on the way to its backends.
    pub nat: NatMode,
    /// Whether its datagrams make flows.
    pub datagrams: Datagrams,
}

/// What the datagrams of a service are to each other.
///
/// A bare half word with named values: the datapath reads it from a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Datagrams(u16);

impl Datagrams {
    /// Those with the same addresses and ports are a flow.
    pub const FLOWS: Self = Self(0);
    /// Each is a request of its own, and gets a backend of its own.
    pub const SINGLE: Self = Self(1);

    /// Whether each stands for itself.
    #[inline(always)]
    pub const fn are_single(self) -> bool {
        self.0 != 0
    }
}

/// Whether a service translates addresses, and what becomes of flows that find no room or no port.
///
/// A bare half word with named bits: the datapath reads it from a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct NatMode(u16);

impl NatMode {
    /// It does not.
    pub const NONE: Self = Self(0);
    /// The destination, and not the source (`nat`).
    pub const DESTINATION: Self = Self(1);
    /// Both (`full-nat`).
    pub const BOTH: Self = Self(2);

    const RESETS: u16 = 1 << 8;

    /// The same; TCP connections that find no room or no port are reset.
    #[must_use]
    pub const fn resetting(self) -> Self {
        Self(self.0 | Self::RESETS)
    }

    /// Whether addresses are translated.
    #[inline(always)]
    pub const fn is_in_use(self) -> bool {
        self.0 != 0
    }

    /// Whether the source is translated, too.
    #[inline(always)]
    pub const fn translates_source(self) -> bool {
        self.0 & Self::BOTH.0 != 0
    }

    /// Whether what finds no room is answered with a reset.
    #[inline(always)]
    pub const fn resets(self) -> bool {
        self.0 & Self::RESETS != 0
    }
}

impl Service {
    /// Whether the service's slots alone say where its packets go, and the hash of a flow which slot: in the same word, so that it
    /// is one question; and whether datagrams make flows.
    #[inline(always)]
    pub const fn is_plain(&self) -> bool {
        self.quic.to_bits() as u32 | (self.hash.to_bits() as u32) << 16 | self.datagrams.0 as u32 == 0
    }

    /// Its slots.
    #[inline(always)]
    pub const fn ring(&self) -> Ring {
        Ring { first_chunk: self.first_chunk, len: self.slot_mask.wrapping_add(1) }
    }

    /// Whether this is a service: in a free place of the directory it is not.
    #[inline(always)]
    pub const fn exists(&self) -> bool {
        self.id.get() != 0
    }

    /// Which chunk of the slot array holds `slot`, and at which place.
    #[inline(always)]
    pub const fn locate(&self, slot: u32) -> (u32, usize) {
        (self.first_chunk.wrapping_add(slot / layout::CHUNK_SLOTS), (slot % layout::CHUNK_SLOTS) as usize)
    }
}
