//! The commands themselves: both forms of what they say, their exit codes, and what they refuse.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{Lab, binary, require_root, run, unique_name};
use serde_json::Value;

use crate::{
    config::{self, Service},
    support::{Balanced, ip, lbctl, lbd, refused},
};

#[test]
fn each_subcommand_says_the_same_as_a_table_and_as_json() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::start(Lab::builder(&unique_name("forms")).backends(3))?;
    let lab = &balanced.lab;
    // A command, and what both forms have to name.
    let cases: [(&[&str], &[&str]); 15] = [
        (&["status"], &["eth0", "native", "lb.toml"]),
        (&["service", "list"], &["web-l2", "10.77.0.100", "l2-dsr", "web6-ipip", "fd77::101", "ipip", "maglev"]),
        (&["service", "show", "web-l2"], &["web-l2", "b1", "10.77.0.11", "b3", "up", "reschedule"]),
        (&["backend", "list"], &["web-l2", "web-6in4", "b2", "fd77::12", "02:00:0a:4d:00:0c"]),
        (&["backend", "list", "--service", "web6-l2"], &["web6-l2", "b2", "fd77::12"]),
        (&["backend", "drain", "b1"], &["web-l2", "web-6in4", "b1"]),
        (&["backend", "enable", "b1", "--service", "web-l2"], &["web-l2", "b1"]),
        (&["backend", "disable", "b1"], &["web-l2", "b1"]),
        (&["backend", "enable", "b1"], &["web-l2", "b1"]),
        (&["backend", "weight", "fd77::12", "7"], &["web6-l2", "b2"]),
        (&["backend", "remove", "b3", "--service", "web-l2"], &["web-l2", "b3"]),
        (&["backend", "add", "web-l2", "10.77.0.13", "--name", "again", "--weight", "2"], &["web-l2", "again"]),
        (&["stats"], &["received", "transmitted", "drop-no-backend", "web-l2", "b1"]),
        (&["flows", "web-l2", "--client", "10.77.0.1:4000"], &["web-l2", "10.77.0.1:4000", "10.77.0.100:80", "slot"]),
        (&["reload"], &[]),
    ];
    for (command, expected) in cases {
        let what = command.join(" ");
        let table = lbctl(lab, command)?;
        ensure!(!table.trim().is_empty() && !table.contains('{'), "{what}: {table}");
        // What cannot be done twice is undone first.
        match command {
            ["backend", "remove", ..] => lbctl(lab, &["backend", "add", "web-l2", "10.77.0.13", "--name", "b3"])?,
            ["backend", "add", ..] => lbctl(lab, &["backend", "remove", "again"])?,
            _ => String::new(),
        };
        let json: Value = lab.lbctl_json(command)?;
        let json = json.to_string();
        for word in expected {
            ensure!(table.contains(word), "{what}: the table lacks {word:?}: {table}");
            ensure!(json.contains(word), "{what}: the JSON lacks {word:?}: {json}");
        }
    }
    let removed: Value = lab.lbctl_json(&["backend", "remove", "again"])?;
    let removed = &removed[0];
    ensure!(removed["service"] == "web-l2" && removed["backend"] == "again", "{removed}");
    ensure!(removed["address"] == "10.77.0.13" && removed["state"] == "removed", "{removed}");
    let said = lbctl(lab, &["flows", "--backend", "b1", "--state", "closing"])?;
    ensure!(said.contains("no flow matches"), "{said}");
    Ok(())
}

#[test]
fn bad_input_changes_nothing_and_the_message_says_what_to_do() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("input")).backends(2).build()?;
    let web = Service { health: Vec::new(), ..Service::web(lab.backends()) };
    let all = Service { name: "all".into(), address: "10.77.0.101:*".into(), ..web.clone() };
    let balanced = Balanced::with(lab, &[web, all])?;
    let lab = &balanced.lab;
    let before = lab.stats()?.services;
    let written = || fs::read_to_string(lab.paths().state().join("changes.json"));
    let written_before = written()?;
    let cases: [(&[&str], i32, &[&str]); 35] = [
        (&["backend", "drain", "b9"], 1, &["no backend \"b9\"", "any service", "lbctl backend list"]),
        (&["backend", "drain", "b1", "--service", "nope"], 1, &["no service \"nope\"", "lbctl service list"]),
        (&["backend", "remove", "b9", "--service", "web"], 1, &["no backend \"b9\"", "\"web\""]),
        (&["backend", "enable", "10.77.0.99"], 1, &["no backend \"10.77.0.99\""]),
        (&["backend", "weight", "b9", "3"], 1, &["no backend \"b9\""]),
        (&["backend", "weight", "b1", "65536"], 2, &["65536", "0..=65535"]),
        (&["backend", "weight", "b1", "-1"], 2, &["-1 is not in 0..=65535"]),
        (&["backend", "weight", "b1", "many"], 2, &["many"]),
        (&["backend", "weight", "b1"], 2, &["<WEIGHT>"]),
        (&["backend", "add", "nope", "10.77.0.13"], 1, &["no service \"nope\"", "lbctl service list"]),
        (&["backend", "add", "web", "10.77.0.13:8080"], 1, &["8080", "write port 80"]),
        (&["backend", "add", "all", "10.77.0.13:8080"], 1, &["8080", "without a port"]),
        (&["backend", "add", "web", "10.77.0.11"], 1, &["\"b1\" already", "greater weight"]),
        (&["backend", "add", "web", "10.77.0.13", "--name", "b1"], 1, &["\"b1\"", "another name"]),
        (&["backend", "add", "web", "fd77::13"], 1, &["address family", "ipip"]),
        (&["backend", "add", "web", "b3.example.com"], 1, &["is not an IP address", "write the address"]),
        (&["backend", "add", "web", "224.0.0.1"], 1, &["224.0.0.1"]),
        (&["backend", "add", "web", "10.77.0.13", "--name", "a b"], 1, &["a b"]),
        (&["backend", "add", "web", "10.77.0.13", "--weight", "70000"], 2, &["70000", "0..=65535"]),
        (&["backend", "add", "web", "10.77.0.13", "--weight", "-5"], 2, &["-5 is not in 0..=65535"]),
        (&["backend", "add", "web", "10.77.0.13", "--name", "10.77.0.12"], 1, &["is an address", "another name"]),
        (&["backend", "add", "web", "10.77.0.101"], 1, &["virtual IP of service \"all\"", "come back"]),
        (&["backend", "add", "web", "127.0.0.1"], 1, &["loopback"]),
        (&["backend", "drain", ""], 2, &["<BACKEND>"]),
        (&["backend", "drain", "b1", "--deadline", "48h"], 2, &["\"48h\" is out of range", "0s to 24h", "\"none\""]),
        (&["backend", "remove", "b1", "--deadline", "-5m"], 2, &["\"-5m\" is not a duration", "0s to 24h"]),
        (&["backend", "remove", "b1", "--service", ""], 2, &["--service"]),
        (&["flows", "web", "--slot", "1024"], 2, &["no slot 1024", "service \"web\" has 1024 slots, 0 to 1023"]),
        (&["flows", "--state", "asleep"], 2, &["\"asleep\" is no state of a flow; there are answered, "]),
        (&["flows", "--slot", "-1"], 2, &["-1 is not in 0..="]),
        (&["service", "show", "nope"], 1, &["no service \"nope\"", "lbctl service list"]),
        (&["backend", "list", "--service", "nope"], 1, &["no service \"nope\""]),
        (&["flows", "nope", "--client", "10.77.0.1:4000"], 1, &["no service \"nope\""]),
        (&["flows", "web", "--client", "[fd77::1]:4000"], 1, &["address family"]),
        (&["flows", "web", "--client", "10.77.0.1"], 2, &["10.77.0.1"]),
    ];
    for form in ["table", "json"] {
        for (command, code, expected) in cases {
            let message = refused(lab, &[&["-o", form], command].concat(), code)?;
            for words in expected {
                ensure!(message.contains(words), "{}: the message lacks {words:?}: {message}", command.join(" "));
            }
        }
    }
    ensure!(lab.stats()?.services == before, "something has changed: {before:?} to {:?}", lab.stats()?.services);
    ensure!(written()? == written_before, "a change was written down: {}", written()?);
    Ok(())
}

#[test]
fn exit_codes_tell_usage_configuration_and_an_lbd_that_is_away_apart() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("codes")).backends(1).build()?;
    for command in [&["status"][..], &["backend", "drain", "b1"], &["reload"]] {
        let message = refused(&lab, command, 4)?;
        ensure!(message.contains("cannot reach lbd at") && message.contains("lb.sock"), "{message}");
    }
    for command in [&[][..], &["nonsense"], &["backend"], &["-o", "xml", "status"], &["slots"]] {
        refused(&lab, command, 2)?;
    }
    ensure!(lbctl(&lab, &["--help"])?.contains("Exit codes"));
    ensure!(lbctl(&lab, &["--version"])?.trim() == concat!("lbctl ", env!("CARGO_PKG_VERSION")));

    let good = config::file(&lab, &[Service::web(lab.backends())]);
    let file = lab.paths().dir().join("other.toml");
    let path = file.to_str().context("a path in ASCII")?;
    // A file, the exit code of `lbd check`, and what it says.
    let cases = [
        (Some(good.clone()), 0, "valid, 1 interface, 1 service, 0 VRRP instances"),
        (Some(good.replace("weight = 10", "weight = -1")), 3, "other.toml:"),
        (Some(good.replace("forwarding", "forewarding")), 3, "forewarding"),
        (Some(good.replace("\"l2-dsr\"", "\"nat\"")), 3, "nat"),
        (None, 3, "cannot read the configuration file"),
    ];
    for (text, code, expected) in cases {
        match &text {
            Some(text) => fs::write(&file, text)?,
            None => fs::remove_file(&file)?,
        }
        for command in [&["check", path][..], &["run", "--config", path]] {
            if code == 0 && command[0] == "run" {
                continue;
            }
            let output = lbd(&lab, command)?;
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            ensure!(output.status.code() == Some(code), "{command:?} of {text:?}: {}\n{said}", output.status);
            ensure!(said.contains(expected), "{command:?}: {said}");
        }
    }
    for command in [&[][..], &["nonsense"], &["run", "--ebpf-log", "loud"]] {
        let output = lbd(&lab, command)?;
        ensure!(output.status.code() == Some(2), "lbd {command:?}: {}", output.status);
    }
    ensure!(!lab.paths().pins().exists(), "a configuration that was refused has pinned something");
    let addresses = ip(&lab, "lb", &["address", "show", "dev", "eth0"])?;
    ensure!(!addresses.contains("10.77.0.100"), "a configuration that was refused has announced something");
    Ok(())
}

#[test]
fn the_environment_can_name_the_socket() -> Result<()> {
    if !require_root() {
        return Ok(());
    }
    let balanced = Balanced::web("socket", 1)?;
    let mut command = std::process::Command::new(binary("lbctl")?);
    run(command.arg("status").env("LB_SOCKET", balanced.lab.paths().socket()))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(balanced.lab.paths().socket())?.permissions());
    ensure!(mode & 0o777 == 0o600, "the socket has mode {mode:o}: others than root could change the balancer");
    Ok(())
}
