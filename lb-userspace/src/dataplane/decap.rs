//! `lbd decap`: the backend's side of `forwarding = "ipip"`.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::{Xdp, XdpMode},
};
use clap::Args;
use lb_common::{Address, DecapVerdict, layout::names};
use nix::ifaddrs::getifaddrs;
use tokio::signal::unix::{SignalKind, signal};

use super::{DataplaneError, attach::interface_index, maps::take, object};

/// What `lbd decap` is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The interface that the tunnelled packets come in by. All its addresses are tunnel addresses.
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Take packets only from balancers in this network (repeatable); without one, from anywhere.
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    from: Vec<Prefix>,
    /// Attach in generic mode, for drivers without native XDP.
    #[arg(long)]
    generic: bool,
}

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prefix {
    address: IpAddr,
    len: u8,
}

impl std::str::FromStr for Prefix {
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

/// How often the addresses of the interface are read again.
const REFRESH: Duration = Duration::from_secs(2);

/// Runs until it is told to stop, then detaches.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut decap = Decap::load(&options.from)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    decap.refresh_addresses(&options.interface)?;
    let mode = if options.generic { XdpMode::Skb } else { XdpMode::Driver };
    let ifindex = interface_index(&options.interface)?;
    decap.program()?.attach_to_if_index(ifindex, mode).with_context(|| {
        let hint = if options.generic { "" } else { " in native mode; --generic works with every driver" };
        format!("cannot attach to {}{hint}", options.interface)
    })?;
    log::info!("decapsulating on {}", options.interface);
    let mut refresh = tokio::time::interval(REFRESH);
    loop {
        tokio::select! {
            _ = refresh.tick() => {
                if let Err(error) = decap.refresh_addresses(&options.interface) {
                    log::warn!("{error:#}; going on with the addresses of before");
                }
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    for (verdict, packets) in decap.verdicts()? {
        log::info!("{}: {packets}", verdict.name());
    }
    Ok(())
}

/// The loaded decapsulating program and its maps.
pub struct Decap {
    ebpf: Ebpf,
    addresses: HashMap<MapData, Address, u8>,
    verdicts: PerCpuArray<MapData, u64>,
}

impl Decap {
    fn load(from: &[Prefix]) -> Result<Self, DataplaneError> {
        const ANYWHERE: [Prefix; 1] = [Prefix { address: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), len: 0 }];
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &super::aya_level(None), false)
            .load(object::DECAP)
            .map_err(DataplaneError::Load)?;
        let mut sources: LpmTrie<_, Address, u8> = take(&mut ebpf, names::TUNNEL_SOURCES)?;
        for prefix in if from.is_empty() { &ANYWHERE } else { from } {
            // Addresses are in their mapped form, where an IPv4 prefix starts at bit 96.
            let len = u32::from(prefix.len) + if prefix.address.is_ipv4() { 96 } else { 0 };
            sources
                .insert(&Key::new(len, Address::from(prefix.address)), 1, 0)
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

    /// The program, for every source and with these tunnel addresses: for tests.
    pub fn with_addresses(addresses: &[IpAddr]) -> Result<Self, DataplaneError> {
        let mut decap = Self::load(&[])?;
        decap.set_addresses(&addresses.iter().copied().map(Address::from).collect())?;
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

    fn refresh_addresses(&mut self, interface: &str) -> anyhow::Result<()> {
        let addresses = getifaddrs().context("cannot list the addresses")?;
        let of_interface = addresses.filter(|address| address.interface_name == interface);
        let wanted = of_interface
            .filter_map(|address| {
                let address = address.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .map(Address::from)
            .collect();
        Ok(self.set_addresses(&wanted)?)
    }

    fn set_addresses(&mut self, wanted: &HashSet<Address>) -> Result<(), DataplaneError> {
        let error = |source| DataplaneError::Map { name: names::TUNNEL_ADDRESSES, source };
        let present: HashSet<Address> = self.addresses.keys().collect::<Result<_, _>>().map_err(error)?;
        for gone in present.difference(wanted) {
            self.addresses.remove(gone).map_err(error)?;
        }
        for new in wanted.difference(&present) {
            self.addresses.insert(new, 1, 0).map_err(error)?;
        }
        Ok(())
    }
}
