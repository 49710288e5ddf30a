//! Which backend a new flow gets where a scheduler says so, and not its slot (docs/ARCHITECTURE.md, "Schedulers").

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use lb_common::{BackendId, FlowHash, Policy, Ring, Scheduler, Service, ServiceId, SlotWord};
use lb_ebpf::verifier::veil;

use crate::maps::{self, AllConnections};

/// How many backends are asked for room when the one that was chosen is full.
const ATTEMPTS: u32 = 64;

/// The backend for a new flow in a slot with this word, whose owner is the last resort. Nobody, if all are full.
#[inline(always)]
pub fn backend_of_new_flow(service: &Service, hash: FlowHash, word: SlotWord) -> BackendId {
    let Ring { first_chunk, len } = service.ring();
    BackendId::truncate(schedule(
        service.id.get(),
        word.current().get(),
        hash.slot(service.slot_mask),
        first_chunk,
        len,
    ))
}

/// The same, of the service with this id, in slot number `slot` of the ring of its slots, which `owner` has.
///
/// In the interface of C and with numbers only: so it is a *global function*, which the verifier checks once, by itself, and not for
/// each way that leads to it (<https://docs.kernel.org/bpf/btf.html>, `BTF_FUNC_GLOBAL`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn schedule(service: u32, owner: u32, slot: u32, first_chunk: u32, len: u32) -> u32 {
    let slots = Ring { first_chunk, len };
    choose(service, BackendId::truncate(owner), slot, slots).get()
}

#[inline(always)]
fn choose(service: u32, owner: BackendId, slot: u32, slots: Ring) -> BackendId {
    let Some(service) = ServiceId::new(service) else { return owner };
    let scheduler = maps::scheduler(service);
    let Some(connections) = maps::connections() else { return owner };
    let ring = scheduler.rotation();
    let (chosen, ring, start) = if scheduler.policy() == Policy::SLOT || ring.len == 0 {
        (owner, slots, slot)
    } else {
        let Some(start) = first(service, scheduler) else { return owner };
        let chosen = match scheduler.policy() {
            Policy::LEAST => BackendId::truncate(least(ring.first_chunk, ring.len, start)),
            Policy::LEAST_OF_TWO => lighter(ring, start, random(ring), connections),
            _ => maps::backend_at(ring, start),
        };
        (chosen, ring, start)
    };
    if !scheduler.is_limited() || !connections.of(chosen).is_full() {
        return chosen;
    }
    BackendId::truncate(next_with_room(ring.first_chunk, ring.len, start))
}

/// The turn that the choice begins with.
#[inline(always)]
fn first(service: ServiceId, scheduler: Scheduler) -> Option<u32> {
    match scheduler.policy() {
        Policy::NEXT | Policy::LEAST => maps::next_turn(service, scheduler.turns()),
        _ => Some(random(scheduler.rotation())),
    }
}

#[inline(always)]
fn random(ring: Ring) -> u32 {
    // SAFETY: the helper takes nothing and returns a number.
    let number = unsafe { bpf_get_prandom_u32() };
    ((u64::from(number) * u64::from(ring.len)) >> 32) as u32
}

#[inline(always)]
fn lighter(ring: Ring, one: u32, other: u32, connections: AllConnections) -> BackendId {
    let [one, other] = [maps::backend_at(ring, one), maps::backend_at(ring, other)];
    let [one_load, other_load] = [one, other].map(|backend| connections.of(backend).load());
    if other_load.is_less_than(one_load) { other } else { one }
}

/// The one with the fewest connections for its weight; of several the one whose turn is next from `start` on. One that is full only if
/// all are. Its turns stand in one chunk.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn least(first_chunk: u32, len: u32, start: u32) -> u32 {
    let (Some(turns), Some(connections)) = (maps::chunk(first_chunk), maps::connections()) else { return 0 };
    let ring = Ring { first_chunk, len };
    // What the verifier does not know, it does not follow.
    let veiled = |value: u64| veil(value, len.into());
    let mut index = start;
    let mut best = turns.backend_at(index);
    let mut fewest = connections.of(best).load();
    for _ in 1..Policy::MAX_COMPARED {
        index = veiled(ring.after(index).into()) as u32;
        let backend = turns.backend_at(index);
        let load = connections.of(backend).load();
        if load.is_less_than(fewest) {
            (best, fewest) = (backend, load);
        }
        best = BackendId::truncate(veiled(best.get().into()) as u32);
        fewest = fewest.map(veiled);
    }
    best.get()
}

/// The next backend of a ring, after the one at `start`, that may have more connections.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn next_with_room(first_chunk: u32, len: u32, start: u32) -> u32 {
    let Some(connections) = maps::connections() else { return 0 };
    let ring = Ring { first_chunk, len };
    let veiled = |value: u32| veil(value.into(), len.into()) as u32;
    let mut index = start;
    for _ in 0..ATTEMPTS {
        index = veiled(ring.after(index));
        let backend = BackendId::truncate(veiled(maps::backend_at(ring, index).get()));
        if backend != BackendId::NONE && !connections.of(backend).is_full() {
            return backend.get();
        }
    }
    BackendId::NONE.get()
}
