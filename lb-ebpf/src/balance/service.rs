//! Which service a packet is for.

use lb_common::{Flow, NetU16, Service, ServiceKey, Verdict, vip_filter_bit};

use crate::maps;

/// The service of {address, port, protocol}, else that of all ports of the address.
#[inline(always)]
pub fn find(flow: &Flow) -> Result<&'static Service, Verdict> {
    if !maps::in_vip_filter(vip_filter_bit(flow.destination)) {
        return Err(Verdict::PassNoService);
    }
    let exact = ServiceKey::new(flow.destination, flow.destination_port(), flow.protocol);
    let any_port = ServiceKey { port: NetU16::new(0), ..exact };
    maps::service(&exact).or_else(|| maps::service(&any_port)).ok_or(Verdict::PassNoService)
}
