//! Random faults, and what holds during and after them. `LB_LONG=1` makes it a hundred times as many scenarios.

use proptest::prelude::*;

use std::collections::BTreeSet;

use super::{lan::*, *};

pub(super) fn config() -> ProptestConfig {
    let is_long = std::env::var_os("LB_LONG").is_some_and(|value| value == "1");
    ProptestConfig { cases: if is_long { 20_000 } else { 200 }, ..ProptestConfig::default() }
}

const INTERVAL: Duration = ms(1000);

#[derive(Debug, Clone, Copy)]
struct Participant {
    priority: u8,
    preempt: bool,
    starts_ms: u64,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Crash(usize),
    Boot(usize),
    Freeze(usize),
    Thaw(usize),
    /// The nodes whose bits are set hear only each other, and so do the others.
    Split(u8),
    /// Nothing gets from the first to the second.
    OneWay(usize, usize),
    Heal,
    FailOver(usize),
}

/// What happens to packets, in percent.
#[derive(Debug, Clone, Copy)]
struct Noise {
    loss: u8,
    duplication: u8,
    /// Delays differ by up to that: packets overtake each other.
    max_delay: Duration,
    seed: u64,
}

impl Noise {
    fn fate(self) -> Fate {
        let mut random = fastrand::Rng::with_seed(self.seed);

        Box::new(move || {
            let copies = match random.u8(0..100) {
                number if number < self.loss => 0,
                number if number < self.loss.saturating_add(self.duplication) => 2,
                _ => 1,
            };
            let max = u64::try_from(self.max_delay.as_micros()).expect("a short time").max(2);
            (0..copies).map(|_| Duration::from_micros(random.u64(1..max))).collect()
        })
    }
}

fn participants() -> impl Strategy<Value = Vec<Participant>> {
    // Few priorities, so that some are equal.
    let priority = prop_oneof![1_u8..=254, prop::sample::select(vec![1, 100, 101, 254])];
    let participant = (priority, prop::bool::weighted(0.7), 0_u64..3000)
        .prop_map(|(priority, preempt, starts_ms)| Participant { priority, preempt, starts_ms });
    prop::collection::vec(participant, 2..=4)
}

fn faults() -> impl Strategy<Value = Vec<(u64, Fault)>> {
    let node = 0_usize..4;
    let fault = prop_oneof![
        node.clone().prop_map(Fault::Crash),
        node.clone().prop_map(Fault::Boot),
        node.clone().prop_map(Fault::Freeze),
        node.clone().prop_map(Fault::Thaw),
        any::<u8>().prop_map(Fault::Split),
        (node.clone(), node.clone()).prop_map(|(from, to)| Fault::OneWay(from, to)),
        Just(Fault::Heal),
        node.prop_map(Fault::FailOver),
    ];
    prop::collection::vec((1_u64..5000, fault), 0..16)
}

fn noise() -> impl Strategy<Value = Noise> {
    (0_u8..60, 0_u8..30, 1_u64..=1000, any::<u64>()).prop_map(|(loss, duplication, max_delay, seed)| Noise {
        loss,
        duplication,
        max_delay: ms(max_delay),
        seed,
    })
}

fn lan(participants: &[Participant], noise: Noise) -> Lan {
    let instance = |participant: &Participant| Vrrp {
        priority: participant.priority,
        preempt: participant.preempt,
        interval: INTERVAL,
        ..vrrp()
    };
    Lan::with_fate(participants.iter().map(|participant| vec![instance(participant)]).collect(), noise.fate())
}

/// Boots all nodes, each at its time.
fn boot(lan: &mut Lan, participants: &[Participant]) {
    let mut order: Vec<_> = (0..participants.len()).collect();
    order.sort_by_key(|node| participants[*node].starts_ms);
    for node in order {
        lan.run(ms(participants[node].starts_ms).saturating_sub(lan.now));
        lan.boot(node);
    }
}

impl Fault {
    fn befall(self, lan: &mut Lan) {
        let count = lan.nodes.len();
        match self {
            Self::Crash(node) => lan.kill(node % count),
            Self::Boot(node) if lan.is_alive(node % count) => {}
            Self::Boot(node) => lan.boot(node % count),
            Self::Freeze(node) => lan.freeze(node % count),
            Self::Thaw(node) => lan.thaw(node % count),
            Self::Split(mask) => lan.split(|node| mask & (1 << node) != 0),
            Self::OneWay(from, to) => lan.cut(from % count, to % count),
            Self::Heal => lan.heal(),
            Self::FailOver(node) => {
                lan.act(node % count, |router, now| router.fail_over("VI_1", now).unwrap_or_default());
            }
        }
    }
}

/// The time from the end of all faults until there is one master: a late packet can begin the waiting anew, and then each
/// waits at most 3 intervals and its `Skew_Time` of less than one, and is heard.
fn time_to_settle(max_delay: Duration) -> Duration {
    4 * INTERVAL + INTERVAL + 2 * max_delay
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn after_all_faults_there_is_one_master_and_it_is_the_right_one(
        participants in participants(),
        faults in faults(),
        noise in noise(),
    ) {
        let mut lan = lan(&participants, noise);
        boot(&mut lan, &participants);
        for (pause, fault) in &faults {
            lan.run(ms(*pause));
            fault.befall(&mut lan);
        }

        lan.set_fate(Noise { loss: 0, ..noise }.fate());
        lan.heal();
        for node in 0..participants.len() {
            lan.thaw(node);
        }
        lan.run(time_to_settle(noise.max_delay));

        let alive: Vec<_> = (0..participants.len()).filter(|node| lan.is_alive(*node)).collect();
        let masters = lan.masters();
        prop_assert_eq!(masters.len(), usize::from(!alive.is_empty()), "{:?}\n{}", masters, lan.transcript());
        prop_assert_eq!(lan.holders(), masters.clone(), "{}", lan.transcript());

        // Who has handed over does not preempt.
        let has_handed_over = faults.iter().any(|(_, fault)| matches!(fault, Fault::FailOver(_)));
        for (node, master) in alive.into_iter().zip(masters.into_iter().cycle()) {
            let (better, master) = (participants[node], participants[master]);
            prop_assert!(
                has_handed_over || !better.preempt || better.priority <= master.priority,
                "{better:?} {master:?}\n{}",
                lan.transcript()
            );
        }
    }

    #[test]
    fn after_a_split_one_master_is_left_within_an_interval_and_the_delay(
        participants in participants(),
        mask: u8,
        moment_ms in 0_u64..1000,
    ) {
        let delay = ms(5);
        let mut lan = Lan::with_fate(
            participants.iter().map(|each| vec![Vrrp { priority: each.priority, preempt: each.preempt, ..vrrp() }]).collect(),
            Box::new(move || vec![delay]),
        );
        boot(&mut lan, &participants);
        lan.run(ms(10_000));
        prop_assert_eq!(lan.masters().len(), 1);

        let is_left = |node: usize| mask & (1 << node) != 0;
        lan.split(is_left);
        lan.run(ms(10_000 + moment_ms));
        let sides: BTreeSet<_> = (0..participants.len()).map(is_left).collect();
        let masters = lan.masters();
        prop_assert_eq!(masters.len(), sides.len(), "{}", lan.transcript());

        lan.heal();
        lan.run(INTERVAL + delay);
        let best = masters.into_iter().max_by_key(|node| (participants[*node].priority, address(*node)));
        prop_assert_eq!(lan.masters(), Vec::from_iter(best), "{}", lan.transcript());
        prop_assert_eq!(lan.holders(), lan.masters());
    }

    #[test]
    fn on_a_link_without_loss_two_nodes_hold_the_addresses_for_no_longer_than_a_packet_takes(
        participants in participants(),
        requests in prop::collection::vec((1_u64..5000, 0_usize..4, 0_u8..3), 0..12),
        max_delay in 1_u64..300,
        seed: u64,
    ) {
        let noise = Noise { loss: 0, duplication: 10, max_delay: ms(max_delay), seed };
        let mut lan = lan(&participants, noise);
        boot(&mut lan, &participants);
        for (pause, node, what) in requests {
            lan.run(ms(pause));
            let fault = match what {
                0 => Fault::Crash(node),
                1 => Fault::Boot(node),
                _ => Fault::FailOver(node),
            };
            fault.befall(&mut lan);
        }
        lan.run(ms(10_000));
        prop_assert!(
            lan.longest_overlap() <= noise.max_delay,
            "{:?}\n{}",
            lan.longest_overlap(),
            lan.transcript()
        );
    }
}
