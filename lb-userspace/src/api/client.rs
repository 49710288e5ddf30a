//! The command line's side of the socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::ErrorView;

/// No request takes longer, be it a reload.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("cannot reach lbd at {}: {source}; does it run, and are you root?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It takes the connection, and hangs.
    #[error("lbd at {} does not answer within {TIMEOUT:?}: it hangs", path.display())]
    Hangs {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke, or what came back is not an answer.
    #[error("no answer from lbd: {0}")]
    NoAnswer(String),
    /// The daemon found the configuration invalid.
    #[error("{0}")]
    Configuration(String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Usage(String),
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
}

/// Asks the daemon behind a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    /// A request with a JSON body.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(no_answer)?;
        self.request(method, path, body.into()).await
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let hangs = || ClientError::Hangs { path: self.socket.clone() };
        timeout(TIMEOUT, self.exchange(method, path, body)).await.unwrap_or_else(|_| Err(hangs()))
    }

    async fn exchange<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { path: self.socket.clone(), source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_answer)?;
        // An error of the connection shows as an error of the request.
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "lbd")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(no_answer)?;
        let response = sender.send_request(request).await.map_err(no_answer)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(no_answer)?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(no_answer);
        }
        let message = serde_json::from_slice::<ErrorView>(&body)
            .map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |view| view.error);
        Err(match status {
            StatusCode::UNPROCESSABLE_ENTITY => ClientError::Configuration(message),
            StatusCode::RANGE_NOT_SATISFIABLE => ClientError::Usage(message),
            _ => ClientError::Refused(message),
        })
    }
}

fn no_answer(error: impl std::fmt::Display) -> ClientError {
    ClientError::NoAnswer(error.to_string())
}
