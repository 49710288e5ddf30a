//! Which service a packet is for.

use lb_common::{Flow, NetU16, Service, ServiceKey, Verdict};

use crate::maps;

/// The service of {address, port, protocol}, else that of all ports of the address.
#[inline(always)]
pub fn find(flow: &Flow) -> Result<&'static Service, Verdict> {
    let directory = maps::directory().ok_or(Verdict::PassNoService)?;
    if !directory.may_hold(flow.destination) {
        return Err(Verdict::PassNoService);
    }
    let exact = ServiceKey::new(flow.destination, flow.destination_port(), flow.protocol);
    let any_port = ServiceKey { port: NetU16::new(0), ..exact };
    directory.find(&exact).or_else(|| directory.find(&any_port)).ok_or(Verdict::PassNoService)
}
