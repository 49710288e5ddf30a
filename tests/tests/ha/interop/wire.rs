//! What a capture says of the advertisements of several speakers: each of them by itself, and their order.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{LinkSlice, NetSlice, SlicedPacket};
use lb_tests::lab::{Captured, Kind, Lab};
use lb_userspace::{
    config::ChecksumHabit,
    vrrp::{Advertisement, GROUP_V4, GROUP_V6, PROTOCOL},
};

/// Internet control (CS6).
const TRAFFIC_CLASS: u8 = 0xc0;
const CHECKSUM: std::ops::Range<usize> = 6..8;

/// What a node tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The balancer of that number, from 0, is master.
    Reign(usize),
    /// It is not any more.
    Farewell(usize),
}

impl Word {
    fn sender(self) -> usize {
        match self {
            Self::Reign(sender) | Self::Farewell(sender) => sender,
        }
    }
}

/// An advertisement as it has passed.
#[derive(Clone, Debug)]
pub(crate) struct Advert {
    /// The number of the balancer, from 0.
    sender: usize,
    source: IpAddr,
    destination: IpAddr,
    payload: Vec<u8>,
    message: Advertisement,
}

/// Reads a capture, and holds all that it says below the VRRP message against what it has to be. `kinds` are those of the balancers.
pub(crate) fn read(lab: &Lab, kinds: &[Kind], frames: &[Captured]) -> Result<Vec<Advert>> {
    frames.iter().map(|captured| read_one(lab, kinds, &captured.frame)).collect()
}

fn read_one(lab: &Lab, kinds: &[Kind], frame: &[u8]) -> Result<Advert> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link else { bail!("no Ethernet frame: {frame:x?}") };
    let (protocol, ttl, class, source, destination, payload) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let class = header.dcp().value() << 2 | header.ecn().value();
            let (source, destination) = (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()));
            (header.protocol(), header.ttl(), class, source, destination, ip.payload().payload)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (source, destination) = (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()));
            let (next, hops) = (header.next_header(), header.hop_limit());
            (next, hops, header.traffic_class(), source, destination, ip.payload().payload)
        }
        other => bail!("{other:?} is no IP packet"),
    };

    let balancers = lab.balancers();
    let sender = balancers.iter().position(|node| node.mac() == ethernet.source());
    let sender = sender.with_context(|| format!("no balancer has the MAC address {:x?}", ethernet.source()))?;
    let what = format!("an advertisement of {} from {source} to {destination}", kinds[sender].name());
    ensure!(protocol.0 == PROTOCOL, "{what}: protocol {}", protocol.0);
    ensure!(class == TRAFFIC_CLASS, "{what}: traffic class {class:#x}");
    // Of these only, keepalived 2.2 leaves the hop limit as the system has it.
    let is_default = kinds[sender] == Kind::Keepalived && source.is_ipv6() && !destination.is_multicast();
    ensure!(ttl == if is_default { 64 } else { 255 }, "{what}: TTL {ttl}");
    ensure!(
        sources(lab, sender, destination).contains(&source),
        "{what}: not an address of {}",
        balancers[sender].name()
    );
    ensure!(
        receivers(lab, sender).contains(&(destination, ethernet.destination())),
        "{what}: MAC address {:x?}",
        ethernet.destination()
    );

    let (message, rest) = Advertisement::decode(payload, source, destination).with_context(|| what.clone())?;
    ensure!(rest.is_empty(), "{what} is followed by {rest:x?}");
    // The message says all that is in the bytes: no reserved bit, no padding, no checksum that would do as well.
    let again = message.encode(source, destination, ChecksumHabit::PseudoHeader);
    ensure!(payload == again, "{what} is {payload:x?}, expected {:x?}", &again[..]);
    Ok(Advert { sender, source, destination, payload: payload.to_owned(), message })
}

/// The addresses that a balancer may send from.
fn sources(lab: &Lab, sender: usize, destination: IpAddr) -> Vec<IpAddr> {
    let node = &lab.balancers()[sender];
    match destination {
        IpAddr::V4(_) => vec![node.ipv4().into()],
        // The link-local address that the kernel makes of the MAC address (RFC 4291, appendix A).
        IpAddr::V6(to) if to.is_multicast() => {
            let (mac, mut octets) = (node.mac(), [0; 16]);
            octets[..2].copy_from_slice(&[0xfe, 0x80]);
            octets[8..].copy_from_slice(&[&[mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe], &mac[3..]].concat());
            vec![IpAddr::from(octets)]
        }
        IpAddr::V6(_) => vec![node.ipv6().into()],
    }
}

/// Whom a balancer may send to: the address, and the MAC address.
fn receivers(lab: &Lab, sender: usize) -> Vec<(IpAddr, [u8; 6])> {
    // RFC 1112, section 6.4, and RFC 2464, section 7.
    let groups = [
        (IpAddr::from(GROUP_V4), [0x01, 0x00, 0x5e, 0x00, 0x00, 0x12]),
        (IpAddr::from(GROUP_V6), [0x33, 0x33, 0x00, 0x00, 0x00, 0x12]),
    ];
    let others = lab.balancers().iter().enumerate().filter(|(number, _)| *number != sender);
    let peers = others.flat_map(|(_, node)| [(node.ipv4().into(), node.mac()), (node.ipv6().into(), node.mac())]);
    groups.into_iter().chain(peers).collect()
}

/// Fails unless all advertisements of one family differ in nothing but the priority, and a farewell of each kind of speaker, byte by
/// byte, in the checksum alone.
pub(crate) fn ensure_alike(kinds: &[Kind], adverts: &[Advert]) -> Result<()> {
    for is_ipv4 in [true, false] {
        let of_family: Vec<_> = adverts.iter().filter(|advert| advert.source.is_ipv4() == is_ipv4).collect();
        let Some(first) = of_family.first() else { continue };
        for advert in &of_family {
            let expected = Advertisement { priority: advert.message.priority, ..first.message.clone() };
            ensure!(advert.message == expected, "{} says {:?}", kinds[advert.sender].name(), advert.message);
        }
        let farewell = |kind| {
            let mut farewells = of_family.iter().filter(|advert| advert.message.priority == 0);
            let found = farewells.find(|advert| kinds[advert.sender] == kind);
            found.with_context(|| format!("no farewell of {}", kind.name()))
        };
        let without_checksum = |advert: &Advert| {
            let mut payload = advert.payload.clone();
            payload[CHECKSUM].fill(0);
            payload
        };
        let (ours, theirs) = (farewell(Kind::Ours)?, farewell(Kind::Keepalived)?);
        ensure!(without_checksum(ours) == without_checksum(theirs), "{ours:x?}, keepalived: {theirs:x?}");
        // From keepalived's address, ours would be the same.
        let as_theirs = ours.message.encode(theirs.source, theirs.destination, ChecksumHabit::PseudoHeader);
        ensure!(theirs.payload == as_theirs, "{:x?}, keepalived: {theirs:x?}", &as_theirs[..]);
    }
    Ok(())
}

/// What the balancers said with this VRID, in order, repetitions left out. Of a master that gives way, the one advertisement that
/// crosses its successor's is left out, too.
pub(crate) fn conversation(adverts: &[Advert], router_id: u8) -> Vec<Word> {
    let mut runs: Vec<(Word, Vec<IpAddr>)> = Vec::new();
    for advert in adverts.iter().filter(|advert| advert.message.router_id == router_id) {
        let word = match advert.message.priority {
            0 => Word::Farewell(advert.sender),
            _ => Word::Reign(advert.sender),
        };
        match runs.last_mut() {
            Some((last, destinations)) if *last == word => destinations.push(advert.destination),
            _ => runs.push((word, vec![advert.destination])),
        }
    }
    let mut words: Vec<Word> = Vec::new();
    for (index, (word, destinations)) in runs.iter().enumerate() {
        let is_said_once = destinations.iter().enumerate().all(|(index, one)| !destinations[..index].contains(one));
        let crosses = match (words.as_slice(), runs.get(index + 1)) {
            ([.., before, Word::Reign(successor)], Some((next, _))) => {
                is_said_once && matches!(word, Word::Reign(_)) && before == word && next.sender() == *successor
            }
            _ => false,
        };
        if !crosses && words.last() != Some(word) {
            words.push(*word);
        }
    }
    words
}
