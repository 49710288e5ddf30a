//! Connections whose first packets are lost while backends change: the SYN is sent again, and must not change sides.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use lb_tests::{
    churn::{Change, Driver, PORT, Settings, Stage, Step},
    lab::{Node, require_root_and, run, wait_for},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpSocket,
    task::JoinSet,
    time::timeout,
};

use crate::support::SOON;

/// How many connections are opened in each case: each backend gets some of them, and each change moves some.
const CONNECTIONS: u16 = 150;

/// The client's first port: below those that the kernel gives to others.
const FIRST_PORT: u16 = 100;

/// The client sends a SYN again after 1, 3, 7 and 15 seconds.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_syn_that_is_sent_again_after_a_change_reaches_the_backend_of_the_first_one() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let mut driver = Driver::new(Stage::start("handshake", Settings::default())?);
    let before_it_moves = Duration::from_millis(1300);
    // A slot that changes its owner arms for three seconds; the SYN comes before the change, in that time, and after it.
    let while_it_moves = Duration::from_millis(3300);
    let (there, back) = (Change::Drain { backend: 0 }, Change::Enable { backend: 0 });
    let cases: [(&str, &[Change], Duration); 6] = [
        ("drain", &[there], before_it_moves),
        ("enable", &[back], before_it_moves),
        ("add", &[Change::Add { backend: 6, weight: 20 }], while_it_moves),
        ("remove", &[Change::Remove { backend: 1 }], while_it_moves),
        ("reweight", &[Change::Weight { backend: 2, weight: 1 }], before_it_moves),
        ("flap", &[there, back], before_it_moves),
    ];
    let mut first_port = FIRST_PORT;
    for (case, changes, hold_back) in cases {
        let ports = first_port..first_port + CONNECTIONS;
        first_port += CONNECTIONS;
        keeps_sides(&mut driver, ports, changes, hold_back).with_context(|| case)?;
    }
    Ok(())
}

/// Opens connections whose SYN-ACKs are lost until `hold_back` after the changes.
fn keeps_sides(driver: &mut Driver, ports: Range<u16>, changes: &[Change], hold_back: Duration) -> Result<()> {
    let lab = driver.stage().lab().name().to_owned();
    let backends = driver.stage().lab().backends().to_vec();
    let target = SocketAddr::from(driver.stage().target());
    let client = driver.stage().lab().node("client").clone();
    watch_answers(&backends, target, "drop")?;
    thread::scope(|scope| {
        let connecting = scope.spawn(|| names(&client, target, ports.clone()));
        let first = wait_for("an answer to each SYN", SOON, || {
            let answers = answers(&backends)?;
            let answered: BTreeSet<_> = answers.values().flatten().collect();
            Ok((answered.len() == ports.len()).then_some(answers))
        })?;
        for change in changes {
            driver.make(&Step { after: Duration::from_millis(100), changes: vec![*change] })?;
        }
        thread::sleep(hold_back);
        watch_answers(&backends, target, "accept")?;
        let names = connecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let all = answers(&backends)?;
        let mut faults = Vec::new();
        for (port, name) in names {
            let of = |answers: &BTreeMap<String, BTreeSet<u16>>| -> Vec<String> {
                answers.iter().filter(|(_, ports)| ports.contains(&port)).map(|(name, _)| name.clone()).collect()
            };
            let (first, all) = (of(&first), of(&all));
            match name {
                Ok(name) if all == [name.as_str()] && first == all => {}
                name => faults.push(format!("port {port}: first {first:?}, all {all:?}, then {name:?}")),
            }
        }
        ensure!(
            faults.is_empty(),
            "in {lab}, {} of {CONNECTIONS} handshakes have changed sides: {:#?}",
            faults.len(),
            &faults[..faults.len().min(10)]
        );
        Ok(())
    })
}

/// From now on SYN-ACKs of the service are noted on all backends, and then dropped or accepted.
fn watch_answers(backends: &[Node], service: SocketAddr, verdict: &str) -> Result<()> {
    let note = if verdict == "drop" { "flush set inet handshakes answered;" } else { "" };
    let script = format!(
        "add table inet handshakes;
         add set inet handshakes answered {{ type inet_service; flags dynamic; size 65536; }};
         add chain inet handshakes output {{ type filter hook output priority 0; }};
         {note}
         flush chain inet handshakes output;
         add rule inet handshakes output ip saddr {} tcp sport {PORT} tcp flags & (syn | ack) == (syn | ack) \
             add @answered {{ tcp dport }} {verdict}",
        service.ip()
    );
    for backend in backends {
        run(backend.command("nft").arg(&script))?;
    }
    Ok(())
}

/// The client's ports whose SYN each backend has answered.
fn answers(backends: &[Node]) -> Result<BTreeMap<String, BTreeSet<u16>>> {
    backends.iter().map(|backend| Ok((backend.name().to_owned(), answered(backend)?))).collect()
}

/// What `nft --json list set` says.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    set: Option<Set>,
}

#[derive(Deserialize)]
struct Set {
    #[serde(default)]
    elem: BTreeSet<u16>,
}

fn answered(backend: &Node) -> Result<BTreeSet<u16>> {
    let output = run(backend.command("nft").args(["--json", "list", "set", "inet", "handshakes", "answered"]))?;
    let listing: Listing = serde_json::from_slice(&output.stdout).context("read what nft says")?;
    let set = listing.nftables.into_iter().find_map(|item| item.set);
    Ok(set.context("nft lists no set")?.elem)
}

/// Opens a connection from each port at once, and asks who is there.
fn names(client: &Node, target: SocketAddr, ports: Range<u16>) -> Result<BTreeMap<u16, Result<String>>> {
    client.namespace().block_on(async || {
        let mut asking = JoinSet::new();
        for port in ports {
            let from = SocketAddr::from((client.ipv4(), port));
            asking.spawn(async move {
                let name = timeout(PATIENCE, name(from, target)).await;
                (port, name.unwrap_or_else(|_| Err(anyhow!("no answer within {PATIENCE:?}"))))
            });
        }
        Ok(asking.join_all().await.into_iter().collect())
    })
}

async fn name(from: SocketAddr, target: SocketAddr) -> Result<String> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(from).with_context(|| format!("bind to {from}"))?;
    let mut stream = BufReader::new(socket.connect(target).await.context("connect")?);
    stream.write_all(b"?\n").await.context("ask")?;
    let mut line = String::new();
    stream.read_line(&mut line).await.context("answer")?;
    Ok(line.trim_end().to_owned())
}
