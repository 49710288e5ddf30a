//! A client that chooses its source port: the same port is the same flow, and goes to the same backend every time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::lab::{Lab, Limit, Load, run};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Enough flows to meet each backend of a handful: with three, one is missed once in 10^17 times. The ports are below those
/// that the kernel gives to other clients.
pub(crate) const PORTS: Range<u16> = 300..400;

/// The longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time between two attempts to have an address that is still in use.
const RETRY: Duration = Duration::from_millis(10);

/// Who answered, by source port.
pub(crate) type Owners = BTreeMap<u16, String>;

/// Sends an HTTP request from each source port, one after the other; fails unless all are answered.
pub(crate) fn owners(lab: &Lab, service: SocketAddr, ports: Range<u16>) -> Result<Owners> {
    let asked = ask(lab, service, ports)?;
    asked
        .into_iter()
        .map(|(port, answer)| Ok((port, answer.with_context(|| format!("request from port {port} to {service}"))?)))
        .collect()
}

/// Pings an address from the client so many times with this identifier; fails unless it answers each time, with the data that was
/// sent.
pub(crate) fn ping(lab: &Lab, address: IpAddr, identifier: u16, count: usize) -> Result<()> {
    let mut command = lab.node("client").command("ping");
    command.args(["-n", "-i", "0.01", "-W", "5", "-s", "1000", "-e", &identifier.to_string()]);
    let output = run(command.args(["-c", &count.to_string()]).arg(address.to_string()))?;
    let text = String::from_utf8(output.stdout)?;
    let from = format!("1008 bytes from {address}: icmp_seq=");
    let answers: BTreeSet<&str> = text.lines().filter(|line| line.starts_with(&from)).collect();
    let is_right = answers.len() == count && !["DUP", "wrong data", "DIFFERENT"].iter().any(|sign| text.contains(sign));
    ensure!(is_right, "{address} with identifier {identifier}: {text}");
    Ok(())
}

/// The backends that have answered.
pub(crate) fn names(owners: &Owners) -> BTreeSet<&str> {
    owners.values().map(String::as_str).collect()
}

/// Sends an HTTP request from each source port, one after the other.
pub(crate) fn ask(lab: &Lab, service: SocketAddr, ports: Range<u16>) -> Result<BTreeMap<u16, Result<String>>> {
    let from = source(lab, service);
    lab.node("client").namespace().inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let mut answers = BTreeMap::new();
            for port in ports {
                let request = timeout(PATIENCE, request(SocketAddr::new(from, port), service));
                let answer = request.await.unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}"));
                answers.insert(port, answer);
            }
            answers
        }))
    })
}

/// The body of the answer: the backend's name.
async fn request(from: SocketAddr, to: SocketAddr) -> Result<String> {
    let mut stream = loop {
        match connect(from, to).await {
            // See `bind_udp`; the caller's patience ends this.
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                tokio::time::sleep(RETRY).await;
            }
            stream => break stream.with_context(|| format!("connect from {from}"))?,
        }
    };
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.context("send")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.context("receive")?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.trim().to_owned()),
        _ => bail!("answer {answer:?}"),
    }
}

async fn connect(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // No TIME_WAIT: the next request comes from the same port.
    socket.set_zero_linger()?;
    socket.bind(from)?;
    socket.connect(to).await
}

/// Sends requests that both backends have a share of, and one of many segments of full size; fails unless all are answered.
pub(crate) fn requests_and_an_upload(lab: &Lab, service: SocketAddr) -> Result<()> {
    let owners = owners(lab, service, PORTS)?;
    ensure!(names(&owners).into_iter().eq(["b1", "b2"]), "{owners:?}");
    lab.load(&Load::new(format!("http://{service}/"), Limit::Requests(500)))?.ensure_all_answered()?;
    let mut curl = lab.node("client").command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--globoff", "--max-time", "20", "--output", "/dev/null"])
        .args(["--write-out", "%{size_upload}", "--data-binary"])
        .arg("x".repeat(100_000))
        .arg(format!("http://{service}/"));
    let sent = String::from_utf8(run(&mut curl)?.stdout)?;
    ensure!(sent == "100000", "{sent} bytes of 100000 arrived");
    Ok(())
}

/// Sends a UDP datagram from each source port; fails unless all come back, with the backend's name in front.
pub(crate) fn udp_owners(lab: &Lab, service: SocketAddr, ports: Range<u16>) -> Result<Owners> {
    let from = source(lab, service);
    lab.node("client").namespace().inside(|| {
        let mut owners = Owners::new();
        for port in ports {
            let socket = bind_udp(SocketAddr::new(from, port))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            // An answer from any other address would not be received.
            socket.connect(service)?;
            socket.send(b"hello")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).with_context(|| format!("answer to port {port} from {service}"))?;
            let answer = String::from_utf8_lossy(&buffer[..length]);
            let name = answer.strip_suffix(" hello").with_context(|| format!("answer {answer:?}"))?;
            owners.insert(port, name.to_owned());
        }
        Ok(owners)
    })
}

/// A socket at an address that is free or will soon be: a process that another test is about to start has the socket
/// before this one, as it has all files of the test, until it runs its own program.
fn bind_udp(address: SocketAddr) -> Result<UdpSocket> {
    let start = Instant::now();
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < PATIENCE => {
                thread::sleep(RETRY);
            }
            socket => return socket.with_context(|| format!("bind to {address}")),
        }
    }
}

/// The client's address of the service's family.
fn source(lab: &Lab, service: SocketAddr) -> IpAddr {
    let client = lab.node("client");
    if service.is_ipv4() { client.ipv4().into() } else { client.ipv6().into() }
}
