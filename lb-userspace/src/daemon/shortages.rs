//! New flows that found no room: what ran out, and how often of late.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use lb_common::{Tracking, Verdict};

use super::Daemon;
use crate::dataplane::Maps;

/// How long a shortage is a problem after it was last felt.
const WINDOW: Duration = Duration::from_mins(1);

/// What can run out: the packets or flows that felt it are counted by the datapath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shortage {
    NatTable,
    Ports,
    Connections,
    /// One of the three, where the answer is a reset.
    Refused,
    FlowTable,
}

impl Shortage {
    const ALL: [Self; 5] = [Self::NatTable, Self::Ports, Self::Connections, Self::Refused, Self::FlowTable];

    /// What it is that ran out.
    const fn name(self) -> &'static str {
        match self {
            Self::NatTable => "room in the table of translated flows",
            Self::Ports => "source ports",
            Self::Connections => "backends with less than their max_connections",
            Self::Refused => "room for new connections that on_full = \"reset\" refuses",
            Self::FlowTable => "room in the flow table",
        }
    }

    fn describe(self, count: u64) -> String {
        match self {
            Self::NatTable => format!(
                "{count} packets of new flows were dropped in the last minute, since the table of translated flows had no room for them; \
                 raise nat_table in [node], or shorten the timeouts of the services that translate"
            ),
            Self::Ports => format!(
                "{count} packets of new flows were dropped in the last minute, since no source port was free: with full-nat add sources or ports \
                 in [service.nat] (`lbctl stats` shows what is used up); with nat the client has another flow from the same port to the \
                 same backend, by another virtual IP"
            ),
            Self::Connections => format!(
                "{count} packets of new flows were dropped in the last minute, since all backends of their service have their \
                 max_connections (`lbctl backend list` shows who): raise them, or add backends"
            ),
            Self::Refused => format!(
                "{count} new connections were answered with a reset in the last minute, as on_full says, since there was no backend with room \
                 (`lbctl backend list`: raise max_connections, or add backends), no source port, or no room in the table of translated flows \
                 (`lbctl stats`: add sources, or raise nat_table)"
            ),
            Self::FlowTable => format!(
                "{count} flows were not remembered in the last minute, since the flow table had no room for them; raise flow_table in [node]"
            ),
        }
    }

    /// How often each was felt since the maps were made.
    fn counts(maps: &Maps) -> Result<[u64; Self::ALL.len()], MapError> {
        let (verdicts, tracking) = (maps.verdicts()?, maps.tracking()?);
        let dropped = |wanted| verdicts.iter().find(|(verdict, _)| *verdict == wanted).map_or(0, |(_, count)| *count);
        let flows = |wanted| tracking.iter().find(|(event, _)| *event == wanted).map_or(0, |(_, count)| *count);
        Ok(Self::ALL.map(|shortage| match shortage {
            Self::NatTable => dropped(Verdict::DropNatFull),
            Self::Ports => dropped(Verdict::DropNoPort),
            Self::Connections => dropped(Verdict::DropBackendsFull),
            Self::Refused => flows(Tracking::Refused),
            Self::FlowTable => flows(Tracking::Full),
        }))
    }
}

/// What ran out in the last minute.
#[derive(Debug, Default)]
pub(super) struct Shortages {
    /// What was counted when; the first is the last one that is a minute old.
    samples: VecDeque<(Instant, [u64; Shortage::ALL.len()])>,
}

impl Shortages {
    /// Takes note of what is counted now. What has begun and what has ended, in words for the log.
    fn note(&mut self, counts: [u64; Shortage::ALL.len()], now: Instant) -> (Vec<String>, Vec<Shortage>) {
        let before = self.felt();
        self.samples.push_back((now, counts));
        while self.samples.get(1).is_some_and(|(at, _)| now - *at >= WINDOW) {
            self.samples.pop_front();
        }
        let after = self.felt();
        let of_one = |list: &[(Shortage, u64)], wanted| list.iter().any(|(shortage, _)| *shortage == wanted);
        let begun = after.iter().filter(|(shortage, _)| !of_one(&before, *shortage));
        let over = before.iter().filter(|(shortage, _)| !of_one(&after, *shortage));
        (
            begun.map(|(shortage, count)| shortage.describe(*count)).collect(),
            over.map(|(shortage, _)| *shortage).collect(),
        )
    }

    fn felt(&self) -> Vec<(Shortage, u64)> {
        let (Some((_, first)), Some((_, last))) = (self.samples.front(), self.samples.back()) else {
            return Vec::new();
        };
        let news = Shortage::ALL.into_iter().zip(first.iter().zip(last));
        // Counters start over when the maps are made anew.
        let news = news.map(|(shortage, (first, last))| (shortage, last.saturating_sub(*first)));
        news.filter(|(_, count)| *count > 0).collect()
    }

    /// In words for the operator.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.felt().into_iter().map(|(shortage, count)| shortage.describe(count))
    }
}

impl Daemon {
    /// Looks at what runs out, and logs what has begun and ended.
    pub(super) fn refresh_shortages(&mut self) {
        match Shortage::counts(&self.executor.dataplane.maps) {
            Ok(counts) => {
                let (begun, over) = self.shortages.note(counts, Instant::now());
                for problem in begun {
                    log::warn!("{problem}");
                }
                for shortage in over {
                    log::info!("no shortage for a minute of {}", shortage.name());
                }
            }
            Err(error) => log::error!("cannot read the counters: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_a_problem_for_a_minute_after_it_was_felt_and_is_logged_when_it_begins_and_ends() {
        let (mut shortages, start) = (Shortages::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        // What an earlier daemon has seen is none of it.
        assert_eq!(shortages.note([0, 700, 0, 0, 0], after(0)), (vec![], vec![]));
        assert_eq!(shortages.problems().count(), 0);
        let (begun, over) = shortages.note([0, 702, 0, 0, 0], after(2));
        assert!(begun[0].starts_with("2 packets") && begun[0].contains("no source port"), "{begun:?}");
        assert_eq!((begun.len(), over), (1, vec![]));
        assert_eq!(shortages.note([0, 705, 0, 0, 0], after(4)), (vec![], vec![]), "it goes on");
        assert!(shortages.problems().all(|problem| problem.starts_with("5 packets")));
        for seconds in (6..64).step_by(2) {
            assert_eq!(shortages.note([0, 705, 0, 0, 0], after(seconds)), (vec![], vec![]), "{seconds}");
            assert_eq!(shortages.problems().count(), 1);
        }
        assert_eq!(shortages.note([0, 705, 0, 0, 0], after(64)), (vec![], vec![Shortage::Ports]));
        assert_eq!(shortages.problems().count(), 0);
    }

    #[test]
    fn counters_that_start_over_are_no_shortage() {
        let (mut shortages, start) = (Shortages::default(), Instant::now());
        shortages.note([9; 5], start);
        assert_eq!(shortages.note([0; 5], start + Duration::from_secs(2)), (vec![], vec![]));
    }
}
