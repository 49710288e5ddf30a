//! What the balancer is compared with, on a node of the lab, as its users would set it up.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    Balancer, Process,
    netns::set_sysctl,
    process::Identity,
    run::{run, run_with_input, wait_for},
    state::record,
    topology::Node,
};

/// Where Debian puts the module that a light nginx is without.
pub const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// How long nginx may take until it has all its processes.
const START: Duration = Duration::from_secs(10);

impl Balancer<'_> {
    /// Starts `HAProxy` in TCP mode, with a thread for each CPU.
    pub fn spawn_haproxy(&self, listen: SocketAddr, backends: &[SocketAddr]) -> Result<Process> {
        let config = self.paths().file("haproxy.cfg");
        fs::write(&config, haproxy_config(listen, backends, cpus())).context("write the configuration of HAProxy")?;
        let mut command = self.node().command("haproxy");
        command.args(["-db", "-f"]).arg(config);
        self.spawn("haproxy", command)
    }

    /// Starts nginx with its stream module, with a process for each CPU.
    pub fn spawn_nginx_stream(&self, listen: SocketAddr, backends: &[SocketAddr]) -> Result<Process> {
        let (config, pid) = (self.paths().file("nginx.conf"), self.paths().file("nginx.pid"));
        fs::write(&config, nginx_config(listen, backends, cpus(), &pid)).context("write the configuration of nginx")?;
        let mut command = self.node().command("nginx");
        command.arg("-c").arg(config);
        let mut nginx = self.spawn("nginx", command)?;
        // They would outlive the first process if that is killed.
        let workers = wait_for("nginx's processes", START, || {
            nginx.ensure_running()?;
            let workers = Identity::children(nginx.id())?;
            Ok((workers.len() == cpus()).then_some(workers))
        })?;
        workers.into_iter().try_for_each(|worker| record(&self.lab.paths, worker))?;
        Ok(nginx)
    }
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn haproxy_config(listen: SocketAddr, backends: &[SocketAddr], threads: usize) -> String {
    let mut config = format!(
        r"global
    nbthread {threads}
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen lab
    bind {listen}
    balance roundrobin
"
    );
    for (number, backend) in (1..).zip(backends) {
        let _ = writeln!(config, "    server b{number} {backend} check inter 2s");
    }
    config
}

fn nginx_config(listen: SocketAddr, backends: &[SocketAddr], workers: usize, pid: &Path) -> String {
    let mut config = format!(
        r"load_module {NGINX_STREAM};
daemon off;
pid {};
error_log stderr;
worker_processes {workers};
events {{ worker_connections 4096; }}
stream {{
    server {{
        listen {listen};
        proxy_pass lab;
    }}
    upstream lab {{
",
        pid.display()
    );
    for backend in backends {
        let _ = writeln!(config, "        server {backend};");
    }
    config += "    }\n}\n";
    config
}

/// DNAT by nftables.
#[derive(Clone, Debug)]
pub struct Dnat {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Port 80 of it is what clients ask for.
    pub virtual_ip: Ipv4Addr,
    /// They get the flows in turn.
    pub backends: Vec<Ipv4Addr>,
    pub source: Source,
}

/// The address that backends see as the source of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client's: their answers have to come back through the node.
    Client,
    /// The node's own.
    Node,
    /// One from the first of these to the last.
    Pool(Ipv4Addr, Ipv4Addr),
}

impl Dnat {
    /// Has a node do that.
    pub fn apply(&self, node: &Node) -> Result<()> {
        let mut nft = node.command("nft");
        run_with_input(nft.args(["-f", "-"]), &self.rules()).map(drop).context("apply the rules of nftables")
    }

    fn rules(&self) -> String {
        let Self { protocol, virtual_ip, backends, source } = self;
        let to = if let [backend] = backends.as_slice() {
            backend.to_string()
        } else {
            let map: Vec<_> = (0..).zip(backends).map(|(number, backend)| format!("{number} : {backend}")).collect();
            format!("numgen inc mod {} map {{ {} }}", backends.len(), map.join(", "))
        };
        let mut rules = format!(
            "table ip lab {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {virtual_ip} {protocol} dport 80 dnat to {to}
    }}
"
        );
        let translate = match source {
            Source::Client => return rules + "}\n",
            Source::Node => "masquerade".to_owned(),
            Source::Pool(first, last) => format!("snat to {first}-{last}"),
        };
        let _ = write!(
            rules,
            "    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ct status dnat {translate}
    }}
}}
"
        );
        rules
    }
}

/// Makes a router of a node.
pub fn let_forward(node: &Node) -> Result<()> {
    node.namespace().inside(|| {
        set_sysctl("net/ipv4/ip_forward", "1")?;
        // Packets leave where they came in: nobody is to be told of a shorter way.
        for entry in fs::read_dir("/proc/sys/net/ipv4/conf")? {
            let devices = entry?.file_name();
            set_sysctl(&format!("net/ipv4/conf/{}/send_redirects", devices.to_string_lossy()), "0")?;
        }
        Ok(())
    })
}

/// Has a node's conntrack keep UDP flows without a reply for ten minutes, where half a minute is usual.
pub fn keep_unreplied_flows(node: &Node) -> Result<()> {
    node.namespace().inside(|| set_sysctl("net/netfilter/nf_conntrack_udp_timeout", "600"))
}

/// How many flows a node's conntrack has.
pub fn tracked_flows(node: &Node) -> Result<u64> {
    let read = || Ok(fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count")?);
    Ok(node.namespace().inside(read).context("count the flows of conntrack")?.trim().parse()?)
}

/// Has a node's conntrack forget all flows.
pub fn forget_flows(node: &Node) -> Result<()> {
    run(node.command("conntrack").arg("-F")).map(drop).context("empty the table of conntrack")
}

/// What a program says of its version, or `None` if it is not there.
pub fn version(program: &str, option: &str) -> Option<String> {
    let output = Command::new(program).arg(option).output().ok()?;
    parse_version(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat()))
}

/// The first word of the first line that begins with a number.
fn parse_version(said: &str) -> Option<String> {
    let mut words = said.lines().next()?.split([' ', '/']).map(|word| word.trim_start_matches('v'));
    words.find(|word| word.starts_with(|first: char| first.is_ascii_digit())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_backend_needs_no_choice_and_two_take_turns() {
        let [virtual_ip, one, two] = [100, 11, 12].map(|host| Ipv4Addr::new(10, 77, 0, host));
        let single = Dnat { protocol: "udp", virtual_ip, backends: vec![one], source: Source::Client };
        let rules = single.rules();
        assert!(rules.contains("ip daddr 10.77.0.100 udp dport 80 dnat to 10.77.0.11\n"), "{rules}");
        assert!(!rules.contains("postrouting"), "{rules}");
        let rules = Dnat { protocol: "tcp", backends: vec![one, two], source: Source::Node, ..single.clone() }.rules();
        assert!(rules.contains("dnat to numgen inc mod 2 map { 0 : 10.77.0.11, 1 : 10.77.0.12 }\n"), "{rules}");
        assert!(rules.contains("ct status dnat masquerade\n"), "{rules}");
        let rules = Dnat { source: Source::Pool(one, two), ..single }.rules();
        assert!(rules.contains("ct status dnat snat to 10.77.0.11-10.77.0.12\n"), "{rules}");
    }

    #[test]
    fn a_version_is_found_in_what_each_of_them_says() {
        for (said, version) in [
            ("HAProxy version 2.6.12-1+deb12u4 2025/11/25 - https://haproxy.org/\nStatus: stable", "2.6.12-1+deb12u4"),
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("nftables v1.0.6 (Lester Gooch #5)\n", "1.0.6"),
        ] {
            assert_eq!(parse_version(said).as_deref(), Some(version));
        }
        assert_eq!(parse_version("unknown option\n"), None);
    }
}
