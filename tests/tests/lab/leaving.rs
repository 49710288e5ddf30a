//! Backends that are to have no new flows, and an operator who waits for it with `lbctl --wait`.

use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{Lab, binary, require_root, unique_name, wait_for};
use serde_json::Value;

use crate::{
    client::{PORTS, names, owners},
    config::Service,
    support::{Balanced, SOON, lbctl, refused, service, wait_for_state, web},
};

/// Starts `lbctl`, and does not wait for it.
fn start_lbctl(lab: &Lab, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(binary("lbctl")?);
    command.arg("--socket").arg(lab.paths().socket()).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().with_context(|| format!("start {command:?}"))
}

/// Its exit code and what it said, on both streams.
fn end(child: Child) -> Result<(Option<i32>, String)> {
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    Ok((status.code(), String::from_utf8([stdout, stderr].concat())?))
}

#[test]
fn a_wait_ends_when_somebody_does_something_else_with_the_backend() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::web("meanwhile", 2)?;
    let lab = &balanced.lab;
    // The last one cuts the flows: after it, nothing would be left to wait for.
    let cases: [(&str, &[&str], &str); 3] = [
        ("remove", &["backend", "add", "web", "10.77.0.11", "--name", "b1"], "web/b1 was added again meanwhile"),
        ("drain", &["backend", "enable", "b1"], "web/b1 was enabled meanwhile"),
        ("drain", &["backend", "disable", "b1"], "web/b1 was disabled meanwhile, which cuts the flows"),
    ];
    for (leave, change, expected) in cases {
        wait_for("b1 to have slots", SOON, || {
            let web = service(lab, "web")?;
            Ok(web.backends.iter().any(|backend| backend.name == "b1" && backend.slots > 0).then_some(()))
        })?;
        let waiting = start_lbctl(lab, &["backend", leave, "b1", "--wait"])?;
        wait_for("b1 to leave", SOON, || {
            let listed = lbctl(lab, &["backend", "list"])?;
            Ok((listed.contains("draining") || listed.contains("removed")).then_some(()))
        })?;
        lbctl(lab, change)?;
        let (code, said) = end(waiting)?;
        ensure!(code == Some(1) && said.contains(expected), "{leave}, {change:?}: {code:?}\n{said}");
    }
    Ok(())
}

#[test]
fn a_wait_goes_on_when_lbd_starts_again() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let mut balanced = Balanced::web("patience", 2)?;
    let waiting = start_lbctl(&balanced.lab, &["backend", "drain", "b1", "--deadline", "15s", "--wait"])?;
    wait_for_state(&balanced.lab, "web", "b1", "draining")?;
    balanced.kill_lbd()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    balanced.start_lbd()?;
    let (code, said) = end(waiting)?;
    let expected = [", 512 slots left, ", "at most", "trying again for 30s", "lbd answers again", "its time is up"];
    ensure!(code == Some(0) && expected.iter().all(|words| said.contains(words)), "{code:?}\n{said}");
    ensure!(said.lines().count() < 10, "too many lines\n{said}");
    Ok(())
}

#[test]
fn an_untracked_wait_does_not_say_that_no_flow_is_left() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::untracked("no-count", 2)?;
    for command in ["drain", "remove"] {
        let said = lbctl(&balanced.lab, &["backend", command, "b1", "--wait"])?;
        ensure!(said.contains("this service tracks no flows") && !said.contains("no flow is left"), "{said}");
    }
    Ok(())
}

#[test]
fn whoever_takes_the_last_backend_away_is_told_what_it_means() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("last")).backends(2).build()?;
    let unchecked = Service { health: Vec::new(), ..Service::web(lab.backends()) };
    let balanced = Balanced::with(lab, &[unchecked])?;
    let lab = &balanced.lab;
    let up = |expected: &str| -> Result<()> {
        let listed = lbctl(lab, &["service", "list"])?;
        ensure!(listed.contains(expected), "no {expected:?} in {listed}");
        Ok(())
    };
    let warning = |command: &[&str]| -> Result<String> {
        let (code, said) = end(start_lbctl(lab, command)?)?;
        ensure!(code == Some(0), "{said}");
        Ok(said)
    };
    up(" 2/2 ")?;
    let said = warning(&["backend", "drain", "b1", "--deadline", "1h"])?;
    ensure!(!said.contains("WARNING"), "b2 is there: {said}");
    up(" 1/2 ")?;
    let said = warning(&["backend", "drain", "b2", "--deadline", "1h"])?;
    let expected = "no other backend can take new connections: they go on to ";
    ensure!(
        said.contains("WARNING: service web: ") && said.contains(expected) && said.contains("b2 (draining)"),
        "{said}"
    );
    up(" 0/2 ")?;
    let status = lab.status()?;
    ensure!(status.problems.iter().any(|problem| problem.contains(expected)), "{status:?}");
    ensure!(names(&owners(lab, web(), PORTS)?).contains("b2"), "nobody takes new connections");

    let changed: Value = lab.lbctl_json(&["backend", "drain", "b2", "--deadline", "none"])?;
    let b2 = &changed[0];
    ensure!(b2["state"] == "draining" && b2["time_left"].is_null() && b2["slots"].as_u64() > Some(0), "{b2}");
    ensure!(b2.get("flows").is_some() && b2["warning"].as_str().is_some_and(|text| text.contains(expected)), "{b2}");
    let said = warning(&["backend", "drain", "b2", "--deadline", "2s", "--wait"])?;
    ensure!(said.contains(expected) && said.contains("its time is up"), "{said}");
    let said = warning(&["backend", "enable", "b1"])?;
    ensure!(!said.contains("WARNING"), "{said}");
    let said = warning(&["backend", "disable", "b1"])?;
    ensure!(said.contains("WARNING: service web: no backend takes flows, its packets are dropped"), "{said}");
    let message = refused(lab, &["backend", "drain", "b9", "--wait"], 1)?;
    ensure!(message.contains("no backend \"b9\""), "{message}");
    Ok(())
}
