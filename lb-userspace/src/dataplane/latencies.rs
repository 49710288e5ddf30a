//! How long backends take to answer, as the datapath measures it, or health probes do where it cannot.

use std::{io, sync::atomic::Ordering, time::Duration};

use lb_common::{BackendId, FlowTime, Latency};

use super::mapped::Mapped;

/// The map of latencies, mapped into memory. Packets write to it at the same time.
#[derive(Debug)]
pub struct Latencies(Mapped);

impl Latencies {
    pub(super) const LEN: usize = BackendId::COUNT as usize * size_of::<Latency>();

    pub(super) const fn new(map: Mapped) -> Self {
        Self(map)
    }

    /// Latencies that no datapath measures, for tests.
    pub fn in_memory() -> io::Result<Self> {
        Ok(Self(Mapped::anonymous(Self::LEN)?))
    }

    /// How long `backend` is taken to take now, if that is known.
    pub fn of(&self, backend: BackendId, now: FlowTime) -> Option<Duration> {
        let nanoseconds = self.load(backend).at(now);
        (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds.into()))
    }

    /// Takes note of how long a probe of `backend` took.
    pub fn probed(&self, backend: BackendId, duration: Duration) {
        let nanoseconds = u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX);
        self.store(backend, self.load(backend).probed(nanoseconds));
    }

    /// Nothing is known of `backend`.
    pub fn forget(&self, backend: BackendId) {
        self.store(backend, Latency::UNKNOWN);
    }

    fn load(&self, backend: BackendId) -> Latency {
        Latency::from_bits(self.0.words64()[backend.get() as usize].load(Ordering::Relaxed))
    }

    fn store(&self, backend: BackendId, latency: Latency) {
        self.0.words64()[backend.get() as usize].store(latency.to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_backend_has_its_own_latency_until_it_is_forgotten() {
        let latencies = Latencies::in_memory().unwrap();
        let [one, other] = [1, 2].map(BackendId::truncate);
        latencies.probed(one, Duration::from_millis(4));
        latencies.probed(one, Duration::from_millis(2));
        latencies.probed(other, Duration::from_mins(1));
        let of = |backend| latencies.of(backend, FlowTime(7));
        assert_eq!(of(one), Some(Duration::from_millis(3)));
        assert_eq!(of(other), Some(Duration::from_nanos(u32::MAX.into())), "as much as there is room for");
        latencies.forget(one);
        assert_eq!(of(one), None);
    }
}
