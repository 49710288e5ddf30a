//! How many connections backends have, and how long they take to answer.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use lb_common::{Answer, BackendId, Connections, HotLoad, Latency, Policy, ServiceId, Tally};
use lb_ebpf::verifier::below;

use super::{CONNECTIONS, HOT_LOADS, LATENCIES, USE_TEST_CLOCK, load, now, scheduler};

/// What is known of the connections of backends.
#[inline(always)]
pub fn connections() -> Option<AllConnections> {
    CONNECTIONS.get_ptr_mut(0).map(|all| AllConnections(all.cast()))
}

/// The connections of all backends, in a map that others change at the same time.
#[derive(Clone, Copy)]
pub struct AllConnections(*mut Connections);

impl AllConnections {
    #[inline(always)]
    fn place(self, backend: BackendId) -> *mut Connections {
        // SAFETY: the map has a place for each number that is below that of the ids.
        unsafe { self.0.add(below::<{ BackendId::COUNT }>(backend.get())) }
    }

    /// Those of `backend`: each number whole, and of about the same time.
    #[inline(always)]
    pub fn of(self, backend: BackendId) -> Connections {
        let place = self.place(backend);
        // SAFETY: the fields lie in a map that lives as long as the program.
        let (tally, weight, limit) =
            unsafe { (&raw const (*place).tally, &raw const (*place).weight, &raw const (*place).limit) };
        Connections { tally: load(tally), weight: load(weight), limit: load(limit) }
    }

    #[inline(always)]
    fn add(self, backend: BackendId, change: u64) {
        // SAFETY: the map lives as long as the program, and the tally, an aligned word, is changed by atomic instructions only.
        unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>((&raw mut (*self.place(backend)).tally).cast(), change);
        }
    }
}

/// How long backends take to answer.
#[inline(always)]
pub fn latencies() -> Option<AllLatencies> {
    LATENCIES.get_ptr_mut(0).map(|all| AllLatencies(all.cast()))
}

/// The latencies of all backends, in a map that others change at the same time.
#[derive(Clone, Copy)]
pub struct AllLatencies(*mut u64);

impl AllLatencies {
    #[inline(always)]
    fn place(self, backend: BackendId) -> *mut u64 {
        // SAFETY: the map has a place for each number that is below that of the ids.
        unsafe { self.0.add(below::<{ BackendId::COUNT }>(backend.get())) }
    }

    /// That of `backend`.
    #[inline(always)]
    pub fn of(self, backend: BackendId) -> Latency {
        Latency::from_bits(load(self.place(backend)))
    }

    #[inline(always)]
    fn store(self, backend: BackendId, latency: Latency) {
        // SAFETY: the word lies in a map that lives as long as the program, and an aligned word is stored whole.
        unsafe { self.place(backend).write_volatile(latency.to_bits()) };
    }
}

/// The load above which the backends of `service` are hot.
#[inline(always)]
pub fn hot_load(service: ServiceId) -> HotLoad {
    HOT_LOADS.get_ptr(service.get()).map_or(HotLoad::default(), |word| HotLoad(load(word)))
}

/// Whether it decides who gets the new flows of `service` how long backends take to answer.
#[inline(always)]
pub fn goes_by_latency(service: ServiceId) -> bool {
    scheduler(service).policy() == Policy::FASTEST
}

/// Takes note that `backend` has taken so many nanoseconds for an answer.
#[inline(always)]
pub fn measured(backend: BackendId, answer: Answer, nanoseconds: u64) {
    if let Some(all) = latencies() {
        // What others measure at the same moment may be lost: see `Latency`.
        all.store(backend, all.of(backend).measured(answer, nanoseconds, now()));
    }
}

/// The exact monotonic clock, in nanoseconds.
#[inline(always)]
pub fn exact_time() -> u64 {
    if USE_TEST_CLOCK.load() != 0 {
        return now().0;
    }
    // SAFETY: the helper takes nothing and returns a number.
    unsafe { bpf_ktime_get_ns() }
}

/// Counts that an active connection is no more `from`'s, and is `to`'s.
///
/// A function of its own, so that the verifier follows it once for each change of an entry.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn count_connection(from: u32, to: u32) -> u32 {
    let (from, to) = (BackendId::truncate(from), BackendId::truncate(to));
    let Some(all) = connections() else { return 0 };
    if from != BackendId::NONE {
        all.add(from, Tally::ENDED);
    }
    if to != BackendId::NONE {
        all.add(to, Tally::BEGUN);
    }
    0
}
