//! Ethernet frames.

use etherparse::{EtherType, Ethernet2Header, SingleVlanHeader, VlanId, VlanPcp};
use lb_common::MacAddress;

/// A frame in its parts.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) destination: MacAddress,
    pub(crate) source: MacAddress,
    /// From the outside in.
    pub(crate) tags: Vec<Tag>,
    pub(crate) ether_type: EtherType,
    pub(crate) packet: Vec<u8>,
    /// What Ethernet puts behind a short packet.
    pub(crate) padding: Vec<u8>,
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    /// Customer (802.1Q) or service (802.1ad).
    pub(crate) kind: EtherType,
    /// Priority, drop eligibility and VLAN id.
    pub(crate) tci: u16,
}

impl Tag {
    /// An 802.1Q tag.
    pub(crate) const fn customer(tci: u16) -> Self {
        Self { kind: EtherType::VLAN_TAGGED_FRAME, tci }
    }

    /// An 802.1ad tag.
    pub(crate) const fn service(tci: u16) -> Self {
        Self { kind: EtherType::PROVIDER_BRIDGING, tci }
    }
}

impl Frame {
    #[must_use]
    pub(crate) fn tagged(self, tags: &[Tag]) -> Self {
        Self { tags: tags.to_vec(), ..self }
    }

    /// Padded to the 60 bytes that Ethernet asks for, with bytes that are not zero.
    #[must_use]
    pub(crate) fn padded(self) -> Self {
        let missing = 60_usize.saturating_sub(self.to_bytes().len());
        Self { padding: vec![0xee; missing], ..self }
    }

    /// Length of everything before the packet, in bytes.
    pub(crate) fn link_len(&self) -> usize {
        Ethernet2Header::LEN + self.tags.len() * SingleVlanHeader::LEN
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut ether_type = self.ether_type;
        let mut tags = Vec::new();
        for tag in self.tags.iter().rev() {
            tags.splice(..0, vlan_header(tag.tci, ether_type).to_bytes());
            ether_type = tag.kind;
        }
        let ethernet = Ethernet2Header { source: self.source, destination: self.destination, ether_type };
        [&ethernet.to_bytes()[..], &tags, &self.packet, &self.padding].concat()
    }
}

fn vlan_header(tci: u16, ether_type: EtherType) -> SingleVlanHeader {
    SingleVlanHeader {
        pcp: VlanPcp::try_new((tci >> 13) as u8).expect("three bits"),
        drop_eligible_indicator: tci >> 12 & 1 == 1,
        vlan_id: VlanId::try_new(tci & 0xfff).expect("twelve bits"),
        ether_type,
    }
}
