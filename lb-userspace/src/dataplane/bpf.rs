//! bpf(2) commands that aya has no way for: on links while they stay pinned (as long as they are, the death of the daemon does
//! not detach them), on maps of maps, on maps that are in no object, and on many elements of a map at once.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

use aya::{
    Pod,
    maps::{MapData, MapError},
};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type};

use super::DataplaneError;

/// Makes the link pinned at `pin` run `program` from the next packet on (`BPF_LINK_UPDATE`).
pub(super) fn replace_program(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = get_pinned(pin)?;
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = link.as_raw_fd().cast_unsigned();
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd().cast_unsigned();
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &attr) }.map(drop)
}

/// Takes the program of the link pinned at `pin` off its interface (`BPF_LINK_DETACH`). Removing the pin would do so too,
/// some time later.
pub(super) fn detach(pin: &Path) -> io::Result<()> {
    let link = get_pinned(pin)?;
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = link.as_raw_fd().cast_unsigned();
    // SAFETY: the attribute holds no pointer.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &attr) }.map(drop)
}

/// Makes an array of `len` maps like `inner` (`BPF_MAP_CREATE`). Where there is a datapath, its loader does that.
#[cfg(test)]
pub(super) fn create_array_of_maps(len: u32, inner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_1.map_type = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS as u32;
    attr.__bindgen_anon_1.key_size = 4;
    attr.__bindgen_anon_1.value_size = 4;
    attr.__bindgen_anon_1.max_entries = len;
    attr.__bindgen_anon_1.inner_map_fd = inner.as_raw_fd().cast_unsigned();
    // SAFETY: the attribute holds no pointer.
    let fd = unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &attr) }?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts `inner` into the place `index` of the array of maps `outer` (`BPF_MAP_UPDATE_ELEM`).
pub(super) fn put_inner_map(outer: BorrowedFd<'_>, index: u32, inner: BorrowedFd<'_>) -> io::Result<()> {
    let value = inner.as_raw_fd().cast_unsigned();
    let attr = element_attr(outer, &index, Some(&value));
    // SAFETY: the attribute points to `index` and `value`, which outlive the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &attr) }.map(drop)
}

/// Leaves the place `index` of the array of maps `outer` empty (`BPF_MAP_DELETE_ELEM`).
pub(super) fn remove_inner_map(outer: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let attr = element_attr(outer, &index, None);
    // SAFETY: the attribute points to `index`, which outlives the call.
    unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &attr) }.map(drop)
}

fn element_attr(map: BorrowedFd<'_>, index: &u32, value: Option<&u32>) -> bpf_attr {
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd().cast_unsigned();
    attr.__bindgen_anon_2.key = ptr::from_ref(index) as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.map_or(0, |value| ptr::from_ref(value) as u64);
    attr
}

/// Pins an object (`BPF_OBJ_PIN`).
pub(super) fn pin(object: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd().cast_unsigned();
    // SAFETY: the attribute points to `path`, which outlives the call.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &attr) }.map(drop)
}

/// Pins what is pinned at `pin` at another place as well.
pub(super) fn pin_again(pin: &Path, also: &Path) -> io::Result<()> {
    self::pin(get_pinned(pin)?.as_fd(), also)
}

/// Opens the object pinned at `pin` (`BPF_OBJ_GET`).
fn get_pinned(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the attribute points to `path`, which outlives the call.
    let fd = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &attr) }?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Up to so many elements of a hash map, as many as `keys` and `values` have places, from the place `from` on; from the beginning
/// without it (`BPF_MAP_LOOKUP_BATCH`). Returns how many there are, and the place of the next ones, if it was not the end. What is in the
/// map all the while is met once, whatever comes and goes.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Option<u32>)> {
    let mut next = 0_u32;
    let mut attr = zeroed_attr();
    attr.batch.map_fd = map.as_raw_fd().cast_unsigned();
    attr.batch.in_batch = from.as_ref().map_or(0, |from| ptr::from_ref(from) as u64);
    attr.batch.out_batch = ptr::from_mut(&mut next) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = u32::try_from(keys.len().min(values.len())).unwrap_or(u32::MAX);
    // SAFETY: the attribute points to what outlives the call: places, keys and values, as many as `count` says.
    let result = unsafe { bpf_mut(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
    // SAFETY: the field of the union that was filled in above; the kernel has written how many there are.
    let count = unsafe { attr.batch.count } as usize;
    match result {
        Ok(_) => Ok((count, Some(next))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((count, None)),
        Err(error) => Err(error),
    }
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of plain integers: zero is a value of each.
    unsafe { std::mem::zeroed() }
}

/// # Safety
///
/// Pointers in `attr` have to be valid during the call.
unsafe fn bpf(command: bpf_cmd, attr: &bpf_attr) -> io::Result<i32> {
    let mut attr = *attr;
    // SAFETY: the pointers in it the caller sees to.
    unsafe { bpf_mut(command, &mut attr) }
}

/// # Safety
///
/// As of [`bpf`]. The kernel writes its answer to `attr`.
unsafe fn bpf_mut(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole `bpf_attr`, and its pointers the caller sees to.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// A map as the loader of the programs would make it.
pub(super) fn new_map(
    name: &'static str,
    kind: bpf_map_type,
    value_size: usize,
    len: u32,
    flags: u32,
) -> Result<MapData, DataplaneError> {
    const KEY_SIZE: u32 = 4;
    let value_size = u32::try_from(value_size).expect("values of maps are small");
    let map = aya_obj::Map::new_from_params(kind as u32, KEY_SIZE, value_size, len, flags);
    MapData::create(map, name, None).map_err(|source: MapError| DataplaneError::Map { name, source })
}
