//! Services whose slots are picked by the client's address, and changes of what picks them. The expected hash comes from the siphasher
//! library.

use std::{hash::Hasher as _, net::IpAddr};

use etherparse::IpNumber;
use lb_common::{BackendId, HashInput, HashInputs, Service, SlotWord, layout};
use siphasher::sip::SipHasher13;

use crate::{
    backend::Backend,
    fixture::{Balancer, HASH_KEY, keys},
    oracle::flow_hash,
    packet::{Packet, flags},
    world::{FAMILIES, Family, SERVICE, SERVICE_PORT},
};

const BACKENDS: u8 = 7;

/// One service whose slot number `i` is of the backend `1 + i % 7`.
struct Scene {
    balancer: Balancer,
    service: Service,
}

impl Scene {
    fn new(hash: HashInputs, is_armed: bool) -> Option<Self> {
        let mut balancer = Balancer::empty()?;
        let word = |slot: u32| {
            let owner = BackendId::truncate(owner(slot.into()).into());
            SlotWord::new(owner, owner, is_armed, is_armed)
        };
        let service = balancer.put_slots(SERVICE, &(0..layout::MIN_SLOTS).map(word).collect::<Vec<_>>());
        for number in 1..=BACKENDS {
            balancer.put_row(BackendId::truncate(number.into()), &Backend::numbered(number).row(Family::V4));
        }
        let mut scene = Self { balancer, service };
        scene.pick_by(hash);
        Some(scene)
    }

    fn pick_by(&mut self, hash: HashInputs) {
        for key in keys(SERVICE_PORT) {
            self.balancer.remove_service(key);
        }
        self.balancer.put_services(keys(SERVICE_PORT), Service { hash, ..self.service });
    }

    fn send(&mut self, packet: &Packet) -> Option<u8> {
        let family = if packet.source.is_ipv4() { Family::V4 } else { Family::V6 };
        self.balancer.reached(&family.frame(packet.to_bytes()).to_bytes())
    }
}

fn owner(slot: u64) -> u8 {
    1 + u8::try_from(slot % u64::from(layout::MIN_SLOTS) % u64::from(BACKENDS)).expect("few backends")
}

/// The owner of the slot that the first bits of the client's address pick.
fn owner_by_source(packet: &Packet, prefix: u32) -> u8 {
    let mut bytes = match packet.source.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    for bit in prefix as usize..bytes.len() * 8 {
        bytes[bit / 8] &= !(0x80 >> (bit % 8));
    }
    let mut hasher = SipHasher13::new_with_key(&HASH_KEY);
    hasher.write(&bytes);
    owner(hasher.finish())
}

fn owner_by_flow(packet: &Packet) -> u8 {
    owner(flow_hash(HASH_KEY, &packet.to_bytes()))
}

fn packet(family: Family, client: u8, host: u8, port: u16, flags: u8) -> Packet {
    let mut packet = family.packet(IpNumber::TCP);
    let address: IpAddr = match family {
        Family::V4 => [10, 3, client, host].into(),
        Family::V6 => [0x20, 1, 0xd, 0xb8, 0, client, 0, 0, 0, 0, 0, 0, 0, 0, 0, host].into(),
    };
    packet.source = (address, port).into();
    packet.segment.flags = flags;
    packet
}

fn by_source(prefix: u8) -> HashInput {
    HashInput::source(prefix).expect("a length")
}

#[test]
fn all_flows_of_the_clients_in_one_prefix_have_one_backend() {
    for (family, prefix) in [(Family::V4, 24), (Family::V4, 32), (Family::V6, 48), (Family::V6, 128), (Family::V4, 9)] {
        let Some(mut scene) = Scene::new(HashInputs::new(by_source(prefix)), false) else { return };
        for client in 0..40 {
            for (host, port) in [(1, 2000), (1, 2001), (200, 2000)] {
                let packet = packet(family, client, host, port, flags::ACK);
                let expected = owner_by_source(&packet, prefix.into());
                assert_eq!(scene.send(&packet), Some(expected), "{} in a prefix of {prefix} bits", packet.source);
            }
        }
    }
}

#[test]
fn flows_of_one_client_are_remembered_each_for_itself() {
    let Some(mut scene) = Scene::new(HashInputs::new(by_source(24)), true) else { return };
    let count = 2000;
    for port in 1024..1024 + count {
        scene.send(&packet(Family::V4, 1, 1, port, flags::SYN));
    }
    assert_eq!(scene.balancer.flow_table().entries().len(), usize::from(count));
}

#[test]
fn while_what_picks_slots_changes_flows_stay_where_they_were_and_new_ones_go_where_they_will_be() {
    let to_and_fro =
        [(by_source(24), HashInput::FLOW), (HashInput::FLOW, by_source(24)), (by_source(16), by_source(24))];
    for ((now, before), family) in to_and_fro.into_iter().zip(FAMILIES.into_iter().cycle()) {
        let Some(mut scene) = Scene::new(HashInputs::new(before), true) else { return };
        let owner_by = |input: HashInput, packet: &Packet| match input.prefix() {
            0 => owner_by_flow(packet),
            prefix => owner_by_source(packet, prefix.into()),
        };
        let packets = |flags| (0..200_u8).map(move |client| packet(family, client, 9, 5000, flags));
        // Every other flow is in the flow table before the change.
        for packet in packets(flags::SYN).step_by(2) {
            assert_eq!(scene.send(&packet), Some(owner_by(before, &packet)));
        }
        scene.pick_by(HashInputs::changed(now, before));
        for packet in packets(flags::ACK) {
            assert_eq!(scene.send(&packet), Some(owner_by(before, &packet)), "of {}", packet.source);
        }
        let known = scene.balancer.flow_table().entries().len();
        assert_eq!(known, 200, "each flow is remembered once, by what picks slots now");
        let connections = scene.balancer.maps().connections();
        let active = |number: u32| connections.tally(BackendId::truncate(number)).active();
        assert_eq!((1..=BACKENDS.into()).map(active).sum::<u32>(), 200, "and counts once");
        let newcomer = |client| packet(family, client, 9, 6000, flags::SYN);
        for client in 0..200 {
            assert_eq!(scene.send(&newcomer(client)), Some(owner_by(now, &newcomer(client))));
        }
        // The change is over: all are known by what picks slots now.
        scene.pick_by(HashInputs::new(now));
        for packet in packets(flags::ACK) {
            assert_eq!(scene.send(&packet), Some(owner_by(before, &packet)), "of {} afterwards", packet.source);
        }
        let stranger = packet(family, 3, 9, 7000, flags::ACK);
        assert_eq!(scene.send(&stranger), Some(owner_by(now, &stranger)));
    }
}
