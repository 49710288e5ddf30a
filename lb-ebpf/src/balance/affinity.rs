//! Clients whose new flows go to the server that they had before (docs/ARCHITECTURE.md, "Affinity").
//!
//! Only new flows come here: where a flow goes that is there already, the flow table says.

use lb_common::{
    AffinityEntry, AffinityServer, BackendId, Encapsulation, FlowHash, FlowTime, NetU16, NetU32, ServerOf, Service,
    ServiceId, SlotWord, Tracking, nat::NatTarget,
};

use crate::{maps, parse::Packet, schedule};

/// The backend for a new flow: that of the server which its client has, if it may have more flows, or the one that the service's
/// algorithm chooses, which the client has from now on. Nobody, if all are full.
#[inline(always)]
pub fn backend_of_new_flow(packet: &Packet, service: &Service, hash: FlowHash, word: SlotWord) -> BackendId {
    if !maps::affinity(service.id).is_in_use() {
        return schedule::backend_of_new_flow(service, hash, word);
    }
    let [a, b, c, d] = packet.flow.source.words().map(|word| u64::from(word.get()));
    let (high, low, ipv4) = (a << 32 | b, c << 32 | d, u32::from(packet.flow.ipv4));
    let known = BackendId::truncate(affine(service.id.get(), high, low, ipv4));
    if known != BackendId::NONE {
        return known;
    }
    let chosen = schedule::backend_of_new_flow(service, hash, word);
    if chosen != BackendId::NONE {
        settle_client(service.id.get(), high, low, ipv4, chosen.get());
    }
    chosen
}

/// The backend that a client has, if it may have more flows.
///
/// In the interface of C and with numbers only, as [`settle_client`]: so they are *global functions*, which the verifier checks once,
/// by themselves, and not for each way that leads to them (<https://docs.kernel.org/bpf/btf.html>, `BTF_FUNC_GLOBAL`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn affine(service: u32, high: u64, low: u64, ipv4: u32) -> u32 {
    find(service, high, low, ipv4 != 0).unwrap_or(BackendId::NONE).get()
}

#[inline(always)]
fn find(service: u32, high: u64, low: u64, ipv4: bool) -> Option<BackendId> {
    let service = ServiceId::new(service)?;
    let affinity = maps::affinity(service);
    let client = maps::affinity_client(&affinity.client(words(high, low), ipv4))?;
    let AffinityEntry { server, seen } = client.get();
    let now = maps::now();
    if !affinity.holds(FlowTime(seen), now) {
        return None;
    }
    // Backends that take no new flows are not in the map.
    let backend = maps::affinity_backend(&ServerOf::new(service, server))?;
    if maps::scheduler(service).is_limited() && maps::connections()?.of(backend).is_full() {
        return None;
    }
    client.see(now);
    maps::count_tracking(Tracking::Affine);
    Some(backend)
}

/// Remembers that a client has the server which `backend` is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn settle_client(service: u32, high: u64, low: u64, ipv4: u32, backend: u32) -> u32 {
    let (Some(service), Some(row)) = (ServiceId::new(service), maps::row(BackendId::truncate(backend))) else {
        return 0;
    };
    let affinity = maps::affinity(service);
    let port = match row.encapsulation {
        Encapsulation::TRANSLATED => NatTarget::of(&row.outer).port,
        _ => NetU16::new(0),
    };
    let server = AffinityServer::new(affinity.scope(), row.address, port);
    let client = affinity.client(words(high, low), ipv4 != 0);
    maps::put_affinity_client(&client, &AffinityEntry { server, seen: maps::now().0 });
    1
}

/// An address in words, from its two halves in the byte order of the host.
#[inline(always)]
fn words(high: u64, low: u64) -> [NetU32; 4] {
    [high >> 32, high, low >> 32, low].map(|word| NetU32::new(word as u32))
}
