//! Making a record for a new flow: a place, a backend, a source, and the way back to the client.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    BackendId, Flow, FlowHash, FlowTime, NetU16, NetU32, Service, Tracking, Verdict, echo,
    nat::{
        NatRecord, NatState, NatTarget, Neighbour, PORT_ATTEMPTS, Phase, RecordIndex, ReverseWord,
        SECOND_HAND_ATTEMPTS, search_of,
    },
};
use lb_ebpf::packet::read;
use network_types::{
    eth::{EthHdr, EtherType},
    vlan::VlanHdr,
};

use super::{
    TCP,
    segment::Segment,
    table::{self, Claimed, Place, REVERSE},
    timing,
};
use crate::{
    affinity, flow,
    maps::{self, MapRecord},
    parse::Packet,
    schedule,
};

/// A flow of `backend` in its place, or of another one if it opens and finds no port there. A segment that does not open its connection is
/// of one that was made elsewhere.
#[inline(always)]
pub fn open(
    ctx: &XdpContext,
    packet: &Packet,
    service: &Service,
    place: &Place,
    segment: &Segment,
    neighbour: Neighbour,
    backend: BackendId,
) -> Result<MapRecord, Verdict> {
    let opens = opens(packet, segment);
    let record = place.record;
    record.update(|record| {
        record.hash = place.hash.0;
        record.client = packet.flow.source;
        record.ports = packet.flow.ports;
        record.service = service.id.get() as u16;
        record.acknowledged = [if opens { 0 } else { segment.acknowledgment() }, 0];
    });
    let is_timed = maps::goes_by_latency(service.id);
    if is_timed {
        timing::begin(record, opens || segment.event.has_data());
    }
    learn_way_back(ctx, neighbour, record);
    // A datagram that is a flow of its own has found its record by the backend.
    let tries = if opens && !service.datagrams.are_single() { BACKENDS } else { 1 };
    let assigned = assign_source(record, service, backend, tries, packet.flow.protocol, segment.now);
    let backend = assigned.inspect_err(|_| place.give_back())?;
    let phase = match (packet.flow.protocol, opens) {
        (TCP, true) => Phase::OPENING,
        (TCP, false) => Phase::SIGHTED,
        _ => Phase::UNREPLIED,
    };
    record.replace_state(NatState::FREE, NatState::new(backend, phase, segment.now).timed(is_timed));
    maps::count_tracking(Tracking::Translated);
    Ok(record)
}

/// Whether a packet opens its flow.
#[inline(always)]
pub fn opens(packet: &Packet, segment: &Segment) -> bool {
    packet.flow.protocol != TCP || segment.opens()
}

/// Who gets a new flow: the one that the scheduler chooses, and of a connection that was made elsewhere the owner of the slot.
#[inline(always)]
pub fn choose(packet: &Packet, service: &Service, hash: FlowHash, opens: bool) -> Result<BackendId, Verdict> {
    let hash = flow::hash_by(packet, hash, service.hash.now());
    let word = flow::word_of(service, hash)?;
    if word.current() == BackendId::NONE {
        return Err(Verdict::DropNoBackend);
    }
    let backend = if opens { affinity::backend_of_new_flow(packet, service, hash, word) } else { word.current() };
    if backend == BackendId::NONE {
        return Err(Verdict::DropBackendsFull);
    }
    maps::row(backend).map(|_| backend).ok_or(Verdict::DropNoBackend)
}

/// How many backends are tried for a new flow, as long as none has a port for it: the one with the fewest connections may be just the
/// one that has no more ports.
const BACKENDS: u32 = 4;

/// Finds a source for the flow of a record that is not yet alive, and writes it there: one whose replies nobody else gets. The backend
/// that it is for.
#[inline(always)]
fn assign_source(
    record: MapRecord,
    service: &Service,
    first: BackendId,
    tries: u32,
    protocol: u8,
    now: FlowTime,
) -> Result<BackendId, Verdict> {
    let (mut backend, mut refusal) = (first, Verdict::DropNoPort);
    for attempt in 0..tries * PORT_ATTEMPTS {
        if attempt % PORT_ATTEMPTS == 0 && attempt > 0 {
            // Where slots decide, by another one each time, and when the client comes again.
            let FlowHash(search) = search_of(FlowHash(record.hash()), attempt, now);
            backend = schedule::another_backend(service, FlowHash(search.wrapping_add(attempt.into())));
        }
        match nat_try(record.index().0, backend.get(), protocol.into(), attempt % PORT_ATTEMPTS, now.0) {
            TRY_DONE => return Ok(backend),
            TRY_FULL => refusal = Verdict::DropNatFull,
            _ => {}
        }
    }
    Err(refusal)
}

const TRY_TAKEN: u32 = 0;
const TRY_DONE: u32 = 1;
const TRY_FULL: u32 = 2;

/// Tries to get the source of one attempt for the flow of a record. A global function, see [`table`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_try(index: u32, backend: u32, protocol: u32, attempt: u32, now: u64) -> u32 {
    let hash = FlowHash(nat_reply(index, backend, protocol, attempt, now));
    let Some(record) = maps::nat_record(RecordIndex(index)) else { return TRY_TAKEN };
    if hash.0 == NO_MORE {
        return TRY_TAKEN;
    }
    // Where the client's port is kept there is no other one.
    let is_second_hand = attempt >= SECOND_HAND_ATTEMPTS || record.get().source == NatRecord::NO_SOURCE;
    match claim_source(RecordIndex(index), hash, is_second_hand) {
        Claimed::At(reverse) => {
            record.update(|record| record.reverse = reverse);
            TRY_DONE
        }
        Claimed::Taken => TRY_TAKEN,
        Claimed::Full => TRY_FULL,
    }
}

/// Claims for a record the source whose replies have this hash: a free one, one that is held for it, or, second hand, one that is held for
/// another or whose connection is closed.
#[inline(always)]
fn claim_source(index: RecordIndex, hash: FlowHash, is_second_hand: bool) -> Claimed {
    let word = ReverseWord::new(hash, index).to_bits();
    match table::claim(REVERSE, hash, word) {
        Claimed::Taken if is_second_hand && end_closed(hash) => table::claim(REVERSE, hash, word),
        Claimed::Taken => table::adopt(hash, word, is_second_hand),
        claimed => claimed,
    }
}

/// Ends the connection whose replies have this hash, if its port may be another's; whether it is over.
#[inline(always)]
fn end_closed(hash: FlowHash) -> bool {
    table::find(REVERSE, hash).is_some_and(|(index, _)| table::end_closed(index, maps::now()))
}

const NO_MORE: u64 = 0;

/// Gives the flow of a record the source that is to be tried at `attempt`; what the replies to it hash to, or [`NO_MORE`]. A global
/// function, see [`table`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_reply(index: u32, backend: u32, protocol: u32, attempt: u32, now: u64) -> u64 {
    let (Some(record), Some(row)) = (maps::nat_record(RecordIndex(index)), maps::row(BackendId::truncate(backend)))
    else {
        return NO_MORE;
    };
    let target = NatTarget::of(&row.outer);
    let known = record.get();
    let [client_port, service_port] = known.ports.halves();
    let mut reply = Flow {
        source: row.address,
        destination: known.client,
        ports: NetU32::from_halves(target.port_for(service_port), client_port),
        protocol: echo::of_replies(protocol as u8),
        ipv4: row.address.is_mapped(),
    };
    let mut chosen = (NatRecord::NO_SOURCE, client_port);
    if target.sources == 0 {
        // There is one way only to keep the client's address and port.
        if attempt > 0 {
            return NO_MORE;
        }
    } else {
        let search = search_of(FlowHash(known.hash), attempt, FlowTime(now));
        let number = target.source_at(search, attempt);
        let Some(source) = maps::nat_source(number) else { return NO_MORE };
        chosen = (number, source.port(search, attempt));
        reply.destination = source.address;
        reply.ports = NetU32::from_halves(target.port_for(service_port), chosen.1);
    }
    record.update(|record| (record.source, record.source_port) = chosen);
    reply.hash(maps::hash_key()).0
}

/// Whose frame brought the client's packet. What comes with tags of which a reply could not have the same is refused: it would leave on
/// another VLAN.
#[inline(always)]
pub fn neighbour(ctx: &XdpContext, packet: &Packet) -> Result<Neighbour, Verdict> {
    const TAGGED: usize = EthHdr::LEN + VlanHdr::LEN;
    let ethernet = read::<EthHdr>(ctx, 0).ok_or(Verdict::DropInternal)?;
    let ether_type = ethernet.ether_type;
    let tci = match packet.ip_offset {
        EthHdr::LEN => [0; 2],
        TAGGED if ether_type == EtherType::Ieee8021q as u16 => {
            read::<VlanHdr>(ctx, EthHdr::LEN).ok_or(Verdict::DropInternal)?.tci
        }
        _ => return Err(Verdict::DropUntranslatable),
    };
    Ok(Neighbour::new(ethernet.src_addr, NetU16::from_wire(tci)))
}

/// Writes down where the client's packets come from, if they came from elsewhere before: its replies go there.
#[inline(always)]
pub fn learn_way_back(ctx: &XdpContext, neighbour: Neighbour, record: MapRecord) {
    let ifindex = ctx.ingress_ifindex() as u16;
    let known = record.get();
    if known.neighbour != neighbour || known.ifindex != ifindex {
        record.update(|record| (record.neighbour, record.ifindex) = (neighbour, ifindex));
    }
}
