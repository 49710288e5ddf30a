//! How long backends take to answer.

use crate::FlowTime;

/// How long a backend takes to answer, as far as that is known: an exponentially weighted moving average, in one word, so that it is
/// read and stored whole.
///
/// ```text
///  63 ............. 34      33        32     31 ......... 0
/// ┌───────────────────┬──────────┬──────────┬──────────────┐
/// │  time of the last │ of reply │ measured │  nanoseconds │
/// └───────────────────┴──────────┴──────────┴──────────────┘
/// ```
///
/// Whoever measures reads the word, reckons and stores it, without compare-and-swap: of two that do so at the same moment one is lost,
/// and an average of many is none the worse for that.
///
/// A handshake says how far a backend is, a reply how fast its application is: a kernel takes connections however slow what is behind
/// them. So an average is one of either, and never of both: from the first [`Answer::Reply`] on, handshakes count for nothing. They do as
/// long as nobody has seen one, as where the server speaks first.
///
/// What the datapath has measured is the less worth the older it is: it halves with each [`Latency::HALF_LIFE`] without a measurement. So
/// a backend that was slow, and gets no flows for it, comes to be tried again, after as many of them as the binary
/// logarithm of how many times slower it was. If it is slow yet, the first answer says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Latency(u64);

/// What it was that a backend has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its kernel has taken a connection.
    Handshake,
    /// Its application has begun to reply to a request.
    Reply,
}

/// How many bits the unit of time has more than a nanosecond: it is 1.05 ms, counted in fours, and comes around after 52 days.
const TIME_SHIFT: u32 = 20;
/// The half-life in units of time, in bits.
const HALF_LIFE_SHIFT: u32 = 10;
/// A measurement counts for so much of the average, in bits: one eighth, as in RFC 6298.
const GAIN_SHIFT: u32 = 3;
/// The datapath has measured it, so it ages.
const MEASURED: u64 = 1 << 32;
/// It is of replies.
const OF_REPLIES: u64 = 1 << 33;
/// The bits of a time below those that say something else.
const FLAGS: u32 = 3;
/// How many times the average a measurement counts for at most: a packet that was lost and came again after a second says
/// little about a backend that answers in a hundred microseconds.
const MOST_TIMES: u64 = 32;

impl Latency {
    /// Nothing is known: that is taken for fast, so that it is tried.
    pub const UNKNOWN: Self = Self(0);
    /// See [`Latency`], in nanoseconds: 1.07 s.
    pub const HALF_LIFE: u64 = 1 << (TIME_SHIFT + HALF_LIFE_SHIFT);

    /// From the word in the map.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word in the map.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// What it is taken for now, in nanoseconds; zero: unknown.
    #[inline(always)]
    pub const fn at(self, now: FlowTime) -> u32 {
        (self.average() >> self.halvings(now)) as u32
    }

    #[inline(always)]
    const fn average(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    /// How often what is known has halved, at most 32 times.
    #[inline(always)]
    const fn halvings(self, now: FlowTime) -> u32 {
        // Calculated, because the verifier of eBPF programs follows each branch on its own.
        let ages = (self.0 & MEASURED != 0) as u32;
        let age = time(now).wrapping_sub((self.0 >> 32) as u32 & !FLAGS);
        // Another CPU may have seen a later time.
        let age = age & (age >> 31).wrapping_sub(1);
        let halvings = (age >> HALF_LIFE_SHIFT) * ages;
        if halvings > 32 { 32 } else { halvings }
    }

    /// The same after an answer that the datapath has seen come after so many nanoseconds, of which more than fit count as those that do.
    /// The older what is known, the more this one counts.
    #[inline(always)]
    #[must_use]
    pub const fn measured(self, answer: Answer, nanoseconds: u64, now: FlowTime) -> Self {
        let is_reply = matches!(answer, Answer::Reply);
        let is_of_replies = self.0 & OF_REPLIES != 0;
        if is_of_replies && !is_reply {
            return self;
        }
        let before = if is_of_replies == is_reply { self.average() } else { 0 };
        let sample = if nanoseconds > 0xffff_ffff { 0xffff_ffff } else { nanoseconds };
        let (most, halvings) = (before * MOST_TIMES, self.halvings(now));
        let sample = if most != 0 && sample > most { most } else { sample };
        let [old, replaced] = [before >> halvings, sample >> halvings];
        let kept = old - (old >> GAIN_SHIFT);
        let average = if before == 0 { sample } else { kept + sample - (replaced - (replaced >> GAIN_SHIFT)) };
        let flags = MEASURED | if is_reply { OF_REPLIES } else { 0 };
        Self((time(now) as u64) << 32 | flags | if average > 0xffff_ffff { 0xffff_ffff } else { average })
    }

    /// The same after a probe that took so many nanoseconds. Probes are few and regular: what they say does not age. One that says
    /// something else altogether, twice as long or half as long, counts for a half, and others, which differ by chance, for a quarter.
    #[must_use]
    pub const fn probed(self, nanoseconds: u32) -> Self {
        let (before, sample) = (self.average(), nanoseconds as u64);
        let average = match before {
            0 => sample,
            _ if sample >= 2 * before || before >= 2 * sample => before.midpoint(sample),
            _ => (3 * before + sample) / 4,
        };
        Self(average)
    }
}

#[inline(always)]
const fn time(now: FlowTime) -> u32 {
    (now.0 >> TIME_SHIFT) as u32 & !FLAGS
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const MICROSECOND: u32 = 1000;
    const MILLISECOND: u64 = 1_000_000;
    const ANSWERS: [Answer; 2] = [Answer::Handshake, Answer::Reply];
    const START: FlowTime = FlowTime(1 << 40);

    /// Of replies, as most of what follows: of handshakes it is the same.
    fn after(latency: Latency, samples: u32, each: u32, start: FlowTime) -> (Latency, FlowTime) {
        (0..samples).fold((latency, start), |(latency, now), _| {
            let now = FlowTime(now.0 + MILLISECOND);
            (latency.measured(Answer::Reply, each.into(), now), now)
        })
    }

    #[test]
    fn the_first_measurement_is_the_average_and_many_are_what_they_are() {
        assert_eq!(Latency::UNKNOWN.at(START), 0);
        let (one, _) = after(Latency::UNKNOWN, 1, 70 * MICROSECOND, START);
        assert_eq!(one.at(START), 70 * MICROSECOND);
        let (many, now) = after(one, 100, 700 * MICROSECOND, START);
        assert!((690..=700).contains(&(many.at(now) / MICROSECOND)), "{}", many.at(now));
        let (back, now) = after(many, 100, 70 * MICROSECOND, now);
        assert!((70..=71).contains(&(back.at(now) / MICROSECOND)), "{}", back.at(now));
    }

    #[test]
    fn what_became_ten_times_slower_is_known_to_be_slower_by_the_first_answer() {
        let (fast, now) = after(Latency::UNKNOWN, 50, 100 * MICROSECOND, START);
        let (slow, now) = after(fast, 1, 1000 * MICROSECOND, now);
        assert!(slow.at(now) > 2 * fast.at(now));
    }

    #[test]
    fn a_packet_that_was_lost_does_not_put_a_fast_one_out_for_long() {
        let (fast, now) = after(Latency::UNKNOWN, 50, 100 * MICROSECOND, START);
        let (once, now) = after(fast, 1, 1_000_000_000, now);
        assert!(once.at(now) < 6 * fast.at(now));
        let later = FlowTime(now.0 + 3 * Latency::HALF_LIFE);
        assert!(once.at(later) < fast.at(now));
    }

    #[test]
    fn what_is_not_measured_halves_each_second_and_what_was_probed_does_not() {
        let (slow, now) = after(Latency::UNKNOWN, 1, 1000 * MICROSECOND, START);
        let in_halvings = |count: u64| FlowTime(now.0 + count * Latency::HALF_LIFE + 2 * MILLISECOND);
        for halvings in 0..70 {
            let expected = (1000 * u64::from(MICROSECOND)).checked_shr(halvings).unwrap_or(0);
            assert_eq!(u64::from(slow.at(in_halvings(halvings.into()))), expected);
        }
        let probed = Latency::UNKNOWN.probed(1000 * MICROSECOND);
        assert_eq!(probed.at(in_halvings(100)), 1000 * MICROSECOND);
        assert_eq!(probed.probed(100 * MICROSECOND).at(START), 550 * MICROSECOND);
        assert_eq!(probed.probed(800 * MICROSECOND).at(START), 950 * MICROSECOND);
    }

    #[test]
    fn what_is_measured_rarely_is_not_taken_for_faster_than_it_is() {
        let mut now = START;
        let seldom = (0..50).fold(Latency::UNKNOWN, |latency, _| {
            now = FlowTime(now.0 + 2 * Latency::HALF_LIFE);
            latency.measured(Answer::Reply, u64::from(100 * MICROSECOND), now)
        });
        assert!(seldom.at(now).abs_diff(100 * MICROSECOND) < 10, "{}", seldom.at(now));
    }

    #[test]
    fn handshakes_count_until_there_is_a_reply_and_then_never_again() {
        let accepted = |latency: Latency, now| latency.measured(Answer::Handshake, u64::from(100 * MICROSECOND), now);
        let new = accepted(Latency::UNKNOWN, START);
        assert_eq!(new.at(START), 100 * MICROSECOND);
        let (replied, now) = after(accepted(new, START), 1, 20_000 * MICROSECOND, START);
        assert_eq!(replied.at(now), 20_000 * MICROSECOND, "the handshakes before are no part of it");
        assert_eq!(accepted(replied, now), replied);
        let hours = FlowTime(now.0 + 10_000_000 * MILLISECOND);
        assert_eq!(replied.at(hours), 0, "long forgotten");
        assert_eq!(accepted(replied, hours).at(hours), 0);
    }

    #[test]
    fn who_was_slow_and_is_tried_again_is_not_fast_for_taking_a_connection() {
        let (slow, now) = after(Latency::UNKNOWN, 50, 200_000 * MICROSECOND, START);
        let tried = FlowTime(now.0 + 4 * Latency::HALF_LIFE);
        let taken = slow.measured(Answer::Handshake, u64::from(50 * MICROSECOND), tried);
        assert_eq!(taken.at(tried), slow.at(tried));
        let (slow, now) = after(taken, 1, 200_000 * MICROSECOND, tried);
        assert!(slow.at(now) > 180_000 * MICROSECOND, "{}", slow.at(now));
    }

    #[test]
    fn what_probes_have_found_is_no_part_of_what_replies_take() {
        let probed = Latency::UNKNOWN.probed(1000 * MICROSECOND);
        let (replied, now) = after(probed, 1, 20 * MICROSECOND, START);
        assert_eq!(replied.at(now), 20 * MICROSECOND);
    }

    #[test]
    fn an_answer_after_minutes_is_as_slow_as_can_be() {
        let minutes = Latency::UNKNOWN.measured(Answer::Reply, 300_000 * MILLISECOND, START);
        assert_eq!(minutes.at(START), u32::MAX);
    }

    proptest! {
        #[test]
        fn an_average_is_between_what_it_was_and_what_was_measured(
            before: u32, sample: u32, now: u64, age in 0..1_u64 << 29, answer in select(&ANSWERS),
        ) {
            let latency = Latency::UNKNOWN.measured(answer, before.into(), FlowTime(now >> 1));
            let now = FlowTime((now >> 1) + age);
            let (low, high) = (before.min(sample).saturating_sub(8), before.max(sample));
            prop_assert!((low..=high).contains(&latency.measured(answer, sample.into(), now).at(now)));
            prop_assert!((low..=high).contains(&latency.probed(sample).at(now)));
        }

        /// Whatever came before and between: it is the average of the replies alone, and of handshakes where there are none.
        #[test]
        fn replies_and_handshakes_are_never_mixed(measured in vec((select(&ANSWERS), any::<u32>(), 0..1_u64 << 32), 1..50)) {
            let (mut all, mut of_one, mut now) = (Latency::UNKNOWN, Latency::UNKNOWN, START);
            let has_replies = measured.iter().any(|(answer, ..)| *answer == Answer::Reply);
            for (answer, sample, pause) in measured {
                now = FlowTime(now.0 + pause);
                all = all.measured(answer, sample.into(), now);
                if (answer == Answer::Reply) == has_replies {
                    of_one = of_one.measured(answer, sample.into(), now);
                }
            }
            prop_assert_eq!(all, of_one);
        }

        #[test]
        fn a_time_before_the_last_measurement_is_no_age(
            nanoseconds: u32, now in 1_u64 << 40..1 << 50, before in 0_u64..1 << 30, answer in select(&ANSWERS),
        ) {
            let latency = Latency::UNKNOWN.measured(answer, nanoseconds.into(), FlowTime(now));
            prop_assert_eq!(latency.at(FlowTime(now - before)), nanoseconds);
        }
    }
}
