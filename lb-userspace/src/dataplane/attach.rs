//! Attaching the balancing program to interfaces, by links that are pinned.

use std::{
    ffi::CString,
    fmt, fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramError, XdpMode, links::FdLink};
use lb_common::layout;

use super::{Dataplane, DataplaneError, bpf, migrate, pins::pin_error};
use crate::config;

/// Where on its way in a packet meets the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// In the driver, before the kernel has touched the packet.
    Native,
    /// In the kernel's receive path: works with every driver, and is slower.
    Generic,
}

impl AttachMode {
    const ALL: [Self; 2] = [Self::Native, Self::Generic];

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn to_aya(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An interface on which the program runs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Attachment {
    /// The interface's name.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// The mode that was possible.
    pub mode: AttachMode,
    /// Whether an earlier daemon had attached it: the program was replaced between two packets.
    pub taken_over: bool,
}

impl Dataplane {
    /// Runs the program on `interface`. Where a program of an earlier daemon runs in a mode that is wanted, it is replaced
    /// and no packet misses both; a change of mode detaches it first.
    pub fn attach(&mut self, interface: &config::Interface) -> Result<Attachment, DataplaneError> {
        let ifindex = interface_index(&interface.name)?;
        self.programs.keep();
        let modes: &[AttachMode] = match interface.xdp {
            config::XdpMode::Auto => &AttachMode::ALL,
            config::XdpMode::Native => &[AttachMode::Native],
            config::XdpMode::Generic => &[AttachMode::Generic],
        };
        let attachment = |mode, taken_over| Attachment { interface: interface.name.clone(), ifindex, mode, taken_over };
        for &mode in modes {
            if self.take_over(ifindex, mode)? {
                return Ok(attachment(mode, true));
            }
        }
        self.detach_other_modes(ifindex)?;
        let mut refused = None;
        for &mode in modes {
            match self.attach_new(&interface.name, ifindex, mode) {
                Ok(()) => {
                    if let Some(error) = refused {
                        log::warn!("{}: {error}; attached in generic mode, which is slower", interface.name);
                    }
                    return Ok(attachment(mode, false));
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.expect("there is at least one mode, and it was refused"))
    }

    /// Detaches the program from every interface that is not among `keep`. No program of an earlier daemon is attached then, so
    /// the maps of one of the layout before go, too.
    pub fn detach_all_but(&self, keep: &[Attachment]) -> Result<(), DataplaneError> {
        let kept: Vec<PathBuf> =
            keep.iter().map(|attachment| self.link_pin(attachment.ifindex, attachment.mode)).collect();
        for pin in self.pins.link_pins()? {
            if !kept.contains(&pin) {
                log::info!("detaching {}: its interface is not in the configuration", pin.display());
                detach(&pin)?;
            }
        }
        self.programs.unpin_others()?;
        migrate::finish(&self.pins)
    }

    /// Puts this program into the link that an earlier daemon left; `false` if there is none that works.
    fn take_over(&mut self, ifindex: u32, mode: AttachMode) -> Result<bool, DataplaneError> {
        let pin = self.link_pin(ifindex, mode);
        if !pin.exists() {
            return Ok(false);
        }
        let program = self.program()?.fd().map_err(DataplaneError::Verify)?;
        match bpf::replace_program(&pin, program.as_fd()) {
            Ok(()) => Ok(true),
            // The interface went away under the link, and its number came back.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                detach(&pin)?;
                Ok(false)
            }
            Err(source) => Err(pin_error("replace the program of", &pin, source)),
        }
    }

    fn detach_other_modes(&self, ifindex: u32) -> Result<(), DataplaneError> {
        AttachMode::ALL.iter().try_for_each(|&mode| detach(&self.link_pin(ifindex, mode)))
    }

    fn attach_new(&mut self, interface: &str, ifindex: u32, mode: AttachMode) -> Result<(), DataplaneError> {
        let pin = self.link_pin(ifindex, mode);
        let refused = |source: io::Error| DataplaneError::Attach {
            interface: interface.to_owned(),
            mode,
            hint: attach_hint(mode, &source),
            source,
        };
        let program = self.program()?;
        let link = program
            .attach_to_if_index(ifindex, mode.to_aya())
            .and_then(|id| program.take_link(id))
            .map_err(|error| refused(io_error(error)))?;
        let link = FdLink::try_from(link).map_err(|error| refused(io::Error::other(error)))?;
        link.pin(&pin).map(drop).map_err(|error| pin_error("pin", &pin, io::Error::other(error)))
    }

    fn link_pin(&self, ifindex: u32, mode: AttachMode) -> PathBuf {
        self.pins.links().join(format!("{mode}-{ifindex}"))
    }
}

/// The index of `interface`, if the maps can hold it.
pub fn interface_index(interface: &str) -> Result<u32, DataplaneError> {
    let no_interface = || DataplaneError::NoInterface { interface: interface.to_owned() };
    let name = CString::new(interface).map_err(|_| no_interface())?;
    let ifindex = nix::net::if_::if_nametoindex(name.as_c_str()).map_err(|_| no_interface())?;
    if ifindex >= layout::MAX_INTERFACES {
        let limit = layout::MAX_INTERFACES - 1;
        return Err(DataplaneError::InterfaceNumber { interface: interface.to_owned(), ifindex, limit });
    }
    Ok(ifindex)
}

fn attach_hint(mode: AttachMode, error: &io::Error) -> &'static str {
    match (mode, error.raw_os_error()) {
        (_, Some(libc::EBUSY | libc::EEXIST)) => {
            ": another XDP program is attached; `bpftool net` and `bpftool link` show whose it is (if that of an lbd with other \
             pins: `lbd unload` with its configuration)"
        }
        (AttachMode::Native, Some(libc::EOPNOTSUPP)) => {
            ": the driver has no native XDP; write xdp = \"generic\" or \"auto\""
        }
        (AttachMode::Native, Some(libc::EINVAL | libc::ERANGE | libc::E2BIG)) => {
            ": the driver refuses native XDP as it is set up (MTU, queues, LRO); see the kernel log"
        }
        _ => "",
    }
}

fn io_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}

/// Detaches the link pinned at `pin`, if there is one.
pub(super) fn detach(pin: &Path) -> Result<(), DataplaneError> {
    match bpf::detach(pin) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        // The interface is gone, and took the program with it.
        Err(source) if source.raw_os_error() == Some(libc::ENOLINK) => {}
        Err(source) => return Err(pin_error("detach the program of", pin, source)),
        Ok(()) => {}
    }
    fs::remove_file(pin).map_err(|source| pin_error("remove", pin, source))
}
