//! A device's offloads: turns them off, as `ethtool -K DEV tx off tso off gso off gro off` does.
//!
//! A veth with checksum offload sends packets with partial checksums, and with segmentation offload packets larger than the
//! MTU: neither exists on a wire, and a program that rewrites or encapsulates packets cannot work on them.

use std::{
    io, mem,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, ensure};

/// `struct ethtool_value` of <linux/ethtool.h>.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_STSO: u32 = 0x1f;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;

/// Applies to the device of that name in the calling thread's network namespace.
pub(super) fn disable(device: &str) -> Result<()> {
    // Segmentation first: it depends on the checksum offload.
    set(device, &[ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_STXCSUM, ETHTOOL_SGRO], 0)
}

/// Turns generic receive offload of such a device on: a veth then polls for its packets, as a network card does.
pub(super) fn enable_gro(device: &str) -> Result<()> {
    set(device, &[ETHTOOL_SGRO], 1)
}

fn set(device: &str, commands: &[u32], data: u32) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    ensure!(device.len() < request.ifr_name.len(), "the device name {device} is too long");
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    for &command in commands {
        let mut value = EthtoolValue { command, data };
        request.ifr_ifru.ifru_data = (&raw mut value).cast();
        // SAFETY: the kernel reads the name and the eight bytes of `value`, which both live until the call returns.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("set offload {command:#x} of {device} to {data}"));
        }
    }
    Ok(())
}
