//! What is to be reached, and whether it was.

use lb_tests::benchmark::{Limit, Target};

use crate::{
    modes::{MODES, Mode},
    packets::{Flows, Network, PathResult},
    tcp::{self, TcpResult},
};

const FULL_NAT: &str = "full-nat";
const NFTABLES: &str = "nftables, full-nat";
const HAPROXY: &str = "HAProxy";

const EIGHTH: f64 = 1.0 / 8.0;

/// All that the results tell something about.
pub(crate) fn of(packets: &[PathResult], tcp: &[TcpResult]) -> Vec<Target> {
    let mut targets = Vec::new();
    for network in Network::ALL {
        targets.extend(rates(packets, network));
        targets.extend(own_shares(packets, network));
    }
    let node = |result: &TcpResult| result.node_us;
    let own_share = |result: &TcpResult| Some(result.standing.own_cost);
    for is_above_relay in [false, true] {
        targets.extend(beside_haproxy(tcp, tcp::BY_NODE, "CPU of the node", EIGHTH, is_above_relay, node));
        targets.extend(beside_haproxy(tcp, tcp::ONE_CONNECTION, "own share", EIGHTH, is_above_relay, own_share));
    }
    targets.extend(beside_haproxy(tcp, tcp::CONNECTIONS, "own share", EIGHTH, false, own_share));
    targets.extend(beside_haproxy(tcp, tcp::ONE_CONNECTION, "p50", 0.6, false, |result| Some(result.p50_us)));
    targets
}

/// Packets a second beside the reflector's: the worst case counts.
fn rates(packets: &[PathResult], network: Network) -> impl Iterator<Item = Target> {
    [("l2-dsr", 0.85), ("ipip", 0.85), (FULL_NAT, 0.7)].into_iter().filter_map(move |(mode, least)| {
        let results = packets.iter().filter(|result| result.network == network && result.path == mode);
        let found = results.map(|result| result.standing.rate_ratio).reduce(f64::min)?;
        let what = format!("{mode}, by the {}: packets/s of the reflector's", network.name());
        Some(Target::new(what, Limit::AtLeast(least), found))
    })
}

/// What a packet takes beside nftables' that does the same.
fn own_shares(packets: &[PathResult], network: Network) -> impl Iterator<Item = Target> {
    Flows::ALL.into_iter().filter_map(move |flows| {
        let own_share = |path: &str| {
            let is_it =
                |result: &&PathResult| result.network == network && result.flows == flows && result.path == path;
            packets.iter().find(is_it).map(|result| result.standing.own_cost)
        };
        let what = format!("{FULL_NAT}, by the {}, {}: own share of nftables'", network.name(), flows.name());
        Some(Target::new(what, Limit::AtMost(0.2), own_share(FULL_NAT)? / own_share(NFTABLES)?))
    })
}

/// What a request takes beside `HAProxy`'s; where `is_above_relay`, what each takes more than a relay does that goes the same way.
fn beside_haproxy(
    tcp: &[TcpResult],
    case: &str,
    what: &str,
    most: f64,
    is_above_relay: bool,
    figure: impl Fn(&TcpResult) -> Option<f64>,
) -> Vec<Target> {
    let of = |contender: &str| {
        let result = tcp.iter().find(|result| result.case == case && result.contender == contender)?;
        figure(result)
    };
    let above = |contender: &str, relay: &str| {
        let way = if is_above_relay { of(relay)? } else { 0.0 };
        Some(of(contender)? - way)
    };
    let above_what = if is_above_relay { " above the relay's" } else { "" };
    let target = |mode: &Mode| {
        let relay = if mode.translates() { tcp::RELAY_BOTH_WAYS } else { tcp::RELAY };
        let found = above(mode.name, relay)? / above(HAPROXY, tcp::RELAY_BOTH_WAYS)?;
        let what = format!("{}, {case}: {what}{above_what}, of HAProxy's", mode.name);
        Some(Target::new(what, Limit::AtMost(most), found))
    };
    MODES.iter().filter_map(target).collect()
}
