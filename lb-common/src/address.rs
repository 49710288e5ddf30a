use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Declares an integer in network byte order. It is kept as one integer, because the eBPF compiler would move four
/// bytes one by one.
macro_rules! network_order {
    ($(#[$doc:meta])* $name:ident, $host:ty, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(transparent)]
        pub struct $name($host);

        impl $name {
            /// From a value in the host's byte order.
            #[inline(always)]
            pub const fn new(host: $host) -> Self {
                Self(host.to_be())
            }

            /// From the bytes as they stand in a packet.
            #[inline(always)]
            pub const fn from_wire(bytes: [u8; $len]) -> Self {
                Self(<$host>::from_ne_bytes(bytes))
            }

            /// The bytes as they stand in a packet.
            #[inline(always)]
            pub const fn to_wire(self) -> [u8; $len] {
                self.0.to_ne_bytes()
            }

            /// The value in the host's byte order.
            #[inline(always)]
            pub const fn get(self) -> $host {
                <$host>::from_be(self.0)
            }
        }
    };
}

network_order! {
    /// A 16-bit value in network byte order, such as a port or a VLAN tag.
    NetU16, u16, 2
}

network_order! {
    /// A 32-bit value in network byte order, such as a word of an IP header.
    NetU32, u32, 4
}

impl NetU32 {
    /// The bits that are set in either.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// From its two halves, in the order of the packet.
    #[inline(always)]
    pub const fn from_halves(first: NetU16, second: NetU16) -> Self {
        Self::new((first.get() as u32) << 16 | second.get() as u32)
    }

    /// The two halves, in the order of the packet.
    #[inline(always)]
    pub const fn halves(self) -> [NetU16; 2] {
        let host = self.get();
        [NetU16::new((host >> 16) as u16), NetU16::new(host as u16)]
    }

    /// Its first `bits` bits, and zeros: all of it from 32 on.
    #[inline(always)]
    pub(crate) const fn prefix(self, bits: u32) -> Self {
        let kept = if bits > 32 { 32 } else { bits };
        Self::new(self.get() & !(u32::MAX as u64 >> kept) as u32)
    }

    /// This word and the next one, read as one little-endian number: as `SipHash` reads its message.
    #[inline(always)]
    pub(crate) const fn siphash_block(self, next: Self) -> u64 {
        u32::from_le(self.0) as u64 | (u32::from_le(next.0) as u64) << 32
    }
}

/// An IPv4 or IPv6 address: four words in network order, an IPv4 address in its mapped form `::ffff:a.b.c.d`
/// (RFC 4291, section 2.5.5.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Address([NetU32; 4]);

impl Address {
    /// From the four bytes of an IPv4 header.
    #[inline(always)]
    pub const fn from_v4_wire(bytes: [u8; 4]) -> Self {
        Self([NetU32::new(0), NetU32::new(0), NetU32::new(0xffff), NetU32::from_wire(bytes)])
    }

    /// From the sixteen bytes of an IPv6 header.
    #[inline(always)]
    pub const fn from_v6_wire(bytes: [u8; 16]) -> Self {
        let (words, _) = bytes.as_chunks();
        let &[a, b, c, d] = words else { unreachable!() };
        Self([NetU32::from_wire(a), NetU32::from_wire(b), NetU32::from_wire(c), NetU32::from_wire(d)])
    }

    /// From its four words.
    #[inline(always)]
    pub const fn from_words(words: [NetU32; 4]) -> Self {
        Self(words)
    }

    /// The four words. The last one is the whole of an IPv4 address.
    #[inline(always)]
    pub const fn words(self) -> [NetU32; 4] {
        self.0
    }

    /// Whether this is the mapped form of an IPv4 address. It never stands in a packet (RFC 6890, section 2.2.3), and an
    /// IPv6 packet that has it all the same must not be taken for one to the IPv4 address.
    #[inline(always)]
    pub const fn is_mapped(self) -> bool {
        let [a, b, c, _] = self.0;
        a.0 == 0 && b.0 == 0 && c.0 == NetU32::new(0xffff).0
    }

    /// Whether both are the same: written out, because the eBPF compiler would compare byte by byte.
    #[inline(always)]
    pub const fn matches(self, other: Self) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        d.0 == h.0 && c.0 == g.0 && b.0 == f.0 && a.0 == e.0
    }

    /// Both halves of the address in one number, for hash tables: what tells neighbours apart is in the low bits.
    #[inline(always)]
    pub(crate) const fn folded(self) -> u64 {
        let [a, b, c, d] = self.0;
        let [a, b, c, d] = [a.get(), b.get(), c.get(), d.get()];
        (((a ^ c) as u64) << 32) | (b ^ d) as u64
    }

    /// The sixteen bytes, in network order.
    pub const fn to_wire(self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        ((a.get() as u128) << 96 | (b.get() as u128) << 64 | (c.get() as u128) << 32 | d.get() as u128).to_be_bytes()
    }

    /// The same address as the standard library has it.
    pub const fn to_ip(self) -> IpAddr {
        Ipv6Addr::from_octets(self.to_wire()).to_canonical()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Self::from_v6_wire(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_v4_wire(ip.octets())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_through_its_wire_form() {
        for text in ["10.0.0.1", "2001:db8::1", "::", "255.255.255.255"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Address::from(ip).to_ip(), ip);
        }
    }

    #[test]
    fn a_net_u16_stands_in_memory_as_on_the_wire() {
        assert_eq!(NetU16::new(0x1234).to_wire(), [0x12, 0x34]);
        assert_eq!(NetU16::from_wire([0x12, 0x34]).get(), 0x1234);
    }
}
