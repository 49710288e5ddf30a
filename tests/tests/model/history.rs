//! Random histories, and the shortest one that fails.

use std::{env, fmt::Display};

use fastrand::Rng;

use crate::is_long;

/// The seed of this run: the one that the environment names, or always the same, or a new one when the run is long.
pub(crate) fn seed() -> u64 {
    let seed = match env::var("LB_SEED") {
        Ok(seed) => seed.parse().expect("LB_SEED is a number"),
        Err(_) if is_long() => fastrand::u64(..),
        Err(_) => 1,
    };
    println!("LB_SEED={seed}");
    seed
}

/// Runs random histories of `steps` steps in all. One that fails is cut down and printed, and the test fails.
///
/// A history is a list of steps that mean something whatever came before, so that any of them can be left out.
pub(crate) fn check<S: Clone + Display>(
    steps: usize,
    mut random_history: impl FnMut(&mut Rng, usize) -> Vec<S>,
    mut simpler: impl FnMut(&S) -> Vec<S>,
    mut run: impl FnMut(&[S]) -> Result<(), String>,
) {
    const LENGTHS: [usize; 4] = [30, 100, 300, 1000];
    let mut random = Rng::with_seed(seed());
    let (mut left, mut number) = (steps, 0);
    while left > 0 {
        let length = LENGTHS[number % LENGTHS.len()].min(left);
        let history = random_history(&mut random, length);
        if run(&history).is_err() {
            let shortest = shorten(history, &mut simpler, |history| run(history).is_err());
            let problem = run(&shortest).expect_err("what failed fails again");
            let listed: Vec<String> =
                shortest.iter().enumerate().map(|(number, step)| format!("{number:4}  {step}")).collect();
            panic!("history {number} fails, cut down to these steps:\n{}\n{problem}", listed.join("\n"));
        }
        left -= length;
        number += 1;
    }
    println!("{number} histories, {steps} steps");
}

/// Leaves out, and makes simpler, all that is not needed for the failure (delta debugging: Zeller and Hildebrandt, IEEE TSE
/// 28 (2), 2002).
fn shorten<S: Clone>(
    mut history: Vec<S>,
    simpler: &mut impl FnMut(&S) -> Vec<S>,
    mut fails: impl FnMut(&[S]) -> bool,
) -> Vec<S> {
    loop {
        let before = history.len();
        let mut chunk = history.len() / 2;
        while chunk > 0 {
            let mut from = 0;
            while from < history.len() {
                let mut without = history.clone();
                without.drain(from..(from + chunk).min(history.len()));
                if fails(&without) {
                    history = without;
                } else {
                    from += chunk;
                }
            }
            chunk /= 2;
        }
        let mut simplified = false;
        for at in 0..history.len() {
            for step in simpler(&history[at]) {
                let mut other = history.clone();
                other[at] = step;
                if fails(&other) {
                    history = other;
                    simplified = true;
                    break;
                }
            }
        }
        if history.len() == before && !simplified {
            return history;
        }
    }
}

#[test]
fn a_history_that_fails_is_cut_down_to_the_steps_that_matter() {
    // Fails when a 7 comes before something above 20.
    let fails = |history: &[u32]| {
        history.iter().position(|step| *step == 7).is_some_and(|at| history[at..].iter().any(|step| *step > 20))
    };
    let history: Vec<u32> = (0..100).collect();
    let simpler = |step: &u32| if *step > 0 { vec![step / 2, step - 1] } else { Vec::new() };
    assert_eq!(shorten(history, &mut { simpler }, fails), [7, 21]);
}
