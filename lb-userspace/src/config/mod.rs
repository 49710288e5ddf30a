//! The configuration file: what may be written in it, and what it means.
//!
//! [`Config::parse`] is pure. It reads the whole file, even after an error, so that one run tells the operator all
//! that is to be mended; [`ConfigErrors`] gives for each fault the line, what is wrong, and what to write instead.
//!
//! Each section of the file has a module, with its types, its defaults and its rules: [`Node`], [`Interface`],
//! [`Service`], [`Affinity`], [`Backend`], [`HealthCheck`], [`Nat`], [`Quic`] and [`Vrrp`]. They read their keys through the typed reader in `table`.

mod affinity;
mod backend;
mod error;
mod health;
mod idle;
mod interface;
mod latency;
mod nat;
mod node;
mod quic;
mod service;
mod table;
mod text;
mod translation;
mod vrrp;
mod weights;
mod word;

#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use serde::Serialize;
use toml::de::DeTable;

pub use self::affinity::Affinity;
pub use self::backend::{Backend, Endpoint};
pub use self::error::{ConfigError, ConfigErrors, LoadError, Problem};
pub use self::health::{CheckKind, HealthCheck, HttpCheck, Method, StatusRange, TlsCheck};
pub use self::interface::{Gateway, Interface, XdpMode};
pub use self::nat::{Nat, NatTimeouts, Ports};
pub use self::node::{HashKey, Node, TunnelSource};
pub use self::quic::{Quic, ServerId};
pub use self::service::{Algorithm, DrainTimeout, Forwarding, OnDeath, OnFull, Protocol, Service, Tracking};
pub use self::vrrp::{
    Announcement, Authentication, ChecksumHabit, Command, InitialState, Notify, Track, Tracked, VirtualAddress, Vrrp,
    VrrpVersion,
};

use self::service::Tally;
use self::table::{Report, Table, Taken};

/// The most backends that one node carries, over all services.
pub const MAX_BACKENDS: usize = 32_767;

/// The most VRRP instances that one node carries.
pub const MAX_VRRP: usize = 1000;

/// A configuration file in which every rule holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// The interfaces that carry the XDP program, each name once.
    pub interfaces: Vec<Interface>,
    /// The services, each name and each {address, port, protocol} once, in the order of the file.
    pub services: Vec<Service>,
    /// The VRRP instances, each name and each {interface, router id, family} once, in the order of the file.
    pub vrrp: Vec<Vrrp>,
}

impl Config {
    /// Reads and validates `text`. `file_name` stands in front of each error.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, ConfigErrors> {
        let report = Report::new(file_name, text);
        let (document, faults) = DeTable::parse_recoverable(text);
        for fault in &faults {
            report.add(
                fault.span().map_or(0, |span| span.start),
                Problem::new(fault.message(), "correct the TOML here (https://toml.io has a summary)"),
            );
        }
        let mut root = Table::root(&report, &document);
        if faults.is_empty() {
            let config = Self::read(&mut root);
            root.finish();
            report.into_result(config)
        } else {
            // What the parser saved from a broken file is not what the operator wrote.
            Err(report.into_errors())
        }
    }

    /// What may not work, or not as well as it could. In sentences.
    pub fn warnings(&self) -> Vec<String> {
        [idle::warnings(self), translation::warnings(self), latency::warnings(self), weights::warnings(self)].concat()
    }

    /// Reads and validates the file at `path`.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        let text =
            fs::read_to_string(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
        Ok(Self::parse(&path.display().to_string(), &text)?)
    }

    fn read(root: &mut Table<'_>) -> Self {
        let node = root.table("node", "[node]", "node").map_or_else(Node::default, Node::read);

        let mut names = Taken::default();
        let interfaces: Vec<_> = root
            .tables("interface", "[[interface]]", "interface")
            .into_iter()
            .filter_map(|table| Interface::read(table, &mut names))
            .collect();

        let mut tally = Tally::default();
        let services: Vec<_> = root
            .tables("service", "[[service]]", "service")
            .into_iter()
            .filter_map(|table| Service::read(table, &interfaces, &mut tally))
            .collect();
        tally.refuse_loops();

        let vrrp = vrrp::read(root.tables("vrrp", "[[vrrp]]", "VRRP instance"), &tally);
        let config = Self { node, interfaces, services, vrrp };
        translation::check(&config, &tally);
        config
    }
}
