//! The time of entries: that of `CLOCK_MONOTONIC_COARSE`.

use lb_common::{SlotWord, layout};

use crate::{
    case::Datapath as _,
    fixture::{Balancer, keys},
    flow_table::{Entry, State},
    world::{FAMILIES, SERVICE, SERVICE_PORT},
};

use super::scene::{CURRENT, Kind, Slot, frame, hash_of, id, numbered};

fn coarse_clock() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `now` only.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    assert_eq!(result, 0, "the kernel has this clock");
    let [seconds, nanoseconds] = [now.tv_sec, now.tv_nsec].map(i64::cast_unsigned);
    seconds * 1_000_000_000 + nanoseconds
}

#[test]
fn a_flow_is_stamped_with_the_time_of_the_coarse_clock() {
    let Some(mut balancer) = Balancer::with_the_clock_of_the_kernel() else { return };
    let moving = SlotWord::from_bits(Slot::Moving.word());
    let service = balancer.put_slots(SERVICE, &vec![moving; layout::MIN_SLOTS as usize]);
    balancer.put_services(keys(SERVICE_PORT), service);
    balancer.put_row(id(CURRENT), &numbered(CURRENT).row(FAMILIES[0]));
    for family in FAMILIES {
        let packet = Kind::Syn.packet(family);
        let entry = |time| Entry::new(hash_of(&packet), CURRENT, State::Opening, time);
        let before = coarse_clock();
        balancer.run(&frame(&packet).to_bytes());
        let after = coarse_clock();
        let found = balancer.flow_table().find(hash_of(&packet)).expect("a SYN in a moving slot is remembered");
        assert!(found == entry(before) || found == entry(after), "{found:?} between {before} and {after} ns");
    }
}
