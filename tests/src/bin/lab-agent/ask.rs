//! An HTTP client that does next to nothing else than to ask: blocking sockets, and a thread for each request that is under way.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use lb_tests::{benchmark::Distribution, cpu, lab::AskReport};
use nix::sys::resource::{UsageWho, getrusage};

/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Reports as JSON on standard output. Fails if no request is answered.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Whom to ask; of several, one after the other
    #[arg(long = "target", required = true, value_name = "ADDRESS:PORT")]
    targets: Vec<SocketAddr>,
    /// How many requests are under way at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    at_once: u32,
    /// How many requests there are
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Keep connections for the next request, where by default each request opens its own
    #[arg(long)]
    keep_alive: bool,
    /// Run on this CPU only
    #[arg(long)]
    cpu: Option<usize>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(cpu) = options.cpu {
        cpu::confine(std::process::id(), [cpu])?;
    }
    let next = AtomicU32::new(0);
    let (started, cpu_before) = (Instant::now(), cpu_time()?);
    let done = thread::scope(|scope| {
        let workers: Vec<_> = (0..options.at_once).map(|_| scope.spawn(|| work(options, &next))).collect();
        let done =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        done.collect::<Vec<_>>()
    });
    let (took, cpu) = (started.elapsed(), cpu_time()?.saturating_sub(cpu_before));
    let (mut by_backend, mut errors) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    let mut times = Vec::new();
    for (answer, time) in done.into_iter().flatten() {
        match answer {
            Ok(name) => {
                *by_backend.entry(name).or_default() += 1;
                times.push(time.as_secs_f64() * 1e6);
            }
            Err(error) => *errors.entry(format!("{error:#}")).or_default() += 1,
        }
    }
    ensure!(!times.is_empty(), "no request was answered: {errors:?}");
    let times = Distribution::new(times);
    let report = AskReport {
        by_backend,
        errors,
        seconds: took.as_secs_f64(),
        cpu_ns: cpu.as_secs_f64() * 1e9,
        p50_us: times.percentile(50),
        p99_us: times.percentile(99),
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// What all threads have run until now.
fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = [usage.user_time(), usage.system_time()].map(|time| time.tv_sec() * 1_000_000 + time.tv_usec());
    Ok(Duration::from_micros(u64::try_from(micros.iter().sum::<i64>())?))
}

/// One request after the other, until there is none left: who answered, or what went wrong, and how long that took.
fn work(options: &Options, next: &AtomicU32) -> Vec<(Result<String>, Duration)> {
    let mut done = Vec::new();
    let mut kept = None;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= options.requests {
            return done;
        }
        let target = options.targets[number as usize % options.targets.len()];
        let started = Instant::now();
        let answer = ask(target, options.keep_alive, &mut kept);
        done.push((answer, started.elapsed()));
    }
}

/// Makes one request; returns the name of the backend that answered.
fn ask(target: SocketAddr, keep_alive: bool, kept: &mut Option<TcpStream>) -> Result<String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => connect(target)?,
    };
    let request: &[u8] = if keep_alive {
        b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"
    } else {
        b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n"
    };
    connection.write_all(request).context("send the request")?;
    let name = read_answer(&mut connection).context("read the answer")?;
    if keep_alive {
        *kept = Some(connection);
    } else {
        ensure!(connection.read(&mut [0])? == 0, "there is more than the answer");
    }
    Ok(name)
}

fn connect(target: SocketAddr) -> Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&target, TIMEOUT).context("connect")?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    Ok(connection)
}

fn read_answer(connection: &mut TcpStream) -> Result<String> {
    let mut buffer = [0; 4096];
    let mut filled = 0;
    loop {
        let length = connection.read(&mut buffer[filled..])?;
        ensure!(length > 0, "it ends after {filled} bytes");
        filled += length;
        if let Some(name) = parse(&buffer[..filled])? {
            return Ok(name);
        }
    }
}

/// The name of the backend, if that is all of an answer.
fn parse(answer: &[u8]) -> Result<Option<String>> {
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end])?;
    let (status, headers) = head.split_once("\r\n").context("no header")?;
    if status.split(' ').nth(1) != Some("200") {
        bail!("{status}");
    }
    let header = |name: &str| {
        let mut headers = headers.split("\r\n").filter_map(|line| line.split_once(": "));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let length: usize = header("content-length").context("no length")?.parse()?;
    let name = header("x-backend").context("it says not who it is from")?;
    Ok((answer.len() >= end + 4 + length).then(|| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Backend: b1\r\n\r\nb1\n";

    #[test]
    fn an_answer_is_all_there_with_its_last_byte() {
        for length in 0..ANSWER.len() {
            assert_eq!(parse(&ANSWER[..length]).expect("a part of an answer"), None, "{length} bytes");
        }
        assert_eq!(parse(ANSWER).expect("an answer"), Some("b1".to_owned()));
    }

    #[test]
    fn another_status_is_an_error() {
        assert!(parse(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n").is_err());
    }
}
