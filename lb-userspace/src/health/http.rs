//! The HTTP/1.1 exchange of a probe: one request, and a verdict on its response.
//!
//! Redirects are not followed: a redirect is a response like any other, to be expected or not. The
//! server is not trusted: what is kept of its response is bounded here, and how long it may take is
//! bounded by the caller's time limit.

use std::{convert::Infallible, future::pending, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1,
    header::{CONNECTION, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    failure::{Failure, Stage},
    probe::TimeLimit,
};
use crate::config::{HttpCheck, Method};

/// Longest response head that is accepted, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;

/// How much of a body is searched, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// Asks over `stream` what `check` asks, and judges the response.
pub(super) async fn exchange<S>(
    stream: S,
    target: SocketAddr,
    check: &HttpCheck,
    limit: TimeLimit,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = request(target, check)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_header_size(HEAD_LIMIT)
        .max_buf_size(BODY_LIMIT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::response(&error))?;

    let dialogue = async {
        let response = limit
            .during(Stage::AwaitingResponse, sender.send_request(request))
            .await?
            .map_err(|error| Failure::response(&error))?;
        judge_status(&response, check)?;
        match &check.body_contains {
            Some(text) => {
                let search = search_body(response.into_body(), text);
                limit.during(Stage::ReadingBody, search).await?
            }
            None => Ok(()),
        }
    };
    // The connection does the I/O for the dialogue, and passes its errors on to it: the dialogue
    // alone decides.
    let driver = async {
        let _ = connection.await;
        pending::<Infallible>().await
    };
    tokio::select! {
        verdict = dialogue => verdict,
        never = driver => match never {},
    }
}

fn request(target: SocketAddr, check: &HttpCheck) -> Result<Request<Empty<Bytes>>, Failure> {
    let method = match check.method {
        Method::Get => hyper::Method::GET,
        Method::Head => hyper::Method::HEAD,
    };
    let host = check.host.clone().unwrap_or_else(|| target.to_string());
    Request::builder()
        .method(method)
        .uri(&check.path)
        .header(HOST, host)
        .header(USER_AGENT, "lb-health-check")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Failure::Request(error.to_string()))
}

fn judge_status(response: &Response<Incoming>, check: &HttpCheck) -> Result<(), Failure> {
    let got = response.status().as_u16();
    if check.expected_status.iter().any(|range| range.contains(got)) {
        Ok(())
    } else {
        Err(Failure::Status {
            got,
            expected: check.expected_status.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        })
    }
}

/// Reads `body` until `text` is found, [`BODY_LIMIT`] is reached or the body ends.
async fn search_body(mut body: Incoming, text: &str) -> Result<(), Failure> {
    let mut read = Vec::new();
    while read.len() < BODY_LIMIT {
        let Some(frame) = body.frame().await else {
            break;
        };
        let frame = frame.map_err(|error| Failure::response(&error))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        // The text may begin in the chunks before.
        let unsearched = read.len().saturating_sub(text.len());
        let room = BODY_LIMIT - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
        if contains(&read[unsearched..], text.as_bytes()) {
            return Ok(());
        }
    }
    Err(Failure::Body { missing: text.to_owned() })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|part| part == needle)
}
