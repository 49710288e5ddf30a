//! keepalived and `lbd vrrp` in one virtual router: who is master, what both tell of it, and what passes between them.
//!
//! | file | job |
//! |---|---|
//! | `interop/stage.rs` | speakers, what becomes of them, and what they are expected to make of it |
//! | `interop/wire.rs` | what a capture says of their advertisements |

mod stage;
mod wire;

use std::{
    fmt, fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::lab::{
    Captured, Kind, Lab, Node, config, require_root_and,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name,
    vrrp::{Instance, State, Track, Tracked, Version, VirtualAddress},
    wait_for,
};

use self::stage::Stage;
use crate::support::{SOON, is_long};

/// In version 3. Of three of them, a busy machine may take a part.
const INTERVAL: Duration = Duration::from_millis(200);

const BOTH_ORDERS: [[Kind; 2]; 2] = [[Kind::Ours, Kind::Keepalived], [Kind::Keepalived, Kind::Ours]];

/// What the advertisements look like.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    V2,
    V2WithPassword,
    V3Ipv4,
    V3Ipv6,
}

/// What two speakers are told.
#[derive(Clone, Copy, Debug)]
struct Combination {
    protocol: Protocol,
    unicast: bool,
    /// The first one has the higher priority.
    kinds: [Kind; 2],
    preempt: bool,
}

/// The part of the balancer of that number, from 0, in a virtual router with three addresses.
fn instance(lab: &Lab, number: usize, protocol: Protocol, unicast: bool) -> Instance {
    let is_ipv4 = !matches!(protocol, Protocol::V3Ipv6);
    let version = if matches!(protocol, Protocol::V2 | Protocol::V2WithPassword) { Version::V2 } else { Version::V3 };
    let addresses = (0..3).map(|index| if is_ipv4 { virtual_ipv4(index).into() } else { virtual_ipv6(index).into() });
    let mut nodes: Vec<_> = lab.balancers().iter().collect();
    let own = nodes.remove(number);
    let address_of = |node: &Node| if is_ipv4 { node.ipv4().into() } else { node.ipv6().into() };
    Instance {
        version,
        priority: [150, 100, 50][number],
        interval: if version == Version::V2 { Duration::from_secs(1) } else { INTERVAL },
        unicast_peers: if unicast { nodes.into_iter().map(address_of).collect() } else { Vec::new() },
        source: unicast.then(|| address_of(own)),
        password: matches!(protocol, Protocol::V2WithPassword).then(|| "secret".to_owned()),
        ..Instance::new("VI_1", 51, addresses.map(VirtualAddress::on_the_switch).collect())
    }
}

fn lab(name: &str, nodes: usize) -> Result<Lab> {
    Lab::builder(&unique_name(name)).nodes(nodes).backends(1).build()
}

fn can_run() -> bool {
    require_root_and(&["keepalived", "nft", "tcpdump"])
}

/// All combinations with a protocol; in the fast tier two, which have nothing in common. Over all protocols, those have any three of
/// the other words together.
fn try_combinations(protocol: Protocol) -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let number = protocol as usize;
    let chosen: Vec<_> = (0..8).filter(|bits| is_long() || [number, 7 - number].contains(bits)).collect();
    let combinations = chosen.into_iter().map(|bits| Combination {
        protocol,
        unicast: bits & 1 != 0,
        kinds: BOTH_ORDERS[bits >> 1 & 1],
        preempt: bits & 4 == 0,
    });
    try_each(combinations, Combination::try_it)
}

/// Tries four at a time, each in a lab of its own: they wait most of the time. Fails if any of them does.
fn try_each<T: Copy + fmt::Debug + Send>(
    cases: impl IntoIterator<Item = T>,
    trial: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let cases: Vec<_> = cases.into_iter().collect();
    let trial = &trial;
    let mut failures = Vec::new();
    for cases in cases.chunks(4) {
        thread::scope(|scope| {
            let running: Vec<_> = cases.iter().map(|&case| (case, scope.spawn(move || trial(case)))).collect();
            for (case, thread) in running {
                match thread.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => failures.push(format!("{case:?}: {error:#}")),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

impl Combination {
    fn try_it(self) -> Result<()> {
        let lab = lab("interop", 2)?;
        let players = self.kinds.into_iter().enumerate().map(|(number, kind)| {
            let instance = instance(&lab, number, self.protocol, self.unicast);
            (kind, vec![Instance { preempt: self.preempt, ..instance }])
        });
        let mut stage = Stage::new(&lab, players)?;
        stage.start(0)?;
        stage.expect_master(0)?;
        stage.start(1)?;
        stage.expect_no_change()?;

        stage.stop(0)?;
        stage.expect_master(1)?;
        stage.start(0)?;
        let (master, other) = if self.preempt {
            stage.expect_master(0)?;
            (0, 1)
        } else {
            stage.expect_no_change()?;
            (1, 0)
        };

        stage.crash(master)?;
        stage.expect_master(other)?;
        stage.revive(master)?;
        let (master, other) = if self.preempt {
            stage.expect_master(0)?;
            (0, 1)
        } else {
            stage.expect_no_change()?;
            (other, master)
        };

        stage.stop(master)?;
        stage.expect_master(other)?;
        stage.stop(other)?;
        stage.finish()
    }
}

#[test]
fn version_2_without_authentication_is_spoken_by_both() -> Result<()> {
    try_combinations(Protocol::V2)
}

#[test]
fn version_2_with_a_password_is_spoken_by_both() -> Result<()> {
    try_combinations(Protocol::V2WithPassword)
}

#[test]
fn version_3_over_ipv4_is_spoken_by_both() -> Result<()> {
    try_combinations(Protocol::V3Ipv4)
}

#[test]
fn version_3_over_ipv6_is_spoken_by_both() -> Result<()> {
    try_combinations(Protocol::V3Ipv6)
}

#[test]
fn of_three_nodes_the_next_one_takes_over() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let cases =
        [([Kind::Ours, Kind::Keepalived, Kind::Ours], true), ([Kind::Keepalived, Kind::Ours, Kind::Keepalived], false)];
    try_each(cases, |(kinds, unicast)| {
        let lab = lab("trio", 3)?;
        let players = kinds.into_iter().enumerate();
        let players = players.map(|(number, kind)| (kind, vec![instance(&lab, number, Protocol::V3Ipv4, unicast)]));
        let mut stage = Stage::new(&lab, players)?;
        stage.start(0)?;
        stage.expect_master(0)?;
        stage.start(1)?;
        stage.start(2)?;
        stage.expect_no_change()?;
        stage.crash(0)?;
        stage.expect_master(1)?;
        stage.stop(1)?;
        stage.expect_master(2)?;
        stage.start(1)?;
        stage.expect_master(1)?;
        stage.revive(0)?;
        stage.expect_master(0)?;
        for leaving in [0, 1] {
            stage.stop(leaving)?;
            stage.expect_master(leaving + 1)?;
        }
        stage.stop(2)?;
        stage.finish()
    })
}

#[test]
fn a_group_of_both_families_changes_state_as_one() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    try_each(BOTH_ORDERS, |kinds| {
        let lab = lab("group", 2)?;
        let file = lab.paths().dir().join("tracked");
        fs::write(&file, "0")?;
        let players = kinds.into_iter().enumerate().map(|(number, kind)| {
            let [mut first, second] =
                config::virtual_routers(number).map(|router| Instance { interval: INTERVAL, ..router });
            if number == 0 {
                first.tracks.push(Track { what: Tracked::File(file.clone()), weight: None });
            }
            (kind, vec![first, second])
        });
        let mut stage = Stage::new(&lab, players)?;
        stage.start(0)?;
        stage.expect_master(0)?;
        stage.start(1)?;
        stage.expect_no_change()?;

        fs::write(&file, "1")?;
        stage.expect_fault(0);
        stage.expect_master(1)?;
        fs::write(&file, "0")?;
        stage.expect_recovery(0);
        stage.expect_master(0)?;

        stage.stop(0)?;
        stage.expect_master(1)?;
        stage.stop(1)?;
        stage.finish()
    })
}

#[test]
fn a_node_waits_with_preemption_for_as_long_as_it_is_told() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let preempt_delay = Duration::from_secs(1);
    try_each(BOTH_ORDERS, |kinds| {
        let lab = lab("delay", 2)?;
        let players = kinds.into_iter().enumerate().map(|(number, kind)| {
            let instance = instance(&lab, number, Protocol::V3Ipv4, false);
            (kind, vec![Instance { preempt_delay, ..instance }])
        });
        let mut stage = Stage::new(&lab, players)?;
        stage.start(1)?;
        stage.expect_master(1)?;
        let before = SystemTime::now();
        stage.start(0)?;
        stage.expect_master(0)?;
        let transitions = stage.speaker(0)?.transitions()?;
        let told = transitions.iter().find(|told| told.state == State::Master).context("no master")?;
        let waited = told.at.duration_since(before)?;
        ensure!(waited >= preempt_delay, "{} waited {waited:?}", kinds[0].name());

        stage.stop(0)?;
        stage.expect_master(1)?;
        stage.stop(1)?;
        stage.finish()
    })
}

#[test]
fn what_is_tracked_lowers_a_master_below_the_other_and_raises_it_again() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let cases = BOTH_ORDERS.into_iter().flat_map(|kinds| [(kinds, false), (kinds, true)]);
    try_each(cases, |(kinds, is_script)| {
        let lab = lab("track", 2)?;
        let file = lab.paths().dir().join("tracked");
        let what =
            if is_script { script(&lab.paths().dir().join("script"), &file)? } else { Tracked::File(file.clone()) };
        fs::write(&file, "0")?;
        let players = kinds.into_iter().enumerate().map(|(number, kind)| {
            let mut instance = instance(&lab, number, Protocol::V3Ipv4, false);
            if number == 0 {
                instance.tracks.push(Track { what: what.clone(), weight: Some(-60) });
            }
            (kind, vec![instance])
        });
        let mut stage = Stage::new(&lab, players)?;
        stage.start(0)?;
        stage.expect_master(0)?;
        stage.start(1)?;
        stage.expect_no_change()?;
        fs::write(&file, "1")?;
        stage.expect_master(1)?;
        fs::write(&file, "0")?;
        stage.expect_master(0)?;

        stage.stop(0)?;
        stage.expect_master(1)?;
        stage.stop(1)?;
        stage.finish()
    })
}

/// A program at `path` that fails while there is a one in a file.
fn script(path: &Path, file: &Path) -> Result<Tracked> {
    fs::write(path, format!("#!/bin/sh\n! grep -q 1 '{}'\n", file.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(Tracked::Script(path.to_owned()))
}

#[test]
fn of_two_masters_with_the_same_priority_the_higher_address_stays() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let cases = BOTH_ORDERS.into_iter().zip([Protocol::V3Ipv4, Protocol::V3Ipv6]);
    try_each(cases, |(kinds, protocol)| {
        let lab = lab("equal", 2)?;
        let players = kinds.into_iter().enumerate();
        let players = players.map(|(number, kind)| {
            let instance = instance(&lab, number, protocol, false);
            (kind, vec![Instance { priority: 100, ..instance }])
        });
        let mut stage = Stage::new(&lab, players)?;
        stage.start(0)?;
        stage.expect_master(0)?;
        stage.start(1)?;
        stage.expect_no_change()?;
        stage.contest(1, 0)?;

        stage.stop(1)?;
        stage.expect_master(0)?;
        stage.stop(0)?;
        stage.finish()
    })
}

#[test]
fn version_3_over_ipv4_is_taken_with_a_checksum_over_the_message_alone() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    // keepalived knows this checksum from version 2.2.8 on.
    let lab = lab("checksum", 2)?;
    let [one, two] = [lab.balancer("lb"), lab.balancer("lb2")];
    let capture = lab.start_capture("switch", "ip proto 112")?;
    let sections = instance(&lab, 0, Protocol::V3Ipv4, false).to_toml();
    one.write_config(&format!("{}\n{sections}checksum = \"message\"\n", config::node_config(one)))?;
    let _speaker = one.start_vrrp()?;
    one.wait_for_vrrp("VI_1", "master", SOON)?;
    let _other = two.start_speaker(Kind::Ours, &[instance(&lab, 1, Protocol::V3Ipv4, false)])?;
    wait_for("ten advertisements", SOON, || {
        let instance = two.vrrp_instance("VI_1")?;
        ensure!(instance.state == "backup" && instance.counters.discarded.is_empty(), "{instance:?}");
        Ok((instance.counters.received >= 10).then_some(()))
    })?;
    for Captured { frame, .. } in capture.finish()? {
        let (_, message) = frame.split_at(14 + 20);
        let sum: u32 = message.as_chunks().0.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
        ensure!((sum & 0xffff) + (sum >> 16) == 0xffff, "{frame:x?}");
    }
    Ok(())
}
