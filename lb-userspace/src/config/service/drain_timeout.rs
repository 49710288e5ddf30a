use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::{error::Problem, text};

const DRAIN_TIMEOUTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);

/// How long a backend that leaves may keep its flows, as operators write it: a duration up to 24 h, or `none` for as long as
/// they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DrainTimeout(pub Option<Duration>);

impl FromStr for DrainTimeout {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        if text == "none" {
            return Ok(Self(None));
        }
        let timeout = text::duration(DRAIN_TIMEOUTS)(text).map(|timeout| Self(Some(timeout)));
        timeout.map_err(|problem| Problem { help: format!("{}, or \"none\"", problem.help), ..problem })
    }
}

impl TryFrom<String> for DrainTimeout {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<DrainTimeout> for String {
    fn from(timeout: DrainTimeout) -> Self {
        timeout.to_string()
    }
}

impl fmt::Display for DrainTimeout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(timeout) => formatter.pad(&text::duration_text(timeout)),
            None => formatter.pad("none"),
        }
    }
}
