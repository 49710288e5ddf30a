use crate::{MacAddress, layout};

/// A virtual router of VRRP, on some link: its MAC address follows from it (RFC 9568, section 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VirtualRouter {
    /// Whether its addresses are IPv6 ones. The routers of the two families have nothing to do with each other.
    pub ipv6: bool,
    /// Its identifier (VRID), 1 to 255.
    pub id: u8,
}

impl VirtualRouter {
    /// Its MAC address.
    pub const fn mac(self) -> MacAddress {
        [0x00, 0x00, 0x5e, 0x00, if self.ipv6 { 2 } else { 1 }, self.id]
    }

    /// The virtual router whose MAC address this is.
    #[inline(always)]
    pub const fn with_mac(mac: MacAddress) -> Option<Self> {
        match mac {
            [0x00, 0x00, 0x5e, 0x00, 1, id] => Some(Self { ipv6: false, id }),
            [0x00, 0x00, 0x5e, 0x00, 2, id] => Some(Self { ipv6: true, id }),
            _ => None,
        }
    }

    /// Its place in the map of virtual routers, below [`layout::VIRTUAL_ROUTERS`].
    #[inline(always)]
    pub const fn index(self) -> u32 {
        (self.ipv6 as u32 * layout::VIRTUAL_ROUTERS / 2) | self.id as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_addresses_are_those_of_rfc_9568() {
        assert_eq!(VirtualRouter { ipv6: false, id: 0x33 }.mac(), [0x00, 0x00, 0x5e, 0x00, 0x01, 0x33]);
        assert_eq!(VirtualRouter { ipv6: true, id: 0x33 }.mac(), [0x00, 0x00, 0x5e, 0x00, 0x02, 0x33]);
    }

    #[test]
    fn each_virtual_router_has_a_mac_address_and_a_place_of_its_own() {
        let mut taken = [false; layout::VIRTUAL_ROUTERS as usize];
        for ipv6 in [false, true] {
            for id in 1..=u8::MAX {
                let router = VirtualRouter { ipv6, id };
                assert_eq!(VirtualRouter::with_mac(router.mac()), Some(router));
                assert!(!core::mem::replace(&mut taken[router.index() as usize], true));
            }
        }
        for mac in [[0; 6], [0, 0, 0x5e, 0, 0, 7], [0, 0, 0x5e, 0, 3, 7], [1, 0, 0x5e, 0, 1, 7], [0, 0, 0x5e, 1, 1, 7]]
        {
            assert_eq!(VirtualRouter::with_mac(mac), None);
        }
    }
}
