//! Services that translate addresses and ports: their flows have records of their own, and both directions pass here.

use core::hint::black_box;

use aya_ebpf::programs::XdpContext;
use lb_common::{
    BackendId, BackendRow, Condition, Encapsulation, FlowHash, NetU32, Service, Tracking, Verdict,
    nat::{Event, NatRecord, NatTarget, Side},
};
use lb_ebpf::tcp::RST;
use network_types::ip::IpProto;

use self::{
    segment::Segment,
    table::{FORWARD, Place, REVERSE},
};
use crate::{
    hand_over::{self, HandedOver},
    maps::{self, MapRecord},
    parse::Packet,
    reset,
};

mod open;
mod segment;
mod table;
mod timing;
mod translate;

const TCP: u8 = IpProto::Tcp as u8;

/// A flow that is alive, and its backend.
struct Known {
    record: MapRecord,
    row: &'static BackendRow,
}

impl Known {
    /// The flow of `backend` in a record, unless that has no row or one that the flow was not made for: of a service that is no more, or that
    /// translates otherwise by now.
    #[inline(always)]
    fn of(record: MapRecord, backend: BackendId) -> Option<Self> {
        let row = maps::row(backend)?;
        let has_source = record.get().source != NatRecord::NO_SOURCE;
        let is_its =
            row.encapsulation == Encapsulation::TRANSLATED && (NatTarget::of(&row.outer).sources != 0) == has_source;
        is_its.then_some(Self { record, row })
    }

    /// Whether this is a packet of the backend in this flow. Its hash says so already, but the table knows only a part of it.
    #[inline(always)]
    fn has_reply(&self, packet: &Packet) -> bool {
        let (known, target) = (self.record.get(), NatTarget::of(&self.row.outer));
        let [_, service_port] = known.ports.halves();
        let to = match known.source {
            NatRecord::NO_SOURCE => Some(&known.client),
            number => maps::nat_source(number).map(|source| &source.address),
        };
        packet.flow.ports == NetU32::from_halves(target.port_for(service_port), known.source_port)
            && packet.flow.source.matches(self.row.address)
            && to.is_some_and(|to| packet.flow.destination.matches(*to))
    }
}

/// Why a packet has no record.
enum Refusal {
    /// It is answered with a reset; if that cannot be, this becomes of it.
    Reset(Verdict),
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
    let HandedOver { packet, service } = hand_over::handed_over().ok_or(Verdict::DropInternal)?;
    let mut packet = *packet;
    packet.bound();
    if !packet.flow.ipv4 && packet.flow.source.is_mapped() {
        // As a source it would be taken for that IPv4 address, and be sent what it never asked for.
        return Err(Verdict::PassNoService);
    }
    let hash = packet.flow.hash(maps::hash_key());
    // It is read where it lies from here on: what the compiler would keep of it, too, is on the stack, which is small.
    let packet = black_box(&packet);
    let segment = Segment::read(ctx, packet);
    let (found, sender) = if service.exists() {
        (request(ctx, packet, service, hash, &segment), Side::Client)
    } else {
        (reply(packet, hash, &segment), Side::Backend)
    };
    match found {
        Ok(flow) => translate::send(ctx, packet, &flow, sender),
        Err(Refusal::Verdict(verdict)) => Err(verdict),
        Err(Refusal::Reset(otherwise)) => Err(reset::answer_or(ctx, packet, otherwise)),
    }
}

/// The flow of a backend's packet.
#[inline(always)]
fn reply(packet: &Packet, hash: FlowHash, segment: &Segment) -> Result<Known, Refusal> {
    let found = table::find(REVERSE, hash).and_then(|(_, record)| Known::of(record, record.state().backend()));
    found
        .filter(|flow| flow.has_reply(packet) && segment.follow(flow.record, Side::Backend))
        .ok_or(Refusal::Verdict(Verdict::PassNoService))
}

/// The flow of a client's packet: the one that it has, or a new one.
#[inline(always)]
fn request(
    ctx: &XdpContext,
    packet: &Packet,
    service: &Service,
    hash: FlowHash,
    segment: &Segment,
) -> Result<Known, Refusal> {
    let neighbour = open::neighbour(ctx, packet).map_err(Refusal::Verdict)?;
    let (mut hash, mut chosen) = (hash, None);
    if service.datagrams.are_single() {
        // A flow for each backend: the reply of one may be on its way when another has the next datagram.
        let backend = open::choose(packet, service, hash, true).map_err(|verdict| refusal(service, verdict))?;
        (hash, chosen) = (hash.of_backend(backend), Some(backend));
    }
    let (mut was_lost, mut closed) = (false, table::NOWHERE);
    if let Some((index, record)) = table::find(FORWARD, hash) {
        let backend = record.state().backend();
        if backend == BackendId::NONE {
            // Another packet makes the client's next connection there.
            return Err(Refusal::Verdict(Verdict::DropNatRace));
        }
        match Known::of(record, backend).filter(|flow| flow.row.condition == Condition::SERVING) {
            Some(flow) if segment.begins_another(flow.record) => closed = index,
            Some(flow) if segment.follow(flow.record, Side::Client) => {
                open::learn_way_back(ctx, neighbour, flow.record);
                return Ok(flow);
            }
            // It has ended since.
            Some(_) => {}
            None => {
                was_lost = true;
                maps::count_tracking(Tracking::Rescheduled);
                table::end(index, backend);
            }
        }
    }
    if packet.flow.protocol == TCP {
        refuse_unknown(segment, was_lost || service.nat.translates_source())?;
    }
    let backend = if let Some(backend) = chosen {
        backend
    } else {
        let opens = open::opens(packet, segment);
        open::choose(packet, service, hash, opens).map_err(|verdict| refusal(service, verdict))?
    };
    let opened = Place::claim(hash, closed)
        .and_then(|place| open::open(ctx, packet, service, &place, segment, neighbour, backend));
    let record = opened.map_err(|verdict| refusal(service, verdict))?;
    Known::of(record, record.state().backend()).ok_or(Refusal::Verdict(Verdict::DropInternal))
}

/// Whether a segment that belongs to no flow has to be refused: if it opens no connection, and no other one can have it.
#[inline(always)]
fn refuse_unknown(segment: &Segment, is_lost: bool) -> Result<(), Refusal> {
    if segment.opens() {
        return Ok(());
    }
    // Another backend would not know the connection, nor would the same one by another port. And what ends a connection, or no host
    // would take for a part of one, begins none here.
    if is_lost || segment.flags & RST != 0 || segment.event == Event::Nothing {
        maps::count_tracking(Tracking::Unknown);
        return Err(Refusal::Reset(Verdict::DropNatUnknown));
    }
    Ok(())
}

/// What becomes of a packet that finds no place, as its service says.
#[inline(always)]
fn refusal(service: &Service, verdict: Verdict) -> Refusal {
    if service.nat.resets() && matches!(verdict, Verdict::DropNatFull | Verdict::DropNoPort | Verdict::DropBackendsFull)
    {
        maps::count_tracking(Tracking::Refused);
        return Refusal::Reset(verdict);
    }
    Refusal::Verdict(verdict)
}
