//! `[node]`: this node, and where it keeps its things.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use lb_common::flow_table::{BucketBits, MAX_BUCKET_BITS, MIN_BUCKET_BITS};
use lb_common::layout;
use serde::{Serialize, Serializer};

use super::error::Problem;
use super::nat;
use super::table::Table;
use super::text;

/// This node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    /// The name of the node in logs, metrics and events.
    pub name: String,
    /// The Unix socket of the API.
    pub socket: PathBuf,
    /// The directory of the pinned maps, programs and links, in a BPF file system.
    pub pins: PathBuf,
    /// The directory of what has to survive a restart.
    pub state: PathBuf,
    /// The key of the flow hash. Nodes that share a virtual IP need the same one; without one the daemon draws one at
    /// random and keeps it in `state`.
    pub hash_key: Option<HashKey>,
    /// The outer source address of IPv4 tunnels. Without one it is the address of the egress interface.
    pub tunnel_source: Option<TunnelSource>,
    /// The outer source address of IPv6 tunnels. Without one it is the address of the egress interface.
    pub tunnel_source_v6: Option<TunnelSource>,
    /// The size of the flow table.
    #[serde(serialize_with = "as_entries")]
    pub flow_table: BucketBits,
    /// The size of the table of translated flows, which is made when a service needs it.
    #[serde(serialize_with = "as_entries")]
    pub nat_table: BucketBits,
    /// How many clients are remembered that stay with their servers.
    pub affinity_table: u32,
    /// The sources of translated flows, for the services that name none.
    pub nat_sources: Vec<IpAddr>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "lb".to_owned(),
            socket: PathBuf::from("/run/lb/lb.sock"),
            pins: PathBuf::from("/sys/fs/bpf/lb"),
            state: PathBuf::from("/var/lib/lb"),
            hash_key: None,
            tunnel_source: None,
            tunnel_source_v6: None,
            flow_table: flow_table("1M").expect("a size in range"),
            nat_table: nat_table("256K").expect("a size in range"),
            affinity_table: layout::AFFINITY_CLIENTS,
            nat_sources: Vec::new(),
        }
    }
}

impl Node {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let default = Self::default();
        let node = Self {
            name: table.text("name", |text| text::name(text, "_.-")).unwrap_or(default.name),
            socket: table.text("socket", text::absolute_path).unwrap_or(default.socket),
            pins: table.text("pins", text::absolute_path).unwrap_or(default.pins),
            state: table.text("state", text::absolute_path).unwrap_or(default.state),
            hash_key: table.text("hash_key", HashKey::parse),
            tunnel_source: table.text("tunnel_source", TunnelSource::parse_v4),
            tunnel_source_v6: table.text("tunnel_source_v6", TunnelSource::parse_v6),
            flow_table: table.text_or_number("flow_table", flow_table).unwrap_or(default.flow_table),
            nat_table: table.text_or_number("nat_table", nat_table).unwrap_or(default.nat_table),
            affinity_table: table.text_or_number("affinity_table", affinity_table).unwrap_or(default.affinity_table),
            nat_sources: nat::read_sources(&mut table, "nat_sources"),
        };
        table.finish();
        node
    }

    /// The keys whose values are others in `other`.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let Self {
            name,
            socket,
            pins,
            state,
            hash_key,
            tunnel_source,
            tunnel_source_v6,
            flow_table,
            nat_table,
            affinity_table,
            nat_sources,
        } = self;
        let keys = [
            ("name", *name == other.name),
            ("socket", *socket == other.socket),
            ("pins", *pins == other.pins),
            ("state", *state == other.state),
            ("hash_key", *hash_key == other.hash_key),
            ("tunnel_source", *tunnel_source == other.tunnel_source),
            ("tunnel_source_v6", *tunnel_source_v6 == other.tunnel_source_v6),
            ("flow_table", *flow_table == other.flow_table),
            ("nat_table", *nat_table == other.nat_table),
            ("affinity_table", *affinity_table == other.affinity_table),
            ("nat_sources", *nat_sources == other.nat_sources),
        ];
        keys.into_iter().filter(|(_, is_same)| !is_same).map(|(key, _)| key).collect()
    }
}

fn flow_table(text: &str) -> Result<BucketBits, Problem> {
    table_size(text, MAX_BUCKET_BITS).ok_or_else(|| {
        Problem::new(
            format!("{text:?} is not the size of a flow table"),
            "write a power of two from \"64K\" to \"64M\", such as \"1M\", or its digits, such as 1048576",
        )
    })
}

fn nat_table(text: &str) -> Result<BucketBits, Problem> {
    table_size(text, lb_common::nat::MAX_BUCKET_BITS).ok_or_else(|| {
        Problem::new(
            format!("{text:?} is not the size of a table of translated flows"),
            "write a power of two from \"64K\" to \"16M\", such as \"256K\", or its digits, such as 262144",
        )
    })
}

fn affinity_table(text: &str) -> Result<u32, Problem> {
    let size = table_size(text, lb_common::nat::MAX_BUCKET_BITS).map(BucketBits::entries);
    size.and_then(|entries| u32::try_from(entries).ok()).ok_or_else(|| {
        Problem::new(
            format!("{text:?} is not the size of a table of clients"),
            "write a power of two from \"64K\" to \"16M\", such as \"256K\", or its digits, such as 262144",
        )
    })
}

/// Reads a number of entries, in digits, or in units of 1,024 (`K`, `k`) or 1,048,576 (`M`, `m`).
fn table_size(text: &str, max_bits: u32) -> Option<BucketBits> {
    let (digits, unit) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((digits, "K" | "k")) => (digits, 1 << 10),
        Some((digits, "M" | "m")) => (digits, 1 << 20),
        _ => (text, 1),
    };
    let entries = text::decimal::<u64>(digits)?.checked_mul(unit)?;
    let mut sizes = (MIN_BUCKET_BITS..=max_bits).filter_map(BucketBits::new);
    sizes.find(|size| size.entries() == entries)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn as_entries<S: Serializer>(size: &BucketBits, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(size.entries())
}

/// The key of the flow hash: a secret, because who knows it can aim all flows at one backend. It is neither printed
/// nor serialized.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl HashKey {
    const HIDDEN: &str = "(hidden)";

    /// Reads 32 hexadecimal digits, the first two of which are the first byte. The error does not quote them.
    fn parse(text: &str) -> Result<Self, Problem> {
        text::hexadecimal(text).map(Self).ok_or_else(|| {
            Problem::new(
                "is not a key of 32 hexadecimal digits",
                "write the output of `openssl rand -hex 16`, the same on all nodes that share a virtual IP",
            )
        })
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(Self::HIDDEN)
    }
}

impl Serialize for HashKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::HIDDEN)
    }
}

/// The outer source address of tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TunnelSource {
    /// The address; its low `entropy_bits` are zero.
    pub address: IpAddr,
    /// How many low bits of the address the datapath fills from the flow's hash, so that the receive queues of the
    /// backends share the load: 0 to 24 in IPv4, 0 to 32 in IPv6.
    pub entropy_bits: u8,
}

impl TunnelSource {
    fn parse_v4(text: &str) -> Result<Self, Problem> {
        let help = "write an IPv4 address, or a prefix from /8 to /32 without host bits, \
                    as in \"10.96.0.0/16\"";
        Self::parse(text, 32, 24, help)
    }

    fn parse_v6(text: &str) -> Result<Self, Problem> {
        let help = "write an IPv6 address, or a prefix from /96 to /128 without host bits, \
                    as in \"2001:db8::/96\"";
        Self::parse(text, 128, 32, help)
    }

    /// Reads an address of `width` bits, or a prefix that leaves at most `max_entropy` of them to the flow.
    fn parse(text: &str, width: u8, max_entropy: u8, help: &str) -> Result<Self, Problem> {
        let wrong = |what: &str| Problem::new(format!("{text:?} {what}"), help);
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));

        let address: IpAddr = address.parse().map_err(|_| wrong("is not an address or a prefix"))?;
        let (bits, family_width) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        if family_width != width {
            return Err(wrong("is of the other address family"));
        }

        let length = length.map_or(Ok(width), str::parse);
        let entropy_bits = length
            .ok()
            .and_then(|length| width.checked_sub(length))
            .filter(|&bits| bits <= max_entropy)
            .ok_or_else(|| wrong("has a prefix length out of range"))?;
        if bits & ((1 << entropy_bits) - 1) != 0 {
            return Err(wrong("has host bits"));
        }
        Ok(Self { address: text::reachable_address(address)?, entropy_bits })
    }
}
