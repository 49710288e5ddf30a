//! Weighted Maglev hashing (Eisenbud et al., *Maglev: A Fast and Reliable Software Network Load Balancer*, NSDI 2016,
//! section 3.4), with a rule of its own for who gets a slot.
//!
//! As in the paper, each backend walks the table in a pseudo-random order of its own and takes slots until it has its
//! share. In the paper the backends take turns and the first to come keeps the slot, so a change of one backend shifts
//! everybody's turns. Here all walk at once, each as fast as its weight, and a slot belongs to whoever *reaches it
//! earliest*; who loses a slot walks on. This is a stable matching (Gale and Shapley, *College Admissions and the
//! Stability of Marriage*, 1962): its outcome does not depend on the order of the steps, and when a backend goes, only
//! its slots and the short chains of moves that they set off change hands, half as many as in the paper's table.
//!
//! The size is a power of two, so that the datapath masks where the paper divides; the walk still visits every slot,
//! because its step is odd. Shares are counted out beforehand, in proportion to the weights by largest remainder, so
//! they are as exact as whole slots allow.
//!
//! The table depends on the names and weights of the members and on nothing else, neither their order nor the past: all
//! nodes that see the same members have the same table.

#![expect(
    clippy::cast_possible_truncation,
    reason = "hashes are cut to size on purpose, and shares, slots and walkers are below 2^17"
)]

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// A backend that takes part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What tells the backend apart from the others on every node, such as its address.
    pub name: Vec<u8>,
    /// Its share in proportion to the others, below 2^21; zero takes no slot.
    pub weight: u32,
}

/// Who holds a slot and since when is one number: the time above the index of the walker, so that one comparison says
/// who is earlier.
const WALKER_BITS: u32 = 15;

/// For each of `slots` slots the index in `members` of its owner. Empty if no member has a weight.
///
/// # Panics
///
/// If `slots` is not a power of two, or there are more members than slots or than 32,768.
pub fn table(members: &[Member], slots: u32) -> Vec<u32> {
    assert!(slots.is_power_of_two(), "a table of {slots} slots cannot be masked");
    let mut walkers: Vec<Walker> = (0..)
        .zip(members)
        .filter(|(_, member)| member.weight > 0)
        .map(|(index, member)| Walker::new(index, member, slots))
        .collect();
    assert!(walkers.len() <= slots.min(1 << WALKER_BITS) as usize, "{} backends, {slots} slots", walkers.len());
    if walkers.is_empty() {
        return Vec::new();
    }
    walkers.sort_unstable_by_key(|walker| walker.rank);
    share_out(&mut walkers, slots);
    walk(&mut walkers, slots)
}

/// What a hash of a name is for: independent hashes for independent uses.
#[derive(Clone, Copy)]
enum Purpose {
    Rank = 1,
    Walk = 2,
}

/// The same on all nodes; whoever can choose backend names needs no collision.
fn hash(name: &[u8], purpose: Purpose) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(purpose as u64, 0);
    hasher.write(name);
    hasher.finish()
}

/// One backend on its way through the table.
struct Walker {
    member: u32,
    rank: u64,
    weight: u32,
    /// Slots that it still wants.
    wants: u32,
    /// The slot it stands before.
    position: u32,
    step: u32,
    /// When it gets there, and how long a step takes it, in units of 2^-32 steps of weight 1.
    time: u64,
    pace: u64,
}

impl Walker {
    fn new(index: u32, member: &Member, slots: u32) -> Self {
        let rank = hash(&member.name, Purpose::Rank);
        let walk = hash(&member.name, Purpose::Walk);
        let pace = (1 << 32) / u64::from(member.weight);
        Self {
            member: index,
            rank,
            weight: member.weight,
            wants: 0,
            position: walk as u32 & (slots - 1),
            step: (walk >> 32) as u32 & (slots - 1) | 1,
            // Within the first step, so that backends of one weight do not tie at every step.
            time: ((rank >> 32) * pace) >> 32,
            pace,
        }
    }
}

/// Gives each walker a share of the slots in proportion to its weight, by largest remainder, and at least one.
fn share_out(walkers: &mut [Walker], slots: u32) {
    let total: u64 = walkers.iter().map(|walker| u64::from(walker.weight)).sum();
    let slots = u64::from(slots);
    // A share below one slot is raised to one; what that takes, the largest shares give.
    let exact = |walker: &Walker| u64::from(walker.weight) * slots;
    for walker in walkers.iter_mut() {
        walker.wants = ((exact(walker) / total) as u32).max(1);
    }
    let given: u64 = walkers.iter().map(|walker| u64::from(walker.wants)).sum();
    let mut order: Vec<usize> = (0..walkers.len()).collect();
    if given <= slots {
        order.sort_by_key(|&i| std::cmp::Reverse(exact(&walkers[i]) % total));
        for &i in order.iter().take((slots - given) as usize) {
            walkers[i].wants += 1;
        }
    } else {
        for _ in slots..given {
            let largest = (0..walkers.len()).max_by_key(|&i| walkers[i].wants).expect("there are walkers");
            walkers[largest].wants -= 1;
        }
    }
}

/// Lets everybody walk until all have what they want.
fn walk(walkers: &mut [Walker], slots: u32) -> Vec<u32> {
    const WALKER_MASK: u64 = (1 << WALKER_BITS) - 1;
    const FREE: u64 = u64::MAX;

    let mut held = vec![FREE; slots as usize];
    let mut walking: Vec<usize> = (0..walkers.len()).collect();
    while let Some(index) = walking.pop() {
        let walker = &mut walkers[index];
        let mut displaced = Vec::new();
        while walker.wants > 0 {
            let claim = (walker.time << WALKER_BITS) | index as u64;
            let holder = &mut held[walker.position as usize];
            walker.position = (walker.position + walker.step) & (slots - 1);
            walker.time += walker.pace;
            if claim < *holder {
                if *holder != FREE {
                    displaced.push((*holder & WALKER_MASK) as usize);
                }
                *holder = claim;
                walker.wants -= 1;
            }
        }
        for loser in displaced {
            walkers[loser].wants += 1;
            walking.push(loser);
        }
    }
    held.into_iter().map(|claim| walkers[(claim & WALKER_MASK) as usize].member).collect()
}

#[cfg(test)]
mod tests;
