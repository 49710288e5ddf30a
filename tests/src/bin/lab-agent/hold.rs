//! A client that holds TCP connections open, and finds out which of them break.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;
use lb_tests::lab::{Broken, HeldKind, Hold, HoldCounts, HoldLine, now_ms};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::Mutex as AsyncMutex,
    time::{Interval, interval, sleep, sleep_until, timeout},
};

use crate::open_files;

/// How often to report counts.
const PROGRESS: Duration = Duration::from_millis(500);

/// Each connection that breaks, and counts every 500 ms and at the end, as JSON lines on standard output. SIGTERM and SIGINT
/// end it in order.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where each line is answered with a backend's name
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: SocketAddr,
    /// How many connections to hold: a third each chatty, slow, and idle
    #[arg(long)]
    connections: u32,
    /// The time between two questions on a chatty connection, with its unit: 100ms, 2s, 1m 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    chatty: Duration,
    /// The time between two questions on a slow connection, with its unit: 100ms, 2s, 1m 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    slow: Duration,
    /// The time between two questions on an idle connection, with its unit: 100ms, 2s, 1m 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    idle: Duration,
    /// How many connections to open each second only to close them again soon
    #[arg(long)]
    short_lived: u32,
    /// How many connections to open in a second at most, short-lived ones apart
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    open_rate: u32,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(options: &Options) -> Result<()> {
    let Options { target, connections, chatty, slow, idle, short_lived, open_rate } = *options;
    // A short-lived one takes at most as long as its questions may take.
    let short_lived_open = u64::from(short_lived) * (3 * Hold::TIMEOUT + Hold::SHORT).as_secs();
    open_files::allow(u64::from(connections) + short_lived_open)?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = Arc::new(Client {
        target,
        pace: AsyncMutex::new(interval(Duration::from_secs(1) / open_rate)),
        counts: Mutex::default(),
    });
    let kinds = [(HeldKind::Chatty, chatty), (HeldKind::Slow, slow), (HeldKind::Idle, idle)];
    for (_, (kind, every)) in (0..connections).zip(kinds.into_iter().cycle()) {
        tokio::spawn(Arc::clone(&client).keep_open(kind, every));
    }
    if short_lived > 0 {
        tokio::spawn(Arc::clone(&client).open_and_close(Duration::from_secs(1) / short_lived));
    }
    let mut progress = interval(PROGRESS);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = progress.tick() => print(&HoldLine::Counts(client.counts().clone())),
        }
    }
    print(&HoldLine::Counts(client.counts().clone()));
    Ok(())
}

fn print(line: &HoldLine) {
    println!("{}", serde_json::to_string(line).expect("it has no maps but by name"));
}

/// What all connections have in common.
struct Client {
    target: SocketAddr,
    /// When the next one may be opened.
    pace: AsyncMutex<Interval>,
    counts: Mutex<HoldCounts>,
}

impl Client {
    fn counts(&self) -> MutexGuard<'_, HoldCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one connection open at any time.
    async fn keep_open(self: Arc<Self>, kind: HeldKind, every: Duration) {
        loop {
            self.pace.lock().await.tick().await;
            let mut connection = Connection::new(&self, kind);
            let Err(cause) = connection.hold(every).await;
            connection.report(&cause);
        }
    }

    async fn open_and_close(self: Arc<Self>, every: Duration) {
        let mut ticks = interval(every);
        loop {
            ticks.tick().await;
            let client = Arc::clone(&self);
            tokio::spawn(async move {
                let mut connection = Connection::new(&client, HeldKind::ShortLived);
                match connection.use_briefly().await {
                    Ok(()) => client.counts().short_lived += 1,
                    Err(cause) => connection.report(&cause),
                }
            });
        }
    }
}

/// One connection, from before it is opened to its end.
struct Connection<'client> {
    client: &'client Client,
    kind: HeldKind,
    opened_ms: u64,
    port: Option<u16>,
    backend: Option<String>,
}

impl<'client> Connection<'client> {
    fn new(client: &'client Client, kind: HeldKind) -> Self {
        Self { client, kind, opened_ms: now_ms(), port: None, backend: None }
    }

    /// Asks again and again: only a fault ends it.
    async fn hold(&mut self, every: Duration) -> Result<Infallible> {
        let mut stream = self.open().await?;
        // What is left of it after a fault is of no use to anybody.
        stream.set_zero_linger()?;
        loop {
            let next = tokio::time::Instant::now() + every;
            self.ask(&mut stream).await?;
            tokio::select! {
                () = sleep_until(next) => {}
                ended = unasked(&stream) => ended?,
            }
        }
    }

    /// Asks twice, some time apart, and closes the connection.
    async fn use_briefly(&mut self) -> Result<()> {
        let mut stream = self.open().await?;
        self.ask(&mut stream).await?;
        sleep(Hold::SHORT.mul_f64(fastrand::f64())).await;
        self.ask(&mut stream).await
    }

    async fn open(&mut self) -> Result<TcpStream> {
        let target = self.client.target;
        let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let stream = timeout(Hold::TIMEOUT, socket.connect(target))
            .await
            .map_err(|_| anyhow!("not opened within {:?}", Hold::TIMEOUT))?
            .context("open")?;
        self.port = Some(stream.local_addr()?.port());
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn ask(&mut self, stream: &mut TcpStream) -> Result<()> {
        let asked = Instant::now();
        let name = timeout(Hold::TIMEOUT, question(stream))
            .await
            .map_err(|_| anyhow!("no answer within {:?}", Hold::TIMEOUT))??;
        let took = asked.elapsed();
        let mut counts = self.client.counts();
        if let Some(backend) = &self.backend {
            ensure!(*backend == name, "moved to {name}");
        } else {
            if self.is_held() {
                *counts.open.entry(name.clone()).or_default() += 1;
            }
            self.backend = Some(name);
        }
        counts.answers += 1;
        counts.stalls += u64::from(took > Hold::STALL);
        counts.slowest_ms = counts.slowest_ms.max(took.as_secs_f64() * 1e3);
        Ok(())
    }

    fn is_held(&self) -> bool {
        self.kind != HeldKind::ShortLived
    }

    /// Tells of its untimely end.
    fn report(self, cause: &anyhow::Error) {
        if self.is_held()
            && let Some(backend) = &self.backend
            && let Some(open) = self.client.counts().open.get_mut(backend)
        {
            *open -= 1;
        }
        let Self { kind, backend, port, opened_ms, .. } = self;
        let cause = format!("{cause:#}");
        print(&HoldLine::Broken(Broken { kind, backend, port, opened_ms, broken_ms: now_ms(), cause }));
    }
}

/// Sends a line, and returns the one that comes back.
async fn question(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"?\n").await.context("ask")?;
    let mut line = [0; 64];
    let mut length = 0;
    while !line[..length].ends_with(b"\n") {
        match stream.read(&mut line[length..]).await.context("answer")? {
            0 => bail!("closed by the backend, or its answer is no line"),
            more => length += more,
        }
    }
    Ok(String::from_utf8_lossy(line[..length].trim_ascii()).into_owned())
}

/// Whatever comes without a question ends a connection.
async fn unasked(stream: &TcpStream) -> Result<()> {
    loop {
        stream.readable().await?;
        match stream.try_read(&mut [0]) {
            Ok(0) => bail!("closed by the backend between two questions"),
            Ok(_) => bail!("an answer that was not asked for"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("between two questions"),
        }
    }
}
