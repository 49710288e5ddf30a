//! One probe of one backend: a new connection, one question, one verdict.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    failure::{Failure, Stage},
    http, tls,
};
use crate::config::CheckKind;

#[cfg(test)]
mod tests;

/// Probes `target` once, and returns how long it took to see that the backend serves.
///
/// Ends within `timeout`, whatever the server does. Dropping the future closes the connection.
pub async fn probe(target: SocketAddr, check: &CheckKind, timeout: Duration) -> Result<Duration, Failure> {
    let started = Instant::now();
    let limit = TimeLimit { timeout, deadline: started + timeout };
    let tcp =
        limit.during(Stage::Connecting, TcpStream::connect(target)).await?.map_err(|error| Failure::connect(&error))?;
    match check {
        CheckKind::Tcp => reset_on_close(&tcp),
        CheckKind::Http(check) => match &check.tls {
            None => http::exchange(tcp, target, check, limit).await?,
            Some(tls) => {
                let session = tls::connect(tcp, target, check, tls);
                let session = limit.during(Stage::NegotiatingTls, session).await??;
                http::exchange(session, target, check, limit).await?;
            }
        },
    }
    Ok(started.elapsed())
}

/// Makes the close of `tcp` send RST in place of FIN (`SO_LINGER` of zero).
///
/// The side that sends the first FIN keeps the connection in TIME-WAIT for a minute, and the first
/// is always the probe: a thousand backends probed each second would hold 60,000 sockets. Nothing
/// was sent, so no data is lost with the connection.
fn reset_on_close(tcp: &TcpStream) {
    // An error is no verdict on the backend, and costs no more than a socket in TIME-WAIT.
    let _ = tcp.set_zero_linger();
}

/// The time that all stages of a probe share.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimit {
    timeout: Duration,
    deadline: Instant,
}

impl TimeLimit {
    /// Runs `work` to its end, or fails with `stage` when the probe's time is up first.
    pub(super) async fn during<F: Future>(self, stage: Stage, work: F) -> Result<F::Output, Failure> {
        timeout_at(self.deadline, work).await.map_err(|_| Failure::TimedOut { after: self.timeout, during: stage })
    }
}
