//! How new flows get their backends, as clients see it, and changes of that while connections live.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Hold, Lab, Limit, Load, LoadReport, Process, RunningLoad, require_root, topology::virtual_ipv4, unique_name,
    wait_for,
};

use crate::{
    client::{ask, owners},
    config::{self, Service},
    nat::route_back,
    support::{Balanced, SOON, lbctl, wait_for_requests, web},
};

/// The port of a service whose connections can be held.
const HELD: u16 = 7000;

fn held() -> SocketAddr {
    SocketAddr::from((virtual_ipv4(0), HELD))
}

/// A service whose backends answer lines, all of the same weight.
fn held_service(lab: &Lab) -> Service {
    let mut service = Service::new("held", &held().to_string());
    for backend in lab.backends() {
        service = service.backend(backend.name(), backend.ipv4(), 10);
    }
    service
}

/// Starts the servers of [`held_service`], and `lbd` with it.
fn start(lab: &Lab, service: Service) -> Result<Vec<Process>> {
    lab.write_config(&config::file(lab, &[service]))?;
    let servers = lab.backends().iter().map(|backend| lab.start_hold_server(backend.name(), HELD));
    let mut processes = servers.collect::<Result<Vec<_>>>()?;
    processes.push(lab.start_lbd()?);
    lab.wait_until_healthy(SOON)?;
    Ok(processes)
}

#[test]
fn no_connection_breaks_when_a_reload_changes_the_algorithm() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("algorithms")).backends(4).build()?;
    let with = |algorithm: &str| {
        let service = match algorithm {
            "maglev" => held_service(&lab),
            "source-hash" => Service { keys: vec![format!("algorithm = {algorithm:?}")], ..held_service(&lab) },
            _ => held_service(&lab).scheduled(algorithm),
        };
        let keys = service.keys.iter().cloned().chain(["idle_timeout = \"10s\"".to_owned()]).collect();
        Service { keys, ..service }
    };
    let _processes = start(&lab, with("maglev"))?;
    let hold = lab.start_hold(&Hold::new(held(), 300))?;
    hold.wait_until_open(300, SOON)?;
    for algorithm in
        ["least-connections", "source-hash", "weighted-round-robin", "maglev", "random", "round-robin", "maglev"]
    {
        lab.write_config(&config::file(&lab, &[with(algorithm)]))?;
        lbctl(&lab, &["reload"])?;
        let shown = lbctl(&lab, &["service", "show", "held"])?;
        ensure!(shown.contains(algorithm), "{algorithm} is not shown: {shown}");
        // A change takes three seconds, and then ten.
        thread::sleep(Duration::from_secs(5));
    }
    let report = hold.finish()?;
    ensure!(
        report.broken.is_empty(),
        "broken: {:?}",
        report.broken.iter().map(ToString::to_string).collect::<Vec<_>>()
    );
    ensure!(report.counts.short_lived > 500 && report.counts.answers > 3000, "{:?}", report.counts);
    Ok(())
}

#[test]
fn requests_are_shared_out_by_weights_of_five_three_and_two() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("smooth")).backends(3).build()?;
    let mut service = Service::new("web", &web().to_string()).scheduled("weighted-round-robin");
    for (backend, weight) in lab.backends().iter().zip([5, 3, 2]) {
        service = service.backend(backend.name(), backend.ipv4(), weight);
    }
    let balanced = Balanced::with(lab, &[service])?;
    // The client's packets come by one queue, of which one CPU at a time takes them, but not always the same.
    let answered: Vec<String> = owners(&balanced.lab, web(), 300..400)?.into_values().collect();
    let count = |name: &str| answered.iter().filter(|owner| *owner == name).count();
    let counts = ["b1", "b2", "b3"].map(count);
    for (count, weight) in counts.into_iter().zip([50, 30, 20]) {
        ensure!(count.abs_diff(weight) <= 4, "{counts:?} of 100");
    }
    Ok(())
}

/// On the way through the lab a FIN overtakes data in one of some hundred connections, and the data is no sign of life.
#[test]
fn connections_that_are_closed_count_no_more() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("closed")).backends(2).build()?;
    let services: Vec<Service> = [("l2-dsr", 0), ("full-nat", 1)]
        .map(|(forwarding, index)| {
            let to = SocketAddr::from((virtual_ipv4(index), 80));
            let service = Service { forwarding, ..Service::new(forwarding, &to.to_string()) };
            let service =
                lab.backends().iter().fold(service, |service, node| service.backend(node.name(), node.ipv4(), 1));
            service.scheduled("least-connections").checked()
        })
        .into();
    let balanced = Balanced::with(lab, &services)?;
    let lab = &balanced.lab;
    for (index, service) in services.iter().enumerate() {
        let to = SocketAddr::from((virtual_ipv4(u8::try_from(index)?), 80));
        let load = Load { connections: 16, ..Load::new(format!("http://{to}/"), Limit::Requests(10_000)) };
        let report = lab.load(&load)?;
        // The kernel of a backend resets a few in a million, where its packets come by two CPUs: see docs/BENCHMARKS.md.
        ensure!(report.failures <= 1, "{:?}", report.errors);
        let mut active = Vec::new();
        wait_for("none to be active", SOON, || {
            let stats = lab.stats()?;
            let service = stats.services.iter().find(|shown| shown.name == service.name).context("no such service")?;
            active = service.backends.iter().map(|backend| backend.active).collect();
            Ok(active.iter().all(|active| *active == 0).then_some(()))
        })
        .with_context(|| format!("{}: {active:?} are active", service.name))?;
    }
    Ok(())
}

#[test]
fn when_all_backends_are_full_clients_are_told_so_until_a_connection_ends() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("full")).backends(2).build()?;
    let service = held_service(&lab).scheduled("least-connections");
    let keys = service.keys.iter().cloned().chain(["on_full = \"reset\"".to_owned()]).collect();
    let limited = Service { keys, ..service }.to_string().replace("weight = 10", "weight = 10\nmax_connections = 2");
    let _processes = start(&lab, held_service(&lab))?;
    lab.write_config(&(config::file(&lab, &[]) + &limited))?;
    lbctl(&lab, &["reload"])?;
    // The scheduler begins when no handshake can be under way that nobody remembers.
    thread::sleep(Duration::from_secs(4));

    let hold = lab.start_hold(&Hold { short_lived: 0, ..Hold::new(held(), 4) })?;
    hold.wait_until_open(4, SOON)?;
    let shown = lbctl(&lab, &["service", "show", "held"])?;
    ensure!(shown.contains("least-connections") && shown.matches("2/2").count() == 2, "{shown}");
    let refused = ask(&lab, held(), 300..301)?.remove(&300);
    let error = refused.and_then(Result::err).map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(error.contains("refused"), "the fifth connection: {error:?}");
    let report = hold.finish()?;
    ensure!(report.broken.is_empty(), "{:?}", report.broken);
    wait_for("room", SOON, || {
        let shown = lbctl(&lab, &["service", "show", "held"])?;
        Ok((shown.matches("0/2").count() == 2).then_some(()))
    })
}

/// Which share of the next answers a backend has.
fn share_of(load: &RunningLoad, backend: &str) -> Result<f64> {
    /// So many that chance is a few hundredths, in two seconds.
    const ANSWERS: u64 = 300;
    let before = load.latest();
    wait_for_requests(load, ANSWERS)?;
    let (before, after) = (before.by_backend, load.latest().by_backend);
    let more = |name: &String, count: &u64| count - before.get(name).copied().unwrap_or_default();
    let all: u64 = after.iter().map(|(name, count)| more(name, count)).sum();
    let own = after.get_key_value(backend).map_or(0, |(name, count)| more(name, count));
    Ok(f64::from(u32::try_from(own)?) / f64::from(u32::try_from(all)?))
}

/// Its kernel takes connections as fast as before, and connections last as long: only the replies tell.
#[test]
fn an_application_that_becomes_slow_loses_most_new_connections_and_gets_them_back_when_it_recovers() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for forwarding in ["full-nat", "nat"] {
        let lab = Lab::builder(&unique_name("slow")).backends(3).build()?;
        route_back(&lab)?;
        let service = Service { forwarding, ..Service::web(lab.backends()).scheduled("least-response-time") };
        let balanced = Balanced::with(lab, &[service])?;
        let lab = &balanced.lab;
        let set_delay = |backend, milliseconds| lab.set_delay(backend, Duration::from_millis(milliseconds));
        for backend in ["b1", "b2", "b3"] {
            set_delay(backend, 20)?;
        }
        let load =
            Load { connections: 64, rate: Some(150), hold: Duration::from_secs(1), ..Load::new(url(), Limit::None) };
        let load = lab.start_load(&load)?;
        let has_its_share = || Ok((share_of(&load, "b1")? > 0.2).then_some(()));
        wait_for("an even share", SOON, has_its_share)?;

        set_delay("b1", 200)?;
        thread::sleep(Duration::from_secs(2));
        wait_for("the slow one's loss", SOON, || Ok((share_of(&load, "b1")? < 0.1).then_some(())))?;
        set_delay("b1", 20)?;
        wait_for("its return", SOON, has_its_share)?;
        let report: LoadReport = load.finish()?;
        report.ensure_all_answered()?;
    }
    Ok(())
}

fn url() -> String {
    format!("http://{}/", web())
}
