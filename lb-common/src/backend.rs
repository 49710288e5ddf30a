use crate::{Address, NetU16, NetU32, ServiceId, gue, layout};

/// Names one backend of one service in slots, rows and counters: 15 bits, zero is nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct BackendId(u32);

impl BackendId {
    /// Nobody: a packet that meets it is dropped.
    pub const NONE: Self = Self(0);
    /// How many different ids there are, [`BackendId::NONE`] among them.
    pub const COUNT: u32 = 1 << 15;

    /// The id in the low 15 bits of `raw`.
    #[inline(always)]
    pub const fn truncate(raw: u32) -> Self {
        Self(raw & (Self::COUNT - 1))
    }

    /// The number itself: the index of the backend's row word and counters.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Where in the row array a backend's row stands. The indirection is what makes a change atomic: a new row is written
/// elsewhere, then this one word is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct RowIndex(pub u32);

impl RowIndex {
    /// No row: the backend takes no packets. Row 0 is never written.
    pub const NONE: Self = Self(0);
}

/// A link-layer address, as it stands in a frame.
pub type MacAddress = [u8; 6];

/// A link-layer address as one number: what the map of interfaces holds. Zero is no address.
#[inline(always)]
pub const fn mac_word(mac: MacAddress) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])
}

/// What stands between the Ethernet header and the client's packet on the way to a backend.
///
/// A bare byte with named values: the datapath reads it from a map, where an enum of Rust may not hold every value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Encapsulation(pub u8);

impl Encapsulation {
    /// An unused row.
    pub const EMPTY: Self = Self(0);
    /// The backend is this host: the packet goes up the local stack as it is.
    pub const LOCAL: Self = Self(1);
    /// Nothing: only the Ethernet header changes (`l2-dsr`).
    pub const NONE: Self = Self(2);
    /// An IPv4 header (`ipip`; RFC 2003, RFC 4213 section 3).
    pub const IPV4: Self = Self(3);
    /// An IPv6 header (`ipip`; RFC 2473).
    pub const IPV6: Self = Self(4);
    /// An IPv4 header, UDP and GUE (`gue`; see [`gue`]).
    pub const GUE_IPV4: Self = Self(5);
    /// An IPv6 header, UDP and GUE.
    pub const GUE_IPV6: Self = Self(6);
    /// Nothing: addresses and ports are translated (`nat`, `full-nat`; see [`crate::nat`]).
    pub const TRANSLATED: Self = Self(7);

    /// Bytes that the encapsulation adds to the packet.
    #[inline(always)]
    pub const fn overhead(self) -> u16 {
        match self {
            Self::IPV4 => OuterHeader::IPV4_LEN,
            Self::IPV6 => OuterHeader::IPV6_LEN,
            Self::GUE_IPV4 => OuterHeader::IPV4_LEN + gue::HEADERS_LEN,
            Self::GUE_IPV6 => OuterHeader::IPV6_LEN + gue::HEADERS_LEN,
            _ => 0,
        }
    }
}

/// Whether a backend takes the packets of the flows that it has, and if not, what becomes of them.
///
/// A bare byte with named values: the datapath reads it from a map, where an enum of Rust may not hold every value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Condition(pub u8);

impl Condition {
    /// It takes them.
    pub const SERVING: Self = Self(0);
    /// It does not; its flows go to the backend that their slot has now.
    pub const RESCHEDULE: Self = Self(1);
    /// It does not; TCP connections are reset, and the packets of others dropped.
    pub const RESET: Self = Self(2);
}

/// The outer IP header of an encapsulated packet, ready but for what each packet changes.
///
/// An IPv4 header takes the first 20 bytes. Its checksum field holds the folded sum, not complemented, of the header
/// with a zero total length and a zero type of service; the datapath adds what it fills in. What it fills in is zero here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct OuterHeader(pub [NetU32; 10]);

impl OuterHeader {
    /// Length of the IPv4 header in bytes.
    pub const IPV4_LEN: u16 = 20;
    /// Length of the IPv6 header in bytes.
    pub const IPV6_LEN: u16 = 40;
}

/// All that the datapath needs to send a packet to one backend. Never changed in place, see [`RowIndex`].
///
/// The first 64 bytes, one cache line, are read for each packet; the rest tells the daemon after a restart whose row
/// this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct BackendRow {
    /// What to put around the packet.
    pub encapsulation: Encapsulation,
    /// How many low bits of the outer source address are filled with flow entropy: 0 to 32.
    pub entropy_bits: u8,
    /// The 802.1Q tag to send with (priority and VLAN id); zero is untagged.
    pub vlan: NetU16,
    /// Index of the interface to send from; each is below [`layout::MAX_INTERFACES`].
    pub egress_ifindex: u16,
    /// The UDP port that GUE is sent to.
    pub gue_port: NetU16,
    /// The largest IP packet that the way to the backend takes, the outer header included, in bytes.
    pub mtu: u16,
    /// Whether it takes the packets of its flows.
    pub condition: Condition,
    /// Always zero.
    pub padding: u8,
    /// The next hop.
    pub destination_mac: MacAddress,
    /// The egress interface.
    pub source_mac: MacAddress,
    /// The outer header, where `encapsulation` asks for one.
    pub outer: OuterHeader,

    /// The service that the backend belongs to.
    pub service: ServiceId,
    /// The backend's own address.
    pub address: Address,
    /// Always zero.
    pub reserved: [u8; 32],
    /// Always zero.
    pub reserved_tail: [u8; 12],
}

impl BackendRow {
    /// Destination and source address of the Ethernet header, in words.
    #[inline(always)]
    pub const fn macs(&self) -> [NetU32; 3] {
        let [a, b, c, d, e, f] = self.destination_mac;
        let [g, h, i, j, k, l] = self.source_mac;
        [NetU32::from_wire([a, b, c, d]), NetU32::from_wire([e, f, g, h]), NetU32::from_wire([i, j, k, l])]
    }
}

/// Every interface that the datapath can tell apart fits a row.
const _: () = assert!(layout::MAX_INTERFACES <= 1 << u16::BITS);

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn what_each_packet_reads_fits_one_cache_line() {
        assert_eq!(offset_of!(BackendRow, service), 64);
        assert_eq!(size_of::<BackendRow>(), 128);
    }
}
