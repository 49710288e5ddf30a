//! The words that the datapath decides by: whose a slot is, whose turn, and where a backend's row stands.

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering},
};

use lb_common::{BackendId, RowIndex, Service, SlotWord, layout};

use super::mapped::Mapped;

const CHUNK_BYTES: usize = layout::CHUNK_SLOTS as usize * size_of::<u32>();
/// Distance in bytes of two row words: array maps round each element up to 8 bytes.
const ROW_WORD_STRIDE: usize = 8;

/// The maps of slots and of rows, mapped into memory. One thread stores words, others may read them meanwhile.
#[derive(Debug)]
pub struct Words {
    slots: Mapped,
    row_of: Mapped,
}

impl Words {
    pub(super) const SLOTS_LEN: usize = layout::SLOT_CHUNKS as usize * CHUNK_BYTES;
    pub(super) const ROW_OF_LEN: usize = BackendId::COUNT as usize * ROW_WORD_STRIDE;

    pub(super) const fn new(slots: Mapped, row_of: Mapped) -> Self {
        Self { slots, row_of }
    }

    /// Words that no datapath reads, all of them zero, for tests and benchmarks.
    pub fn in_memory() -> io::Result<Self> {
        Ok(Self::new(Mapped::anonymous(Self::SLOTS_LEN)?, Mapped::anonymous(Self::ROW_OF_LEN)?))
    }

    /// The word of `slot`.
    pub fn slot(&self, service: &Service, slot: u32) -> SlotWord {
        SlotWord::from_bits(self.slots.word32(slot_offset(service, slot)).load(Ordering::Relaxed))
    }

    /// Stores the word of `slot`.
    pub fn store_slot(&self, service: &Service, slot: u32, word: SlotWord) {
        self.slots.word32(slot_offset(service, slot)).store(word.to_bits(), Ordering::Release);
    }

    /// Stores the turns of a rotation, from `first_chunk` on.
    pub fn store_turns(&self, first_chunk: u32, turns: &[BackendId]) {
        let words = (0..).step_by(size_of::<u32>()).zip(turns);
        let start = first_chunk as usize * CHUNK_BYTES;
        for (offset, backend) in words {
            self.slots.word32(start + offset).store(SlotWord::stable(*backend).to_bits(), Ordering::Relaxed);
        }
    }

    /// Where the row of `backend` stands.
    pub fn row(&self, backend: BackendId) -> RowIndex {
        RowIndex(self.row_word(backend).load(Ordering::Relaxed))
    }

    /// Stores where the row of `backend` stands.
    pub fn store_row(&self, backend: BackendId, row: RowIndex) {
        self.row_word(backend).store(row.0, Ordering::Release);
    }

    fn row_word(&self, backend: BackendId) -> &AtomicU32 {
        self.row_of.word32(backend.get() as usize * ROW_WORD_STRIDE)
    }
}

fn slot_offset(service: &Service, slot: u32) -> usize {
    let (chunk, index) = service.locate(slot);
    chunk as usize * CHUNK_BYTES + index * size_of::<u32>()
}
