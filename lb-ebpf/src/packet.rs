//! Reading and writing headers of the packet under the program's hands.
//!
//! IP headers are lent out of the packet, everything else goes by value. Whoever writes to the packet or moves its head
//! needs the context for himself, so the compiler sees to it that no reference into the packet outlives that.
//!
//! The IP headers are not copied because their fields are arrays of bytes: the compiler would keep copies of them on the
//! stack, in pieces at odd places, which the verifier forbids there (and allows in packets).

use core::{hint::black_box, mem::size_of, ptr};

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use lb_common::{NetU32, checksum::Sum};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    vlan::VlanHdr,
};

/// A header that can be copied from a packet, whatever the bytes there are.
///
/// # Safety
///
/// Every bit pattern has to be a value of the type.
pub unsafe trait Header: Copy {}

// SAFETY: integers and arrays of bytes.
unsafe impl Header for EthHdr {}
// SAFETY: integers and arrays of bytes.
unsafe impl Header for VlanHdr {}
// SAFETY: an integer.
unsafe impl Header for u64 {}
// SAFETY: bytes.
unsafe impl<const N: usize> Header for [u8; N] {}
// SAFETY: integers.
unsafe impl<const N: usize> Header for [NetU32; N] {}

/// A header that can be lent out of a packet, wherever it lies.
///
/// # Safety
///
/// The alignment of the type has to be 1, and every bit pattern has to be a value of it.
pub unsafe trait Lendable {}

// SAFETY: only bytes and arrays of bytes.
unsafe impl Lendable for Ipv4Hdr {}
// SAFETY: only bytes and arrays of bytes.
unsafe impl Lendable for Ipv6Hdr {}

/// The header at `offset` bytes from the start of the frame, unless the frame ends before.
#[inline(always)]
pub fn lend<T: Lendable>(ctx: &XdpContext, offset: usize) -> Option<&T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie between `data` and `data_end`, as just checked; any bytes are a `T`, at any address; and
    // nobody writes to them while the context is borrowed.
    Some(unsafe { &*(start as *const T) })
}

/// A copy of the header at `offset` bytes from the start of the frame, unless the frame ends before.
#[inline(always)]
pub fn read<T: Header>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie between `data` and `data_end`, as just checked, and any bytes are a `T`.
    Some(unsafe { (start as *const T).read_unaligned() })
}

/// Writes `header` at `offset` bytes from the start of the frame; `None` if the frame ends before.
#[inline(always)]
pub fn write<T: Header>(ctx: &mut XdpContext, offset: usize, header: T) -> Option<()> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie between `data` and `data_end`, as just checked, and as the context is
    // borrowed for this call alone, nobody holds a reference to them.
    unsafe { (start as *mut T).write_unaligned(header) };
    Some(())
}

/// The sum of `LEN` bytes, a multiple of four and at most 512, at `offset` bytes from the start of the frame, unless the frame
/// ends before. The kernel adds them up.
#[inline(always)]
pub fn sum_block<const LEN: usize>(ctx: &XdpContext, offset: usize) -> Option<Sum> {
    let start = ctx.data() + offset;
    if start + LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes lie between `data` and `data_end`, as just checked; the helper reads them, and of the other
    // block, which has no bytes, nothing.
    let sum = unsafe { bpf_csum_diff(ptr::null_mut(), 0, start as *mut u32, LEN as u32, 0) };
    u32::try_from(sum).ok().map(|sum| Sum::default().words(NetU32::from_wire(sum.to_ne_bytes())))
}

/// Length of the frame in bytes.
#[inline(always)]
pub fn frame_len(ctx: &XdpContext) -> usize {
    ctx.data_end() - ctx.data()
}

/// Moves the start of the frame by `delta` bytes, back when negative; `None` if there is no room.
#[inline(always)]
pub fn move_head(ctx: &mut XdpContext, delta: i32) -> Option<()> {
    // SAFETY: the context is the one that the kernel gave to this run of the program.
    let result = unsafe { bpf_xdp_adjust_head(ctx.as_ptr().cast(), delta) };
    (result == 0).then_some(())
}

/// Makes the frame `len` bytes long, which is no more than it has; `None` if that cannot be.
#[inline(always)]
pub fn move_tail(ctx: &mut XdpContext, len: usize) -> Option<()> {
    // The black box keeps the compiler from taking the difference of two packet pointers in 32 bits, which the verifier
    // refuses.
    let delta = len as i32 - black_box(frame_len(ctx)) as i32;
    // SAFETY: the context is the one that the kernel gave to this run of the program.
    let result = unsafe { bpf_xdp_adjust_tail(ctx.as_ptr().cast(), delta) };
    (result == 0).then_some(())
}

/// Whether an IPv4 packet is a fragment, the first one included (RFC 791, section 3.1).
#[inline(always)]
pub fn is_fragment(header: &Ipv4Hdr) -> bool {
    const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff;
    u16::from_be_bytes(header.frags) & MORE_FRAGMENTS_OR_OFFSET != 0
}
