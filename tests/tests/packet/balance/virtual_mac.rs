//! Frames to the MAC address of a virtual router are ours while we are its master, on the interface where we are.

use lb_common::{MacAddress, Verdict, VirtualRouter};
use lb_userspace::dataplane::VirtualMacs;

use crate::{
    backend::Backend,
    case::check_all,
    fixture::{Balancer, Case},
    frame::Frame,
    world::{INGRESS_IFINDEX, OTHER_IFINDEX, client_frames},
};

/// RFC 9568, section 7.3.
const IPV4_ROUTER_7: MacAddress = [0x00, 0x00, 0x5e, 0x00, 0x01, 7];
const IPV6_ROUTER_7: MacAddress = [0x00, 0x00, 0x5e, 0x00, 0x02, 7];

const ROUTER_7: VirtualRouter = VirtualRouter { ipv6: false, id: 7 };

#[test]
fn frames_to_a_virtual_router_are_balanced_where_we_are_its_master() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    for (router, mac) in [(ROUTER_7, IPV4_ROUTER_7), (VirtualRouter { ipv6: true, id: 7 }, IPV6_ROUTER_7)] {
        set(&balancer.virtual_macs(), router, Some(INGRESS_IFINDEX));
        // The MAC address says nothing about the packet: a service's address may be on either router.
        let cases = client_frames().map(|(packet, family, frame)| {
            let frame = Frame { destination: mac, ..frame };
            Case::forwards(format!("{packet} in a frame to {router:?} is forwarded"), family, &Backend::L2_DSR, &frame)
        });
        check_all(&mut balancer, cases);
        set(&balancer.virtual_macs(), router, None);
        check_passes(&mut balancer, "after we were its master", mac);
    }
}

#[test]
fn frames_to_our_own_address_are_balanced_all_the_same() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    set(&balancer.virtual_macs(), ROUTER_7, Some(INGRESS_IFINDEX));
    let cases = client_frames().map(|(packet, family, frame)| {
        Case::forwards(format!("{packet} to us is forwarded"), family, &Backend::L2_DSR, &frame)
    });
    check_all(&mut balancer, cases);
}

#[test]
fn frames_to_other_virtual_routers_pass() {
    let Some(mut balancer) = Balancer::with_one_backend() else { return };
    check_passes(&mut balancer, "that nobody spoke of", IPV4_ROUTER_7);

    set(&balancer.virtual_macs(), ROUTER_7, Some(OTHER_IFINDEX));
    check_passes(&mut balancer, "that we are master of on another interface", IPV4_ROUTER_7);

    set(&balancer.virtual_macs(), ROUTER_7, Some(INGRESS_IFINDEX));
    check_passes(&mut balancer, "of the other family", IPV6_ROUTER_7);
    for (what, byte) in
        [("with another identifier", 5), ("of a third family", 4), ("but for one byte of the prefix", 2)]
    {
        let mut mac = IPV4_ROUTER_7;
        mac[byte] ^= 0x10;
        check_passes(&mut balancer, what, mac);
    }
}

#[test]
fn without_a_datapath_there_is_nothing_to_tell() {
    let Some(balancer) = Balancer::empty() else { return };
    let elsewhere = VirtualMacs::new("/sys/fs/bpf/no-such-folder".as_ref());
    assert!(!elsewhere.set(ROUTER_7, Some(INGRESS_IFINDEX)).expect("no map is no error"));
    set(&balancer.virtual_macs(), ROUTER_7, None);
}

fn set(macs: &VirtualMacs, router: VirtualRouter, master_on: Option<u32>) {
    assert!(macs.set(router, master_on).expect("the map takes it"), "the map is there");
}

fn check_passes(balancer: &mut Balancer, whose: &str, destination: MacAddress) {
    let cases = client_frames().map(|(packet, _, frame)| {
        let frame = Frame { destination, ..frame }.to_bytes();
        Case::passes(format!("{packet} in a frame to a virtual router {whose} passes"), Verdict::PassOtherHost, frame)
    });
    check_all(balancer, cases);
}
