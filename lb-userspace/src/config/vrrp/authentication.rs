//! `[vrrp.authentication]`: how nodes know their own kind.

use std::fmt;

use serde::{Serialize, Serializer};

use super::VrrpVersion;
use crate::config::error::Problem;
use crate::config::table::Table;
use crate::config::text;
use crate::config::word::Word;

/// How advertisements are authenticated. Secrets are neither printed nor serialized.
#[derive(Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Version 2: a password in clear text, padded with zeros (RFC 2338, section 5.3.6, type 1).
    Password([u8; 8]),
    /// Version 3, between our own nodes: HMAC-SHA-256 under this key, with replay protection.
    Hmac([u8; 32]),
}

impl Authentication {
    /// The word for it in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Password(_) => "pass",
            Self::Hmac(_) => "hmac-sha256",
        }
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (hidden)", self.name())
    }
}

impl Serialize for Authentication {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Authentication {
    /// Reads the table. `version` is unknown if it could not be read.
    pub(super) fn read(mut table: Table<'_>, version: Option<VrrpVersion>) -> Option<Self> {
        table.require(&[("type", r#""hmac-sha256""#)]);
        // Without a type, it is open which keys apply.
        let kind = table.word::<Type>("type")?;
        let (own, other) = (kind.secret(), kind.other().secret());
        table.refuse(&[other], |_| {
            Problem::new(
                format!("{other} does not apply to authentication of type \"{kind}\""),
                format!("remove it, or write type = \"{}\"", kind.other()),
            )
        });
        if version.is_some_and(|version| version != kind.version()) {
            let help = match kind {
                Type::Pass => "write version = 2 in the instance, or type = \"hmac-sha256\" here",
                Type::HmacSha256 => "write version = 3 in the instance, or type = \"pass\" here",
            };
            table.reject("type", Problem::new(format!("type \"{kind}\" is only in version {}", kind.version()), help));
        }
        table.require(&[(own, kind.example())]);
        let authentication = match kind {
            Type::Pass => table.text(own, password).map(Self::Password),
            Type::HmacSha256 => table.text(own, key).map(Self::Hmac),
        };
        table.finish();
        authentication
    }
}

/// The word for the kind of authentication.
#[derive(Clone, Copy, PartialEq)]
enum Type {
    Pass,
    HmacSha256,
}

impl Type {
    /// The key that has the secret.
    const fn secret(self) -> &'static str {
        match self {
            Self::Pass => "password",
            Self::HmacSha256 => "key",
        }
    }

    /// What a secret is like, as TOML.
    const fn example(self) -> &'static str {
        match self {
            Self::Pass => r#""1to8char""#,
            Self::HmacSha256 => r#""(the output of `openssl rand -hex 32`)""#,
        }
    }

    /// The only version that has this kind.
    const fn version(self) -> VrrpVersion {
        match self {
            Self::Pass => VrrpVersion::V2,
            Self::HmacSha256 => VrrpVersion::V3,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Pass => Self::HmacSha256,
            Self::HmacSha256 => Self::Pass,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Pass => "pass",
            Self::HmacSha256 => "hmac-sha256",
        })
    }
}

impl Word for Type {
    const ALL: &'static [Self] = &[Self::Pass, Self::HmacSha256];
}

/// The length of the field in the message.
const PASSWORD_LENGTH: usize = 8;

/// Reads a password. The error does not quote it.
fn password(text: &str) -> Result<[u8; PASSWORD_LENGTH], Problem> {
    let help = "write 1 to 8 letters, digits and other printable ASCII characters";
    if text.is_empty() {
        return Err(Problem::new("is empty", help));
    }
    if !text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return Err(Problem::new("has characters that are not printable ASCII", help));
    }
    let mut field = [0; PASSWORD_LENGTH];
    match field.get_mut(..text.len()) {
        Some(start) => start.copy_from_slice(text.as_bytes()),
        None => {
            return Err(Problem::new(
                format!("has {} characters, and an advertisement has room for {PASSWORD_LENGTH}", text.len()),
                "write the first 8 of them: keepalived sends no more either",
            ));
        }
    }
    Ok(field)
}

/// Reads 64 hexadecimal digits, the first two of which are the first byte. The error does not quote them.
fn key(text: &str) -> Result<[u8; 32], Problem> {
    text::hexadecimal(text).ok_or_else(|| {
        Problem::new(
            "is not a key of 64 hexadecimal digits",
            "write the output of `openssl rand -hex 32`, the same on all nodes of the virtual router",
        )
    })
}
