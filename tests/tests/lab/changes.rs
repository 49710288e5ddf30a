//! Live changes by `lbctl`, and reloads: what the datapath does after them, and what of them outlives `lbd`.

use std::{collections::BTreeMap, fs, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{Lab, Limit, Load, require_root, unique_name, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    client::{PORTS, names, owners},
    config::{self, Service},
    support::{
        Balanced, SOON, ensure_shares, ip, is_long, lbctl, refused, service, wait_for_requests, wait_for_state, web,
    },
};

#[test]
fn without_tracking_a_backend_gets_no_packet_from_the_moment_on_that_the_command_returns() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::untracked("from-now", 3)?;
    let lab = &balanced.lab;
    let before = owners(lab, web(), PORTS)?;
    ensure!(names(&before).len() == 3, "{before:?}");
    ensure_shares(&service(lab, "web")?, &[("b1", 10), ("b2", 10), ("b3", 10)])?;
    // A command, the state it leads to, and the command that undoes it.
    let cases: [(&[&str], Option<&str>, &[&str]); 4] = [
        (&["backend", "drain", "b1"], Some("draining"), &["backend", "enable", "b1"]),
        (&["backend", "weight", "b1", "0"], Some("up"), &["backend", "weight", "b1", "10"]),
        (&["backend", "disable", "b1"], Some("disabled"), &["backend", "enable", "b1"]),
        (
            &["backend", "remove", "b1"],
            None,
            &["backend", "add", "web", "10.77.0.11", "--name", "b1", "--weight", "10"],
        ),
    ];
    for (command, state, undo) in cases {
        let what = command.join(" ");
        lbctl(lab, command)?;
        let now = owners(lab, web(), PORTS)?;
        ensure!(names(&now).into_iter().eq(["b2", "b3"]), "{what}: {now:?}");
        let after = service(lab, "web")?;
        ensure_shares(&after, &[("b2", 10), ("b3", 10)]).context(what.clone())?;
        ensure!(after.changed, "{what} is not shown as a change");
        let found = after.backends.iter().find(|backend| backend.name == "b1").map(|backend| backend.state.as_str());
        ensure!(found == state, "{what}: b1 is {found:?}");

        lbctl(lab, undo)?;
        wait_for_state(lab, "web", "b1", "up")?;
        ensure_shares(&service(lab, "web")?, &[("b1", 10), ("b2", 10), ("b3", 10)]).context(what.clone())?;
        ensure!(owners(lab, web(), PORTS)? == before, "{what}, undone: flows are elsewhere than before");
    }
    Ok(())
}

#[test]
fn without_tracking_weights_and_new_backends_take_effect_with_the_command() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("weights")).backends(3).build()?;
    let web_of_two = Service { health: Vec::new(), ..Service::web(&lab.backends()[..2]).untracked() };
    let balanced = Balanced::with(lab, &[web_of_two])?;
    let lab = &balanced.lab;
    for weight in ["1", "30", "65535"] {
        lbctl(lab, &["backend", "weight", "10.77.0.11", weight])?;
        ensure_shares(&service(lab, "web")?, &[("b1", weight.parse()?), ("b2", 10)])?;
    }
    lbctl(lab, &["backend", "weight", "b1", "10"])?;
    lbctl(lab, &["backend", "add", "web", "10.77.0.13", "--name", "b3", "--weight", "20"])?;
    wait_for_state(lab, "web", "b3", "up")?;
    ensure_shares(&service(lab, "web")?, &[("b1", 10), ("b2", 10), ("b3", 20)])?;
    ensure!(names(&owners(lab, web(), PORTS)?).contains("b3"));
    // Without a name it has its address for one, without a weight it has 1.
    lbctl(lab, &["backend", "remove", "b3"])?;
    lbctl(lab, &["backend", "add", "web", "10.77.0.13:80"])?;
    wait_for_state(lab, "web", "10.77.0.13", "up")?;
    ensure_shares(&service(lab, "web")?, &[("b1", 10), ("b2", 10), ("10.77.0.13", 1)])
}

#[test]
fn a_change_reaches_the_services_that_it_names_and_no_others() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start(Lab::builder(&unique_name("scope")).backends(2))?;
    let lab = &balanced.lab;
    let draining = || -> Result<Vec<String>> {
        let mut services = lab.stats()?.services;
        services.retain(|service| service.backends.iter().any(|backend| backend.state == "draining"));
        Ok(services.into_iter().map(|service| service.name).collect())
    };
    let applied: Vec<BTreeMap<String, serde_json::Value>> =
        lab.lbctl_json(&["backend", "drain", "b1", "--service", "web6-l2"])?;
    ensure!(applied.len() == 1 && applied[0]["service"] == "web6-l2" && applied[0]["backend"] == "b1", "{applied:?}");
    ensure!(draining()? == ["web6-l2"], "{:?}", draining()?);
    // The address is that of the backend in the services with IPv4 backends.
    lbctl(lab, &["backend", "drain", "10.77.0.11"])?;
    ensure!(draining()? == ["web-l2", "web-ipip", "web6-l2", "web-6in4"], "{:?}", draining()?);
    let said = lbctl(lab, &["backend", "enable", "b1"])?;
    ensure!(said.lines().count() == 6 && said.contains("web-4in6/b1: enabled"), "{said}");
    ensure!(draining()?.is_empty(), "{:?}", draining()?);
    ensure!(lab.stats()?.services.iter().all(|service| !service.changed), "undone, and still a change");
    Ok(())
}

/// One change after the other, each a whole number to choose from; the same ones every time.
struct Choices(u64);

impl Choices {
    /// Less than `bound`. The generator is that of Knuth's MMIX.
    fn next(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % bound
    }
}

/// How many backends the test of a hundred changes has.
const BACKENDS: usize = 4;

/// What the test thinks of a backend.
#[derive(Clone, Copy, Debug)]
struct Expected {
    present: bool,
    enabled: bool,
    weight: u32,
}

#[test]
fn a_hundred_live_changes_under_load_are_all_applied() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("hundred")).backends(BACKENDS).build()?;
    // Without checks a change is complete when the command returns. The last backend is left alone: somebody has to serve.
    let backends = lab.backends().to_vec();
    let service_config = Service { health: Vec::new(), ..Service::web(&backends).untracked() };
    let mut balanced = Balanced::with(lab, &[service_config])?;
    let lab = &balanced.lab;
    let load = Load { rate: Some(400), connections: 4, ..Load::new("http://10.77.0.100/", Limit::None) };
    let running = lab.start_load(&load)?;
    let connections = u64::try_from(load.connections)?;
    wait_for_requests(&running, 100)?;

    let mut expected = [Expected { present: true, enabled: true, weight: 10 }; BACKENDS];
    let mut choices = Choices(77);
    let changes: u64 = if is_long() { 1000 } else { 100 };
    for number in 0..changes {
        let backend = choices.next(BACKENDS - 1);
        let (name, address) = (backends[backend].name(), backends[backend].ipv4().to_string());
        let weight = u32::try_from(choices.next(50))?;
        let weight_text = weight.to_string();
        let now = &mut expected[backend];
        let command: Vec<&str> = match choices.next(5) {
            _ if !now.present => {
                *now = Expected { present: true, enabled: true, weight };
                vec!["backend", "add", "web", &address, "--name", name, "--weight", &weight_text]
            }
            0 => {
                now.present = false;
                vec!["backend", "remove", name]
            }
            1 => {
                now.enabled = false;
                vec!["backend", "drain", name]
            }
            2 => {
                now.enabled = false;
                vec!["backend", "disable", name, "--service", "web"]
            }
            3 => {
                now.enabled = true;
                vec!["backend", "enable", &address]
            }
            _ => {
                now.weight = weight;
                vec!["backend", "weight", name, &weight_text]
            }
        };
        let what = format!("change {number}, {}", command.join(" "));
        lbctl(lab, &command)?;
        if command[1] == "add" {
            // Its next hop has to be found first.
            wait_for(&what, SOON, || Ok((!is_unresolved(lab, name)?).then_some(())))?;
        }
        ensure_expected(lab, &expected).with_context(|| format!("{what}: {expected:?}"))?;
    }
    wait_for_requests(&running, 100)?;
    let report = running.finish()?;
    // A change may break the requests that are under way, and those only.
    ensure!(report.failures <= changes * connections, "{report:?}");
    ensure!(report.failures * 10 <= report.requests, "{report:?}");
    lab.load(&Load::new("http://10.77.0.100/", Limit::Requests(500)))?.ensure_all_answered()?;

    let before = owners(lab, web(), PORTS)?;
    balanced.kill_lbd()?;
    balanced.start_lbd()?;
    ensure_expected(&balanced.lab, &expected).context("after a restart")?;
    ensure!(owners(&balanced.lab, web(), PORTS)? == before, "after a restart flows are elsewhere");
    Ok(())
}

fn is_unresolved(lab: &Lab, backend: &str) -> Result<bool> {
    let stats = lab.stats()?;
    Ok(stats.backend("web", backend).context("it is not there")?.state == "unresolved")
}

fn ensure_expected(lab: &Lab, expected: &[Expected]) -> Result<()> {
    let found = service(lab, "web")?;
    let mut weights = Vec::new();
    for (backend, expected) in lab.backends().iter().zip(expected) {
        let backend = backend.name();
        let found = found.backends.iter().find(|found| found.name == backend);
        ensure!(found.is_some() == expected.present, "{backend}: {found:?}");
        if let Some(found) = found {
            ensure!(found.weight == expected.weight, "{found:?}");
            let weight = if expected.enabled { expected.weight } else { 0 };
            weights.push((backend, weight));
        }
    }
    ensure_shares(&found, &weights)
}

#[test]
fn live_changes_outlive_lbd_until_the_service_is_edited_in_the_file() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::untracked("outlive", 4)?;
    let changed = |lab: &Lab| -> Result<()> {
        let web = service(lab, "web")?;
        ensure!(web.changed);
        ensure_shares(&web, &[("b1", 30), ("b2", 0), ("b4", 10)])?;
        ensure!(web.backends.iter().all(|backend| backend.name != "b3"), "{web:?}");
        let state = web.backends.iter().find(|backend| backend.name == "b2").map(|backend| backend.state.as_str());
        ensure!(state == Some("draining"), "{web:?}");
        Ok(())
    };
    for command in [
        &["backend", "weight", "b1", "30"][..],
        &["backend", "drain", "b2"],
        &["backend", "remove", "b3"],
        &["backend", "disable", "b4"],
        &["backend", "enable", "b4"],
    ] {
        lbctl(&balanced.lab, command)?;
    }
    wait_for_state(&balanced.lab, "web", "b4", "up")?;
    changed(&balanced.lab)?;
    let before = owners(&balanced.lab, web(), PORTS)?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        balanced.lbd.kill(signal)?;
        balanced.lbd.wait(SOON)?;
        balanced.start_lbd()?;
        wait_for_state(&balanced.lab, "web", "b2", "draining")?;
        changed(&balanced.lab).with_context(|| format!("after {signal}"))?;
        ensure!(owners(&balanced.lab, web(), PORTS)? == before, "after {signal} flows are elsewhere");
    }
    lbctl(&balanced.lab, &["reload"])?;
    changed(&balanced.lab).context("after a reload of the same file")?;

    // Edited while lbd is away.
    balanced.kill_lbd()?;
    let edited = Service::web(balanced.lab.backends()).untracked().backend("b9", "10.77.0.99", 0);
    balanced.lab.write_config(&config::file(&balanced.lab, &[edited]))?;
    balanced.start_lbd()?;
    let warning = balanced.lbd.wait_for_log("was edited in the configuration file", SOON)?;
    ensure!(warning.contains("WARN") && warning.contains("\"web\"") && warning.contains("dropped"), "{warning}");
    for backend in ["b1", "b2", "b3", "b4"] {
        wait_for_state(&balanced.lab, "web", backend, "up")?;
    }
    let all = [("b1", 10), ("b2", 10), ("b3", 10), ("b4", 10), ("b9", 0)];
    ensure_shares(&service(&balanced.lab, "web")?, &all)?;
    ensure!(!service(&balanced.lab, "web")?.changed);

    // Edited while lbd runs.
    lbctl(&balanced.lab, &["backend", "drain", "b1"])?;
    let edited = Service::web(balanced.lab.backends()).untracked();
    balanced.lab.write_config(&config::file(&balanced.lab, &[edited]))?;
    lbctl(&balanced.lab, &["reload"])?;
    ensure_shares(&service(&balanced.lab, "web")?, &all[..4])?;
    Ok(())
}

#[test]
fn a_removed_backend_keeps_its_name_and_its_deadline_over_a_restart_and_can_be_given_another() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("removed")).backends(2).build()?;
    let web = Service { health: Vec::new(), ..Service::web(lab.backends()) };
    let mut balanced = Balanced::with(lab, &[web])?;
    lbctl(&balanced.lab, &["backend", "remove", "b1", "--deadline", "1h"])?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        balanced.lbd.kill(signal)?;
        balanced.lbd.wait(SOON)?;
        balanced.start_lbd()?;
        let web = service(&balanced.lab, "web")?;
        let removed = web.backends.iter().find(|backend| backend.state == "removed").context("b1 is forgotten")?;
        ensure!(removed.name == "b1@10.77.0.11" && removed.weight == 10, "after {signal}: {removed:?}");
        let listed = lbctl(&balanced.lab, &["backend", "list"])?;
        ensure!(listed.contains("removed: for another 59m"), "after {signal}: {listed}");
    }
    // It waits for flows that were not counted yet when it was asked.
    let said = lbctl(&balanced.lab, &["backend", "remove", "b1", "--deadline", "8s", "--wait"])?;
    ensure!(said.contains("web/b1@10.77.0.11: removed, and its time is up"), "{said}");
    let web = service(&balanced.lab, "web")?;
    ensure_shares(&web, &[("b2", 10)])
}

#[test]
fn a_reload_adds_changes_and_removes_services_while_the_others_go_on() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::untracked("reload", 2)?;
    let lab = &balanced.lab;
    let web_config = Service::web(lab.backends()).untracked();
    let second = Service { name: "second".into(), address: "10.77.0.101:80".into(), ..web_config.clone() };
    let at_second = SocketAddr::from(([10, 77, 0, 101], 80));
    let has_second = || -> Result<bool> { Ok(ip(lab, "lb", &["address"])?.contains("10.77.0.101/32")) };
    let load = Load { rate: Some(200), ..Load::new("http://10.77.0.100/", Limit::None) };
    let load = lab.start_load(&load)?;
    wait_for_requests(&load, 50)?;

    lab.write_config(&config::file(lab, &[second.clone(), web_config.clone()]))?;
    ensure!(lbctl(lab, &["reload"])?.contains("reloaded"));
    ensure!(has_second()?);
    lab.wait_until_healthy(SOON)?;
    ensure!(names(&owners(lab, at_second, PORTS)?).len() == 2);

    let of_one = Service { backends: second.backends[..1].to_vec(), ..second.clone() };
    lab.write_config(&config::file(lab, &[of_one, web_config.clone()]))?;
    lbctl(lab, &["reload"])?;
    ensure!(names(&owners(lab, at_second, PORTS)?).into_iter().eq(["b1"]));

    // What the file overrules is named.
    lbctl(lab, &["backend", "drain", "b1", "--service", "second"])?;
    lab.write_config(&config::file(lab, &[second, web_config.clone()]))?;
    let reloaded: serde_json::Value = lab.lbctl_json(&["reload"])?;
    let warnings = reloaded["warnings"].to_string();
    ensure!(warnings.contains("second") && warnings.contains("b1 drained") && !warnings.contains("web"), "{warnings}");

    lab.write_config(&config::file(lab, &[web_config]))?;
    let pid = Pid::from_raw(balanced.lbd.id().try_into()?);
    kill(pid, Signal::SIGHUP)?;
    wait_for("the end of the second service", SOON, || Ok((lab.stats()?.services.len() == 1).then_some(())))?;
    ensure!(!has_second()?, "its virtual IP is left");
    wait_for_requests(&load, 50)?;
    load.finish()?.ensure_all_answered()
}

#[test]
fn a_reload_of_an_invalid_file_changes_nothing() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::web("invalid", 2)?;
    let lab = &balanced.lab;
    lbctl(lab, &["backend", "weight", "b1", "30"])?;
    let good = config::file(lab, &[Service::web(lab.backends())]);
    let before = (service(lab, "web")?.backends, owners(lab, web(), PORTS)?);
    let cases = [
        ("a wrong value", good.replace("weight = 10", "weight = 70000"), 3, "lb.toml:"),
        (
            "a second service of the address",
            good.clone() + &Service::new("b", "10.77.0.100:80").to_string(),
            3,
            "lb.toml:",
        ),
        ("no TOML", "[[service".to_owned(), 3, "lb.toml:1"),
        ("another node", good.replace("name = \"lb\"", "name = \"other\""), 1, "name in [node]"),
        ("another interface", good.replace("xdp = \"native\"", "xdp = \"auto\""), 1, "what has changed: [[interface]]"),
    ];
    for (case, file, code, expected) in cases {
        ensure!(file != good, "{case}: the file is as before");
        lab.write_config(&file)?;
        let message = refused(lab, &["reload"], code).context(case)?;
        ensure!(message.contains(expected), "{case}: {message}");
        let now = service(lab, "web")?.backends;
        for (now, before) in now.iter().zip(&before.0) {
            ensure!(now.weight == before.weight && now.slots == before.slots, "{case}: {now:?}");
        }
        ensure!(owners(lab, web(), PORTS)? == before.1, "{case}: flows are elsewhere");
    }
    std::fs::remove_file(lab.paths().config())?;
    refused(lab, &["reload"], 3).context("no file")?;
    lab.write_config(&good)?;
    lbctl(lab, &["reload"])?;
    Ok(())
}

#[test]
fn the_log_says_what_was_changed_and_lbd_starts_without_changes_that_it_cannot_read() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::web("damaged", 2)?;
    lbctl(&balanced.lab, &["backend", "drain", "b1", "--deadline", "1h"])?;
    let line = r#"service "web": backend "b1" at 10.77.0.11: drains, and keeps its flows for 1h at most"#;
    balanced.lbd.wait_for_log(line, SOON)?;
    balanced.kill_lbd()?;
    let (state, damaged) = (balanced.lab.paths().state(), r#"[{"declared":"#);
    fs::write(state.join("changes.json"), damaged)?;
    balanced.start_lbd()?;
    balanced.lbd.wait_for_log("changes.json is damaged", SOON)?;
    wait_for_state(&balanced.lab, "web", "b1", "up")?;
    let aside = state.join("changes.damaged-1");
    ensure!(fs::read_to_string(&aside)? == damaged, "it is not kept");
    let told = || Ok::<_, anyhow::Error>(balanced.lab.status()?.problems.concat().contains("changes.damaged-1"));
    ensure!(told()?, "{:?}", balanced.lab.status()?);
    fs::remove_file(&aside)?;
    ensure!(!told()?, "{:?}", balanced.lab.status()?);
    Ok(())
}
