//! Taking the time.

use std::{hint::black_box, time::Instant};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp},
};
use lb_common::bench::{Template, names};
use lb_userspace::{
    dataplane::{Dataplane, object},
    schedule::{Member, table},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{cases::Case, report::CaseResult};

/// Packets per sample: every flow of the largest case comes by once.
pub(crate) const PACKETS: u32 = 1 << 20;
/// Samples per case. They are taken in rounds, case after case, so that a drift of the machine meets all alike.
const ROUNDS: usize = 9;

/// The program under test, or a floor: its place in the wrapper's program array.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Target {
    Noop,
    Encap,
    Balance,
}

/// Nanoseconds per packet, one for each round.
pub(crate) type Sample = Vec<f64>;

/// The wrapper and what it can run.
pub(crate) struct Bench {
    ebpf: Ebpf,
    template: Array<MapData, Template>,
    _targets: ProgramArray<MapData>,
}

impl Bench {
    pub(crate) fn new(dataplane: &mut Dataplane) -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object::BENCH)?;
        let mut targets = ProgramArray::try_from(ebpf.take_map(names::TARGETS).context("no program array")?)?;
        let template = Array::try_from(ebpf.take_map(names::TEMPLATE).context("no template")?)?;
        for name in [names::WRAPPER, names::NOOP, names::ENCAP] {
            program(&mut ebpf, name)?.load()?;
        }
        let floor =
            |ebpf: &mut Ebpf, name| -> anyhow::Result<ProgramFd> { Ok(program(ebpf, name)?.fd()?.try_clone()?) };
        targets.set(Target::Noop as u32, &floor(&mut ebpf, names::NOOP)?, 0)?;
        targets.set(Target::Encap as u32, &floor(&mut ebpf, names::ENCAP)?, 0)?;
        targets.set(Target::Balance as u32, dataplane.program()?.fd()?, 0)?;
        Ok(Self { ebpf, template, _targets: targets })
    }

    pub(crate) fn sample(&mut self, case: &Case, packets: u32) -> anyhow::Result<f64> {
        let template = Template { target: case.target as u32, ..case.template };
        self.template.set(0, template, 0)?;
        let wrapper = program(&mut self.ebpf, names::WRAPPER)?;
        let options = TestRunOptions { data_in: Some(&case.frame), repeat: packets, ..TestRunOptions::new() };
        let result = wrapper.test_run(options)?;
        let expected = case.expected_action();
        ensure!(result.return_value == expected, "{}: verdict {}, not {expected}", case.name, result.return_value);
        // Whole nanoseconds. The time of the call would be no better: the kernel waits for milliseconds before and after.
        Ok(result.duration.as_secs_f64() * 1e9)
    }
}

impl Case {
    /// What the last packet has to have met: a program that passes all is fast, and proves nothing.
    fn expected_action(&self) -> u32 {
        const XDP_PASS: u32 = 2;
        const XDP_TX: u32 = 3;
        let passes = self.target == Target::Noop || self.name.starts_with("not-ours");
        if passes { XDP_PASS } else { XDP_TX }
    }
}

/// Keeps the benchmark on the last CPU: interrupts prefer the first.
pub(crate) fn stay_on_one_cpu(cpus: usize) -> anyhow::Result<()> {
    let mut last = CpuSet::new();
    last.set(cpus - 1)?;
    sched_setaffinity(Pid::from_raw(0), &last).context("cannot stay on one CPU")
}

/// Measures the cases in turn, [`ROUNDS`] times, each after what it needs to be prepared.
pub(crate) fn rounds(
    bench: &mut Bench,
    cases: &[Case],
    mut prepare: impl FnMut(&mut Bench, &Case) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Sample>> {
    let mut samples = vec![Sample::new(); cases.len()];
    for case in cases {
        prepare(bench, case)?;
        bench.sample(case, case.packets.min(PACKETS / 4))?;
    }
    for _ in 0..ROUNDS {
        for (case, samples) in cases.iter().zip(&mut samples) {
            prepare(bench, case)?;
            samples.push(bench.sample(case, case.packets)?);
        }
    }
    Ok(samples)
}

/// How long the scheduler takes for its largest table: 65,536 slots for 1,000 backends.
pub(crate) fn table_build() -> CaseResult {
    let members: Vec<Member> =
        (0..1000_u16).map(|number| Member { name: format!("10.0.0.{number}").into_bytes(), weight: 1 }).collect();
    let milliseconds: Vec<f64> = (0..ROUNDS * 3)
        .map(|_| {
            let start = Instant::now();
            black_box(table(black_box(&members), 1 << 16));
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    CaseResult::alone("maglev/build-table/-/65536-slots/1000-backends", "ms/table", &milliseconds)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}
