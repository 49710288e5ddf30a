//! A case of a table: what goes in, and what has to come out.

use std::fmt::{Debug, Write as _};

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lb_common::{BackendId, Tracking, Traffic};

use crate::{flow_table::Entry, hexdiff, world::INGRESS_IFINDEX};

/// A program under test and its maps.
pub(crate) trait Datapath {
    /// What the program says became of a packet.
    type Verdict: Copy + Debug + PartialEq;
    /// What has to be in the maps for one case.
    type Setup;

    fn prepare(&mut self, setup: &Self::Setup);
    fn run(&mut self, frame: &[u8]) -> Outcome<Self::Verdict>;
}

/// All that can be seen of a program's run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome<V> {
    pub(crate) action: Action,
    /// The counters of verdicts that went up, and by how much.
    pub(crate) verdicts: Vec<(V, u64)>,
    /// The backends whose traffic went up, and by how much.
    pub(crate) traffic: Vec<(BackendId, Traffic)>,
    /// The counters of what became of flows that went up, and by how much.
    pub(crate) tracking: Vec<(Tracking, u64)>,
    /// What is in the flow table afterwards.
    pub(crate) flows: Vec<Entry>,
    /// The frame as the program left it.
    pub(crate) frame: Vec<u8>,
}

/// What the program tells the kernel to do (`enum xdp_action` in linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub(crate) enum Action {
    Aborted,
    Drop,
    Pass,
    Transmit,
    Redirect,
}

/// One line of a table.
pub(crate) struct Case<D: Datapath> {
    /// A sentence.
    pub(crate) description: String,
    pub(crate) setup: D::Setup,
    pub(crate) frame: Vec<u8>,
    pub(crate) expected: Outcome<D::Verdict>,
}

impl<V> Outcome<V> {
    /// The kernel gets the frame as it came.
    pub(crate) fn passed(verdict: V, frame: &[u8]) -> Self {
        Self::uncounted(Action::Pass, verdict, frame)
    }

    /// Nobody gets the frame.
    pub(crate) fn dropped(verdict: V, frame: &[u8]) -> Self {
        Self::uncounted(Action::Drop, verdict, frame)
    }

    fn uncounted(action: Action, verdict: V, frame: &[u8]) -> Self {
        Self::untracked(action, vec![(verdict, 1)], Vec::new(), frame.to_vec())
    }

    /// No flow is looked up or remembered.
    pub(crate) fn untracked(
        action: Action,
        verdicts: Vec<(V, u64)>,
        traffic: Vec<(BackendId, Traffic)>,
        frame: Vec<u8>,
    ) -> Self {
        Self { action, verdicts, traffic, tracking: Vec::new(), flows: Vec::new(), frame }
    }
}

/// Runs all cases, and fails with a list of those that do not come out as expected.
pub(crate) fn check_all<D: Datapath>(datapath: &mut D, cases: impl IntoIterator<Item = Case<D>>) {
    let mut count = 0;
    let mut failures = String::new();
    for case in cases {
        datapath.prepare(&case.setup);
        let actual = datapath.run(&case.frame);
        count += 1;
        if actual != case.expected {
            writeln!(failures, "\n✗ {}\n{}", case.description, explain(&case.frame, &case.expected, &actual))
                .expect("writing to a string succeeds");
        }
    }
    println!("{count} cases");
    assert!(count > 0, "the table is empty");
    assert!(failures.is_empty(), "{failures}");
}

/// What differs, in words and bytes.
fn explain<V: Debug + PartialEq>(input: &[u8], expected: &Outcome<V>, actual: &Outcome<V>) -> String {
    let mut text = String::new();
    let mut compare = |what: &str, expected: String, actual: String| {
        if expected != actual {
            writeln!(text, "  {what}: expected {expected}, got {actual}").expect("writing to a string succeeds");
        }
    };
    compare("action", format!("{:?}", expected.action), format!("{:?}", actual.action));
    compare("verdicts", format!("{:?}", expected.verdicts), format!("{:?}", actual.verdicts));
    compare("traffic", format!("{:?}", expected.traffic), format!("{:?}", actual.traffic));
    compare("tracking", format!("{:?}", expected.tracking), format!("{:?}", actual.tracking));
    compare("flows", format!("{:?}", expected.flows), format!("{:?}", actual.flows));
    write!(text, "  frame in:\n{}", hexdiff::dump(input)).expect("writing to a string succeeds");
    if expected.frame != actual.frame {
        let difference = hexdiff::difference(&expected.frame, &actual.frame);
        write!(text, "  frame out (- expected, + got):\n{difference}").expect("writing to a string succeeds");
    }
    text
}

/// One run of `program` (`BPF_PROG_TEST_RUN`): the action, and the frame afterwards.
pub(crate) fn test_run(program: &Xdp, frame: &[u8]) -> (Action, Vec<u8>) {
    test_run_on(INGRESS_IFINDEX, program, frame)
}

/// The same for a frame that comes in by this interface.
pub(crate) fn test_run_on(ifindex: u32, program: &Xdp, frame: &[u8]) -> (Action, Vec<u8>) {
    /// More than any program puts in front of a packet.
    const ROOM: usize = 128;
    let mut out = vec![0; frame.len() + ROOM];
    let mut options = TestRunOptions::new();
    let len = u32::try_from(frame.len()).expect("a frame is short");
    // `struct xdp_md`: start and end of the frame, and of what is before it, then the interface, its queue, and where to.
    let context = [0, len, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
    options.ctx_in = Some(&context);
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    let result = program.test_run(options).expect("the kernel runs the program");
    out.truncate(result.data_size_out as usize);
    let action = match result.return_value {
        0 => Action::Aborted,
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Transmit,
        4 => Action::Redirect,
        other => panic!("{other} is no XDP action"),
    };
    (action, out)
}

/// The counters that differ, and by how much.
pub(crate) fn increments<V: Copy>(before: &[(V, u64)], after: &[(V, u64)]) -> Vec<(V, u64)> {
    let difference = |(&(verdict, before), &(_, after)): (&(V, u64), &(V, u64))| (verdict, after - before);
    before.iter().zip(after).map(difference).filter(|&(_, count)| count > 0).collect()
}
