//! What the tests of several files need.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use lb_tests::lab::{Lab, Node};
use tokio::time::{Instant, sleep};

/// What takes milliseconds on an idle machine may take this long on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A MAC address that none of the lab's nodes has.
pub(crate) const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x33];

/// Runs `work` in the balancer's network namespace, on a Tokio runtime of one thread.
pub(crate) fn on_balancer(lab: &Lab, work: impl AsyncFnOnce() -> Result<()> + Send) -> Result<()> {
    lab.node("lb").namespace().block_on(work)
}

/// [`Node::ip`].
pub(crate) fn ip(node: &Node, arguments: &str) -> Result<String> {
    node.ip(arguments)
}

/// Waits, while the resolver or announcer goes on, until a node's neighbour entry for an address is as wanted.
pub(crate) async fn wait_for_entry(node: &Node, address: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let entry = ip(node, &format!("neighbour show {address}"))?;
        if wanted(&entry) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "after {SOON:?}, the entry for {address} is still {entry:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("the tests' addresses are well-formed")
}
