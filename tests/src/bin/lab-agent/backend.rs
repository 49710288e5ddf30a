//! A small HTTP server that says which backend it is.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{get, put},
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
    /// How long each answer takes, health checks apart; `PUT /delay` says another time from then on
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(options: Options) -> Result<()> {
    let Options { name, listen, delay } = options;
    let header = HeaderValue::from_str(&name).context("the name goes into an HTTP header")?;
    let delay = Arc::new(Delay::new(delay));
    let delayed = Arc::clone(&delay);
    let answer = move || async move {
        sleep(delayed.get()).await;
        let mut response: Response = format!("{name}\n").into_response();
        response.headers_mut().insert("x-backend", header);
        response
    };
    let set_delay = move |text: String| async move {
        let Ok(duration) = humantime::parse_duration(&text) else { return StatusCode::BAD_REQUEST };
        delay.set(duration);
        StatusCode::OK
    };
    let app =
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/delay", put(set_delay)).fallback(answer);

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

/// How long an answer takes, which may change at any time.
struct Delay(AtomicU64);

impl Delay {
    fn new(duration: Duration) -> Self {
        let delay = Self(AtomicU64::new(0));
        delay.set(duration);
        delay
    }

    fn set(&self, duration: Duration) {
        self.0.store(duration.as_millis().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}
