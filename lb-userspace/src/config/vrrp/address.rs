//! The addresses of an instance: virtual ones, its own, and those of the other nodes.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::config::error::Problem;
use crate::config::table::Table;
use crate::config::text;

/// The most virtual addresses of an instance, since an advertisement counts them in one byte; and the most peers.
const MAX_ADDRESSES: usize = 255;

/// A virtual address with its prefix length, as on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of the prefix, in bits: 1 to 32, or to 128.
    pub prefix_length: u8,
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_length)
    }
}

impl Serialize for VirtualAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl VirtualAddress {
    /// Reads an address with or without the length of its prefix, which else is all of it.
    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |what: &str| {
            let help = "write an address with the length of its prefix, as in \"192.168.1.10/24\" or \
                        \"2001:db8::10/64\"; without a length it is /32 or /128";
            Problem::new(format!("{text:?} {what}"), help)
        };
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| wrong("is not an IP address with a prefix length"))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix_length = match length {
            None => width,
            Some(digits) => {
                let length = text::decimal(digits).filter(|length| (1..=width).contains(length));
                length.ok_or_else(|| wrong("has a prefix length out of range"))?
            }
        };
        Ok(Self { address: text::reachable_address(address)?, prefix_length })
    }
}

/// Reads `addresses`, and enters them into `owners`: the instance that has each.
pub(super) fn read_virtual(table: &mut Table<'_>, owners: &mut HashMap<IpAddr, String>) -> Option<Vec<VirtualAddress>> {
    let owner = table.subject().to_owned();
    let mut first = None;
    let addresses = table.texts("addresses", |text| {
        let virtual_address = VirtualAddress::parse(text)?;
        let address = virtual_address.address;
        let first = *first.get_or_insert(address);
        if family(address) != family(first) {
            return Err(Problem::new(
                format!("{address} is {}, and {first} is {}", family(address), family(first)),
                "write a second [[vrrp]] for it, with the same sync_group",
            ));
        }
        match owners.insert(address, owner.clone()) {
            None => Ok(virtual_address),
            Some(other) => Err(Problem::new(
                format!("{address} is an address of {other} already"),
                "write each virtual address once",
            )),
        }
    })?;
    if addresses.is_empty() {
        let help = r#"write at least one, as in ["192.168.1.10/24"]"#;
        table.reject("addresses", Problem::new("addresses is empty", help));
    }
    refuse_too_many(table, "addresses", addresses.len(), "write a second [[vrrp]] for the others");
    Some(addresses)
}

/// Reads `source`, which has to be this node's at all times.
pub(super) fn read_source(table: &mut Table<'_>, virtual_addresses: Option<&[VirtualAddress]>) -> Option<IpAddr> {
    table.text("source", |text| node_address(text, virtual_addresses))
}

/// Reads `unicast_peers`, each of which has to be another node's at all times.
pub(super) fn read_peers(
    table: &mut Table<'_>,
    virtual_addresses: Option<&[VirtualAddress]>,
    source: Option<IpAddr>,
) -> Vec<IpAddr> {
    let mut earlier = Vec::new();
    let peers = table.texts("unicast_peers", |text| {
        let peer = node_address(text, virtual_addresses)?;
        if source == Some(peer) {
            let help = "remove it: the peers are the other nodes";
            return Err(Problem::new(format!("{peer} is the source, and thus this node"), help));
        }
        if earlier.contains(&peer) {
            return Err(Problem::new(format!("{peer} is a peer already"), "write each peer once"));
        }
        earlier.push(peer);
        Ok(peer)
    });
    refuse_too_many(table, "unicast_peers", earlier.len(), "remove the others");
    peers.unwrap_or_default()
}

/// Reads the address of a node. It is of the family of the virtual addresses, but none of them.
fn node_address(text: &str, virtual_addresses: Option<&[VirtualAddress]>) -> Result<IpAddr, Problem> {
    let address: IpAddr = text.parse().map_err(|_| {
        let help = "write the address of a node, without the length of a prefix, such as \"10.0.0.2\"";
        Problem::new(format!("{text:?} is not an IP address"), help)
    })?;
    let address = text::reachable_address(address)?;
    let virtual_addresses = virtual_addresses.unwrap_or_default();
    if let Some(first) = virtual_addresses.first()
        && family(first.address) != family(address)
    {
        return Err(Problem::new(
            format!("{address} is not of the address family of {}", first.address),
            format!("write an {} address", family(first.address)),
        ));
    }
    if virtual_addresses.iter().any(|other| other.address == address) {
        return Err(Problem::new(
            format!("{address} is a virtual address, which moves between the nodes"),
            "write an address that stays on its node",
        ));
    }
    Ok(address)
}

fn refuse_too_many(table: &Table<'_>, key: &str, count: usize, help: &str) {
    if count > MAX_ADDRESSES {
        table.reject(key, Problem::new(format!("{key} has {count} entries, more than {MAX_ADDRESSES}"), help));
    }
}

/// The address family, as it is called.
pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
