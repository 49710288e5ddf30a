//! `[service.affinity]`: clients whose new flows go to the server that they had before.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::{error::Problem, table::Table, text};

/// How the clients of a service stay with their servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// How long after its last new flow a client stays, in whole seconds.
    pub timeout: Duration,
    /// How many leading bits of a client's address count, 1 to 32 for IPv4 and to 128 for IPv6; all of them without it.
    #[serde(default)]
    pub prefix: Option<u8>,
    /// The services with the same group send a client to the same server.
    #[serde(default)]
    pub group: Option<String>,
}

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24 * 7);
/// As IPVS has it.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(5);

impl Affinity {
    /// Reads the section of a service at `address`, which is unknown if it could not be read.
    pub(super) fn read(mut table: Table<'_>, address: Option<IpAddr>) -> Self {
        let longest = if address.is_some_and(|address| address.is_ipv4()) { 32 } else { 128 };
        let affinity = Self {
            timeout: table.text("timeout", timeout).unwrap_or(DEFAULT_TIMEOUT),
            prefix: table.number("prefix", 1..=longest),
            group: table.text("group", |text| text::name(text, "_.:-")),
        };
        table.finish();
        affinity
    }

    /// How many bits count for clients of that family.
    pub(crate) fn prefix_of(&self, is_ipv4: bool) -> u8 {
        self.prefix.unwrap_or(if is_ipv4 { 32 } else { 128 })
    }
}

fn timeout(text: &str) -> Result<Duration, Problem> {
    let timeout = text::duration(TIMEOUTS)(text)?;
    if timeout.subsec_nanos() == 0 {
        return Ok(timeout);
    }
    Err(Problem::new(format!("{text:?} is not in whole seconds"), "write whole seconds, such as \"300s\""))
}
