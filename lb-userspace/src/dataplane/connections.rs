//! How many connections backends have, as the datapath counts them, and what it knows of backends when it chooses one.

use std::{io, sync::atomic::Ordering};

use lb_common::{BackendId, Connections as Entry, Tally, flow_table::ConnectionCounter};

use super::mapped::Mapped;

/// The map of connections, mapped into memory. Packets count in it at the same time.
#[derive(Debug)]
pub struct Connections(Mapped);

const STRIDE: usize = size_of::<Entry>();

impl Connections {
    pub(super) const LEN: usize = BackendId::COUNT as usize * STRIDE;

    pub(super) const fn new(map: Mapped) -> Self {
        Self(map)
    }

    /// Connections that no datapath counts, for tests and benchmarks.
    pub fn in_memory() -> io::Result<Self> {
        Ok(Self(Mapped::anonymous(Self::LEN)?))
    }

    /// How many connections `backend` has.
    pub fn tally(&self, backend: BackendId) -> Tally {
        Tally::from_bits(self.0.words64()[Self::offset(backend) / size_of::<u64>()].load(Ordering::SeqCst))
    }

    /// All that is known of `backend`.
    pub fn of(&self, backend: BackendId) -> Entry {
        let word = |field| self.0.word32(Self::offset(backend) + field).load(Ordering::Relaxed);
        Entry {
            tally: self.tally(backend),
            weight: word(std::mem::offset_of!(Entry, weight)),
            limit: word(std::mem::offset_of!(Entry, limit)),
        }
    }

    /// All tallies, by id.
    pub(super) fn tallies(&self) -> Vec<Tally> {
        (0..BackendId::COUNT).map(|id| self.tally(BackendId::truncate(id))).collect()
    }

    /// Sets what its connections count by, and how many it may have; zero is any number.
    pub fn store_capacity(&self, backend: BackendId, weight: u32, limit: u32) {
        let offset = Self::offset(backend);
        self.0.word32(offset + std::mem::offset_of!(Entry, weight)).store(weight, Ordering::Relaxed);
        self.0.word32(offset + std::mem::offset_of!(Entry, limit)).store(limit, Ordering::Relaxed);
    }

    /// Makes good a difference that was found.
    pub fn correct(&self, backend: BackendId, more: i64) {
        self.add(backend, Tally::correction(more));
    }

    const fn offset(backend: BackendId) -> usize {
        backend.get() as usize * STRIDE
    }
}

impl ConnectionCounter for Connections {
    fn add(&self, backend: BackendId, change: u64) {
        self.0.words64()[Self::offset(backend) / size_of::<u64>()].fetch_add(change, Ordering::SeqCst);
    }
}
