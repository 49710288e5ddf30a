//! `[vrrp.announcement]`: how the link learns of a new master.

use std::time::Duration;

use serde::Serialize;

use crate::config::table::Table;
use crate::config::text;

/// How the link is told where the addresses are: gratuitous ARP, unsolicited neighbour advertisements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// How many frames each address gets at once on taking over.
    pub repeat: u8,
    /// After this time they are sent once more; zero: they are not.
    pub delay: Duration,
    /// A master sends one frame for each address this often; zero: never.
    pub refresh: Duration,
}

impl Default for Announcement {
    fn default() -> Self {
        Self { repeat: 3, delay: Duration::from_secs(1), refresh: Duration::from_mins(1) }
    }
}

impl Announcement {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let default = Self::default();
        let delays = Duration::ZERO..=Duration::from_mins(1);
        let refreshes = Duration::ZERO..=Duration::from_hours(1);
        let announcement = Self {
            repeat: table.number("repeat", 1..=20).unwrap_or(default.repeat),
            delay: table.text("delay", text::duration(delays)).unwrap_or(default.delay),
            refresh: table.text("refresh", text::duration(refreshes)).unwrap_or(default.refresh),
        };
        table.finish();
        announcement
    }
}
