//! A fuzzer that knows the format: what keepalived sent, cut, bent and spliced, mostly with a checksum that holds.
//!
//! `LB_LONG=1` makes it a hundred times as long.

use std::{collections::HashSet, mem::discriminant};

use fastrand::Rng;

use super::{
    captures,
    oracle::{HABITS, correct_checksum, decode},
};

#[test]
fn mutated_advertisements_are_refused_or_are_the_same_bytes_when_encoded_again() {
    let long = std::env::var_os("LB_LONG").is_some_and(|value| value == "1");
    let cases = if long { 10_000_000 } else { 100_000 };
    let captures = captures();
    let mut random = Rng::with_seed(9);
    let mut accepted = 0;
    let mut reasons = HashSet::new();
    for _ in 0..cases {
        let capture = random.choice(&captures).expect("some").clone();
        // Seldom with the addresses of another packet, which may be of the other family.
        let ends = if random.u8(..) < 16 { random.choice(&captures).expect("some") } else { &capture };
        let mut payload = capture.payload.clone();
        for _ in 0..random.u8(1..4) {
            let other = &random.choice(&captures).expect("some").payload;
            mutate(&mut payload, other, &mut random);
        }
        if random.u8(..) < 224 {
            let habit = *random.choice(&HABITS).expect("two");
            correct_checksum(&mut payload, ends.source, ends.destination, habit);
        }
        match decode(&payload, ends.source, ends.destination) {
            Ok(_) => accepted += 1,
            Err(reason) => _ = reasons.insert(discriminant(&reason)),
        }
    }
    assert!(
        accepted > cases / 4,
        "only {accepted} of {cases} mutations got through: the rest of the decoder saw little"
    );
    assert_eq!(reasons.len(), 9, "the number of reasons to refuse a message");
}

fn mutate(payload: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    let place = random.usize(..=payload.len());
    match random.u8(..7) {
        0 => {
            if let Some(byte) = payload.get_mut(place) {
                *byte ^= 1 << random.u8(..8);
            }
        }
        1 => {
            // Mostly in the header.
            let place = if random.bool() { random.usize(..8) } else { place };
            if let Some(byte) = payload.get_mut(place) {
                let any = random.u8(..);
                *byte = *random.choice(&[0, 1, 2, 0x0f, 0x7f, 0x80, 0xff, any]).expect("some");
            }
        }
        2 => payload.truncate(place),
        3 => {
            let more = random.usize(1..48);
            payload.extend(std::iter::repeat_with(|| random.u8(..)).take(more));
        }
        4 => {
            payload.truncate(place);
            payload.extend(&other[random.usize(..=other.len())..]);
        }
        5 => {
            // Another count, with as many addresses, or without.
            let count = if random.bool() { random.u8(..4) } else { random.u8(..) };
            if let Some(byte) = payload.get_mut(3) {
                *byte = count;
            }
            if random.bool() {
                let size = *random.choice(&[4, 16]).expect("two");
                let trailer = *random.choice(&[0, 8, 40]).expect("three");
                payload.resize(8 + usize::from(count) * size + trailer, random.u8(..));
            }
        }
        _ => {
            if let Some(byte) = payload.first_mut() {
                *byte = *random.choice(&[0x21, 0x31, 0x22, 0x41]).expect("four");
            }
        }
    }
}
