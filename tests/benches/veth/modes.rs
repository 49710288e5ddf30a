//! The balancer as it is measured.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
};

use lb_tests::lab::config::Forwarding;

/// What `lbd` is told to do.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    pub(crate) name: &'static str,
    pub(crate) forwarding: Forwarding,
    /// More lines of the service.
    keys: &'static str,
}

/// All of them.
pub(crate) const MODES: [Mode; 6] = [
    mode("l2-dsr", Forwarding::L2Dsr, ""),
    mode("ipip", Forwarding::Ipip, ""),
    mode("gue", Forwarding::Gue, ""),
    mode("ipip, all tracked", Forwarding::Ipip, "tracking = \"always\"\n"),
    mode("nat", Forwarding::Nat, ""),
    mode("full-nat", Forwarding::FullNat, ""),
];

const fn mode(name: &'static str, forwarding: Forwarding, keys: &'static str) -> Mode {
    Mode { name, forwarding, keys }
}

/// The first and the last address that backends see in place of the client's: so many that there is a port for each flow. Nobody else in
/// the lab has one of them.
pub(crate) const SOURCES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 128), Ipv4Addr::new(10, 77, 0, 191)];

/// All addresses from the first of [`SOURCES`] to the last.
pub(crate) fn sources() -> impl Iterator<Item = Ipv4Addr> {
    let [first, last] = SOURCES.map(Ipv4Addr::to_bits);
    (first..=last).map(Ipv4Addr::from_bits)
}

impl Mode {
    /// The name of [`Mode::service`].
    pub(crate) const SERVICE: &str = "bench";

    /// Whether its flows are in the table of translated flows.
    pub(crate) const fn translates(self) -> bool {
        matches!(self.forwarding, Forwarding::Nat | Forwarding::FullNat)
    }

    /// The service for `lbd`, with a health check where there is TCP. `nat` are more lines for how it translates, if it does.
    pub(crate) fn service(
        self,
        protocol: &str,
        address: SocketAddr,
        backends: impl Iterator<Item = Ipv4Addr>,
        nat: &str,
    ) -> String {
        let Self { forwarding, keys, .. } = self;
        let mut service = format!(
            "\n[[service]]\nname = \"{}\"\naddress = \"{address}\"\nprotocol = \"{protocol}\"\n\
             forwarding = \"{forwarding}\"\n{keys}",
            Self::SERVICE
        );
        if protocol == "tcp" {
            service += "announce = true\n[service.health]\ntype = \"http\"\npath = \"/healthz\"\n";
        }
        if self.translates() {
            let _ = write!(service, "[service.nat]\n{nat}");
        }
        if forwarding == Forwarding::FullNat {
            let _ = writeln!(service, "sources = {:?}", sources().map(|source| source.to_string()).collect::<Vec<_>>());
        }
        for backend in backends {
            let _ = write!(service, "[[service.backend]]\naddress = \"{backend}\"\n");
        }
        service
    }
}
