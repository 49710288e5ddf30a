//! Which backend a new flow gets where a scheduler says so, and not its slot (docs/ARCHITECTURE.md, "Schedulers").

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use lb_common::{
    BackendId, Connections, FlowHash, FlowTime, HotLoad, Ring, Service, ServiceId, SlotWord,
    choice::{self, Candidates, Chooser, Timed},
};
use lb_ebpf::verifier::veil;

use crate::maps::{self, AllConnections, AllLatencies, Chunk};

/// The backend for a new flow in a slot with this word, whose owner is the last resort. Nobody, if all are full.
#[inline(always)]
pub fn backend_of_new_flow(service: &Service, hash: FlowHash, word: SlotWord) -> BackendId {
    let chosen = schedule(service.id.get(), word.current().get());
    if chosen == FULL { another_backend(service, hash) } else { BackendId::truncate(chosen) }
}

/// A backend for a new flow that cannot have the one that it should; at times the same again. Nobody, if all are full.
#[inline(always)]
pub fn another_backend(service: &Service, hash: FlowHash) -> BackendId {
    let Ring { first_chunk, len } = service.ring();
    BackendId::truncate(another(service.id.get(), hash.slot(service.slot_mask), first_chunk, len))
}

/// What [`schedule`] answers if [`another`] has to be found: above all backends.
const FULL: u32 = BackendId::COUNT;

/// See [`choice::first_choice`].
///
/// In the interface of C and with numbers only, as the others here: so it is a *global function*, which the verifier checks once, by itself,
/// and not for each way that leads to it (<https://docs.kernel.org/bpf/btf.html>, `BTF_FUNC_GLOBAL`). They call each other as little as
/// can be: what is on the stack at a time has to fit 512 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn schedule(service: u32, owner: u32) -> u32 {
    let (Some(service), Some(connections)) = (ServiceId::new(service), maps::connections()) else { return owner };
    let chooser = Maps { service, connections };
    choice::first_choice(chooser, maps::scheduler(service), BackendId::truncate(owner)).map_or(FULL, BackendId::get)
}

/// See [`choice::another`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn another(service: u32, slot: u32, first_chunk: u32, len: u32) -> u32 {
    let (Some(service), Some(connections)) = (ServiceId::new(service), maps::connections()) else { return 0 };
    let slots = Ring { first_chunk, len };
    choice::another(Maps { service, connections }, maps::scheduler(service), slot, slots).get()
}

/// See [`choice::least`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn least(first_chunk: u32, len: u32, start: u32) -> u32 {
    let (Some(turns), Some(connections)) = (maps::chunk(first_chunk), maps::connections()) else { return 0 };
    choice::least(OneChunk { turns, connections, unknown: len }, Ring { first_chunk, len }, start).get()
}

/// See [`choice::fastest`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn fastest(service: u32, first_chunk: u32, len: u32, random: u32) -> u32 {
    let (Some(service), Some(connections), Some(latencies)) =
        (ServiceId::new(service), maps::connections(), maps::latencies())
    else {
        return 0;
    };
    let (hot, now) = (maps::hot_load(service), maps::now());
    let all = Loop { connections, unknown: len };
    choice::fastest(TimedLoop { all, latencies, hot, now }, Ring { first_chunk, len }, random).get()
}

/// See [`choice::next_with_room`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn next_with_room(first_chunk: u32, len: u32, start: u32) -> u32 {
    let Some(connections) = maps::connections() else { return 0 };
    let ring = Ring { first_chunk, len };
    choice::next_with_room(Loop { connections, unknown: len }, ring, start).get()
}

/// The maps, for a new flow of this service.
#[derive(Clone, Copy)]
struct Maps {
    service: ServiceId,
    connections: AllConnections,
}

impl Candidates for Maps {
    #[inline(always)]
    fn backend_at(self, ring: Ring, index: u32) -> BackendId {
        maps::backend_at(ring, index)
    }

    #[inline(always)]
    fn connections_of(self, backend: BackendId) -> Connections {
        self.connections.of(backend)
    }

    #[inline(always)]
    fn veil(self, value: u64) -> u64 {
        veil(value, self.service.get().into())
    }
}

impl Chooser for Maps {
    #[inline(always)]
    fn next_turn(self, turns: u32) -> u32 {
        maps::next_turn(self.service, turns)
    }

    #[inline(always)]
    fn random(self) -> u32 {
        // SAFETY: the helper takes nothing and returns a number.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn least(self, ring: Ring, start: u32) -> BackendId {
        BackendId::truncate(least(ring.first_chunk, ring.len, start))
    }

    #[inline(always)]
    fn fastest(self, ring: Ring, random: u32) -> BackendId {
        BackendId::truncate(fastest(self.service.get(), ring.first_chunk, ring.len, random))
    }

    #[inline(always)]
    fn next_with_room(self, ring: Ring, start: u32) -> BackendId {
        BackendId::truncate(next_with_room(ring.first_chunk, ring.len, start))
    }
}

/// The turns of a rotation that is so short that they stand in one chunk, for a loop.
#[derive(Clone, Copy)]
struct OneChunk {
    turns: Chunk,
    connections: AllConnections,
    /// Of which the verifier knows nothing.
    unknown: u32,
}

impl Candidates for OneChunk {
    #[inline(always)]
    fn backend_at(self, _ring: Ring, index: u32) -> BackendId {
        self.turns.backend_at(index)
    }

    #[inline(always)]
    fn connections_of(self, backend: BackendId) -> Connections {
        self.connections.of(backend)
    }

    #[inline(always)]
    fn veil(self, value: u64) -> u64 {
        veil(value, self.unknown.into())
    }
}

/// Any ring, for a loop. [`Maps`] would not do: the verifier knows the bounds of a service's id, and follows each turn of the loop.
#[derive(Clone, Copy)]
struct Loop {
    connections: AllConnections,
    /// Of which the verifier knows nothing.
    unknown: u32,
}

impl Candidates for Loop {
    #[inline(always)]
    fn backend_at(self, ring: Ring, index: u32) -> BackendId {
        maps::backend_at(ring, index)
    }

    #[inline(always)]
    fn connections_of(self, backend: BackendId) -> Connections {
        self.connections.of(backend)
    }

    #[inline(always)]
    fn veil(self, value: u64) -> u64 {
        veil(value, self.unknown.into())
    }
}

/// Any ring, for a loop that asks how long backends take to answer.
#[derive(Clone, Copy)]
struct TimedLoop {
    all: Loop,
    latencies: AllLatencies,
    hot: HotLoad,
    now: FlowTime,
}

impl Candidates for TimedLoop {
    #[inline(always)]
    fn backend_at(self, ring: Ring, index: u32) -> BackendId {
        self.all.backend_at(ring, index)
    }

    #[inline(always)]
    fn connections_of(self, backend: BackendId) -> Connections {
        self.all.connections_of(backend)
    }

    #[inline(always)]
    fn veil(self, value: u64) -> u64 {
        self.all.veil(value)
    }
}

impl Timed for TimedLoop {
    #[inline(always)]
    fn latency_of(self, backend: BackendId) -> u32 {
        self.latencies.of(backend).at(self.now)
    }

    #[inline(always)]
    fn hot_load(self) -> HotLoad {
        self.hot
    }
}
