//! What sendings and answers come to.

use std::{collections::BTreeMap, time::Duration};

use lb_tests::lab::{Gap, ProbeReport};

/// What was sent.
#[derive(Debug, Default)]
pub(super) struct Sendings {
    /// When, since the start, by sequence number.
    pub(super) at: Vec<Duration>,
    /// How many the kernel did not take.
    pub(super) failed: u64,
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// First answers, by the name of who gave them.
    pub(super) by_node: BTreeMap<String, u64>,
    /// Of the first answer, by sequence number.
    round_trips: Vec<Option<Duration>>,
    duplicated: u64,
}

impl Answers {
    pub(super) fn add(&mut self, node: &str, sequence: usize, round_trip: Duration) {
        if sequence >= self.round_trips.len() {
            self.round_trips.resize(sequence + 1, None);
        }
        if self.round_trips[sequence].is_some() {
            self.duplicated += 1;
            return;
        }
        self.round_trips[sequence] = Some(round_trip);
        match self.by_node.get_mut(node) {
            Some(count) => *count += 1,
            None => {
                self.by_node.insert(node.to_owned(), 1);
            }
        }
    }
}

/// `start` is since 1970.
pub(super) fn judge(start: Duration, sendings: &Sendings, answers: Answers) -> ProbeReport {
    let Answers { by_node, mut round_trips, duplicated } = answers;
    round_trips.resize(sendings.at.len(), None);
    let gaps = gaps(start, &sendings.at, &round_trips);
    let sent = sendings.at.len() as u64;
    let pauses = sendings.at.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
    let longest_pause_ms = milliseconds(pauses.max().unwrap_or_default());

    let mut round_trips: Vec<_> = round_trips.into_iter().flatten().collect();
    round_trips.sort_unstable();
    let percentile = |percent: usize| {
        let at = (round_trips.len() * percent / 100).min(round_trips.len().saturating_sub(1));
        milliseconds(round_trips.get(at).copied().unwrap_or_default()) * 1e3
    };
    let received = round_trips.len() as u64;
    ProbeReport {
        sent,
        received,
        lost: sent - received,
        duplicated,
        unsent: sendings.failed,
        by_node,
        longest_gap_ms: gaps.iter().map(|gap| gap.length_ms).fold(0.0, f64::max),
        round_trip_p50_us: percentile(50),
        round_trip_p99_us: percentile(99),
        longest_pause_ms,
        gaps: gaps.into_iter().filter(|gap| gap.length_ms > milliseconds(Gap::NOTABLE)).collect(),
    }
}

fn gaps(start: Duration, at: &[Duration], round_trips: &[Option<Duration>]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut first = 0;
    // Answered and unanswered ones take turns.
    for run in round_trips.chunk_by(|one, other| one.is_some() == other.is_some()) {
        let next = first + run.len();
        if run[0].is_none() {
            let end = at.get(next).or(at.last()).copied().unwrap_or_default();
            gaps.push(Gap {
                start_ns: u64::try_from((start + at[first]).as_nanos()).unwrap_or(u64::MAX),
                length_ms: milliseconds(end.saturating_sub(at[first])),
                lost: run.len() as u64,
                is_open: next == at.len(),
            });
        }
        first = next;
    }
    gaps
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One datagram each millisecond; those of these numbers are answered after 100 µs.
    fn report(sent: u32, answered: impl IntoIterator<Item = usize>) -> ProbeReport {
        let mut answers = Answers::default();
        for sequence in answered {
            answers.add("lb", sequence, MS / 10);
        }
        judge(
            Duration::from_secs(1),
            &Sendings { at: (0..sent).map(|number| MS * number).collect(), failed: 0 },
            answers,
        )
    }

    #[test]
    fn nothing_sent_is_nothing_lost() {
        assert_eq!(report(0, []), ProbeReport::default());
    }

    #[test]
    fn without_a_loss_there_is_no_gap() {
        let report = report(10, 0..10);
        assert_eq!((report.sent, report.received, report.lost), (10, 10, 0));
        assert_eq!((report.longest_gap_ms, report.gaps), (0.0, Vec::new()));
        assert!((report.round_trip_p50_us - 100.0).abs() < 1e-6 && (report.longest_pause_ms - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_gap_is_from_the_first_loss_to_the_next_datagram_that_is_answered() {
        let report = report(100, (0..20).chain(25..50).chain(51..100));
        assert_eq!(report.lost, 6);
        assert_eq!(report.gaps.len(), 1, "the second one is too short to be listed");
        let gap = &report.gaps[0];
        assert_eq!((gap.start_ns, gap.lost, gap.is_open), (1_020_000_000, 5, false));
        assert!((gap.length_ms - 5.0).abs() < 1e-6 && (report.longest_gap_ms - 5.0).abs() < 1e-6);
    }

    #[test]
    fn a_gap_that_does_not_end_is_open_until_the_last_sending() {
        let report = report(100, 0..90);
        let gap = &report.gaps[0];
        assert!(gap.is_open && (gap.length_ms - 9.0).abs() < 1e-6, "{gap:?}");
    }

    #[test]
    fn a_second_answer_is_a_duplicate_whoever_gives_it() {
        let mut answers = Answers::default();
        answers.add("lb", 0, MS);
        answers.add("lb2", 0, MS);
        let report = judge(Duration::ZERO, &Sendings { at: vec![Duration::ZERO], failed: 0 }, answers);
        assert_eq!((report.received, report.duplicated), (1, 1));
        assert_eq!(report.by_node, BTreeMap::from([("lb".to_owned(), 1)]));
    }
}
