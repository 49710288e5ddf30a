//! The addresses and ports that translated flows are given as their source.

use std::{collections::BTreeSet, net::IpAddr};

use lb_common::{Address, layout, nat::NatSource};

use crate::config::Ports;

/// The sources in the datapath, each by its number. Those of a backend stand next to each other. None is taken out while the daemon
/// runs, since flows may have it: at the next start the numbers are free that no flow and no backend has then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(Vec<NatSource>);

impl Sources {
    /// What an earlier daemon left, in the order of the numbers, of which these are in use.
    pub(super) fn new(left: &[NatSource], in_use: &BTreeSet<u16>) -> Self {
        let kept =
            |(number, source): (u16, &NatSource)| if in_use.contains(&number) { *source } else { NatSource::default() };
        let mut kept: Vec<NatSource> = (0..).zip(left).map(kept).collect();
        let used = kept.iter().rposition(|source| *source != NatSource::default()).map_or(0, |last| last + 1);
        kept.truncate(used);
        Self(kept)
    }

    /// The number of the first of these sources, which is `None` if there is no room for them.
    pub(super) fn place(&mut self, addresses: &[IpAddr], ports: Ports) -> Option<u16> {
        let source =
            |address: &IpAddr| NatSource { address: (*address).into(), first_port: ports.first, ports: ports.count() };
        let wanted: Vec<NatSource> = addresses.iter().map(source).collect();
        let runs = || self.0.windows(wanted.len());
        let known = runs().position(|present| present == wanted);
        let is_free = |run: &[NatSource]| run.iter().all(|source| *source == NatSource::default());
        let first = known.or_else(|| runs().position(is_free)).unwrap_or(self.0.len());
        let end = first + wanted.len();
        if end > layout::NAT_SOURCES as usize {
            return None;
        }
        self.0.resize(end.max(self.0.len()), NatSource::default());
        self.0[first..end].copy_from_slice(&wanted);
        u16::try_from(first).ok()
    }

    /// The addresses of all of them.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.0.iter().filter(|source| **source != NatSource::default()).map(|source| source.address)
    }

    /// So many of them, from this number on.
    pub fn run(&self, first: u16, count: u16) -> &[NatSource] {
        self.0.get(usize::from(first)..).and_then(|rest| rest.get(..usize::from(count))).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_same_sources_stand_once_and_others_beside_them() {
        let (mut sources, ports) = (Sources::default(), Ports::default());
        let pair = addresses(&["10.0.0.1", "10.0.0.2"]);
        assert_eq!(sources.place(&pair, ports), Some(0));
        assert_eq!(sources.place(&addresses(&["10.0.0.3"]), ports), Some(2));
        assert_eq!(sources.place(&pair, ports), Some(0));
        assert_eq!(
            sources.place(&addresses(&["10.0.0.2", "10.0.0.3"]), ports),
            Some(1),
            "they happen to be neighbours"
        );
        let run: Vec<IpAddr> = sources.run(1, 2).iter().map(|source| source.address.to_ip()).collect();
        assert_eq!(run, addresses(&["10.0.0.2", "10.0.0.3"]));
        assert_eq!(sources.run(2, 2), []);
    }

    #[test]
    fn what_an_earlier_daemon_left_keeps_its_numbers() {
        let (mut sources, ports) = (Sources::default(), Ports::default());
        sources.place(&addresses(&["10.0.0.1", "10.0.0.2"]), ports);
        let mut left = sources.0.clone();
        left.resize(layout::NAT_SOURCES as usize, NatSource::default());
        let mut sources = Sources::new(&left, &BTreeSet::from([0, 1]));
        assert_eq!(sources.place(&addresses(&["10.0.0.2"]), ports), Some(1));
        assert_eq!(sources.place(&addresses(&["10.0.0.9"]), ports), Some(2));
    }

    #[test]
    fn what_nothing_uses_any_more_makes_room_at_the_next_start() {
        let (mut sources, ports) = (Sources::default(), Ports::default());
        sources.place(&addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]), ports);
        let mut sources = Sources::new(&sources.0, &BTreeSet::from([0, 3, u16::MAX]));
        let shown: Vec<String> = sources.run(0, 4).iter().map(|source| source.address.to_ip().to_string()).collect();
        assert_eq!(shown, ["10.0.0.1", "::", "::", "10.0.0.4"]);
        assert_eq!(sources.place(&addresses(&["10.0.0.8", "10.0.0.9"]), ports), Some(1), "the gap is large enough");
        assert_eq!(sources.place(&addresses(&["10.0.0.3"]), ports), Some(4));
    }

    #[test]
    fn there_is_room_for_so_many_and_no_more() {
        let (mut sources, ports) = (Sources::default(), Ports::default());
        for (number, bits) in (0..).zip(1..=layout::NAT_SOURCES) {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits(bits));
            assert_eq!(sources.place(&[address], ports), Some(number));
        }
        assert_eq!(sources.place(&addresses(&["10.0.0.1"]), ports), None);
    }
}
