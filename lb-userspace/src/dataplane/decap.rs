//! The decapsulating program, for backends of services with `forwarding = "ipip"` or `"gue"`.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::Xdp,
};
use lb_common::{Address, DecapVerdict, layout::names};

use super::{DataplaneError, maps::take, object};

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    len: u8,
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network; write one like 10.0.0.0/24, or an address");
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let len = len.map_or(Ok(bits), str::parse).map_err(|_| wrong())?;
        if len > bits { Err(wrong()) } else { Ok(Self { address, len }) }
    }
}

/// The loaded decapsulating program and its maps.
pub struct Decap {
    ebpf: Ebpf,
    addresses: HashMap<MapData, Address, u8>,
    verdicts: PerCpuArray<MapData, u64>,
}

impl Decap {
    /// Loads the program. It decapsulates what comes from one of the networks `from`; without any, from anywhere. GUE is what
    /// comes to the UDP port `gue_port`, in host byte order.
    pub fn load(from: &[Network], gue_port: u16) -> Result<Self, DataplaneError> {
        const ANYWHERE: [Network; 1] = [Network { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), len: 0 }];
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &super::aya_level(None), false)
            .override_global(names::GUE_PORT, &gue_port, true)
            .load(object::DECAP)
            .map_err(DataplaneError::Load)?;
        let mut sources: LpmTrie<_, Address, u8> = take(&mut ebpf, names::TUNNEL_SOURCES)?;
        for network in if from.is_empty() { &ANYWHERE } else { from } {
            // Addresses are in their mapped form, where an IPv4 prefix starts at bit 96.
            let len = u32::from(network.len) + if network.address.is_ipv4() { 96 } else { 0 };
            sources
                .insert(&Key::new(len, Address::from(network.address)), 1, 0)
                .map_err(|source| DataplaneError::Map { name: names::TUNNEL_SOURCES, source })?;
        }
        let mut decap = Self {
            addresses: take(&mut ebpf, names::TUNNEL_ADDRESSES)?,
            verdicts: take(&mut ebpf, names::DECAP_VERDICTS)?,
            ebpf,
        };
        decap.program()?.load().map_err(DataplaneError::Verify)?;
        Ok(decap)
    }

    /// The program.
    pub fn program(&mut self) -> Result<&mut Xdp, DataplaneError> {
        let name = names::DECAP;
        self.ebpf.program_mut(name).ok_or(DataplaneError::Missing { name })?.try_into().map_err(DataplaneError::Verify)
    }

    /// Packets of each verdict.
    pub fn verdicts(&self) -> Result<Vec<(DecapVerdict, u64)>, DataplaneError> {
        let count = |verdict: DecapVerdict| Ok((verdict, self.verdicts.get(&(verdict as u32), 0)?.iter().sum()));
        DecapVerdict::ALL
            .iter()
            .map(|verdict| count(*verdict))
            .collect::<Result<_, _>>()
            .map_err(|source| DataplaneError::Map { name: names::DECAP_VERDICTS, source })
    }

    /// Makes `wanted` the tunnel addresses: only packets to one of them are decapsulated.
    pub fn set_addresses(&mut self, wanted: &[IpAddr]) -> Result<(), DataplaneError> {
        let error = |source| DataplaneError::Map { name: names::TUNNEL_ADDRESSES, source };
        let wanted: HashSet<Address> = wanted.iter().copied().map(Address::from).collect();
        let present: HashSet<Address> = self.addresses.keys().collect::<Result<_, _>>().map_err(error)?;
        for gone in present.difference(&wanted) {
            self.addresses.remove(gone).map_err(error)?;
        }
        for new in wanted.difference(&present) {
            self.addresses.insert(new, 1, 0).map_err(error)?;
        }
        Ok(())
    }
}
