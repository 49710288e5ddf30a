//! The smallest XDP program, `return XDP_PASS`, on the far end of a balancer's link.
//!
//! A veth takes packets from its peer's `XDP_TX` or a redirect only while it has an XDP program of its own. The program is two
//! instructions: no object file, and nothing to build.

use std::{
    ffi::CString,
    fs, io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use nix::errno::Errno;

use super::run::run;

/// `struct bpf_insn` of <linux/bpf.h>; `registers` is `dst_reg:4, src_reg:4`.
#[repr(C)]
struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` needs.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The part of `union bpf_attr` that `BPF_OBJ_PIN` needs.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TYPE_XDP: u32 = 6;
const XDP_PASS: i32 = 2;

const PROGRAM: [Instruction; 2] = [
    // r0 = XDP_PASS (BPF_ALU64 | BPF_MOV | BPF_K)
    Instruction { opcode: 0xb7, registers: 0, offset: 0, immediate: XDP_PASS },
    // exit (BPF_JMP | BPF_EXIT)
    Instruction { opcode: 0x95, registers: 0, offset: 0, immediate: 0 },
];

/// Attaches the program, in native mode, to the device of that name in the calling thread's network namespace; it stays as long as the
/// device does. `pin` is a path in bpffs that exists only during the call.
pub(super) fn attach(device: &str, pin: &Path) -> Result<()> {
    let program = load().context("load the XDP_PASS program")?;
    obj_pin(&program, pin).with_context(|| format!("pin the program at {}", pin.display()))?;
    let attached = run(Command::new("ip").args(["link", "set", "dev", device, "xdpdrv", "pinned"]).arg(pin));
    fs::remove_file(pin).with_context(|| format!("remove the pin {}", pin.display()))?;
    attached.map(drop)
}

fn load() -> io::Result<OwnedFd> {
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: u32::try_from(PROGRAM.len()).map_err(io::Error::other)?,
        insns: PROGRAM.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
    };
    // SAFETY: the attributes are what the command expects; the program and the license they point to are constants.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &attributes) }?;
    let fd = fd.try_into().map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn obj_pin(program: &OwnedFd, pin: &Path) -> Result<()> {
    let path = CString::new(pin.as_os_str().as_encoded_bytes())?;
    let attributes = ObjPin {
        pathname: path.as_ptr().expose_provenance() as u64,
        bpf_fd: program.as_raw_fd().try_into()?,
        file_flags: 0,
    };
    // SAFETY: the attributes are what the command expects; the path they point to lives until the call returns.
    unsafe { bpf(BPF_OBJ_PIN, &attributes) }?;
    Ok(())
}

/// bpf(2).
///
/// # Safety
/// `attributes` is the part of `union bpf_attr` that `command` reads, and its pointers are valid.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of the attributes, takes the rest for zero, and the caller vouches for the pointers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), mem::size_of::<T>()) };
    Ok(Errno::result(result)?)
}
