//! `[service.quic]`: connection ids that name their server (draft-ietf-quic-load-balancers-21, unencrypted).

use std::fmt;
use std::str::FromStr;

use lb_common::QuicIds;
use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::table::Table;
use super::text;

/// What the QUIC connection ids of a service look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct Quic(QuicIds);

/// The section as it is written.
#[derive(Serialize, Deserialize)]
struct Keys {
    server_id_length: u8,
    config_rotation: u8,
}

impl Quic {
    /// What the datapath has to know.
    pub fn ids(self) -> QuicIds {
        self.0
    }

    /// Length of the server ids in bytes.
    pub(super) fn server_id_length(self) -> usize {
        self.0.length() as usize
    }

    pub(super) fn read(mut table: Table<'_>) -> Option<Self> {
        table.require(&[("server_id_length", "2")]);
        let length = table.number("server_id_length", 1..=QuicIds::MAX_SERVER_ID);
        let rotation = table.number("config_rotation", 0..=QuicIds::MAX_ROTATION);
        table.finish();
        QuicIds::new(rotation.unwrap_or(0), u8::try_from(length?).ok()?).map(Self)
    }
}

impl TryFrom<Keys> for Quic {
    type Error = &'static str;

    fn try_from(keys: Keys) -> Result<Self, Self::Error> {
        QuicIds::new(keys.config_rotation, keys.server_id_length)
            .map(Self)
            .ok_or("server_id_length is 1 to 15, config_rotation 0 to 6")
    }
}

impl From<Quic> for Keys {
    fn from(Quic(ids): Quic) -> Self {
        // At most 15.
        let server_id_length = u8::try_from(ids.length()).unwrap_or(u8::MAX);
        Self { server_id_length, config_rotation: ids.rotation() }
    }
}

/// What names a backend in QUIC connection ids: 1 to 15 bytes, written in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerId(Vec<u8>);

impl ServerId {
    /// The bytes, as they stand in connection ids.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for ServerId {
    type Err = Problem;

    /// Reads two hexadecimal digits for each byte, the first byte first.
    fn from_str(digits: &str) -> Result<Self, Problem> {
        text::hexadecimal_bytes(digits)
            .filter(|bytes| (1..=QuicIds::MAX_SERVER_ID).contains(&bytes.len()))
            .map(Self)
            .ok_or_else(|| {
                Problem::new(
                    format!("{digits:?} is not a server id"),
                    "write two hexadecimal digits for each byte of server_id_length, such as \"0a0b\"",
                )
            })
    }
}

impl TryFrom<String> for ServerId {
    type Error = Problem;

    fn try_from(digits: String) -> Result<Self, Problem> {
        digits.parse()
    }
}

impl From<ServerId> for String {
    fn from(id: ServerId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
