//! A small HTTP server that says which backend it is.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    http::HeaderValue,
    response::{IntoResponse as _, Response},
    routing::get,
    serve::ListenerExt as _,
};
use clap::Args;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The name to answer with
    #[arg(long)]
    name: String,
    /// Where to listen; may be given several times
    #[arg(long, required = true, value_name = "ADDRESS:PORT")]
    listen: Vec<SocketAddr>,
    /// How long each answer takes, health checks apart
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(options: Options) -> Result<()> {
    let Options { name, listen, delay } = options;
    let header = HeaderValue::from_str(&name).context("the name goes into an HTTP header")?;
    let answer = move || async move {
        sleep(delay).await;
        let mut response: Response = format!("{name}\n").into_response();
        response.headers_mut().insert("x-backend", header);
        response
    };
    let app = Router::new().route("/healthz", get(|| async { "ok\n" })).fallback(answer);

    let mut servers = JoinSet::new();
    for address in listen {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        eprintln!("listening on {address}");
        let listener = listener.tap_io(|connection| {
            // Without it answers are only slower.
            let _ = connection.set_nodelay(true);
        });
        let app = app.clone();
        servers.spawn(async move { axum::serve(listener, app).await });
    }
    while let Some(server) = servers.join_next().await {
        server??;
    }
    Ok(())
}
