//! Services that translate addresses and ports: their flows have records of their own, and both directions pass here.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    Condition, FlowHash, NetU16, NetU32, Service, Tracking, Verdict,
    nat::{Event, RecordIndex, Side},
};
use lb_ebpf::tcp::{ACK, RST, SYN};
use network_types::ip::IpProto;

use self::{
    segment::Segment,
    table::{FORWARD, REVERSE},
};
use crate::{
    maps,
    parse::{self, Packet},
    reset, service,
};

mod open;
mod segment;
mod table;
mod translate;

const TCP: u8 = IpProto::Tcp as u8;

/// Why a packet from a client has no record.
enum Refusal {
    /// It is answered with a reset, if it is of a connection.
    Reset,
    /// This becomes of it.
    Verdict(Verdict),
}

/// Whether a packet for no service can be the reply of a backend.
#[inline(always)]
pub fn may_be_reply(packet: &Packet) -> bool {
    let Some(directory) = maps::directory() else { return false };
    maps::nat_bits().is_some()
        && (directory.may_hold(packet.flow.destination) || directory.may_hold(packet.flow.source))
}

/// A packet from a client to a service that translates, or one for no service that may be the reply of a backend.
#[inline(always)]
pub fn process(ctx: &mut XdpContext) -> Result<Verdict, Verdict> {
    let mut packet = parse::parse(ctx)?;
    let service = service::find(&packet.flow).ok();
    let hash = packet.flow.hash(maps::hash_key());
    packet.veil_all(hash.0);
    let segment = Segment::read(ctx, &packet);
    let (found, sender) = match service {
        Some(service) => (request(ctx, &packet, service, hash, &segment), Side::Client),
        None => (reply(hash, &segment), Side::Backend),
    };
    match found {
        Ok(record) => Ok(translate::send(ctx, &packet, record, sender)),
        Err(Refusal::Verdict(verdict)) => Err(verdict),
        Err(Refusal::Reset) => Err(reset::answer(ctx, &packet)),
    }
}

/// The record of a backend's packet.
#[inline(always)]
fn reply(hash: FlowHash, segment: &Segment) -> Result<RecordIndex, Refusal> {
    let stranger = Refusal::Verdict(Verdict::PassNoService);
    let Some(index) = table::find(REVERSE, hash) else { return Err(stranger) };
    let Some(record) = maps::nat_record(index) else { return Err(stranger) };
    // Without a row its service may be no more, and another one have its id.
    if maps::row(record.state().backend()).is_none() || !segment.follow(record, Side::Backend) {
        return Err(stranger);
    }
    Ok(index)
}

/// The record of a client's packet: the one that its flow has, or a new one.
#[inline(always)]
fn request(
    ctx: &XdpContext,
    packet: &Packet,
    service: &Service,
    hash: FlowHash,
    segment: &Segment,
) -> Result<RecordIndex, Refusal> {
    let (mut hash, mut chosen) = (hash, None);
    if service.datagrams.are_single() {
        // A flow for each backend: the reply of one may be on its way when another has the next datagram.
        let backend = open::choose(packet, service, hash, true).map_err(Refusal::Verdict)?;
        (hash, chosen) = (hash.of_backend(backend), Some(backend));
    }
    let mut was_lost = false;
    if let Some(index) = table::find(FORWARD, hash) {
        let record = maps::nat_record(index).ok_or(Refusal::Verdict(Verdict::DropInternal))?;
        let state = record.state();
        was_lost = maps::condition(state.backend()) != Condition::SERVING;
        let begins_another = segment.event == Event::Open && state.phase().gives_way();
        if !was_lost && !begins_another && segment.follow(record, Side::Client) {
            open::learn_way_back(ctx, packet, record);
            return Ok(index);
        }
        table::end(index);
        if was_lost {
            maps::count_tracking(Tracking::Rescheduled);
        }
    }
    let opens = packet.flow.protocol != TCP || segment.flags & (SYN | ACK | RST) == SYN;
    if !opens && (was_lost || service.nat.translates_source()) {
        // Another backend would not know the connection, nor would the same one by another port.
        maps::count_tracking(Tracking::Unknown);
        return Err(Refusal::Reset);
    }
    match open::open(ctx, packet, service, hash, opens, chosen) {
        Err(Verdict::DropNatFull | Verdict::DropNoPort | Verdict::DropBackendsFull) if service.nat.resets() => {
            Err(Refusal::Reset)
        }
        opened => opened.map_err(Refusal::Verdict),
    }
}

/// Source port and destination port as they stand in a packet.
#[inline(always)]
fn ports(source: NetU16, destination: NetU16) -> NetU32 {
    NetU32::new(u32::from(source.get()) << 16 | u32::from(destination.get()))
}
