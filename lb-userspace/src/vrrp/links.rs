//! Interfaces and virtual addresses, by netlink, and the frames that announce them.
//!
//! | file | job |
//! |---|---|
//! | `address.rs` | virtual addresses as netlink has them (pure) |
//! | `requests.rs` | orders and questions to the kernel, many in one datagram |
//! | `virtual_mac.rs` | the devices that have the MAC address of a virtual router |
//! | `announce.rs` | tells the link where virtual addresses are |
//! | `changes.rs` | what the kernel reports about interfaces and addresses |
//!
//! All calls return when the kernel has done what was asked: it does so while the request is being sent, so that a task that
//! waits for the answer would only come later to it. They work in the network namespace of the thread that opened them.
//!
//! A virtual address is on an interface for a time only, its lease, which [`Links::renew`] extends. When nobody does any more,
//! because everything of ours was killed, the kernel takes the address off by itself, up to a second after the lease has ended.

mod address;
mod announce;
mod changes;
mod requests;
mod virtual_mac;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Display,
    fs, io,
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use rtnetlink::packet_core::DecodeError;
use thiserror::Error;

use self::{
    address::{Present, PutMode},
    requests::{Order, Requests},
    virtual_mac::Parent,
};
pub use self::{
    announce::AnnounceSocket,
    changes::{LinkChange, changes},
};
use crate::{config::VirtualAddress, neighbour};

/// How the kernel is told which addresses are ours (`IFA_PROTO`), so that those that a crash leaves behind are found again:
/// the number of VRRP among the IP protocols. It differs from [`neighbour::PROTOCOL`], the daemon's, which takes away what
/// it does not know. Linux before 5.18 does not keep it.
pub const ADDRESS_MARK: u8 = 112;

/// What can go wrong between VRRP and the kernel.
#[derive(Debug, Error)]
pub enum LinkError {
    /// There is no netlink socket to be had.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The socket does not work any more.
    #[error("cannot talk to the kernel by netlink: {0}")]
    Socket(#[source] io::Error),
    /// The kernel answered something that is not understood.
    #[error("cannot read what the kernel answered by netlink: {0}")]
    Answer(#[source] DecodeError),
    /// The kernel refuses.
    #[error("cannot {what}: {source}")]
    Refused {
        /// What it was asked for.
        what: String,
        /// Its reason.
        source: io::Error,
    },
    /// A setting of the kernel cannot be changed.
    #[error("cannot set {} to {}: {source}", path.display(), value.trim())]
    Setting {
        /// Its file.
        path: PathBuf,
        /// What was to be in it.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// The name that a device of ours is to have is another device's.
    #[error("there is a device {0} that is not of VRRP: rename it")]
    ForeignDevice(String),
}

impl LinkError {
    fn refused(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Refused { what, source }
    }
}

/// One interface as VRRP needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its index.
    pub ifindex: u32,
    /// Whether it is switched on and has a carrier.
    pub up: bool,
    /// Its MAC address; `None` if it is not an Ethernet device.
    pub mac: Option<[u8; 6]>,
    /// The device that its frames come in by, and where an XDP program meets them: a VLAN sub-interface's parent, else itself.
    pub receiver: u32,
    /// Whether an XDP program is attached to the receiver.
    pub xdp: bool,
    /// The addresses that are neither virtual addresses nor the daemon's, in the kernel's order. IPv6 addresses that are not
    /// usable (tentative, or found to be duplicates) are left out.
    pub addresses: Vec<IpAddr>,
}

/// A device that virtual addresses are put on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// Its index.
    pub ifindex: u32,
    /// Whether it is one of [`Links::create_virtual_mac`], rather than an interface of this host.
    pub virtual_mac: bool,
}

/// Interfaces and virtual addresses.
#[derive(Debug)]
pub struct Links {
    requests: Requests,
    /// The virtual addresses that were put and not taken: older kernels do not keep the mark.
    placed: BTreeSet<(Device, VirtualAddress)>,
    /// Interfaces that were told to keep secondary addresses.
    promoting: HashSet<u32>,
    /// By index.
    parents: BTreeMap<u32, Parent>,
}

impl Links {
    /// In the network namespace of the calling thread.
    pub fn open() -> Result<Self, LinkError> {
        Ok(Self {
            requests: Requests::open()?,
            placed: BTreeSet::new(),
            promoting: HashSet::new(),
            parents: BTreeMap::new(),
        })
    }

    /// How an interface is; `None` if there is no such interface.
    pub fn state(&mut self, interface: &str) -> Result<Option<LinkState>, LinkError> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(interface.to_owned()));
        let Some(message) = self.link(question, format!("find interface {interface}"))? else {
            return Ok(None);
        };
        let (ifindex, link) = neighbour::netlink::link(&message);
        let receiver = link.vlan.and_then(|vlan| vlan.parent).unwrap_or(ifindex);
        let xdp = if receiver == ifindex {
            has_xdp(&message)
        } else {
            let mut question = LinkMessage::default();
            question.header.index = receiver;
            self.link(question, format!("find interface {receiver}"))?.is_some_and(|parent| has_xdp(&parent))
        };
        let addresses = self
            .addresses(Some(ifindex))?
            .into_iter()
            .filter(|present| present.usable && !matches!(present.mark, ADDRESS_MARK | neighbour::PROTOCOL))
            .filter(|present| !self.has_placed(ifindex, present.address.address))
            .map(|present| present.address.address)
            .collect();
        Ok(Some(LinkState { ifindex, up: link.up, mac: link.mac, receiver, xdp, addresses }))
    }

    /// Puts virtual addresses on a device, for the time of the lease (whole seconds, at least one).
    ///
    /// Those of ours that are there get the new lease. An address that is there and is not ours stays as it is, and goes
    /// without a lease. Of several that the kernel refuses, the first is in the error; the others are put.
    ///
    /// The prefixes of IPv6 addresses, and of all on a virtual router's device, get no route: it would end with the lease,
    /// though the interface's own addresses need it. IPv4 addresses on an interface are as `ip address add` makes them, but
    /// that other addresses of the prefix stay when one goes (`promote_secondaries`).
    pub fn put(&mut self, device: Device, addresses: &[VirtualAddress], lease: Duration) -> Result<(), LinkError> {
        if !device.virtual_mac
            && addresses.iter().any(|address| address.address.is_ipv4() && address.prefix_length < 32)
        {
            self.promote_secondaries(device.ifindex);
        }
        let orders: Vec<_> =
            addresses.iter().map(|&address| address::put(device, address, lease, PutMode::Create)).collect();
        let mut refused = None;
        let mut present = Vec::new();
        for (&address, result) in addresses.iter().zip(self.requests.order(&orders)?) {
            match result {
                Ok(()) => drop(self.placed.insert((device, address))),
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => present.push(address),
                Err(error) => {
                    // Renewing tries again.
                    self.placed.insert((device, address));
                    refused.get_or_insert((address, error));
                }
            }
        }
        if !present.is_empty() {
            let ours = self.ours_on(device.ifindex)?;
            let (ours, theirs): (Vec<_>, Vec<_>) =
                present.into_iter().partition(|address| ours.contains(&address.address));
            for address in theirs {
                log::warn!(
                    "{address} is on interface {} and was not put there by VRRP: it stays there",
                    device.ifindex
                );
            }
            self.placed.extend(ours.iter().map(|&address| (device, address)));
            self.renew_these(ours.into_iter().map(|address| (device, address)), lease)?;
        }
        match refused {
            Some((address, source)) => {
                Err(LinkError::refused(format!("put {address} on interface {}", device.ifindex))(source))
            }
            None => Ok(()),
        }
    }

    /// Renews the lease of all virtual addresses that were put and not taken, and puts back those that somebody removed.
    /// Of several that the kernel refuses, the first is in the error; the others are renewed.
    pub fn renew(&mut self, lease: Duration) -> Result<(), LinkError> {
        self.renew_these(self.placed.clone(), lease)
    }

    /// Takes virtual addresses off a device. Those that are not there, or not ours, are no error.
    pub fn take(&mut self, device: Device, addresses: &[VirtualAddress]) -> Result<(), LinkError> {
        let Device { ifindex, .. } = device;
        let (mut ours, unknown): (Vec<_>, Vec<_>) =
            addresses.iter().copied().partition(|address| self.has_placed(ifindex, address.address));
        if !unknown.is_empty() {
            let marked = self.ours_on(ifindex)?;
            ours.extend(unknown.into_iter().filter(|address| marked.contains(&address.address)));
        }
        self.placed.retain(|(on, address)| on.ifindex != ifindex || !addresses.contains(address));
        let orders: Vec<_> = ours.iter().map(|&address| address::take(ifindex, address)).collect();
        let results = self.requests.order(&orders)?;
        for (address, result) in ours.iter().zip(results) {
            match result {
                Err(error) if !is_absent(&error) => {
                    return Err(LinkError::refused(format!("take {address} off interface {ifindex}"))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The virtual addresses that were put and not taken.
    pub fn placed(&self) -> Vec<(u32, VirtualAddress)> {
        self.placed.iter().map(|(device, address)| (device.ifindex, *address)).collect()
    }

    /// All addresses that bear our mark, those of an earlier run included, with the index of their interface.
    pub fn ours(&mut self) -> Result<Vec<(u32, VirtualAddress)>, LinkError> {
        let present = self.addresses(None)?.into_iter();
        Ok(present
            .filter(|present| present.mark == ADDRESS_MARK)
            .map(|present| (present.ifindex, present.address))
            .collect())
    }

    fn renew_these(
        &mut self,
        addresses: impl IntoIterator<Item = (Device, VirtualAddress)>,
        lease: Duration,
    ) -> Result<(), LinkError> {
        let addresses: Vec<_> = addresses.into_iter().collect();
        let orders: Vec<_> =
            addresses.iter().map(|&(device, address)| address::put(device, address, lease, PutMode::Replace)).collect();
        let results = self.requests.order(&orders)?;
        let mut refused = None;
        for (at, result) in addresses.iter().zip(results) {
            match result {
                Ok(()) => {}
                // The interface is gone. One that is made anew gets its addresses anew.
                Err(error) if is_absent(&error) => drop(self.placed.remove(at)),
                Err(error) => drop(refused.get_or_insert((at, error))),
            }
        }
        match refused {
            Some(((device, address), source)) => {
                Err(LinkError::refused(format!("renew {address} on interface {}", device.ifindex))(source))
            }
            None => Ok(()),
        }
    }

    fn has_placed(&self, ifindex: u32, address: IpAddr) -> bool {
        self.placed.iter().any(|(device, placed)| device.ifindex == ifindex && placed.address == address)
    }

    /// Our addresses on an interface.
    fn ours_on(&mut self, ifindex: u32) -> Result<HashSet<IpAddr>, LinkError> {
        let present = self.addresses(Some(ifindex))?.into_iter();
        let marked = present.filter(|present| present.mark == ADDRESS_MARK).map(|present| present.address.address);
        let placed = self.placed.iter().filter(|(device, _)| device.ifindex == ifindex);
        Ok(marked.chain(placed.map(|(_, address)| address.address)).collect())
    }

    /// The addresses of an interface, or of all.
    fn addresses(&mut self, ifindex: Option<u32>) -> Result<Vec<Present>, LinkError> {
        let answers = self.requests.ask_all(address::question(ifindex))?;
        let messages = match answers {
            Ok(messages) => messages,
            // The interface is gone, and its addresses with it.
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(source) => return Err(LinkError::refused("list addresses")(source)),
        };
        Ok(messages.iter().filter_map(address::read).collect())
    }

    fn link(&mut self, question: LinkMessage, what: String) -> Result<Option<LinkMessage>, LinkError> {
        match self.requests.ask(RouteNetlinkMessage::GetLink(question))? {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(message)),
            Ok(_) => Ok(None),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(LinkError::Refused { what, source }),
        }
    }

    /// Of the IPv4 addresses of one prefix the first is primary; when it goes, be it because its lease has ended, the kernel
    /// removes the others with it unless it is told to make another one primary.
    fn promote_secondaries(&mut self, ifindex: u32) {
        if !self.promoting.insert(ifindex) {
            return;
        }
        let set = || {
            let name = nix::net::if_::if_indextoname(ifindex)
                .map_err(|errno| LinkError::refused(format!("find interface {ifindex}"))(errno.into()))?;
            set_ipv4(&name.to_string_lossy(), "promote_secondaries", "1")
        };
        if let Err(error) = set() {
            log::warn!("{error}: when a virtual address goes, the kernel may take others of its prefix with it");
        }
    }
}

/// Whether the kernel says that the interface, or the address, is not there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EADDRNOTAVAIL | libc::ENXIO))
}

fn has_xdp(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => {
            xdp.iter().any(|item| matches!(item, LinkXdp::Attached(how) if *how != XdpAttached::None))
        }
        _ => false,
    })
}

/// A setting of an interface, in `/proc/sys/net/ipv4/conf`.
fn set_ipv4(interface: &str, name: &str, value: &str) -> Result<(), LinkError> {
    set(ipv4_setting(interface, name), value)
}

fn ipv4_setting(interface: &str, name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv4/conf").join(interface).join(name)
}

fn ipv6_setting(interface: &str, name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv6/conf").join(interface).join(name)
}

fn set(path: PathBuf, value: &str) -> Result<(), LinkError> {
    fs::write(&path, value).map_err(|source| LinkError::Setting { path, value: value.to_owned(), source })
}
