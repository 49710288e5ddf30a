//! An HTTP client that counts who answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use axum::body::Body;
use clap::Args;
use http_body_util::BodyExt as _;
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1::{self, SendRequest},
    header::{CONNECTION, HOST},
};
use hyper_util::rt::TokioIo;
use lb_tests::lab::LoadReport;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

/// How often `--progress` reports.
const PROGRESS: Duration = Duration::from_millis(500);

/// Counts as JSON on standard output: the last line is the final report. SIGTERM and SIGINT end it in order.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to ask for: `http://ADDRESS[:PORT]/PATH`, with an IP address
    #[arg(long)]
    url: Uri,
    /// How many requests are under way at a time
    #[arg(long, default_value_t = 8)]
    connections: u32,
    /// Stop after so many requests
    #[arg(long)]
    requests: Option<u64>,
    /// Stop after so much time
    #[arg(long, value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
    /// Requests per second; without it, each follows the answer to the one before
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Keep TCP connections for the next request, where by default each request opens its own
    #[arg(long)]
    keep_alive: bool,
    /// Close connections that are not kept only so long after their answer
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    hold: Duration,
    /// A request that takes longer has failed
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Report every 500 ms
    #[arg(long)]
    progress: bool,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(options: &Options) -> Result<()> {
    let target = Arc::new(Target::new(options)?);
    let counts = Arc::new(Counts {
        report: Mutex::default(),
        left: AtomicU64::new(options.requests.unwrap_or(u64::MAX)),
        stop: AtomicBool::new(false),
    });
    let pause = options.rate.map(|rate| Duration::from_secs(1) * options.connections / rate);

    let mut workers = JoinSet::new();
    for number in 0..options.connections {
        // Spread the connections' requests over time.
        let delay = pause.unwrap_or_default() * number / options.connections;
        let (target, counts) = (Arc::clone(&target), Arc::clone(&counts));
        workers.spawn(async move {
            sleep(delay).await;
            work(&target, &counts, pause).await;
        });
    }

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut progress = interval(PROGRESS);
    let end = sleep(options.duration.unwrap_or(Duration::MAX));
    tokio::pin!(end);
    loop {
        tokio::select! {
            worker = workers.join_next() => match worker {
                Some(done) => done?,
                None => break,
            },
            () = &mut end, if !counts.stopped() => counts.stop(),
            _ = terminate.recv() => counts.stop(),
            _ = interrupt.recv() => counts.stop(),
            _ = progress.tick(), if options.progress => counts.print()?,
        }
    }
    counts.print()
}

/// What all workers count together, and when they stop.
struct Counts {
    report: Mutex<LoadReport>,
    left: AtomicU64,
    stop: AtomicBool,
}

impl Counts {
    /// Whether one more request is to be made.
    fn take(&self) -> bool {
        !self.stopped()
            && self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn add(&self, answer: Result<String>, latency: Duration) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.requests += 1;
        report.max_latency_ms = report.max_latency_ms.max(latency.as_secs_f64() * 1e3);
        match answer {
            Ok(backend) => *report.by_backend.entry(backend).or_default() += 1,
            Err(error) => {
                report.failures += 1;
                *report.errors.entry(format!("{error:#}")).or_default() += 1;
            }
        }
    }

    fn print(&self) -> Result<()> {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{}", serde_json::to_string(&*report)?);
        Ok(())
    }
}

/// One request after the other, until there is none left.
async fn work(target: &Target, counts: &Counts, pause: Option<Duration>) {
    let mut ticks = pause.map(|pause| {
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let mut kept = None;
    loop {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        if !counts.take() {
            return;
        }
        let started = Instant::now();
        let answer = timeout(target.timeout, target.request(&mut kept))
            .await
            .unwrap_or_else(|_| bail!("no answer within {:?}", target.timeout));
        if answer.is_err() {
            kept = None;
        }
        counts.add(answer, started.elapsed());
    }
}

struct Target {
    address: SocketAddr,
    host: String,
    path: String,
    keep_alive: bool,
    hold: Duration,
    timeout: Duration,
}

impl Target {
    fn new(options: &Options) -> Result<Self> {
        let url = &options.url;
        ensure!(url.scheme_str() == Some("http"), "{url}: only http URLs are possible");
        let authority = url.authority().with_context(|| format!("{url} has no host"))?;
        let host = authority.host();
        let ip = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .with_context(|| format!("{host} is not an IP address: names are not looked up"))?;
        Ok(Self {
            address: SocketAddr::new(ip, authority.port_u16().unwrap_or(80)),
            host: authority.to_string(),
            path: url.path_and_query().map_or("/", |path| path.as_str()).into(),
            keep_alive: options.keep_alive,
            hold: options.hold,
            timeout: options.timeout,
        })
    }

    /// Makes one request; returns the name of the backend that answered.
    async fn request(&self, kept: &mut Option<SendRequest<Body>>) -> Result<String> {
        let mut connection = match kept.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => self.connect().await?,
        };
        let mut request = Request::get(&self.path).header(HOST, &self.host);
        let is_held = !self.hold.is_zero();
        if !self.keep_alive && !is_held {
            request = request.header(CONNECTION, "close");
        }
        let answer = connection.send_request(request.body(Body::empty())?).await.context("request")?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.context("answer")?.to_bytes();
        ensure!(head.status == StatusCode::OK, "status {}", head.status);
        if self.keep_alive {
            connection.ready().await.context("keep the connection")?;
            *kept = Some(connection);
        } else if is_held {
            let hold = self.hold;
            tokio::spawn(async move {
                sleep(hold).await;
                drop(connection);
            });
        }
        let name = match head.headers.get("x-backend") {
            Some(name) => name.as_bytes(),
            None => body.trim_ascii(),
        };
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    async fn connect(&self) -> Result<SendRequest<Body>> {
        let stream = TcpStream::connect(self.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("handshake")?;
        // An error of the connection shows in the request, too.
        tokio::spawn(connection);
        Ok(sender)
    }
}
