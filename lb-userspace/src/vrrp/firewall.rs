//! Keeps packets to virtual addresses from this host where it is not to accept them (`Accept_Mode`; RFC 9568, sections 6.1
//! and 8.3.1), by a table of nftables. What a service takes has left before: the datapath stands in front of the firewall.
//!
//! It has an effect only while an address is on an interface, so all addresses can be in it from the start: taking over does not
//! wait for `nft`.

use std::{fmt::Write as _, io, net::IpAddr, process::Stdio, time::Duration};

use thiserror::Error;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::config::Vrrp;

/// The table; each network namespace has its own.
const TABLE: &str = "inet lb_vrrp";

/// How long `nft` may take.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What can go wrong with `nft`.
#[derive(Debug, Error)]
pub enum FirewallError {
    /// It is not installed.
    #[error("accept = false needs nft, and there is none: install the package nftables")]
    Missing,
    /// It cannot be run.
    #[error("cannot run nft: {0}")]
    Run(#[source] io::Error),
    /// It does not end.
    #[error("nft does not end: it was killed after {TIMEOUT:?}")]
    Hangs,
    /// It refuses.
    #[error("nft cannot keep packets to virtual addresses from this host: {0}")]
    Refused(String),
}

/// Keeps packets to the addresses of instances with `accept = false` from this host, but for those of neighbour discovery. What
/// was kept from it before, and is not any more, it gets again.
pub async fn guard(instances: &[Vrrp]) -> Result<(), FirewallError> {
    let closed = instances.iter().filter(|instance| !instance.accept);
    let addresses: Vec<_> = closed.flat_map(|instance| &instance.addresses).map(|entry| entry.address).collect();
    if addresses.is_empty() { clear().await } else { block(&addresses).await }
}

/// From now on this host gets no packets to these addresses, and to no others that were blocked before.
pub async fn block(addresses: &[IpAddr]) -> Result<(), FirewallError> {
    within(&rules(addresses)).await
}

/// Undoes [`block`].
pub async fn clear() -> Result<(), FirewallError> {
    match within(&removal()).await {
        // Then nothing was blocked.
        Err(FirewallError::Missing) => Ok(()),
        result => result,
    }
}

async fn within(script: &str) -> Result<(), FirewallError> {
    timeout(TIMEOUT, run(script)).await.unwrap_or(Err(FirewallError::Hangs))
}

async fn run(script: &str) -> Result<(), FirewallError> {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FirewallError::Missing,
            _ => FirewallError::Run(error),
        })?;
    // Closed when written, so that `nft` sees the end.
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(script.as_bytes()).await.map_err(FirewallError::Run)?;
    }
    let output = nft.wait_with_output().await.map_err(FirewallError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    Err(FirewallError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// A script that leaves no table: deleting one that is not there would fail.
fn removal() -> String {
    format!("add table {TABLE}\ndelete table {TABLE}\n")
}

/// A script, which `nft` carries out as one change.
fn rules(addresses: &[IpAddr]) -> String {
    let elements = |ipv6| {
        let list: Vec<_> =
            addresses.iter().filter(|address| address.is_ipv6() == ipv6).map(IpAddr::to_string).collect();
        if list.is_empty() { String::new() } else { format!("elements = {{ {} }}", list.join(", ")) }
    };
    let mut script = removal();
    write!(
        script,
        "table {TABLE} {{
    set ipv4 {{ type ipv4_addr; {} }}
    set ipv6 {{ type ipv6_addr; {} }}
    chain input {{
        type filter hook input priority filter; policy accept;
        ip6 daddr @ipv6 icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        ip daddr @ipv4 drop
        ip6 daddr @ipv6 drop
    }}
}}
",
        elements(false),
        elements(true)
    )
    .expect("writing to a string succeeds");
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_name_each_address_in_the_set_of_its_family() {
        let addresses = ["10.0.0.100", "2001:db8::100", "10.0.0.101"].map(|text| text.parse().expect("an address"));
        let script = rules(&addresses);
        assert!(script.starts_with("add table inet lb_vrrp\ndelete table inet lb_vrrp\n"), "{script}");
        assert!(script.contains("set ipv4 { type ipv4_addr; elements = { 10.0.0.100, 10.0.0.101 } }"), "{script}");
        assert!(script.contains("set ipv6 { type ipv6_addr; elements = { 2001:db8::100 } }"), "{script}");
        assert!(rules(&[]).contains("set ipv4 { type ipv4_addr;  }"));
    }
}
