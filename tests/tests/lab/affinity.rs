//! Clients that stay with their servers: two services in a group, with real HTTP clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Lab,
    config::{node_config, node_config_with},
    require_root_and, run,
    topology::virtual_ipv4,
    unique_name, wait_for,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    config::Service,
    support::{Balanced, SOON, lbctl, refused, wait_for_state},
};

const PORTS: [u16; 2] = [80, 443];
/// How many networks clients are in, each of four addresses.
const NETWORKS: u8 = 8;
/// Longer than any test takes.
const LONG: &str = "1h";

/// Two addresses of clients that count as one.
fn clients(network: u8) -> [Ipv4Addr; 2] {
    [1, 2].map(|host| Ipv4Addr::new(10, 77, 0, 128 + 4 * network + host))
}

/// `web` without NAT, and `tls` whose backends have another port, in one group.
fn services(lab: &Lab, timeout: &str) -> String {
    let affinity = ["[service.affinity]", &format!("timeout = {timeout:?}"), "prefix = 30", "group = \"shop\""];
    let service = |name: &str, port: u16, forwarding, algorithm: &str| {
        let new = Service::new(name, &format!("{}:{port}", virtual_ipv4(0))).scheduled(algorithm).checked();
        let keys = new.keys.iter().cloned().chain(affinity.map(str::to_owned)).collect();
        let new = Service { forwarding, keys, ..new };
        lab.backends().iter().fold(new, |service, node| match forwarding {
            "full-nat" => service.backend(node.name(), format!("{}:80", node.ipv4()), 1),
            _ => service.backend(node.name(), node.ipv4(), 1),
        })
    };
    let web = service("web", PORTS[0], "l2-dsr", "round-robin");
    let tls = service("tls", PORTS[1], "full-nat", "least-response-time");
    format!("{web}{tls}")
}

fn configure(lab: &Lab, timeout: &str) -> Result<()> {
    lab.write_config(&(node_config(lab.balancer("lb")) + &services(lab, timeout)))
}

fn start(name: &str) -> Result<Balanced> {
    let lab = Lab::builder(&unique_name(name)).backends(3).build()?;
    for address in (0..NETWORKS).flat_map(clients) {
        lab.node("client").ip(&format!("address add {address}/24 dev eth0"))?;
    }
    configure(&lab, LONG)?;
    let servers = lab.start_servers()?;
    let lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    Ok(Balanced::of(lab, servers, lbd))
}

/// Who answers a client.
fn ask(lab: &Lab, client: Ipv4Addr, port: u16) -> Result<String> {
    let url = format!("http://{}:{port}/", virtual_ipv4(0));
    let mut curl = lab.node("client").command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "5", "--interface", &client.to_string(), &url]);
    let answer = run(&mut curl).with_context(|| format!("{client} asks {url}"))?;
    Ok(String::from_utf8(answer.stdout)?.trim().to_owned())
}

/// The one server that all clients of a network get, over both ports.
fn server(lab: &Lab, network: u8) -> Result<String> {
    let mut servers = BTreeSet::new();
    for port in [PORTS[0], PORTS[1], PORTS[1], PORTS[0]] {
        for client in clients(network) {
            servers.insert(ask(lab, client, port)?);
        }
    }
    let one = servers.first().filter(|_| servers.len() == 1);
    one.cloned().with_context(|| format!("network {network} has the servers {servers:?}"))
}

/// Who serves which network.
fn all_servers(lab: &Lab) -> Result<BTreeMap<u8, String>> {
    (0..NETWORKS).map(|network| Ok((network, server(lab, network)?))).collect()
}

/// What `lbctl affinity list` says with these arguments.
fn list(lab: &Lab, arguments: &[&str]) -> Result<Vec<Value>> {
    let mut found: Value = lab.balancer("lb").lbctl_json(&[&["affinity", "list"], arguments].concat())?;
    let clients = found["clients"].take();
    Ok(clients.as_array().context("a list of clients")?.clone())
}

#[test]
fn a_client_has_one_server_over_both_ports_and_lbctl_says_which() -> Result<()> {
    if !require_root_and(&["curl"]) {
        return Ok(());
    }
    let balanced = start("stays")?;
    let lab = &balanced.lab;
    ensure!(list(lab, &[])?.is_empty());
    let servers = all_servers(lab)?;
    ensure!(servers.values().collect::<BTreeSet<_>>().len() > 1, "all clients have one server: {servers:?}");

    ensure!(list(lab, &[])?.len() == 2 * usize::from(NETWORKS), "each network, in each service");
    ensure!(list(lab, &["--service", "web", "--limit", "3"])?.len() == 3);
    let [one, other] = clients(5);
    for (client, group) in [(one, "shop"), (other, "shop")] {
        let shown = list(lab, &["--client", &client.to_string(), "--group", group])?;
        ensure!(shown.len() == 2, "{shown:?}");
        for (row, service) in shown.iter().zip(["tls", "web"]) {
            let node = lab.node(&servers[&5]);
            let as_it_is = row["service"] == service
                && row["client"] == "10.77.0.148/30"
                && row["server"] == node.ipv4().to_string()
                && row["backend"] == node.name()
                && row["takes_new_flows"] == true;
            ensure!(as_it_is, "{row}");
            let [last, left] = ["last_flow", "remaining"].map(|time| row[time]["secs"].as_u64().unwrap_or_default());
            ensure!((3590..=3600).contains(&(last + left)), "{row}");
        }
    }
    let flow: Value = lab.balancer("lb").lbctl_json(&["flows", "web", "--client", &format!("{one}:4000")])?;
    ensure!(flow["new_flow"] == servers[&5].as_str() && flow["new_flow_by"] == "affinity", "{flow}");
    let flow = lbctl(lab, &["flows", "web", "--client", &format!("{one}:4000")])?;
    ensure!(flow.contains(&format!("the client 10.77.0.148/30 stays with {} for another ", servers[&5])), "{flow}");

    // It is forgotten in both services, and only there.
    let said = lbctl(lab, &["affinity", "forget", &other.to_string(), "--service", "web"])?;
    ensure!(said.contains("web: 10.77.0.148/30 is forgotten") && said.contains("tls: "), "{said}");
    ensure!(list(lab, &["--client", &one.to_string()])?.is_empty());
    ensure!(list(lab, &[])?.len() == 2 * usize::from(NETWORKS) - 2);
    refused(lab, &["affinity", "forget", &one.to_string()], 1)?;
    refused(lab, &["affinity", "list", "--service", "nope"], 1)?;
    refused(lab, &["affinity", "list", "--client", "nobody"], 2)?;
    Ok(())
}

#[test]
fn a_drained_server_gives_its_clients_away_and_the_timeout_ends_it() -> Result<()> {
    if !require_root_and(&["curl"]) {
        return Ok(());
    }
    let balanced = start("gives-away")?;
    let lab = &balanced.lab;
    let before = all_servers(lab)?;
    let drained = before[&0].clone();
    lbctl(lab, &["backend", "drain", &drained])?;
    for service in ["web", "tls"] {
        wait_for_state(lab, service, &drained, "draining")?;
    }
    let row = list(lab, &["--service", "web", "--client", &clients(0)[0].to_string()])?.remove(0);
    ensure!(row["backend"] == drained.as_str() && row["takes_new_flows"] == false, "{row}");
    let during = all_servers(lab)?;
    for (network, server) in &before {
        let now = &during[network];
        ensure!(if *server == drained { *now != drained } else { now == server }, "{network}: {server}, then {now}");
    }
    // Whoever has another one stays there.
    lbctl(lab, &["backend", "enable", &drained])?;
    wait_for_state(lab, "web", &drained, "up")?;
    wait_for_state(lab, "tls", &drained, "up")?;
    ensure!(all_servers(lab)? == during);

    configure(lab, "1s")?;
    lbctl(lab, &["reload"])?;
    let client = clients(0)[0];
    wait_for("another server after the timeout", 3 * SOON, || {
        thread::sleep(Duration::from_secs(2));
        ensure!(list(lab, &["--client", &client.to_string()])?.is_empty(), "its time is over");
        Ok((ask(lab, client, PORTS[0])? != during[&0]).then_some(()))
    })
}

#[test]
fn clients_and_latencies_outlive_a_restart_be_it_with_a_table_of_another_size() -> Result<()> {
    if !require_root_and(&["curl"]) {
        return Ok(());
    }
    let mut balanced = start("outlives")?;
    let before = all_servers(&balanced.lab)?;
    let latencies = |lab: &Lab| -> Result<BTreeSet<String>> {
        let services: Value = lab.balancer("lb").lbctl_json(&["service", "show", "tls"])?;
        let backends = services[0]["backends"].as_array().context("a list of backends")?;
        let known = backends.iter().filter(|backend| !backend["latency"].is_null());
        Ok(known.map(|backend| backend["name"].to_string()).collect())
    };
    for keys in ["", "affinity_table = \"128K\"\n"] {
        // A latency is forgotten in some twenty seconds.
        ensure!(all_servers(&balanced.lab)? == before);
        let known = latencies(&balanced.lab)?;
        ensure!(!known.is_empty(), "no latency is known");
        let config = node_config_with(balanced.lab.balancer("lb"), keys) + &services(&balanced.lab, LONG);
        balanced.lab.write_config(&config)?;
        if !keys.is_empty() {
            let message = refused(&balanced.lab, &["reload"], 1)?;
            ensure!(message.contains("restart lbd"), "{message}");
        }
        balanced.lbd.kill(Signal::SIGTERM)?;
        ensure!(balanced.lbd.wait(SOON)?.success());
        ensure!(ask(&balanced.lab, clients(3)[0], PORTS[1])? == before[&3], "without lbd");
        balanced.start_lbd()?;
        ensure!(latencies(&balanced.lab)?.is_superset(&known), "a latency is not known any more");
        ensure!(all_servers(&balanced.lab)? == before, "with {keys:?}");
        ensure!(
            balanced.lbd.log()?.contains("had room for 65536 before") != keys.is_empty(),
            "{}",
            balanced.lbd.log()?
        );
    }
    Ok(())
}
