//! What has to become of a packet, in the shorthand of the tables.
//!
//! A cell has three parts, as in `previous sighted miss+`:
//!
//! 1. who gets the packet: the slot's `current` or `previous` backend, the one that the `entry` names, or `nobody`;
//! 2. what is in the table afterwards: a flow of that backend in this state, seen now (`opening`, `sighted`, `established`,
//!    `closing`); the entry `as-it-was`, which may be none; the entry `moved` to that backend and else as it was;
//! 3. what is counted: a `hit`, `miss`, or flow that is `reopened` or `rescheduled`; with `+` it is remembered, with `-` an
//!    other one is evicted for it, with `!` the table is full.

use lb_common::{Tracking, Verdict};

use crate::{
    case::Outcome,
    flow_table::{Entry, State, tag},
    packet::Packet,
};

use super::scene::{CURRENT, PREVIOUS, Scene, frame, id, numbered};

/// A cell of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) to: &'a str,
    pub(super) after: &'a str,
    pub(super) counted: &'a str,
}

impl<'a> Answer<'a> {
    pub(super) fn parse(cell: &'a str) -> Self {
        let parts: Vec<&str> = cell.split_whitespace().collect();
        let [to, after, counted] = parts[..] else { panic!("{cell:?} has not three parts") };
        Self { to, after, counted }
    }

    /// The backend that the packet's flow has then; zero is nobody.
    pub(super) fn backend(self, known: Option<Entry>) -> u16 {
        match self.to {
            "current" => CURRENT,
            "previous" => PREVIOUS,
            "entry" => known.expect("the flow is known").backend,
            "nobody" => 0,
            other => panic!("{other} is no backend"),
        }
    }

    /// All that has to be seen when `packet` comes into `scene`, whose table knows `known` of its flow.
    pub(super) fn outcome(self, packet: &Packet, scene: &Scene, known: Option<Entry>) -> Outcome<Verdict> {
        let frame = frame(packet);
        let backend = self.backend(known);
        let outcome = if backend == 0 {
            Outcome::dropped(Verdict::DropNoBackend, &frame.to_bytes())
        } else {
            numbered(backend).receives_as(id(backend), &frame)
        };
        Outcome { tracking: self.tracking(), flows: self.flows(scene, known), ..outcome }
    }

    pub(super) fn tracking(self) -> Vec<(Tracking, u64)> {
        let events: &[Tracking] = match self.counted {
            "-" => &[],
            "hit" => &[Tracking::Hit],
            "miss" => &[Tracking::Miss],
            "miss+" => &[Tracking::Miss, Tracking::Remembered],
            "miss+-" => &[Tracking::Miss, Tracking::Remembered, Tracking::Evicted],
            "miss!" => &[Tracking::Miss, Tracking::Full],
            "rescheduled" => &[Tracking::Rescheduled],
            "reopened" => &[Tracking::Reopened],
            "carried+" => &[Tracking::Remembered, Tracking::Carried],
            "carried!" => &[Tracking::Full, Tracking::Carried],
            other => panic!("{other} is not counted"),
        };
        events.iter().map(|event| (*event, 1)).collect()
    }

    pub(super) fn flows(self, scene: &Scene, known: Option<Entry>) -> Vec<Entry> {
        let backend = self.backend(known);
        let seen = |state| Some(Entry::new(scene.hash, backend, state, scene.now));
        let entry = match self.after {
            "opening" => seen(State::Opening),
            "sighted" => seen(State::Sighted),
            "established" => seen(State::Established),
            "closing" => seen(State::Closing),
            "as-it-was" => known,
            "moved" => known.map(|entry| Entry { backend, ..entry }),
            other => panic!("{other} is nothing that the table can hold"),
        };
        let mut flows = scene.entries();
        flows.retain(|other| other.tag != tag(scene.hash));
        flows.extend(entry);
        flows.sort_unstable();
        flows
    }
}
