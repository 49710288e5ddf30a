//! What a run leaves behind when it is interrupted: nothing. The lab's own tests say so of networks and servers; here the
//! balancer runs, with its pins, its program and requests under way.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{Lab, Limit, Load, Paths, ended_by, require_root, unique_name, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{Balanced, SOON, wait_for_requests};

/// Set in the child: the name of the lab to build.
const CHILD_LAB: &str = "LB_TEST_CHILD_LAB";

/// Not a test: what the test below runs in a process of its own.
#[test]
fn child_that_balances() -> Result<()> {
    let Ok(name) = std::env::var(CHILD_LAB) else {
        return Ok(());
    };
    let balanced = Balanced::start(Lab::builder(&name).nodes(2).backends(2))?;
    balanced.lab.balancer("lb").wait_for_vrrp("vip4", "master", SOON)?;
    let load = Load { rate: Some(100), ..Load::new("http://10.77.0.100/", Limit::None) };
    let load = balanced.lab.start_load(&load)?;
    wait_for_requests(&load, 50)?;
    // So that `lbd unload` is no help.
    balanced.lab.write_config("broken")?;
    println!("balancing");
    // Until it is ended from outside.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

#[test]
fn an_interrupted_run_leaves_no_process_no_pin_no_namespace_and_no_file() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let paths = Paths::new(&unique_name("cut"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--exact", "cleanup::child_that_balances", "--nocapture"])
            .env(CHILD_LAB, paths.lab())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("a pipe")?;
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        ensure!(lines.any(|line| line.ends_with("balancing")), "the child has ended without a lab");
        let namespaces = paths.namespaces()?;
        ensure!(namespaces.len() == 6 && paths.pins().exists(), "what the child has built is not there");
        let processes = processes_of(&paths)?;
        ensure!(
            processes.len() >= 9,
            "lbd, VRRP's two, two decaps, two servers, the load and the guard: {processes:?}"
        );
        ensure!(processes.iter().any(|(_, command)| command.contains(" vrrp-speaker ")), "{processes:?}");

        kill(Pid::from_raw(child.id().try_into()?), signal)?;
        ensure!(ended_by(child.wait()?, signal));
        wait_for("the guard's work", SOON, || Ok((!paths.dir().exists()).then_some(())))?;
        for namespace in namespaces {
            ensure!(!namespace.exists(), "{signal}: the namespace {} is left", namespace.name());
        }
        ensure!(!paths.pins().exists(), "{signal}: pins are left");
        wait_for("the end of all processes", SOON, || {
            Ok(processes.iter().all(|(id, _)| !Path::new("/proc").join(id).exists()).then_some(()))
        })
        .with_context(|| format!("{signal}: {processes:?}"))?;
    }
    Ok(())
}

/// The processes in the lab's namespaces, and its guard: id and command line.
fn processes_of(paths: &Paths) -> Result<Vec<(String, String)>> {
    let mut inside = Vec::new();
    for namespace in paths.namespaces()? {
        inside.extend(namespace.processes()?);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let id = entry?.file_name().to_string_lossy().into_owned();
        let Ok(pid) = id.parse() else { continue };
        let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let is_guard = command.ends_with(format!("\0guard\0{}\0", paths.lab()).as_bytes());
        if is_guard || inside.contains(&pid) {
            found.push((id, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    Ok(found)
}
