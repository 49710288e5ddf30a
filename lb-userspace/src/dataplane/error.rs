use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::{MapError, xdp::XdpMapError},
    programs::ProgramError,
};

/// What can go wrong between the daemon and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The object could not be loaded, or its maps not be made.
    #[error("cannot load the eBPF object (needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)")]
    Load(#[source] EbpfError),
    /// The kernel refused the program.
    #[error("the kernel refuses the eBPF program")]
    Verify(#[source] ProgramError),
    /// The embedded object does not hold what it should: a build gone wrong.
    #[error("the eBPF object has no {name}")]
    Missing {
        /// The program or map.
        name: &'static str,
    },
    /// A map is not of the kind that it should be.
    #[error("map {name}")]
    Map {
        /// The map.
        name: &'static str,
        /// Why.
        source: MapError,
    },
    /// A map could not be mapped into memory.
    #[error("cannot map {name} into memory")]
    Mapping {
        /// The map.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The elements of a map could not be read.
    #[error("cannot read {name}")]
    Reading {
        /// The map.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A pinned flow table is not the one that the datapath uses.
    #[error(
        "{} is not the flow table that it should be; `lbd unload`, then start again: connections whose backend has changed \
         lately will break", path.display()
    )]
    FlowTable {
        /// The pin.
        path: PathBuf,
    },
    /// The services do not fit the directory, however it is hashed.
    #[error("{services} services do not fit the directory")]
    Directory {
        /// How many there are.
        services: usize,
    },
    /// An interface cannot be redirected to.
    #[error("interface number {ifindex} cannot be used to send")]
    Egress {
        /// The interface's index.
        ifindex: u32,
        /// Why.
        source: Box<XdpMapError>,
    },
    /// No such interface.
    #[error("there is no interface {interface:?}; `ip link` lists them")]
    NoInterface {
        /// The name.
        interface: String,
    },
    /// The interface's index does not fit the map.
    #[error("interface {interface:?} has number {ifindex}; numbers up to {limit} can be used")]
    InterfaceNumber {
        /// The name.
        interface: String,
        /// The interface's index.
        ifindex: u32,
        /// The largest that can be used.
        limit: u32,
    },
    /// The program could not be attached.
    #[error("cannot attach to {interface} in {mode} mode{hint}")]
    Attach {
        /// The interface.
        interface: String,
        /// The mode that was tried.
        mode: super::AttachMode,
        /// What to do.
        hint: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Something with a pin.
    #[error("cannot {action} {}", path.display())]
    Pin {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon has the pins.
    #[error("another lbd runs on {}; stop it, or give this one its own pins, state and socket in [node]", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// An earlier daemon left maps whose layout is not read.
    #[error(
        "{} was left by an lbd in development, whose maps this one does not read; `lbd unload` removes it, and cuts the connections of \
         services that translate",
        path.display()
    )]
    UnknownLayout {
        /// The folder of its pins.
        path: PathBuf,
    },
    /// The place for pins is not on a bpf file system.
    #[error("{} is not on a bpf file system; mount one: mount -t bpf bpf /sys/fs/bpf", path.display())]
    NotBpffs {
        /// The path.
        path: PathBuf,
    },
}
