//! Configuration files for tests that need other services than the lab's own.

use std::fmt::{self, Display, Formatter};

use lb_tests::lab::{Lab, Node, config::node_config, topology::virtual_ipv4};

/// A `[[service]]`, as an operator would write it.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) protocol: &'static str,
    pub(crate) forwarding: &'static str,
    /// Where GUE goes, if not to its own port.
    pub(crate) gue_port: Option<u16>,
    pub(crate) announce: bool,
    /// Which flows are remembered.
    pub(crate) tracking: &'static str,
    /// The keys of `[service.health]`; without any, the backends are not checked.
    pub(crate) health: Vec<String>,
    /// Name, address and weight of each.
    pub(crate) backends: Vec<(String, String, u32)>,
}

/// An HTTP check that finds out soon.
pub(crate) const CHECK: [&str; 6] = [
    r#"type = "http""#,
    r#"path = "/healthz""#,
    r#"interval = "100ms""#,
    r#"timeout = "500ms""#,
    "rise = 1",
    "fall = 2",
];

impl Service {
    /// A TCP service in `l2-dsr` mode that is announced and not checked.
    pub(crate) fn new(name: &str, address: &str) -> Self {
        Self {
            name: name.to_owned(),
            address: address.to_owned(),
            protocol: "tcp",
            forwarding: "l2-dsr",
            gue_port: None,
            announce: true,
            tracking: "when-needed",
            health: Vec::new(),
            backends: Vec::new(),
        }
    }

    /// `web` on the first virtual IP, checked, with `backends` at their IPv4 addresses, all of the same weight.
    pub(crate) fn web(backends: &[Node]) -> Self {
        let mut web = Self::new("web", &format!("{}:80", virtual_ipv4(0))).checked();
        for backend in backends {
            web = web.backend(backend.name(), backend.ipv4(), 10);
        }
        web
    }

    /// Its slots move at once, and the flows in them, too.
    pub(crate) fn untracked(self) -> Self {
        Self { tracking: "never", ..self }
    }

    pub(crate) fn checked(self) -> Self {
        Self { health: CHECK.map(str::to_owned).into(), ..self }
    }

    pub(crate) fn backend(mut self, name: &str, address: impl Display, weight: u32) -> Self {
        self.backends.push((name.to_owned(), address.to_string(), weight));
        self
    }
}

impl Display for Service {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, address, protocol, forwarding, gue_port, announce, tracking, health, backends } = self;
        writeln!(
            formatter,
            "\n[[service]]\nname = {name:?}\naddress = {address:?}\nprotocol = {protocol:?}\n\
             forwarding = {forwarding:?}\nannounce = {announce}\ntracking = {tracking:?}"
        )?;
        if let Some(port) = gue_port {
            writeln!(formatter, "gue_port = {port}")?;
        }
        if !health.is_empty() {
            writeln!(formatter, "[service.health]\n{}", health.join("\n"))?;
        }
        for (name, address, weight) in backends {
            writeln!(formatter, "[[service.backend]]\nname = {name:?}\naddress = {address:?}\nweight = {weight}")?;
        }
        Ok(())
    }
}

/// The whole file for the lab's balancer.
pub(crate) fn file(lab: &Lab, services: &[Service]) -> String {
    let services: String = services.iter().map(ToString::to_string).collect();
    node_config(lab.balancer("lb")) + &services
}
