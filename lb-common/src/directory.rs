use crate::{Address, Service, ServiceKey, layout};

/// All services, as the datapath looks them up.
///
/// The array has two of these. The daemon writes the one that is not in use and then makes it the one in use, with one
/// store, so a packet sees the services of before or those of after. A kernel hash map would do too, and costs more
/// per packet.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Directory {
    /// A bit per address that packets are balanced to or translated back from, by [`vip_bit`]: spares other traffic the rest.
    filter: [u64; FILTER_WORDS],
    /// Makes the hash another one, should too many services want the same place.
    seed: u64,
    /// Open addressing, with linear probing.
    entries: [ServiceEntry; layout::DIRECTORY_PLACES],
}

/// One service in the [`Directory`]. A free place has the service id zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceEntry {
    /// What it is looked up by.
    pub key: ServiceKey,
    /// Where its slots are.
    pub service: Service,
}

/// How far from its own place an entry stands at most.
const MAX_PROBES: usize = 8;
const FILTER_BITS: u32 = 1 << 16;
const FILTER_WORDS: usize = (FILTER_BITS / 64) as usize;
/// 2^64 divided by the golden ratio (Knuth, *The Art of Computer Programming* 3, section 6.4).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Directory {
    /// Whether `address` may be a virtual IP, or one of those that replies of translated flows come to or from. Other addresses are rarely taken for one, and then not found.
    #[inline(always)]
    pub fn may_hold(&self, address: Address) -> bool {
        let bit = vip_bit(address);
        self.filter.get(bit as usize / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// The service with this key.
    #[inline(always)]
    pub fn find(&self, key: &ServiceKey) -> Option<&Service> {
        let first = place(key, self.seed);
        for step in 0..MAX_PROBES {
            let entry = self.entries.get((first + step) % layout::DIRECTORY_PLACES)?;
            if entry.key.matches(key) {
                return entry.service.exists().then_some(&entry.service);
            }
            if !entry.service.exists() {
                return None;
            }
        }
        None
    }

    /// Makes this the directory of `services`, with the addresses that replies of translated flows come to or from; `false` if they
    /// do not fit.
    #[must_use]
    pub fn fill(&mut self, services: &[ServiceEntry], translated: &[Address]) -> bool {
        // At a quarter full a few seeds are ample.
        const SEEDS: u64 = 1000;
        let fits = (0..SEEDS).any(|seed| self.fill_with(seed, services));
        for address in translated {
            self.announce(*address);
        }
        fits
    }

    fn announce(&mut self, address: Address) {
        let bit = vip_bit(address);
        self.filter[bit as usize / 64] |= 1 << (bit % 64);
    }

    fn fill_with(&mut self, seed: u64, services: &[ServiceEntry]) -> bool {
        self.filter.fill(0);
        self.seed = seed;
        self.entries.fill(ServiceEntry::default());
        services.iter().all(|service| {
            self.announce(service.key.address);
            let first = place(&service.key, seed);
            let free = (0..MAX_PROBES)
                .map(|step| (first + step) % layout::DIRECTORY_PLACES)
                .find(|place| !self.entries[*place].service.exists());
            free.is_some_and(|place| {
                self.entries[place] = *service;
                true
            })
        })
    }

    /// The services that are in it.
    pub fn services(&self) -> impl Iterator<Item = &ServiceEntry> {
        self.entries.iter().filter(|entry| entry.service.exists())
    }
}

#[inline(always)]
fn place(key: &ServiceKey, seed: u64) -> usize {
    let port_and_protocol = u64::from(key.port.get()) << 8 | u64::from(key.protocol);
    let mixed = (key.address.folded() ^ seed).wrapping_mul(MULTIPLIER) ^ port_and_protocol;
    (mixed.wrapping_mul(MULTIPLIER) >> 48) as usize % layout::DIRECTORY_PLACES
}

/// The bit of the filter that stands for `address`.
#[inline(always)]
const fn vip_bit(address: Address) -> u32 {
    (address.folded().wrapping_mul(MULTIPLIER) >> 48) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::{IpAddr, Ipv6Addr};
    use std::{boxed::Box, vec::Vec};

    use super::*;
    use crate::{NetU16, ServiceId};

    fn empty() -> Box<Directory> {
        // SAFETY: zeros are an empty directory. It is too large for the stack.
        unsafe { Box::<Directory>::new_zeroed().assume_init() }
    }

    fn entry(number: u32, address: IpAddr, port: u16) -> ServiceEntry {
        ServiceEntry {
            key: ServiceKey::new(address.into(), NetU16::new(port), 6),
            service: Service {
                id: ServiceId::new(number).unwrap(),
                first_chunk: number,
                slot_mask: 1023,
                ..Service::default()
            },
        }
    }

    #[test]
    fn every_service_of_a_full_node_is_found_and_no_other() {
        let services: Vec<ServiceEntry> = (1..layout::MAX_SERVICES)
            .map(|number| {
                let address = Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number / 4));
                entry(number, address.into(), number as u16 % 4 + 80)
            })
            .collect();
        let mut directory = empty();
        assert!(directory.fill(&services, &[]));
        for service in &services {
            assert!(directory.may_hold(service.key.address));
            assert_eq!(directory.find(&service.key), Some(&service.service));
            let other_port = ServiceKey { port: NetU16::new(443), ..service.key };
            assert_eq!(directory.find(&other_port), None);
        }
        assert_eq!(directory.services().count(), services.len());
    }

    #[test]
    fn what_was_in_the_directory_before_is_gone_when_it_is_filled_again() {
        let [old, new] = [entry(1, [10, 0, 0, 1].into(), 80), entry(2, [10, 0, 0, 2].into(), 80)];
        let mut directory = empty();
        assert!(directory.fill(&[old], &[]) && directory.fill(&[new], &[]));
        assert_eq!(directory.find(&old.key), None);
        assert!(!directory.may_hold(old.key.address));
        assert_eq!(directory.services().collect::<Vec<_>>(), [&new]);
    }

    #[test]
    fn an_address_of_translated_flows_may_be_held_and_is_no_service() {
        let source = IpAddr::from([10, 0, 0, 9]).into();
        let mut directory = empty();
        assert!(directory.fill(&[], &[source]));
        assert!(directory.may_hold(source));
        assert_eq!(directory.services().count(), 0);
    }

    #[test]
    fn the_key_of_zeros_is_not_found_in_a_free_place() {
        assert_eq!(empty().find(&ServiceKey::default()), None);
    }
}
