//! Services that translate addresses and ports: their flows have records of their own, and both directions pass here.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    BackendId, Condition, FlowHash, NetU16, NetU32, Service, Tracking, Verdict,
    nat::{Event, NatTarget, RecordIndex, Side},
};
use lb_ebpf::tcp::{ACK, RST, SYN};
use network_types::ip::IpProto;

use self::{
    segment::Segment,
    table::{FORWARD, REVERSE},
    translate::Way,
};
use crate::{
    maps::{self, MapRecord},
    parse::Packet,
    reset,
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
pub fn process(ctx: &mut XdpContext, packet: &mut Packet, service: Option<&Service>) -> Result<Verdict, Verdict> {
    let hash = packet.flow.hash(maps::hash_key());
    packet.veil_all(hash.0);
    let segment = Segment::read(ctx, packet);
    // Filled in here, since of a way that is returned in a `Result` the compiler copies what was never written.
    let mut way = Way::default();
    let found = match service {
        Some(service) => request(ctx, packet, service, hash, &segment, &mut way),
        None => reply(hash, &segment, &mut way),
    };
    match found {
        Ok(()) => Ok(translate::send(ctx, packet, &way)),
        Err(Refusal::Verdict(verdict)) => Err(verdict),
        Err(Refusal::Reset) => Err(reset::answer(ctx, packet)),
    }
}

#[inline(always)]
fn request(
    ctx: &XdpContext,
    packet: &Packet,
    service: &Service,
    hash: FlowHash,
    segment: &Segment,
    way: &mut Way,
) -> Result<(), Refusal> {
    let index = record_of(ctx, packet, service, hash, segment)?;
    let record = maps::nat_record(index).ok_or(Refusal::Verdict(Verdict::DropInternal))?;
    let backend = record.state().backend();
    maps::count_traffic(backend, packet.ip_len);
    to_backend(packet, record, backend, way).ok_or(Refusal::Verdict(Verdict::DropInternal))
}

#[inline(always)]
fn reply(hash: FlowHash, segment: &Segment, way: &mut Way) -> Result<(), Refusal> {
    let stranger = Refusal::Verdict(Verdict::PassNoService);
    let Some(index) = table::find(REVERSE, hash) else { return Err(stranger) };
    let Some(record) = maps::nat_record(index) else { return Err(stranger) };
    if !segment.follow(record, Side::Backend) {
        return Err(stranger);
    }
    to_client(record, way).ok_or(Refusal::Verdict(Verdict::DropInternal))
}

/// The record of a client's packet: the one that its flow has, or a new one.
#[inline(always)]
fn record_of(
    ctx: &XdpContext,
    packet: &Packet,
    service: &Service,
    hash: FlowHash,
    segment: &Segment,
) -> Result<RecordIndex, Refusal> {
    if let Some(index) = table::find(FORWARD, hash) {
        let record = maps::nat_record(index).ok_or(Refusal::Verdict(Verdict::DropInternal))?;
        let state = record.state();
        let is_lost = maps::condition(state.backend()) != Condition::SERVING;
        let begins_another = segment.event == Event::Open && state.phase().gives_way();
        if !is_lost && !begins_another && segment.follow(record, Side::Client) {
            open::learn_way_back(ctx, packet, record);
            return Ok(index);
        }
        table::end(index);
        if is_lost {
            maps::count_tracking(Tracking::Rescheduled);
        }
    }
    let opens = packet.flow.protocol != TCP || segment.flags & (SYN | ACK | RST) == SYN;
    if !opens && service.nat.translates_source() {
        // The backend would not know the port.
        maps::count_tracking(Tracking::Unknown);
        return Err(Refusal::Reset);
    }
    match open::open(ctx, packet, service, hash, opens) {
        Err(Verdict::DropNatFull | Verdict::DropNoPort) if service.nat.resets() => Err(Refusal::Reset),
        opened => opened.map_err(Refusal::Verdict),
    }
}

/// How a client's packet goes on.
#[inline(always)]
fn to_backend(packet: &Packet, record: MapRecord, backend: BackendId, way: &mut Way) -> Option<()> {
    let row = maps::row(backend)?;
    let target = NatTarget::of(&row.outer);
    let known = record.get();
    way.new.source =
        if target.sources == 0 { packet.flow.source } else { maps::nat_source(known.source)?.address };
    way.new.destination = target.address;
    way.new.ports = ports(known.source_port, target.port_for(packet.flow.destination_port()));
    way.new.ipv4 = target.address.is_mapped();
    way.macs = row.macs();
    way.vlan = row.vlan;
    way.ifindex = row.egress_ifindex;
    way.mtu = row.mtu;
    Some(())
}

/// How a backend's packet goes on.
#[inline(always)]
fn to_client(record: MapRecord, way: &mut Way) -> Option<()> {
    let known = record.get();
    let [client_port, service_port] = known.ports.halves();
    way.new.source = maps::virtual_address(known.service)?;
    way.new.destination = known.client;
    way.new.ports = ports(service_port, client_port);
    way.new.ipv4 = known.client.is_mapped();
    let (start, end) = known.neighbour.mac();
    let own = maps::own_mac(known.ifindex)?;
    way.macs = [start, NetU32::from_halves(end, own.0), own.1];
    way.vlan = known.neighbour.vlan();
    way.ifindex = known.ifindex;
    way.mtu = u16::MAX;
    Some(())
}

/// Source port and destination port as they stand in a packet.
#[inline(always)]
fn ports(source: NetU16, destination: NetU16) -> NetU32 {
    NetU32::new(u32::from(source.get()) << 16 | u32::from(destination.get()))
}
