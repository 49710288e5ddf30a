//! Which backend a flow goes to: the owner of the slot that its hash names. The hash comes from the oracle, the owner
//! from the table that the test stored, so each flow is checked to go to a member of the pool, and to the right one.

use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use lb_common::{BackendId, ServiceId, SlotWord};
use lb_userspace::schedule::{Member, table};

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case, HASH_KEY, keys},
    oracle::flow_hash,
    packet::Packet,
    random_cases,
    world::{FAMILIES, Family, PROTOCOLS, SERVICE, SERVICE_PORT},
};

/// A service whose slot number `i` belongs to the backend of number `owners[i]`.
struct Pool {
    id: ServiceId,
    port: u16,
    owners: Vec<u8>,
}

impl Pool {
    fn new(id: ServiceId, port: u16, owners: Vec<u8>) -> Self {
        Self { id, port, owners }
    }

    fn put_into(&self, balancer: &mut Balancer) {
        let slots: Vec<SlotWord> =
            self.owners.iter().map(|owner| SlotWord::stable(BackendId::truncate((*owner).into()))).collect();
        let service = balancer.put_slots(self.id, &slots);
        balancer.put_services(keys(self.port), service);
        let mut members = self.owners.clone();
        members.sort_unstable();
        members.dedup();
        for member in members {
            balancer.put_row(BackendId::truncate(member.into()), &Backend::numbered(member).row(Family::V4));
        }
    }

    /// A packet of a random flow leaves for the owner of its slot.
    fn random_flow(&self, number: u32, random: &mut Rng) -> Case {
        let family = FAMILIES[random.usize(..2)];
        let mut packet = family.packet(PROTOCOLS[random.usize(..2)]);
        packet.source = random_client(family, random);
        packet.destination.set_port(self.port);
        self.case(number, family, &packet)
    }

    fn case(&self, number: u32, family: Family, packet: &Packet) -> Case {
        let bytes = packet.to_bytes();
        let slot = flow_hash(HASH_KEY, &bytes) % self.owners.len() as u64;
        let owner = self.owners[usize::try_from(slot).expect("a slot of the table")];
        let frame = family.frame(bytes);
        Case {
            description: format!("flow {number} from {} goes to backend {owner}, owner of slot {slot}", packet.source),
            setup: Vec::new(),
            frame: frame.to_bytes(),
            expected: Backend::numbered(owner).receives_as(BackendId::truncate(owner.into()), &frame),
        }
    }
}

fn random_client(family: Family, random: &mut Rng) -> SocketAddr {
    let address: IpAddr = match family {
        Family::V4 => IpAddr::V4(random.u32(..).into()),
        Family::V6 => IpAddr::V6(random.u128(..).into()),
    };
    SocketAddr::new(address, random.u16(..))
}

#[test]
fn a_flow_goes_to_the_owner_of_its_slot_in_tables_of_every_size() {
    let Some(mut balancer) = Balancer::empty() else { return };
    let mut random = Rng::with_seed(2);
    let pools: Vec<Pool> = (10..=16)
        .zip(1_u8..)
        .map(|(bits, number)| {
            let id = ServiceId::new(number.into()).expect("a small number is an id");
            // Backends of their own, so that a look-up in the neighbour's table shows.
            let owners = (0..1 << bits).map(|_| number * 8 + random.u8(..7)).collect();
            Pool::new(id, 1000 + u16::from(number), owners)
        })
        .collect();
    for pool in &pools {
        pool.put_into(&mut balancer);
    }
    let cases =
        (0..random_cases(4000)).map(|number| pools[random.usize(..pools.len())].random_flow(number, &mut random));
    check_all(&mut balancer, cases);
}

#[test]
fn a_flow_goes_where_the_table_of_the_scheduler_says() {
    let Some(mut balancer) = Balancer::empty() else { return };
    let weights = [1, 1, 5, 0, 3, 100];
    // Backend number 0 is nobody.
    let numbers: Vec<u8> = (1..).take(weights.len()).collect();
    let members: Vec<Member> =
        numbers.iter().zip(weights).map(|(number, weight)| Member { name: vec![*number], weight }).collect();
    let owners = table(&members, 1 << 12).into_iter().map(|member| numbers[member as usize]).collect();
    let pool = Pool::new(SERVICE, SERVICE_PORT, owners);
    pool.put_into(&mut balancer);
    let mut random = Rng::with_seed(3);
    let cases = (0..random_cases(2000)).map(|number| pool.random_flow(number, &mut random));
    check_all(&mut balancer, cases);
}

#[test]
fn all_packets_of_a_flow_go_to_one_backend_whatever_else_is_in_them() {
    let Some(mut balancer) = Balancer::empty() else { return };
    let mut random = Rng::with_seed(4);
    let pool = Pool::new(SERVICE, SERVICE_PORT, (0..1024).map(|_| random.u8(1..=9)).collect());
    pool.put_into(&mut balancer);
    let cases = (0..random_cases(500)).flat_map(|number| {
        let family = FAMILIES[random.usize(..2)];
        let mut first = family.packet(PROTOCOLS[random.usize(..2)]);
        first.source = random_client(family, &mut random);
        let later = first.clone().sized(random.usize(100..1400)).traffic_class(random.u8(..));
        // The slot of the first packet is that of the later one.
        let expected = |packet: &Packet| pool.case(number, family, packet);
        let (first, later) = (expected(&first), expected(&later));
        assert_eq!(first.expected.traffic[0].0, later.expected.traffic[0].0, "the oracle hashes the flow only");
        [first, later]
    });
    check_all(&mut balancer, cases);
}
