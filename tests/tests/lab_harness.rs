//! The lab itself: it comes up, connects, and leaves nothing behind. None of this needs `lbd`.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{SlicedPacket, TransportSlice};
use lb_tests::lab::{
    Flood, FloodPacket, HeldKind, Hold, HoldReport, Lab, Limit, Load, Node, Paths, Process, Server, binary, ended_by,
    require_root, require_root_and, run, sweep, teardown,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name, wait_for,
};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{setsockopt, sockopt},
    },
    unistd::Pid,
};

const SOON: Duration = Duration::from_secs(10);

/// Set in the child of the tests below that end the owner of a lab: the name of the lab to build.
const CHILD_LAB: &str = "LB_TEST_CHILD_LAB";

#[test]
fn nodes_reach_each_other_over_both_families() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("reach")).backends(3).build()?;
    println!("up in {:?}", lab.took());
    for from in lab.nodes() {
        for to in lab.nodes() {
            for address in [IpAddr::from(to.ipv4()), IpAddr::from(to.ipv6())] {
                send(from, to, address, 1).with_context(|| format!("{} to {} at {address}", from.name(), to.name()))?;
            }
        }
    }
    Ok(())
}

#[test]
fn virtual_ips_of_backends_do_not_answer_on_the_wire() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("silent")).backends(1).build()?;
    let (client, backend) = (lab.node("client"), lab.node("b1"));
    for address in [virtual_ipv4(0).into(), virtual_ipv6(0).into()] {
        send(backend, backend, address, 1).context("the backend holds it")?;
        ensure!(send(client, backend, address, 1).is_err(), "{address} answers the client, without a balancer");
    }
    Ok(())
}

#[test]
fn a_full_size_packet_fits_with_an_outer_header_between_balancer_and_backend() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("mtu")).backends(1).build()?;
    let backend = lab.node("b1");
    let address = backend.ipv6().into();
    // With 48 bytes of headers: 1500 and 1600.
    send(lab.node("client"), backend, address, 1452)?;
    send(lab.node("lb"), backend, address, 1552)?;
    let error = send(lab.node("client"), backend, address, 1453).err();
    ensure!(
        error.is_some_and(|error| format!("{error:#}").contains("Message too long")),
        "the client's MTU is not 1500"
    );
    Ok(())
}

#[test]
fn two_labs_of_the_same_shape_are_up_at_once() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let one = Lab::builder(&unique_name("twin")).backends(1).build()?;
    let other = Lab::builder(&unique_name("twin")).backends(1).build()?;
    let _server = one.start_server("b1")?;
    let load = Load::new("http://10.77.0.11/", Limit::Requests(1));
    one.load(&load)?.ensure_all_answered()?;
    ensure!(other.load(&load)?.failures == 1, "a request of one lab was answered in the other");
    Ok(())
}

#[test]
fn a_lab_that_is_up_is_not_built_again() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("once")).backends(1).build()?;
    let error = Lab::builder(lab.name()).build().err();
    ensure!(error.is_some_and(|error| error.to_string().contains("is up already")));
    run(&mut lab.node("client").command("true")).context("the first one is still there")?;
    Ok(())
}

#[test]
fn the_load_client_counts_answers_and_failures() -> Result<()> {
    if !require_root_and(&["nginx"]) {
        return Ok(());
    }
    for server in [Server::Agent, Server::Nginx] {
        let builder = Lab::builder(&unique_name("load")).backends(1);
        let lab = builder.server(server).build()?;
        let serving = lab.start_server("b1")?;
        for url in ["http://10.77.0.11/", "http://[fd77::11]/some/path"] {
            for keep_alive in [false, true] {
                let load = Load { keep_alive, ..Load::new(url, Limit::Requests(200)) };
                let report = lab.load(&load)?;
                report.ensure_all_answered()?;
                ensure!(report.by_backend.get("b1") == Some(&200), "{report:?}");
            }
        }
        drop(serving);
        let report = lab.load(&Load::new("http://10.77.0.11/", Limit::Requests(20)))?;
        ensure!((report.requests, report.failures) == (20, 20), "the server is gone: {report:?}");
    }
    Ok(())
}

#[test]
fn a_running_load_reports_while_it_runs_and_ends_in_order() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("running")).backends(1).build()?;
    let _server = lab.start_server("b1")?;
    let load = Load { rate: Some(400), ..Load::new("http://10.77.0.11/", Limit::None) };
    let running = lab.start_load(&load)?;
    wait_for("300 requests", SOON, || Ok((running.latest().requests >= 300).then_some(())))?;
    let report = running.finish()?;
    report.ensure_all_answered()?;
    ensure!(report.by_backend.get("b1") == Some(&report.requests));
    Ok(())
}

#[test]
fn a_udp_datagram_comes_back_with_the_backends_name() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("udp")).backends(1).build()?;
    let _echo = lab.start_udp_echo("b1", "10.77.0.11:53".parse()?)?;
    let answer = lab.node("client").namespace().inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(SOON))?;
        socket.send_to(b"hello", "10.77.0.11:53")?;
        let mut buffer = [0; 64];
        let (length, _) = socket.recv_from(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    })?;
    ensure!(answer == b"b1 hello", "{answer:?}");
    Ok(())
}

#[test]
fn held_connections_that_break_are_told_of_and_replaced() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("hold")).backends(1).build()?;
    let target = (lab.node("b1").ipv4(), 7000).into();
    let server = lab.start_hold_server("b1", 7000)?;
    let brief = Duration::from_millis(200);
    let hold = Hold { chatty: brief, slow: 2 * brief, idle: 3 * brief, ..Hold::new(target, 30) };
    let running = lab.start_hold(&hold)?;
    let answers = |what: &str, enough: &dyn Fn(&HoldReport) -> bool| {
        wait_for(what, SOON, || Ok(enough(&running.latest()).then_some(())))
    };
    running.wait_until_open(30, SOON)?;
    answers("answers", &|report| report.counts.answers > 300 && report.counts.short_lived > 0)?;
    let before = running.latest();
    ensure!(before.broken.is_empty() && before.open() == 30, "{before:?}");

    drop(server);
    let is_held = |kind| kind != HeldKind::ShortLived;
    let of_b1 = |report: &HoldReport| {
        report.broken.iter().filter(|broken| is_held(broken.kind) && broken.backend.as_deref() == Some("b1")).count()
    };
    answers("30 broken connections", &|report| of_b1(report) == 30 && report.open() == 0)?;
    answers("refused ones", &|report| report.broken.iter().any(|broken| broken.backend.is_none()))?;
    let _server = lab.start_hold_server("b1", 7000)?;
    running.wait_until_open(30, SOON)?;
    let report = running.finish()?;
    ensure!(of_b1(&report) == 30, "not one break for each: {report:?}");
    Ok(())
}

#[test]
fn a_flood_has_random_sources_and_right_checksums() -> Result<()> {
    if !require_root_and(&["tcpdump"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("flood")).backends(1).build()?;
    for packet in [FloodPacket::Syn, FloodPacket::Ack, FloodPacket::Udp] {
        let capture = lab.start_capture("lb", "dst host 10.77.0.100")?;
        let target = SocketAddrV4::new(virtual_ipv4(0), 7000);
        lab.start_flood(&Flood { target, packet, count: 1000, rate: 10_000, seed: 1 })?.wait()?;
        wait_for("1000 packets", SOON, || Ok((capture.frames()?.len() == 1000).then_some(())))?;
        let mut sources = BTreeSet::new();
        for captured in capture.finish()? {
            let sliced = SlicedPacket::from_ethernet(&captured.frame)?;
            let Some(ip) = sliced.net.as_ref().and_then(|net| net.ipv4_ref()) else {
                bail!("no IPv4: {captured:?}");
            };
            let header = ip.header().to_header();
            ensure!(header.header_checksum == header.calc_header_checksum(), "{captured:?}");
            let (port, found, right) = match sliced.transport {
                Some(TransportSlice::Tcp(tcp)) => {
                    let expected = (packet == FloodPacket::Syn, packet == FloodPacket::Ack);
                    ensure!((tcp.syn(), tcp.ack()) == expected, "{captured:?}");
                    (tcp.source_port(), tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination)?)
                }
                Some(TransportSlice::Udp(udp)) => {
                    let payload = udp.payload();
                    let right = udp.to_header().calc_checksum_ipv4(&header, payload)?;
                    (udp.source_port(), udp.checksum(), right)
                }
                other => bail!("{other:?}"),
            };
            ensure!(found == right, "checksum {found:04x}, not {right:04x}: {captured:?}");
            sources.insert((header.source, port));
        }
        ensure!(sources.len() > 990, "only {} sources", sources.len());
    }
    Ok(())
}

#[test]
fn a_process_is_ended_by_its_pid_and_its_log_is_kept_apart() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("process")).backends(1).build()?;
    let shell = |script: &str| {
        let mut command = lab.node("b1").command("sh");
        command.args(["-c", script]);
        lab.spawn("shell", command)
    };
    shell("echo first")?.wait_for_log("first", SOON)?;
    let mut second = shell("echo second; exec sleep 60")?;
    second.wait_for_log("second", SOON)?;
    ensure!(!second.log()?.contains("first"));
    second.kill(Signal::SIGUSR1)?;
    ensure!(ended_by(second.wait(SOON)?, Signal::SIGUSR1));
    let error = shell("echo why; exit 3")?.wait_for_log("never", SOON).err();
    ensure!(error.is_some_and(|error| format!("{error:#}").contains("why")));
    Ok(())
}

#[test]
fn a_dropped_lab_leaves_nothing_behind() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("drop")).backends(2).build()?;
    let paths = lab.paths().clone();
    let pids: Vec<_> = lab.start_servers()?.iter().map(Process::id).collect();
    // These servers are gone already; this one the lab has to end.
    let kept = lab.start_server("b1")?;
    drop(lab);
    ensure!(!is_running(kept.id()) && !pids.into_iter().any(is_running));
    ensure_gone(&paths)
}

#[test]
fn a_lab_left_running_stays_until_it_is_taken_down() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let builder = Lab::builder(&unique_name("left")).backends(1);
    let lab = builder.detached().build()?;
    let paths = lab.paths().clone();
    let server = lab.start_server("b1")?;
    let pid = server.id();
    lab.leave_running([server])?;
    sweep()?;
    ensure!(is_running(pid), "the server has ended");
    let url = "http://10.77.0.11/";
    let client = paths.namespace("client");
    run(client.command(binary("lab-agent")?).args(["load", "--requests", "1", "--url", url]))?;
    teardown(&paths)?;
    ensure!(!is_running(pid));
    ensure_gone(&paths)
}

#[test]
fn the_guard_takes_the_lab_of_a_killed_owner_down() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut owner = Owner::start()?;
        let server = owner.server;
        ensure!(is_running(server));
        owner.end(signal)?;
        wait_for("the guard's work", SOON, || Ok((!owner.paths.dir().exists()).then_some(())))?;
        ensure!(!is_running(server));
        ensure_gone(&owner.paths)?;
    }
    Ok(())
}

#[test]
fn a_dead_owners_lab_is_swept() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut owner = Owner::start()?;
    kill(owner.guard()?, Signal::SIGKILL)?;
    owner.end(Signal::SIGKILL)?;
    ensure!(owner.paths.dir().exists(), "who has taken it down?");
    // Another test's lab may sweep it first.
    sweep()?;
    wait_for("the end of the lab", SOON, || Ok((!owner.paths.dir().exists()).then_some(())))?;
    ensure_gone(&owner.paths)
}

/// Sends one UDP datagram (over IPv6: unfragmented) to a node's address, and waits for it there.
fn send(from: &Node, to: &Node, address: IpAddr, length: usize) -> Result<()> {
    let any = |family: IpAddr| match family {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let receiver = to.namespace().inside(|| {
        let socket = UdpSocket::bind((any(address), 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    })?;
    let port = receiver.local_addr()?.port();
    from.namespace().inside(|| {
        let socket = UdpSocket::bind((any(address), 0))?;
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6DontFrag, &true)?;
        }
        socket.send_to(&vec![0; length], (address, port))?;
        Ok(())
    })?;
    let received = receiver.recv(&mut vec![0; length]).context("receive")?;
    ensure!(received == length);
    Ok(())
}

/// Not a test: what [`Owner`] runs in a process of its own.
#[test]
fn child_that_owns_a_lab() -> Result<()> {
    let Ok(name) = std::env::var(CHILD_LAB) else {
        return Ok(());
    };
    let lab = Lab::builder(&name).backends(1).build()?;
    let server = lab.start_server("b1")?;
    println!("server {}", server.id());
    // Until it is ended from outside.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// This test binary again, as the owner of a lab.
struct Owner {
    child: std::process::Child,
    paths: Paths,
    server: u32,
}

impl Owner {
    fn start() -> Result<Self> {
        let paths = Paths::new(&unique_name("owner"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "child_that_owns_a_lab", "--nocapture"])
            .env(CHILD_LAB, paths.lab())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("a pipe")?;
        let server = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("server ")?.1.trim().parse().ok())
            .context("the child has ended without a lab")?;
        Ok(Self { child, paths, server })
    }

    fn guard(&self) -> Result<Pid> {
        let name = self.paths.lab();
        for process in std::fs::read_dir("/proc")? {
            let path = process?.path();
            let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
            if command.ends_with(format!("\0guard\0{name}\0").as_bytes()) {
                let pid = path.file_name().and_then(|pid| pid.to_str());
                return Ok(Pid::from_raw(pid.context("a pid")?.parse()?));
            }
        }
        anyhow::bail!("the lab {name} has no guard")
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), signal)?;
        ensure!(ended_by(self.child.wait()?, signal));
        Ok(())
    }
}

fn is_running(pid: u32) -> bool {
    // A zombie has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

fn ensure_gone(paths: &Paths) -> Result<()> {
    ensure!(paths.namespaces()?.is_empty(), "{:?}", paths.namespaces()?);
    for path in [paths.dir(), paths.pins()] {
        ensure!(!Path::new(&path).exists(), "{} is left", path.display());
    }
    Ok(())
}
