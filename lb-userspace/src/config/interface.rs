//! `[[interface]]`: where packets come in, and the way out to the backends.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::error::Problem;
use super::table::{Table, Taken};
use super::text;
use super::word::Word;

/// A network interface that carries the XDP program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Interface {
    /// Its name in the kernel.
    pub name: String,
    /// Where the program attaches.
    pub xdp: XdpMode,
    /// The next hop of all backends that this interface leads to. Without one the daemon asks the kernel's routes and
    /// neighbours.
    pub gateway: Option<Gateway>,
}

impl Interface {
    /// Reads a table. The interface is there as soon as its name is, so that services can refer to it.
    pub(super) fn read(mut table: Table<'_>, names: &mut Taken<String>) -> Option<Self> {
        table.require(&[("name", r#""eth0""#)]);
        let name = table.text("name", interface_name);
        if let Some(name) = &name {
            table.rename(name);
            table.unique("name", name.clone(), names, "write each interface once");
        }
        let xdp = table.word("xdp").unwrap_or_default();
        let gateway = table.text("gateway", Gateway::parse);
        table.finish();
        Some(Self { name: name?, xdp, gateway })
    }
}

/// A name that Linux takes for an interface.
pub(super) fn interface_name(text: &str) -> Result<String, Problem> {
    let forbidden = |character: char| matches!(character, '/' | ':' | '\0') || character.is_whitespace();
    if (1..=15).contains(&text.len()) && !matches!(text, "." | "..") && !text.contains(forbidden) {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(
            format!("{text:?} is not an interface name"),
            "write a name that `ip link` shows: 1 to 15 bytes, without spaces, / and :",
        ))
    }
}

/// Where the XDP program attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver where it can, else in the kernel's generic hook.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the kernel's generic hook: slower, but any interface has it.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl Word for XdpMode {
    const ALL: &'static [Self] = &[Self::Auto, Self::Native, Self::Generic];
}

/// A fixed next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gateway {
    /// Its unicast MAC address, first byte first.
    Mac([u8; 6]),
    /// Its address, for the daemon to resolve.
    Address(IpAddr),
}

impl Gateway {
    fn parse(text: &str) -> Result<Self, Problem> {
        if let Ok(address) = text.parse() {
            return text::reachable_address(address).map(Self::Address);
        }
        let help = r#"write a MAC address such as "02:00:00:00:00:01", or an IP address such as "10.0.0.1""#;
        let Some(mac) = parse_mac(text) else {
            return Err(Problem::new(format!("{text:?} is neither a MAC nor an IP address"), help));
        };
        let is_group = mac[0] & 1 == 1;
        if is_group || mac == [0; 6] {
            return Err(Problem::new(format!("{text:?} is not the MAC address of one host"), help));
        }
        Ok(Self::Mac(mac))
    }
}

/// Reads six bytes of two hexadecimal digits each, with colons between them.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut groups = text.split(':');
    for byte in &mut mac {
        [*byte] = text::hexadecimal(groups.next()?)?;
    }
    groups.next().is_none().then_some(mac)
}
