//! A UDP client that sends at a steady pace, and finds out when it was not answered.

mod judge;

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::sys::{
    prctl,
    socket::{setsockopt, sockopt},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use self::judge::{Answers, Sendings, judge};

/// How long to wait for answers after the last sending.
const LINGER: Duration = Duration::from_millis(300);

/// How often the receiver looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// The size of the socket's buffers, in bytes: nothing is lost here.
const BUFFER: usize = 8 << 20;

/// Reports as JSON on standard output at the end. SIGTERM and SIGINT end it in order.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where an echo answers, with its name in front
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: SocketAddr,
    /// The time between two datagrams
    #[arg(long, default_value = "1ms", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Stop after so much time
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(options: &Options) -> Result<()> {
    let Options { target, every, duration } = *options;
    ensure!(!every.is_zero(), "there has to be some time between two datagrams");
    // Before the first datagram: whoever sees an answer may send a signal.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let probe = Arc::new(Probe {
        target,
        socket: socket(target.ip())?,
        start: Instant::now(),
        start_time: SystemTime::now(),
        stop: AtomicBool::new(false),
    });
    let receiver = thread::spawn({
        let probe = Arc::clone(&probe);
        move || probe.receive()
    });
    let sender = thread::spawn({
        let probe = Arc::clone(&probe);
        move || probe.send(every)
    });
    tokio::select! {
        () = sleep(duration.unwrap_or(Duration::MAX)) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    probe.stop.store(true, Ordering::Relaxed);
    let sendings = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let answers = receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let start_time = probe.start_time.duration_since(SystemTime::UNIX_EPOCH)?;
    println!("{}", serde_json::to_string(&judge(start_time, &sendings, answers))?);
    Ok(())
}

/// Not connected: an ICMP error ends nothing.
fn socket(target: IpAddr) -> Result<UdpSocket> {
    let any = match target {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).context("open a socket")?;
    socket.set_read_timeout(Some(LOOK))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("enlarge the receive buffer")?;
    setsockopt(&socket, sockopt::SndBufForce, &BUFFER).context("enlarge the send buffer")?;
    Ok(socket)
}

struct Probe {
    target: SocketAddr,
    socket: UdpSocket,
    start: Instant,
    start_time: SystemTime,
    stop: AtomicBool,
}

/// What each datagram carries: its number, and when it was sent.
struct Stamp {
    sequence: u64,
    /// Since the start.
    sent: Duration,
}

impl Stamp {
    const SIZE: usize = 16;

    fn encode(&self) -> [u8; Self::SIZE] {
        let nanos = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        (u128::from(self.sequence) << 64 | u128::from(nanos)).to_be_bytes()
    }

    fn decode(bytes: [u8; Self::SIZE]) -> Self {
        let [sequence, nanos] = [&bytes[..8], &bytes[8..]]
            .map(|half| half.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte)));
        Self { sequence, sent: Duration::from_nanos(nanos) }
    }
}

impl Probe {
    /// Sends until it is told to stop. Each datagram has its time, however late the one before was.
    fn send(&self, every: Duration) -> Result<Sendings> {
        prctl::set_timerslack(1).context("have the kernel wake this thread in time")?;
        let mut sendings = Sendings::default();
        let mut next = Duration::ZERO;
        while !self.stop.load(Ordering::Relaxed) {
            thread::sleep(next.saturating_sub(self.start.elapsed()));
            next += every;
            let sent = self.start.elapsed();
            let stamp = Stamp { sequence: u64::try_from(sendings.at.len())?, sent };
            sendings.at.push(sent);
            // No route, or no neighbour: to be counted, not to be given up for.
            if self.socket.send_to(&stamp.encode(), self.target).is_err() {
                sendings.failed += 1;
            }
        }
        Ok(sendings)
    }

    fn receive(&self) -> Result<Answers> {
        let mut answers = Answers::default();
        let mut buffer = [0; 512];
        let mut stopped: Option<Instant> = None;
        while stopped.is_none_or(|stopped| stopped.elapsed() < LINGER) {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) if is_same(from, self.target) => {
                    if let Some((name, stamp)) = buffer[..length].split_last_chunk() {
                        let Stamp { sequence, sent } = Stamp::decode(*stamp);
                        let round_trip = self.start.elapsed().saturating_sub(sent);
                        if answers.by_node.is_empty() {
                            eprintln!("the first answer took {round_trip:?}");
                        }
                        answers.add(
                            &String::from_utf8_lossy(name.trim_ascii()),
                            usize::try_from(sequence)?,
                            round_trip,
                        );
                    }
                }
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("receive"),
            }
            if stopped.is_none() && self.stop.load(Ordering::Relaxed) {
                stopped = Some(Instant::now());
            }
        }
        Ok(answers)
    }
}

/// Whether an answer comes from where it was asked for.
fn is_same(from: SocketAddr, target: SocketAddr) -> bool {
    (from.ip(), from.port()) == (target.ip(), target.port())
}
