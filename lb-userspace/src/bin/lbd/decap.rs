//! `lbd decap`: the backend's side of `forwarding = "ipip"` and `"gue"`.

use std::{net::IpAddr, time::Duration};

use anyhow::Context as _;
use aya::programs::XdpMode;
use clap::Args;
use lb_common::gue;
use lb_userspace::dataplane::{Decap, Network, interface_index};
use nix::ifaddrs::getifaddrs;
use tokio::signal::unix::{SignalKind, signal};

/// What `lbd decap` is told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The interface that the tunnelled packets come in by. All its addresses are tunnel addresses.
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// Decapsulate only what comes from balancers in this network (repeatable); without one, from anywhere.
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    from: Vec<Network>,
    /// The UDP port to which the balancers send GUE (forwarding = "gue").
    #[arg(long, value_name = "PORT", default_value_t = gue::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    gue_port: u16,
    /// Attach in generic mode, for drivers without native XDP.
    #[arg(long)]
    generic: bool,
}

/// How often the addresses of the interface are read again.
const REFRESH: Duration = Duration::from_secs(2);

/// Runs until it is told to stop, then detaches.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let ifindex = interface_index(&options.interface)?;
    let mut decap = Decap::load(&options.from, options.gue_port)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    decap.set_addresses(&addresses_of(&options.interface)?)?;
    let mode = if options.generic { XdpMode::Skb } else { XdpMode::Driver };
    decap.program()?.attach_to_if_index(ifindex, mode).with_context(|| {
        let hint = if options.generic { "" } else { " in native mode; --generic works with every driver" };
        format!("cannot attach to {}{hint}", options.interface)
    })?;
    log::info!("decapsulating on {}", options.interface);
    let mut refresh = tokio::time::interval(REFRESH);
    loop {
        tokio::select! {
            _ = refresh.tick() => {
                let refreshed = addresses_of(&options.interface)
                    .and_then(|addresses| Ok(decap.set_addresses(&addresses)?));
                if let Err(error) = refreshed {
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

fn addresses_of(interface: &str) -> anyhow::Result<Vec<IpAddr>> {
    let addresses = getifaddrs().context("cannot list the addresses")?;
    let of_interface = addresses.filter(|address| address.interface_name == interface);
    Ok(of_interface
        .filter_map(|address| {
            let address = address.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect())
}
