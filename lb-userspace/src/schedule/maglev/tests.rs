#![expect(clippy::cast_precision_loss, reason = "shares are below 2^17")]

use proptest::prelude::*;

use super::*;

fn equal(count: u16) -> Vec<Member> {
    (0..count).map(|number| member(number, 1)).collect()
}

fn member(number: u16, weight: u16) -> Member {
    Member { name: format!("10.0.{}.{}", number >> 8, number & 255).into_bytes(), weight: weight.into() }
}

fn shares(table: &[u32], members: usize) -> Vec<usize> {
    let mut shares = vec![0; members];
    for owner in table {
        shares[*owner as usize] += 1;
    }
    shares
}

/// The owners by name: what a client sees.
fn owners(members: &[Member], slots: u32) -> Vec<&[u8]> {
    table(members, slots).iter().map(|owner| members[*owner as usize].name.as_slice()).collect()
}

/// Of all slots, the share that changed its owner though the owner of before is still there.
fn needless_moves(before: &[Member], after: &[Member], slots: u32) -> f64 {
    let moved = owners(before, slots)
        .iter()
        .zip(owners(after, slots))
        .filter(|(old, new)| **old != *new && after.iter().any(|member| member.name == **old && member.weight > 0))
        .count();
    moved as f64 / f64::from(slots)
}

#[test]
fn a_hundred_equal_backends_have_equal_shares() {
    for slots in [1 << 14, 1 << 16] {
        let shares = shares(&table(&equal(100), slots), 100);
        let mean = f64::from(slots) / 100.0;
        let largest = *shares.iter().max().unwrap() as f64;
        assert!(largest / mean <= 1.02, "{slots} slots: the largest share is {largest}, the mean {mean}");
    }
}

#[test]
fn removing_any_one_of_a_hundred_moves_less_than_a_hundredth_of_the_others_slots() {
    // The size that a service with a hundred backends gets by itself, and the largest.
    for slots in [1 << 14, 1 << 16] {
        let before = equal(100);
        for removed in [0, 17, 42, 73, 99] {
            let mut after = before.clone();
            after.remove(removed);
            let moved = needless_moves(&before, &after, slots);
            assert!(moved < 0.01, "{slots} slots, without number {removed}: {:.2} % moved", moved * 100.0);
        }
    }
}

/// The table of the paper (section 3.4): the backends take turns, and the first to come keeps the slot.
fn table_of_the_paper(members: &[Member], slots: u32) -> Vec<u32> {
    let mut walkers: Vec<Walker> =
        (0..).zip(members).map(|(index, member)| Walker::new(index, member, slots)).collect();
    let mut table = vec![u32::MAX; slots as usize];
    let mut free = slots;
    while free > 0 {
        for walker in walkers.iter_mut().take(free as usize) {
            while table[walker.position as usize] != u32::MAX {
                walker.position = (walker.position + walker.step) & (slots - 1);
            }
            table[walker.position as usize] = walker.member;
            free -= 1;
        }
    }
    table
}

#[test]
fn half_as_many_slots_move_needlessly_as_in_the_table_of_the_paper() {
    let before = equal(100);
    let mut after = before.clone();
    let removed = after.remove(42);
    let slots = 1 << 14;
    let moved = |table: fn(&[Member], u32) -> Vec<u32>| {
        let (old, new) = (table(&before, slots), table(&after, slots));
        let names = old.iter().map(|owner| &before[*owner as usize].name).zip(&new);
        names.filter(|(old, new)| **old != removed.name && **old != after[**new as usize].name).count()
    };
    let (ours, papers) = (moved(table), moved(table_of_the_paper));
    assert!(ours * 10 < papers * 6, "{ours} slots moved, and {papers} in the paper's table");
}

#[test]
fn adding_one_to_a_hundred_moves_less_than_a_hundredth_of_the_others_slots_needlessly() {
    let before = equal(100);
    let after = equal(101);
    let needless = owners(&before, 1 << 16)
        .iter()
        .zip(owners(&after, 1 << 16))
        .filter(|(old, new)| **old != *new && *new != after[100].name)
        .count();
    assert!((needless as f64) < 0.01 * f64::from(1 << 16), "{needless} slots moved between old backends");
}

#[test]
fn a_small_change_of_one_weight_moves_little() {
    let mut after: Vec<Member> = (0..10).map(|number| member(number, 100)).collect();
    let before = after.clone();
    after[3].weight = 95;
    let changed = owners(&before, 1 << 14).iter().zip(owners(&after, 1 << 14)).filter(|(a, b)| *a != b).count();
    // What has to move is 0.45 % of the slots.
    assert!(changed < (1 << 14) * 2 / 100, "{changed} slots moved");
}

#[test]
fn weights_from_one_to_a_thousand_are_kept_to_the_slot() {
    let members = [member(0, 1), member(1, 1000), member(2, 0)];
    let shares = shares(&table(&members, 1 << 14), 3);
    // 16,384 / 1,001 and the rest.
    assert_eq!(shares, [16, 16_368, 0]);
}

#[test]
fn every_backend_with_a_weight_has_a_slot() {
    let mut members = equal(1000);
    members[0].weight = u16::MAX.into();
    let shares = shares(&table(&members, 1 << 10), 1000);
    assert!(shares.iter().all(|share| *share >= 1), "{shares:?}");
}

#[test]
fn backends_without_a_weight_leave_the_table_empty() {
    assert!(table(&[], 1 << 10).is_empty());
    assert!(table(&[member(0, 0), member(1, 0)], 1 << 10).is_empty());
}

#[test]
fn the_table_does_not_change_from_version_to_version() {
    // Nodes of two versions share virtual IPs during an upgrade.
    let members = [member(0, 5), member(1, 3), member(2, 2)];
    let table = table(&members, 1 << 10);
    let expected = [0, 2, 0, 1, 2, 1, 1, 1, 0, 2, 0, 2, 0, 2, 1, 1, 0, 2, 2, 1, 2, 1, 1, 1, 0, 1, 0, 2, 0, 1, 1, 1];
    assert_eq!(table[..32], expected);
}

proptest! {
    #[test]
    fn the_table_does_not_depend_on_the_order_of_the_members(
        weights in prop::collection::vec(0..50_u16, 1..20), seed: u64,
    ) {
        let members: Vec<Member> = (0..).zip(&weights).map(|(number, weight)| member(number, *weight)).collect();
        let mut shuffled = members.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        prop_assert_eq!(owners(&members, 1 << 10), owners(&shuffled, 1 << 10));
    }

    #[test]
    fn every_slot_has_an_owner_and_every_share_is_its_weight_to_within_a_slot(
        weights in prop::collection::vec(0..=1000_u16, 1..40), bits in 10..13_u32,
    ) {
        let slots = 1 << bits;
        let members: Vec<Member> = (0..).zip(&weights).map(|(number, weight)| member(number, *weight)).collect();
        let table = table(&members, slots);
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        if total == 0 {
            prop_assert!(table.is_empty());
            return Ok(());
        }
        prop_assert_eq!(table.len(), slots as usize);
        // A backend whose share is below one slot takes one, and the largest give it.
        let raised = weights.iter().filter(|weight| **weight > 0 && u64::from(**weight) * u64::from(slots) < total);
        let tolerance = 1 + raised.count();
        for (share, weight) in shares(&table, members.len()).into_iter().zip(&weights) {
            let exact = (u64::from(*weight) * u64::from(slots) / total) as usize;
            prop_assert!((*weight == 0) == (share == 0), "weight {weight} has {share} slots");
            prop_assert!(share.abs_diff(exact) <= tolerance, "weight {weight}: {share} slots, exactly {exact}");
        }
    }
}
