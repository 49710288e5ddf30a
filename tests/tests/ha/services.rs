//! Services on virtual IPs that move: requests go on, and what the services are like decides who is master.

use std::{fs, os::unix::fs::PermissionsExt as _, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Lab, Limit, Load, RunningLoad, config::services, require_root, require_root_and, run, topology::mac_text, wait_for,
};
use nix::sys::signal::Signal;

use crate::support::{Balanced, SOON, is_long};

const A_WHILE: Duration = Duration::from_millis(500);

fn load_all(lab: &Lab) -> Result<Vec<RunningLoad>> {
    let start = |url: String| lab.start_load(&Load { rate: Some(100), ..Load::new(url, Limit::None) });
    services().into_iter().map(|service| start(service.url())).collect()
}

/// Has the virtual IPs handed over from one node to the other.
fn hand_over(lab: &Lab, from: &str, to: &str) -> Result<()> {
    let said = lab.balancer(from).lbctl(&["vrrp", "failover", "vip4"])?;
    ensure!(said.status.success(), "{said:?}");
    // The group follows.
    for instance in ["vip4", "vip6"] {
        lab.balancer(to).wait_for_vrrp(instance, "master", SOON)?;
        lab.balancer(from).wait_for_vrrp(instance, "backup", SOON)?;
    }
    Ok(())
}

#[test]
fn no_request_of_any_service_is_lost_when_the_addresses_are_handed_over() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start("handed")?;
    let lab = &balanced.lab;
    let retransmissions = lab.syn_retransmissions()?;
    let loads = load_all(lab)?;
    for _ in 0..if is_long() { 20 } else { 3 } {
        thread::sleep(A_WHILE);
        hand_over(lab, "lb", "lb2")?;
        thread::sleep(A_WHILE);
        hand_over(lab, "lb2", "lb")?;
    }
    let (first, second) = (lab.balancer("lb").stats()?, lab.balancer("lb2").stats()?);
    for load in loads {
        load.finish()?.ensure_all_answered()?;
    }
    let lost = lab.syn_retransmissions()? - retransmissions;
    ensure!(lost == 0, "{lost} SYNs had to be sent again");
    for service in services() {
        let packets = |stats: &lb_tests::lab::Stats| stats.service(service.name).map_or(0, |service| service.packets);
        ensure!(packets(&first) > 0 && packets(&second) > 0, "{} did not go through both nodes", service.name);
    }
    Ok(())
}

#[test]
fn requests_are_answered_again_after_the_master_is_gone() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    let mut balanced = Balanced::start("killed")?;
    let one = balanced.lab.balancer("lb");
    let speaker = one.vrrp_status()?.pid;
    let watcher = fs::read_to_string(one.paths().state().join("vrrp.lock"))?;
    balanced.lab.cut("lb")?;
    balanced.daemons[0].kill(Signal::SIGKILL)?;
    for pid in [watcher.trim(), &speaker.to_string()] {
        // One of them may have ended by the death of the other.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.parse()?), Signal::SIGKILL);
    }
    balanced.lab.balancer("lb2").wait_for_vrrp("vip4", "master", SOON)?;
    balanced.lab.balancer("lb2").wait_for_vrrp("vip6", "master", SOON)?;
    for service in services() {
        balanced.lab.load(&Load::new(service.url(), Limit::Requests(50)))?.ensure_all_answered()?;
    }
    Ok(())
}

#[test]
fn with_virtual_macs_the_client_never_learns_another_address() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start_with("vmac", |config| {
        config.replace("sync_group = \"vips\"", "sync_group = \"vips\"\nvirtual_mac = true")
    })?;
    let lab = &balanced.lab;
    for (node, instance) in [("lb2", "vip4"), ("lb2", "vip6")] {
        wait_for(&format!("advertisements of {instance}"), SOON, || {
            Ok((lab.balancer(node).vrrp_instance(instance)?.counters.received > 0).then_some(()))
        })?;
    }
    let loads = load_all(lab)?;
    let client = lab.node("client");
    let wanted = [("10.77.0.100", mac_text([0, 0, 0x5e, 0, 1, 51])), ("fd77::100", mac_text([0, 0, 0x5e, 0, 2, 61]))];
    for (from, to) in [("lb", "lb2"), ("lb2", "lb")] {
        thread::sleep(A_WHILE);
        hand_over(lab, from, to)?;
        thread::sleep(A_WHILE);
        for (address, mac) in &wanted {
            let shown = run(client.command("ip").args(["neighbour", "show", address]))?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            ensure!(shown.contains(mac.as_str()), "{address} is at {shown:?}, not at {mac}");
        }
    }
    for load in loads {
        load.finish()?.ensure_all_answered()?;
    }
    Ok(())
}

#[test]
fn an_operator_changes_the_priority_and_takes_that_back_and_is_refused_what_makes_no_sense() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start("wishes")?;
    let lab = &balanced.lab;
    let vrrp = |node: &str, arguments: &[&str]| lab.balancer(node).lbctl(&[&["vrrp"], arguments].concat());
    ensure!(vrrp("lb", &["priority", "vip4", "70"])?.status.success());
    wait_for_master(lab, "lb2", "lb", "backup")?;
    // The group follows.
    ensure!(lab.balancer("lb").vrrp_instance("vip6")?.priority == 70);
    let table = String::from_utf8(vrrp("lb", &["status"])?.stdout)?;
    ensure!(table.contains("70 (configured 150)") && table.contains("10.77.0.3 (priority 100)"), "{table}");
    ensure!(vrrp("lb", &["priority", "vip4", "default"])?.status.success());
    wait_for_master(lab, "lb", "lb2", "backup")?;
    let details = String::from_utf8(vrrp("lb", &["status", "vip4"])?.stdout)?;
    ensure!(details.contains("master -> backup") && details.contains("skew 41.4 ms"), "{details}");

    for (node, arguments, code, message) in [
        ("lb2", vec!["failover", "vip4"], 1, "not master here but backup"),
        ("lb", vec!["failover", "vip5"], 1, "\"vip4\", \"vip6\""),
        ("lb", vec!["status", "vip5"], 1, "no VRRP instance \"vip5\""),
        ("lb", vec!["priority", "vip4", "255"], 2, "1 to 254"),
    ] {
        let said = vrrp(node, &arguments)?;
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(said.status.code() == Some(code) && error.contains(message), "{arguments:?}: {} {error}", said.status);
    }
    Ok(())
}

/// The lab's configuration with this track in both instances of the first node.
fn with_track(track: &str) -> impl Fn(String) -> String {
    let track = format!("sync_group = \"vips\"\n\n  [[vrrp.track]]\n{track}\n");
    move |config| config.replace("sync_group = \"vips\"\n", &track)
}

fn wait_for_master(lab: &Lab, master: &str, backup: &str, backup_state: &str) -> Result<()> {
    lab.balancer(master).wait_for_vrrp("vip4", "master", SOON)?;
    lab.balancer(backup).wait_for_vrrp("vip4", backup_state, SOON)
}

#[test]
fn the_node_with_healthy_backends_is_master() -> Result<()> {
    if !require_root_and(&["nft"]) {
        return Ok(());
    }
    // Only `lb2` tracks nothing: the first node falls behind it.
    let balanced = Balanced::start_with("healthy", |config| {
        if config.contains("name = \"lb2\"") {
            return config;
        }
        with_track("type = \"service\"\n  service = \"web-l2\"\n  min_backends = 2\n  weight = -40")(config)
    })?;
    let lab = &balanced.lab;
    // 150 - 2 * 40: both instances of the group track it.
    let said = lab.balancer("lb").lbctl(&["backend", "disable", "b1", "--service", "web-l2"])?;
    ensure!(said.status.success(), "{said:?}");
    wait_for_master(lab, "lb2", "lb", "backup")?;
    let priority = lab.balancer("lb").vrrp_instance("vip4")?.priority;
    ensure!(priority == 70, "{priority}");
    let said = lab.balancer("lb").lbctl(&["backend", "enable", "b1", "--service", "web-l2"])?;
    ensure!(said.status.success(), "{said:?}");
    wait_for_master(lab, "lb", "lb2", "backup")
}

#[test]
fn a_node_whose_program_is_not_attached_takes_no_part() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::start_with("detached", with_track("type = \"datapath\""))?;
    // The program stays as long as its pins, or its daemon.
    balanced.daemons[0].kill(Signal::SIGKILL)?;
    balanced.daemons[0].wait(SOON)?;
    let lab = &balanced.lab;
    run(lab.node("lb").command("rm").arg("-r").arg(lab.balancer("lb").paths().pins()))?;
    let detached = std::time::Instant::now();
    wait_for_master(lab, "lb2", "lb", "fault")?;
    println!("from the detaching to the other master: {:.1?}", detached.elapsed());
    let reason = lab.balancer("lb").vrrp_instance("vip6")?.reason.context("a reason")?;
    ensure!(reason.contains("datapath"), "{reason}");
    lab.load(&Load::new("http://10.77.0.100/", Limit::Requests(50)))?.ensure_all_answered()
}

#[test]
fn scripts_files_and_other_interfaces_decide_who_is_master() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (script, flag, number) =
        (folder.path().join("check"), folder.path().join("flag"), folder.path().join("number"));
    fs::write(&script, format!("#!/bin/sh\ntest ! -e {}\n", flag.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let track = format!(
        "  type = \"script\"\n  command = {script:?}\n  interval = \"100ms\"\n\n  [[vrrp.track]]\n  type = \"file\"\n  path = {number:?}\n  \
         weight = -30\n\n  [[vrrp.track]]\n  type = \"interface\"\n  interface = \"lo\"\n  weight = -60\n"
    );
    let balanced = Balanced::start_with("tracks", |config| {
        if config.contains("name = \"lb2\"") { config } else { with_track(&track)(config) }
    })?;
    let lab = &balanced.lab;

    fs::write(&flag, "")?;
    wait_for_master(lab, "lb2", "lb", "fault")?;
    fs::remove_file(&flag)?;
    wait_for_master(lab, "lb", "lb2", "backup")?;

    fs::write(&number, "1\n")?;
    wait_for_master(lab, "lb2", "lb", "backup")?;
    ensure!(lab.balancer("lb").vrrp_instance("vip4")?.priority == 90, "150 - 2 * 30");
    fs::write(&number, "0\n")?;
    wait_for_master(lab, "lb", "lb2", "backup")?;

    run(lab.node("lb").command("ip").args(["link", "set", "lo", "down"]))?;
    wait_for_master(lab, "lb2", "lb", "backup")?;
    run(lab.node("lb").command("ip").args(["link", "set", "lo", "up"]))?;
    wait_for_master(lab, "lb", "lb2", "backup")
}

#[test]
fn programs_are_told_of_changes_with_keepaliveds_arguments() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let (script, notes) = (folder.path().join("notify"), folder.path().join("notes"));
    fs::write(&script, format!("#!/bin/sh\necho \"$*\" >> {}\n", notes.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let keys =
        format!("interface = \"eth0\"\nnotify = {script:?}\nnotify_master = [{script:?}, \"special\"]\nrouter_id = 51");
    let balanced = Balanced::start_with("notify", |config| {
        if config.contains("name = \"lb2\"") {
            return config;
        }
        config.replace("interface = \"eth0\"\nrouter_id = 51", &keys)
    })?;
    hand_over(&balanced.lab, "lb", "lb2")?;
    let told = wait_for("three notes", SOON, || {
        let text = fs::read_to_string(&notes).unwrap_or_default();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Ok((lines.len() >= 4).then_some(lines))
    })?;
    let wanted = ["INSTANCE vip4 BACKUP 150", "INSTANCE vip4 BACKUP 150", "INSTANCE vip4 MASTER 150", "special"];
    ensure!(told == wanted, "{told:?}");
    Ok(())
}

#[test]
fn where_packets_are_not_accepted_the_services_work_and_the_host_is_silent() -> Result<()> {
    if !require_root_and(&["nft", "curl"]) {
        return Ok(());
    }
    let balanced = Balanced::start_with("closed", |config| {
        config.replace("sync_group = \"vips\"", "sync_group = \"vips\"\naccept = false")
    })?;
    let lab = &balanced.lab;
    let _echo = lab.start_udp_echo("lb", "[::]:7".parse()?)?;
    lab.load(&Load::new("http://10.77.0.100/", Limit::Requests(50)))?.ensure_all_answered()?;
    for (address, answered) in [("10.77.0.100:7", false), ("10.77.0.2:7", true)] {
        let duration = Some(Duration::from_millis(300));
        let probe = lb_tests::lab::Probe { duration, ..lb_tests::lab::Probe::new(address.parse()?) };
        let report = lab.start_probe(&probe)?.wait()?;
        ensure!((report.received > 0) == answered, "{address}: {report:?}");
    }
    Ok(())
}

#[test]
fn a_reload_changes_what_has_changed_and_nothing_else() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start("reload")?;
    let lab = &balanced.lab;
    let one = lab.balancer("lb");
    let loads = load_all(lab)?;
    let config = fs::read_to_string(one.paths().config())?;
    let reload = |text: String| -> Result<()> {
        one.write_config(&text)?;
        let said = one.lbctl(&["reload"])?;
        ensure!(said.status.success(), "{said:?}");
        Ok(())
    };
    let before = one.vrrp_instance("vip4")?.history.len();

    // Another priority, in both members of the group: still master, and nobody notices.
    reload(config.replace("priority = 150", "priority = 140"))?;
    ensure!(one.vrrp_instance("vip4")?.priority == 140);
    ensure!(one.vrrp_instance("vip4")?.history.len() == before, "its state has changed");

    // One more instance; the others go on.
    let more = "\n[[vrrp]]\nname = \"more\"\ninterface = \"eth0\"\nrouter_id = 77\ninterval = \"100ms\"\naddresses = [\"10.77.0.200\"]\n";
    reload(format!("{config}{more}"))?;
    one.wait_for_vrrp("more", "master", SOON)?;
    ensure!(one.has_address("10.77.0.200")?);
    reload(format!("{config}{}", more.replace("10.77.0.200", "10.77.0.201")))?;
    wait_for("the other address", SOON, || {
        Ok((one.has_address("10.77.0.201")? && !one.has_address("10.77.0.200")?).then_some(()))
    })?;
    reload(config.clone())?;
    ensure!(!one.has_address("10.77.0.201")?, "it is left");
    ensure!(one.vrrp_instance("vip4")?.history.len() == before, "its state has changed");

    // An invalid one changes nothing.
    one.write_config(&config.replace("router_id = 51", "router_id = 0"))?;
    let said = one.lbctl(&["reload"])?;
    ensure!(said.status.code() == Some(3), "{said:?}");
    ensure!(one.vrrp_instance("vip4")?.state == "master");
    for load in loads {
        load.finish()?.ensure_all_answered()?;
    }
    Ok(())
}

/// Backends answer to an address that moves with the virtual IPs. (Those are on the backends, too.)
#[test]
fn translated_requests_are_answered_by_way_of_whoever_has_the_floating_source() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let sources = ["10.77.0.222", "fd77::222"];
    let balanced = Balanced::start_with("nat", |config| {
        let config = ["l2-dsr", "ipip"].into_iter().fold(config, |config, forwarding| {
            config.replace(&format!("forwarding = \"{forwarding}\""), "forwarding = \"full-nat\"")
        });
        let config = sources.into_iter().fold(config, |config, source| {
            let family = &source[..2];
            config.replace(&format!("addresses = [\"{family}"), &format!("addresses = [\"{source}\", \"{family}"))
        });
        config.replacen("[[interface]]", &format!("nat_sources = {sources:?}\n\n[[interface]]"), 1)
    })?;
    let lab = &balanced.lab;
    for (master, other) in [("lb", "lb2"), ("lb2", "lb"), ("lb", "lb2")] {
        for service in services() {
            lab.load(&Load::new(service.url(), Limit::Requests(50)))?.ensure_all_answered().context(service.name)?;
        }
        let listed = lab.balancer(master).lbctl(&["flows", "--output", "json"])?;
        let listed = String::from_utf8(listed.stdout)?;
        for source in [format!("\"{}:", sources[0]), format!("\"[{}]:", sources[1])] {
            ensure!(listed.contains(&source), "no flow on {master} has {source}: {listed}");
        }
        hand_over(lab, master, other)?;
    }
    Ok(())
}
