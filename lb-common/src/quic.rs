//! QUIC connection ids that name their server (draft-ietf-quic-load-balancers-21), unencrypted.

use crate::ServiceId;

/// What the connection ids of a service look like. The first byte of one holds three bits of *config rotation* and five that do
/// not matter here; the server id follows, then a nonce (section 3 of the draft).
///
/// ```text
///  31 .. 16   15 ........ 8   7 ................. 0
/// ┌─────────┬───────────────┬─────────────────────┐
/// │    0    │ rotation      │ length of server id │
/// └─────────┴───────────────┴─────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct QuicIds(u32);

impl QuicIds {
    /// The service does not speak QUIC, or its ids name nobody.
    pub const NONE: Self = Self(0);
    /// The longest server id in bytes.
    pub const MAX_SERVER_ID: usize = 15;
    /// The largest config rotation: 7 stands for ids that name nobody.
    pub const MAX_ROTATION: u8 = 6;

    /// Ids with this config rotation and a server id of `length` bytes: `None` if one of them is not possible.
    pub const fn new(rotation: u8, length: u8) -> Option<Self> {
        if rotation > Self::MAX_ROTATION || length == 0 || length as usize > Self::MAX_SERVER_ID {
            return None;
        }
        Some(Self((rotation as u32) << 8 | length as u32))
    }

    /// Whether connection ids name servers at all.
    #[inline(always)]
    pub const fn is_in_use(self) -> bool {
        self.0 != 0
    }

    /// Length of the server id in bytes.
    #[inline(always)]
    pub const fn length(self) -> u32 {
        self.0 & 0xf
    }

    /// The config rotation.
    #[inline(always)]
    pub const fn rotation(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }
}

/// A server id of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct QuicServer {
    /// The service: a server id counts in its own service only.
    pub service: ServiceId,
    /// The server id, and zeros behind it.
    pub id: [u8; 16],
}
