//! The API of the VRRP process: JSON over HTTP on a Unix socket beside the daemon's.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/vrrp` | [`VrrpView`] |
//! | `POST /v1/vrrp/NAME/failover` | nothing: the instance has said farewell |
//! | `PATCH /v1/vrrp/NAME` with [`InstancePatch`] | nothing |
//! | `POST /v1/reload` | nothing |

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path as UrlPath, State, rejection::JsonRejection},
    routing::{get, patch, post},
};
use tokio::sync::mpsc;

use super::view::{InstancePatch, VrrpView};
use crate::api::{self, Answer, Refusal, Reply, ask, json};

/// A request on its way to the speaker's loop, with the way back.
#[derive(Debug)]
pub enum Request {
    /// How the instances are.
    Status(Reply<VrrpView>),
    /// Have an instance hand over.
    FailOver(String, Reply<()>),
    /// Give an instance another priority; `None` for the configured one.
    Priority(String, Option<u8>, Reply<()>),
    /// Read the configuration file again.
    Reload(Reply<()>),
}

/// Where the VRRP process is reached, on a node whose daemon is reached at `socket`: `lb.sock` has `lb-vrrp.sock` beside it.
pub fn socket(socket: &Path) -> PathBuf {
    let mut name = socket.file_stem().map_or_else(OsString::new, OsString::from);
    name.push("-vrrp.sock");
    socket.with_file_name(name)
}

/// Serves the API until the loop is gone.
pub(super) fn start(daemon: &Path, requests: mpsc::Sender<Request>) -> anyhow::Result<()> {
    let path = socket(daemon);
    let listener = api::bind(&path).with_context(|| format!("cannot open the socket {}", path.display()))?;
    let router = Router::new()
        .route("/v1/vrrp", get(status))
        .route("/v1/vrrp/{instance}", patch(change))
        .route("/v1/vrrp/{instance}/failover", post(fail_over))
        .route("/v1/reload", post(reload))
        .fallback(async || Refusal::NotFound("no such path in this API".to_owned()))
        .with_state(requests);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(())
}

type Requests = State<mpsc::Sender<Request>>;

async fn status(State(requests): Requests) -> Answer<VrrpView> {
    ask(&requests, Request::Status).await
}

async fn fail_over(State(requests): Requests, UrlPath(instance): UrlPath<String>) -> Answer<()> {
    ask(&requests, |reply| Request::FailOver(instance, reply)).await
}

async fn change(
    State(requests): Requests,
    UrlPath(instance): UrlPath<String>,
    body: Result<Json<InstancePatch>, JsonRejection>,
) -> Answer<()> {
    let InstancePatch { priority } = json(body)?;
    if priority.is_some_and(|priority| !(1..=254).contains(&priority)) {
        return Err(Refusal::Invalid("a priority is 1 to 254: 0 says farewell, 255 is for the owner".to_owned()));
    }
    ask(&requests, |reply| Request::Priority(instance, priority, reply)).await
}

async fn reload(State(requests): Requests) -> Answer<()> {
    ask(&requests, Request::Reload).await
}
