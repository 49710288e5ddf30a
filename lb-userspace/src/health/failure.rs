//! Why a probe failed, in words for the operator.

use std::{error::Error, fmt, io, iter, time::Duration};

/// Why a probe failed.
///
/// The message names neither backend nor check: whoever shows it knows them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("connection refused")]
    Refused,
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("timed out after {after:?} while {during}")]
    TimedOut { after: Duration, during: Stage },
    #[error("TLS: {0}")]
    Tls(String),
    #[error("cannot build the HTTP request: {0}")]
    Request(String),
    #[error("no valid HTTP response: {0}")]
    Response(String),
    #[error("status {got}, expected {expected}")]
    Status { got: u16, expected: String },
    #[error("body does not contain {missing:?}")]
    Body { missing: String },
}

/// What a probe was doing when its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    NegotiatingTls,
    AwaitingResponse,
    ReadingBody,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::NegotiatingTls => "negotiating TLS",
            Self::AwaitingResponse => "waiting for the response",
            Self::ReadingBody => "reading the body",
        })
    }
}

impl Failure {
    pub(super) fn connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            _ => Self::Connect(error.to_string()),
        }
    }

    /// Keeps the message of the root cause: the errors around it say only where in hyper it arose.
    pub(super) fn response(error: &hyper::Error) -> Self {
        let causes = iter::successors(Some(error as &dyn Error), |&error| error.source());
        Self::Response(causes.last().unwrap_or(error).to_string())
    }
}
