//! Takes requests from the socket, hands them to the daemon's loop, and answers.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, patch, post},
};
use serde::Deserialize;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};

use super::{
    BackendPatch, ChangedView, ClientFilter, ClientView, ClientsView, ErrorView, FlowFilter, FlowView, FlowsView,
    NewBackend, ReloadedView, SlotsView, StatsView, StatusView,
};
use crate::{
    config::{self, DrainTimeout},
    model::{Admin, ApplyError, Change, ChangeError, ENDLESS, Selector, ServiceView},
    vrrp::Fitness,
};

/// A request on its way to the daemon's loop, with the way back.
#[derive(Debug)]
pub enum Request {
    /// How the daemon is.
    Status(Reply<StatusView>),
    /// The services and their backends.
    Services(Reply<Vec<ServiceView>>),
    /// Counters.
    Stats(Reply<StatsView>),
    /// Whether this node is fit to be master.
    Fitness(Reply<Fitness>),
    /// Where a flow of `service` goes.
    Flow {
        /// The service.
        service: String,
        /// The client.
        client: SocketAddr,
        /// The destination port, for a service of all ports.
        port: Option<u16>,
        /// The way back.
        reply: Reply<FlowView>,
    },
    /// The flows in the flow table.
    Flows(FlowFilter, Reply<FlowsView>),
    /// The clients that stay with their servers.
    Clients(ClientFilter, Reply<ClientsView>),
    /// Let nothing be known of the client that the filter names.
    Forget(ClientFilter, Reply<Vec<ClientView>>),
    /// What the slots of the service named do.
    Slots(String, Reply<SlotsView>),
    /// Change something.
    Change(Change, Reply<Vec<ChangedView>>),
    /// Read the configuration file again.
    Reload(Reply<ReloadedView>),
}

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It asks for something that there cannot be.
    #[error("{0}")]
    Usage(String),
    /// It names something that is not there.
    #[error("{0}")]
    NotFound(String),
    /// The configuration is not valid.
    #[error("{0}")]
    Configuration(String),
    /// It makes sense, and went wrong.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Usage(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Configuration(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status(), Json(ErrorView { error: self.to_string() })).into_response()
    }
}

impl From<ChangeError> for Refusal {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::NoService(_) | ChangeError::NoBackend { .. } => Self::NotFound(message),
            ChangeError::Refused(_) | ChangeError::Removed { .. } | ChangeError::Unfit(ApplyError::ServerId(_)) => {
                Self::Invalid(message)
            }
            ChangeError::Unfit(ApplyError::Full(_)) => Self::Failed(message),
        }
    }
}

type Requests = mpsc::Sender<Request>;
/// What a handler returns.
pub(crate) type Answer<T> = Result<Json<T>, Refusal>;

/// Opens the socket at `path`. One that an earlier daemon left is replaced.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the API until the daemon's loop is gone.
pub async fn serve(listener: UnixListener, requests: mpsc::Sender<Request>) -> io::Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/stats", get(stats))
        .route("/v1/flow", get(flow))
        .route("/v1/flows", get(flows))
        .route("/v1/affinity", get(clients))
        .route("/v1/affinity/{client}", delete(forget))
        .route("/v1/services/{service}/slots", get(slots))
        .route("/v1/fitness", get(fitness))
        .route("/v1/services/{service}/backends", post(add_backend))
        .route("/v1/backends/{backend}", patch(patch_backend).delete(remove_backend))
        .route("/v1/reload", post(reload))
        .fallback(async || Refusal::NotFound("no such path in this API".to_owned()))
        .with_state(requests);
    axum::serve(listener, router).await
}

/// Sends a request to the loop and waits for its answer.
pub(crate) async fn ask<R, T>(requests: &mpsc::Sender<R>, request: impl FnOnce(Reply<T>) -> R) -> Answer<T> {
    let gone = || Refusal::Failed("lbd is stopping".to_owned());
    let (reply, answer) = oneshot::channel();
    requests.send(request(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?.map(Json)
}

async fn status(State(requests): State<Requests>) -> Answer<StatusView> {
    ask(&requests, Request::Status).await
}

async fn services(State(requests): State<Requests>) -> Answer<Vec<ServiceView>> {
    ask(&requests, Request::Services).await
}

async fn stats(State(requests): State<Requests>) -> Answer<StatsView> {
    ask(&requests, Request::Stats).await
}

async fn fitness(State(requests): State<Requests>) -> Answer<Fitness> {
    ask(&requests, Request::Fitness).await
}

async fn reload(State(requests): State<Requests>) -> Answer<ReloadedView> {
    ask(&requests, Request::Reload).await
}

#[derive(Deserialize)]
struct FlowQuery {
    service: String,
    client: SocketAddr,
    port: Option<u16>,
}

async fn flow(State(requests): State<Requests>, Query(query): Query<FlowQuery>) -> Answer<FlowView> {
    let FlowQuery { service, client, port } = query;
    ask(&requests, |reply| Request::Flow { service, client, port, reply }).await
}

async fn flows(State(requests): State<Requests>, Query(filter): Query<FlowFilter>) -> Answer<FlowsView> {
    ask(&requests, |reply| Request::Flows(filter, reply)).await
}

async fn clients(State(requests): State<Requests>, Query(filter): Query<ClientFilter>) -> Answer<ClientsView> {
    ask(&requests, |reply| Request::Clients(filter, reply)).await
}

#[derive(Deserialize)]
struct InScope {
    service: Option<String>,
    group: Option<String>,
}

async fn forget(
    State(requests): State<Requests>,
    UrlPath(client): UrlPath<IpAddr>,
    Query(InScope { service, group }): Query<InScope>,
) -> Answer<Vec<ClientView>> {
    let filter = ClientFilter { service, group, client: Some(client), limit: None };
    ask(&requests, |reply| Request::Forget(filter, reply)).await
}

async fn slots(State(requests): State<Requests>, UrlPath(service): UrlPath<String>) -> Answer<SlotsView> {
    ask(&requests, |reply| Request::Slots(service, reply)).await
}

async fn add_backend(
    State(requests): State<Requests>,
    UrlPath(service): UrlPath<String>,
    body: Result<Json<NewBackend>, JsonRejection>,
) -> Answer<Vec<ChangedView>> {
    let NewBackend { name, address, weight, max_connections, server_id } = json(body)?;
    let weight = weight.unwrap_or(config::Backend::DEFAULT_WEIGHT);
    let invalid = |problem: config::Problem| Refusal::Invalid(problem.to_string());
    let backend = config::Backend::parse(name.as_deref(), &address, weight).map_err(invalid)?;
    let server_id = server_id.map(|digits| digits.parse().map_err(invalid)).transpose()?;
    let backend = config::Backend { max_connections, server_id, ..backend };
    ask(&requests, |reply| Request::Change(Change::Add(service, backend), reply)).await
}

#[derive(Deserialize)]
struct InService {
    service: Option<String>,
}

#[derive(Deserialize)]
struct Removal {
    service: Option<String>,
    timeout: Option<DrainTimeout>,
}

async fn patch_backend(
    State(requests): State<Requests>,
    UrlPath(backend): UrlPath<String>,
    Query(InService { service }): Query<InService>,
    body: Result<Json<BackendPatch>, JsonRejection>,
) -> Answer<Vec<ChangedView>> {
    let selector = Selector { backend, service };
    let change = match json(body)? {
        BackendPatch::Weight(weight) => Change::Weight(selector, weight),
        BackendPatch::Admin(Admin::Draining) => Change::Drain(selector, None),
        BackendPatch::Admin(admin) => Change::Admin(selector, admin),
        BackendPatch::Drain { timeout: DrainTimeout(timeout) } => Change::Drain(selector, timeout.or(Some(ENDLESS))),
    };
    ask(&requests, |reply| Request::Change(change, reply)).await
}

async fn remove_backend(
    State(requests): State<Requests>,
    UrlPath(backend): UrlPath<String>,
    Query(Removal { service, timeout }): Query<Removal>,
) -> Answer<Vec<ChangedView>> {
    let timeout = timeout.map(|DrainTimeout(timeout)| timeout.unwrap_or(ENDLESS));
    let change = Change::Remove(Selector { backend, service }, timeout);
    ask(&requests, |reply| Request::Change(change, reply)).await
}

pub(crate) fn json<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Refusal> {
    body.map(|Json(value)| value).map_err(|rejection| Refusal::Invalid(rejection.body_text()))
}
