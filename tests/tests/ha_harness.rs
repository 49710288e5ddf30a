//! The lab with several balancers, and with keepalived as the one that moves the virtual IPs: what the tests of our own VRRP stand
//! on. None of this needs `lbd`, but for one test.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::lab::{
    Captured, Injection, Keepalived, Lab, Probe, Process,
    config::{node_config, virtual_routers},
    require_root, require_root_and, run,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name,
    vrrp::{Instance, State, Version, VirtualAddress},
    wait_for,
};

/// What takes milliseconds on an idle machine may take this long on a busy one.
const SOON: Duration = Duration::from_secs(20);

const PORT: u16 = 7;

#[test]
fn each_balancer_has_an_lbd_of_its_own_and_all_have_the_same_hash_key() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("trio")).nodes(3).backends(1).build()?;
    let mut keys = Vec::new();
    let mut running = Vec::new();
    for balancer in lab.each_balancer() {
        let config = std::fs::read_to_string(balancer.paths().config())?;
        keys.push(config.lines().find(|line| line.starts_with("hash_key")).context("no hash_key")?.to_owned());
        balancer.write_config(&node_config(balancer))?;
        running.push(balancer.start_lbd()?);
        let interfaces = balancer.status()?.interfaces;
        ensure!(interfaces.len() == 1 && !interfaces[0].taken_over, "{interfaces:?}");
        // As `cargo xtask lab exec` has it.
        run(balancer.node().command(lab.paths().bin(balancer.node().name()).join("lbctl")).arg("status"))?;
    }
    keys.dedup();
    ensure!(keys.len() == 1, "{keys:?}");
    running.remove(1).stop()?;
    ensure!(lab.balancer("lb2").status().is_err(), "lb2 has no lbd any more, and somebody answers");
    lab.balancer("lb3").status()?;

    let pins: Vec<_> = lab.each_balancer().map(|balancer| balancer.paths().pins()).collect();
    ensure!(pins.iter().all(|pins| pins.exists()), "{pins:?}");
    drop((running, lab));
    ensure!(!pins.iter().any(|pins| pins.exists()), "a balancer's pins are left: {pins:?}");
    Ok(())
}

#[test]
fn an_echo_on_all_addresses_answers_from_the_one_that_was_asked() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("asked")).backends(1).build()?;
    for (any, added, device_address) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), "10.77.0.100/24", IpAddr::from(virtual_ipv4(0))),
        (Ipv6Addr::UNSPECIFIED.into(), "fd77::100/64", virtual_ipv6(0).into()),
    ] {
        let _echo = lab.start_udp_echo("lb", SocketAddr::new(any, PORT))?;
        // After it has started to listen, as a virtual IP comes.
        let add = ["address", "add", added, "dev", "eth0"];
        run(lab.node("lb").command("ip").args(add).args(any.is_ipv6().then_some("nodad")))?;
        // Long enough for a second question for the neighbour, should the first one get lost.
        let duration = Some(Duration::from_millis(1500));
        let report =
            lab.start_probe(&Probe { duration, ..Probe::new(SocketAddr::new(device_address, PORT)) })?.wait()?;
        ensure!(report.received > 100, "{report:?}");
        ensure!(report.by_node.keys().eq(["lb"]) && report.duplicated == 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn a_probe_counts_what_is_lost_and_for_how_long() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("probe")).backends(1).build()?;
    let lb = lab.node("lb").ipv4();
    let _echo = lab.start_udp_echo("lb", SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
    let mut probe = lab.start_probe(&Probe::new(SocketAddr::from((lb, PORT))))?;
    probe.wait_until_answered(SOON)?;
    let (before, pause) = (SystemTime::now(), Duration::from_millis(200));
    lab.split("client", "lb")?;
    std::thread::sleep(pause);
    lab.mend("lb")?;
    let after = SystemTime::now();
    std::thread::sleep(pause);
    let report = probe.finish()?;

    let longest =
        report.gaps.iter().max_by(|one, other| one.length_ms.total_cmp(&other.length_ms)).context("no gap")?;
    let start = SystemTime::UNIX_EPOCH + Duration::from_nanos(longest.start_ns);
    ensure!(before - Duration::from_millis(20) < start && start < after, "{longest:?}, expected after {before:?}");
    ensure!(longest.length_ms > 150.0 && longest.lost > 50 && !longest.is_open, "{longest:?}");
    ensure!(report.sent == report.received + report.lost && report.lost >= longest.lost, "{report:?}");
    Ok(())
}

#[test]
fn a_backup_takes_over_from_a_master_that_is_gone() -> Result<()> {
    if !require_root_and(&["keepalived", "nft"]) {
        return Ok(());
    }
    let mut pair = Pair::start("gone")?;
    for address in [IpAddr::from(virtual_ipv4(0)), virtual_ipv6(0).into()] {
        let mut probe = pair.lab.start_probe(&Probe::new(SocketAddr::new(address, PORT)))?;
        probe.wait_until_answered(SOON)?;
        let before = SystemTime::now();
        // In this order: keepalived takes the addresses off a link that it sees go down.
        pair.one.take().context("a first one")?.crash()?;
        pair.lab.cut("lb")?;
        pair.two.wait_for_state("vip4", State::Master, SOON)?;
        pair.two.wait_for_state("vip6", State::Master, SOON)?;
        std::thread::sleep(Duration::from_millis(500));
        let report = probe.finish()?;
        let interval = virtual_routers(1)[0].master_down_interval();
        println!("{address}: a gap of {} ms; the master counts as down after {interval:?}", report.longest_gap_ms);
        ensure!(report.by_node.keys().eq(["lb", "lb2"]), "{report:?}");
        ensure!(report.longest_gap_ms > 0.0 && report.longest_gap_ms < 10_000.0, "{report:?}");
        let told = pair.two.transitions()?;
        ensure!(told.iter().any(|told| told.state == State::Master && told.at > before), "{told:?}");

        pair.remove_addresses("lb")?;
        pair.lab.mend("lb")?;
        pair.restart_first()?;
    }
    Ok(())
}

#[test]
fn adverts_that_are_lost_in_one_direction_make_two_masters_until_that_is_mended() -> Result<()> {
    if !require_root_and(&["keepalived", "nft"]) {
        return Ok(());
    }
    let mut pair = Pair::start("deaf")?;
    pair.lab.drop_adverts("lb", "lb2")?;
    pair.two.wait_for_state("vip4", State::Master, SOON)?;
    pair.two.wait_for_state("vip6", State::Master, SOON)?;
    ensure!(pair.one()?.state("vip4")? == Some(State::Master), "the first one hears of a lower priority only");
    pair.lab.mend("lb2")?;
    pair.two.wait_for_state("vip4", State::Backup, SOON)?;
    pair.two.wait_for_state("vip6", State::Backup, SOON)?;
    ensure!(pair.one()?.state("vip4")? == Some(State::Master));
    Ok(())
}

#[test]
fn a_capture_holds_the_adverts_of_both_families() -> Result<()> {
    if !require_root_and(&["keepalived", "tcpdump"]) {
        return Ok(());
    }
    let pair = Pair::start("advert")?;
    let start = SystemTime::now();
    let [filter, filter6] = ["ip proto 112", "ip6 proto 112"];
    let captures: Vec<_> = [("switch", filter), ("switch", filter6), ("lb2", filter), ("client", filter6)]
        .into_iter()
        .map(|(node, filter)| pair.lab.start_capture(node, filter))
        .collect::<Result<_>>()?;
    for capture in &captures {
        wait_for("five adverts", SOON, || Ok((capture.frames()?.len() >= 5).then_some(())))?;
    }
    for (capture, header) in captures.into_iter().zip([20, 40, 20, 40]) {
        let frames = capture.finish()?;
        let [first, .., last] = frames.as_slice() else {
            bail!("{frames:?}");
        };
        ensure!(first.at > start && last.at < SystemTime::now());
        for Captured { frame, .. } in &frames {
            // The source, and the first four bytes of version 3: type, VRID, priority, number of addresses.
            ensure!(frame[6..12] == pair.lab.node("lb").mac(), "{frame:x?}");
            let vrid = if header == 20 { 51 } else { 61 };
            ensure!(frame[14 + header..][..4] == [0x31, vrid, 150, 3], "{frame:x?}");
        }
    }
    Ok(())
}

#[test]
fn keepalived_speaks_version_2_with_a_password_to_a_peer_by_unicast() -> Result<()> {
    if !require_root_and(&["keepalived", "tcpdump"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("two")).nodes(2).backends(1).build()?;
    let capture = lab.start_capture("lb2", "ip proto 112")?;
    let (from, to) = (lab.node("lb").ipv4(), lab.node("lb2").ipv4());
    let instance = Instance {
        version: Version::V2,
        password: Some("secret".to_owned()),
        source: Some(from.into()),
        unicast_peers: vec![to.into()],
        preempt: false,
        ..Instance::new("two", 52, vec![VirtualAddress::on_the_switch(virtual_ipv4(9).into())])
    };
    let mut speaker = lab.balancer("lb").spawn_keepalived(&[instance])?;
    speaker.wait_for_state("two", State::Master, SOON)?;
    wait_for("an advert", SOON, || Ok((!capture.frames()?.is_empty()).then_some(())))?;
    let frame = capture.finish()?.swap_remove(0).frame;
    let (header, advert) = frame.split_at(14 + 20);
    ensure!(header[26..] == [from.octets(), to.octets()].concat(), "{frame:x?}");
    // Version and type, VRID, priority, number of addresses, authentication type (a password), seconds.
    ensure!(advert[..6] == [0x21, 52, 100, 1, 1, 1], "{frame:x?}");
    ensure!(advert[8..] == [&virtual_ipv4(9).octets()[..], b"secret\0\0"].concat(), "{frame:x?}");
    Ok(())
}

#[test]
fn an_injected_frame_passes_as_it_is_and_as_often_as_it_should() -> Result<()> {
    if !require_root_and(&["tcpdump"]) {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("inject")).nodes(2).backends(1).build()?;
    let capture = lab.start_capture("lb2", "ether proto 0x88b5")?;
    let frame = |number: u8| {
        let (to, from) = (lab.node("lb2").mac(), lab.node("client").mac());
        [&to[..], &from, &[0x88, 0xb5], &[number; 46]].concat()
    };
    let frames = vec![frame(1), frame(2)];
    lab.inject("client", &Injection { frames: frames.clone(), rounds: 3, spacing: Duration::from_millis(10) })?;
    lab.inject("client", &Injection::once(frame(3)))?;
    wait_for("seven frames", SOON, || Ok((capture.frames()?.len() >= 7).then_some(())))?;
    let captured = capture.finish()?;
    let expected = [frames.clone(), frames.clone(), frames, vec![frame(3)]].concat();
    ensure!(captured.iter().map(|captured| &captured.frame).eq(&expected), "{captured:x?}");
    let took = captured[5].at.duration_since(captured[0].at)?;
    ensure!(took > Duration::from_millis(45), "six frames with 10 ms between them took {took:?}");
    Ok(())
}

/// Two balancers with keepalived and an echo on each; the first is master.
struct Pair {
    one: Option<Keepalived>,
    two: Keepalived,
    _echoes: Vec<Process>,
    lab: Lab,
}

impl Pair {
    fn start(name: &str) -> Result<Self> {
        let lab = Lab::builder(&unique_name(name)).nodes(2).backends(1).build()?;
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let echoes = ["lb", "lb2"].into_iter().map(|node| lab.start_udp_echo(node, any)).collect::<Result<_>>()?;
        let one = lab.balancer("lb").spawn_keepalived(&virtual_routers(0))?;
        let two = lab.balancer("lb2").spawn_keepalived(&virtual_routers(1))?;
        let mut pair = Self { one: Some(one), two, _echoes: echoes, lab };
        pair.wait_for_order()?;
        Ok(pair)
    }

    fn one(&mut self) -> Result<&mut Keepalived> {
        self.one.as_mut().context("the first keepalived has crashed")
    }

    fn restart_first(&mut self) -> Result<()> {
        self.one = Some(self.lab.balancer("lb").spawn_keepalived(&virtual_routers(0))?);
        self.wait_for_order()
    }

    /// Waits until the first is master, and the second is not.
    fn wait_for_order(&mut self) -> Result<()> {
        for instance in ["vip4", "vip6"] {
            self.one()?.wait_for_state(instance, State::Master, SOON)?;
            self.two.wait_for_state(instance, State::Backup, SOON)?;
        }
        Ok(())
    }

    /// Takes the virtual IPs off, which a crash has left.
    fn remove_addresses(&self, node: &str) -> Result<()> {
        for address in virtual_routers(0).iter().flat_map(|router| &router.addresses) {
            run(self.lab.node(node).command("ip").args(["address", "del", &address.to_string(), "dev", "eth0"]))?;
        }
        Ok(())
    }
}
