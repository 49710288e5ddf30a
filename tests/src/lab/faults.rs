//! Faults of the network between the nodes. The switch makes them; they stay until they are mended.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{
    Lab,
    run::{run, run_with_input},
    topology::Node,
};

/// What nftables has to know before there is a fault; saying it again changes nothing. A port has the name of its node.
const TABLE: &str = "
add table bridge lab
add set bridge lab split { type ifname . ifname; }
add set bridge lab mute { type ifname . ifname; }
add chain bridge lab forward { type filter hook forward priority 0; }
flush chain bridge lab forward
add rule bridge lab forward iifname . oifname @split drop
add rule bridge lab forward ip protocol vrrp iifname . oifname @mute drop
add rule bridge lab forward ip6 nexthdr vrrp iifname . oifname @mute drop
";

impl Lab {
    /// Takes a node's link down: its `eth0` has no carrier.
    pub fn cut(&self, node: &str) -> Result<()> {
        self.set_port(node, "down")
    }

    /// Lets nothing pass between two nodes, in either direction. Their links stay up, and others reach both.
    pub fn split(&self, one: &str, other: &str) -> Result<()> {
        self.ensure_nodes(&[one, other])?;
        self.nft(&format!("add element bridge lab split {{ {}, {} }}\n", direction(one, other), direction(other, one)))
    }

    /// Lets no VRRP packet pass from one node to another; all else passes, and so do those of the other direction.
    pub fn drop_adverts(&self, from: &str, to: &str) -> Result<()> {
        self.ensure_nodes(&[from, to])?;
        self.nft(&format!("add element bridge lab mute {{ {} }}\n", direction(from, to)))
    }

    /// Undoes all faults that a node has a part in.
    pub fn mend(&self, node: &str) -> Result<()> {
        self.ensure_nodes(&[node])?;
        let others = self.nodes().iter().map(Node::name).filter(|other| *other != node);
        let pairs: Vec<_> = others.flat_map(|other| [direction(node, other), direction(other, node)]).collect();
        let pairs = pairs.join(", ");
        // What is not there cannot be deleted.
        let delete = |set| {
            format!("add element bridge lab {set} {{ {pairs} }}\ndelete element bridge lab {set} {{ {pairs} }}\n")
        };
        self.nft(&["split", "mute"].map(delete).concat())?;
        self.set_port(node, "up")
    }

    fn set_port(&self, node: &str, state: &str) -> Result<()> {
        self.ensure_nodes(&[node])?;
        let switch = self.paths.namespace("switch");
        run(switch.command("ip").args(["link", "set", "dev", node, state]))?;
        Ok(())
    }

    fn nft(&self, script: &str) -> Result<()> {
        let mut nft: Command = self.paths.namespace("switch").command("nft");
        // All of it or nothing.
        run_with_input(nft.args(["-f", "-"]), &format!("{TABLE}{script}"))
            .context("change what the switch passes on")?;
        Ok(())
    }

    /// A rule for a port that is not there would hold nothing back.
    fn ensure_nodes(&self, names: &[&str]) -> Result<()> {
        for name in names {
            if !self.nodes().iter().any(|node| node.name() == *name) {
                bail!("the lab {} has no node {name:?}", self.name());
            }
        }
        Ok(())
    }
}

fn direction(from: &str, to: &str) -> String {
    format!("\"{from}\" . \"{to}\"")
}
