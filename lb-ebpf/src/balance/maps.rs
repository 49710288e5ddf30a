//! The maps, and the accessors that need to know how they are laid out.

use aya_ebpf::{
    Global,
    macros::map,
    maps::{Array, DevMap, PerCpuArray},
};
use lb_common::{
    BackendId, BackendRow, Directory, HashKey, MacAddress, RowIndex, ServiceId, SlotWord, Traffic, Verdict,
    VirtualRouter, layout, mac_word,
};

/// Lets the daemon map the array into its memory (`BPF_F_MMAPABLE`).
const MMAPABLE: u32 = 1 << 10;

#[unsafe(no_mangle)]
static HASH_KEY: Global<HashKey> = Global::new(HashKey([0; 2]));

#[map]
static DIRECTORIES: Array<Directory> = Array::pinned(layout::DIRECTORIES, MMAPABLE);
#[map]
static DIRECTORY_IN_USE: Array<u32> = Array::pinned(1, MMAPABLE);
#[map]
static SLOTS: Array<[u32; layout::CHUNK_SLOTS as usize]> = Array::pinned(layout::SLOT_CHUNKS, MMAPABLE);
#[map]
static ROW_OF: Array<RowIndex> = Array::pinned(BackendId::COUNT, MMAPABLE);
#[map]
static ROWS: Array<BackendRow> = Array::pinned(layout::BACKEND_ROWS, 0);
#[map]
static INTERFACES: Array<u64> = Array::pinned(layout::MAX_INTERFACES, 0);
/// The interface on which this node is master of a virtual router; zero: on none.
#[map]
static VIRTUAL_MACS: Array<u32> = Array::pinned(layout::VIRTUAL_ROUTERS, 0);
#[map]
static EGRESS: DevMap = DevMap::pinned(layout::MAX_INTERFACES, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::pinned(Verdict::COUNT as u32, 0);
#[map]
static SERVICE_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(layout::MAX_SERVICES, 0);
#[map]
static BACKEND_TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::pinned(BackendId::COUNT, 0);

#[inline(always)]
pub fn hash_key() -> HashKey {
    HASH_KEY.load()
}

/// Whether a frame to `destination` that came in by the interface `ifindex` is addressed to this host.
#[inline(always)]
pub fn is_own_mac(ifindex: u32, destination: MacAddress) -> bool {
    INTERFACES.get(ifindex).is_some_and(|known| *known != 0 && *known == mac_word(destination))
}

/// Whether a frame to `destination` that came in by the interface `ifindex` is addressed to a virtual router that this node
/// is master of, there.
#[inline(always)]
pub fn is_own_virtual_mac(ifindex: u32, destination: MacAddress) -> bool {
    let Some(router) = VirtualRouter::with_mac(destination) else {
        return false;
    };
    VIRTUAL_MACS.get_ptr(router.index()).is_some_and(|master_on| load(master_on) == ifindex)
}

/// Reads a word that the daemon may be storing: once, and whole.
#[inline(always)]
fn load<T: Copy>(word: *const T) -> T {
    // SAFETY: the word lies in a map that lives as long as the program, and an aligned word is stored whole.
    unsafe { word.read_volatile() }
}

/// The directory in use.
#[inline(always)]
pub fn directory() -> Option<&'static Directory> {
    DIRECTORIES.get(load(DIRECTORY_IN_USE.get_ptr(0)?))
}

/// The slot word `index` of chunk `chunk`.
#[inline(always)]
pub fn slot(chunk: u32, index: usize) -> Option<SlotWord> {
    SLOTS.get(chunk)?.get(index).map(|bits| SlotWord::from_bits(load(bits)))
}

/// The row of `backend`, if the daemon gave it one.
#[inline(always)]
pub fn row(backend: BackendId) -> Option<&'static BackendRow> {
    let index = load(ROW_OF.get_ptr(backend.get())?);
    if index == RowIndex::NONE {
        return None;
    }
    ROWS.get(index.0)
}

/// Sends the packet from the interface `ifindex` when the program is done; `false` if that interface is no egress.
#[inline(always)]
pub fn redirect(ifindex: u32) -> bool {
    EGRESS.redirect(ifindex, 0).is_ok()
}

#[inline(always)]
pub fn count_verdict(verdict: Verdict) {
    if let Some(count) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: the counter belongs to this CPU, and XDP programs do not interrupt each other on one CPU.
        unsafe { *count += 1 };
    }
}

#[inline(always)]
pub fn count_traffic(service: ServiceId, backend: BackendId, bytes: u32) {
    add(SERVICE_TRAFFIC.get_ptr_mut(service.get()), bytes);
    add(BACKEND_TRAFFIC.get_ptr_mut(backend.get()), bytes);
}

#[inline(always)]
fn add(traffic: Option<*mut Traffic>, bytes: u32) {
    if let Some(traffic) = traffic {
        // SAFETY: the counter belongs to this CPU, and XDP programs do not interrupt each other on one CPU.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += u64::from(bytes);
        }
    }
}
