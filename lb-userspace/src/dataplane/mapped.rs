//! Array maps in the daemon's memory (`BPF_F_MMAPABLE`): a change is a store, without a system call.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, AtomicU64},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// An array map, mapped whole. The datapath reads while the daemon writes, so all access is atomic.
#[derive(Debug)]
pub(super) struct Mapped {
    base: NonNull<libc::c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed through atomics.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the `len` bytes of the map `fd`.
    pub(super) fn new(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base =
            unsafe { mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)? };
        Ok(Self { base, len })
    }

    /// Memory of this process alone, `len` zeros, for what has to be tried without a map.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let len = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: as above.
        let base =
            unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)? };
        Ok(Self { base, len })
    }

    /// The 32-bit word at `offset` bytes, which has to be a multiple of 4 inside the map.
    pub(super) fn word32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `at` gives an aligned address inside the mapping, which lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    /// All of it, as 64-bit words.
    pub(super) fn words64(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins at a page, is at least that long, and lives as long as `self`.
        unsafe { slice::from_raw_parts(self.base.cast().as_ptr(), self.len.get() / size_of::<u64>()) }
    }

    /// Element number `index` of an array of `T`.
    ///
    /// # Safety
    ///
    /// Any bytes have to be a `T`, and nobody may write to the element as long as it is borrowed.
    pub(super) unsafe fn as_ref<T>(&self, index: usize) -> &T {
        // SAFETY: `at` gives an aligned address inside the mapping; the rest the caller sees to.
        unsafe { &*self.at(index * size_of::<T>()) }
    }

    /// The same, to be written.
    ///
    /// # Safety
    ///
    /// Any bytes have to be a `T`, and no packet may read the element as long as it is borrowed.
    pub(super) unsafe fn as_mut<T>(&mut self, index: usize) -> &mut T {
        // SAFETY: as above, and `self` is borrowed for this alone.
        unsafe { &mut *self.at(index * size_of::<T>()) }
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.len.get());
        // SAFETY: the offset lies inside the mapping, as just checked.
        unsafe { self.base.byte_add(offset) }.cast().as_ptr()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.base, self.len.get()) };
        debug_assert!(unmapped.is_ok());
    }
}
