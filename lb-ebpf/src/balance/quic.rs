//! QUIC packets whose connection id names their server (draft-ietf-quic-load-balancers-21): they find it from whatever
//! address the client sends.

use aya_ebpf::programs::XdpContext;
use lb_common::{BackendId, QuicServer, Service};
use lb_ebpf::packet::read;

use crate::maps;

/// What a QUIC packet says about where it belongs.
pub enum Packet {
    /// It belongs to this backend of the service.
    Of(BackendId),
    /// The client has chosen the connection id itself: one of the first packets of a connection.
    Initial,
    /// The connection id names nobody.
    Unknown,
}

/// The QUIC packet that starts at `offset` (RFC 8999, section 5). A function of its own, so that the way of other packets stays
/// short.
#[inline(never)]
pub fn classify(ctx: &XdpContext, offset: usize, service: &Service) -> Packet {
    const LONG_HEADER: u8 = 0x80;
    // No packet of QUIC is as short as what is read of it here, protected as it is (RFC 9001, section 5.4.2).
    let Some([first, _]) = read::<[u8; 2]>(ctx, offset) else { return Packet::Unknown };
    let id_offset = if first & LONG_HEADER == 0 {
        offset + 1
    } else {
        let Some([version @ .., length]) = read::<[u8; 5]>(ctx, offset + 1) else { return Packet::Unknown };
        if is_from_before_the_server(first, u32::from_be_bytes(version)) {
            return Packet::Initial;
        }
        if u32::from(length) <= service.quic.length() {
            return Packet::Unknown;
        }
        offset + 6
    };
    server(ctx, id_offset, service).map_or(Packet::Unknown, Packet::Of)
}

/// Whether a long header is that of an Initial or a 0-RTT packet: sent before, or without, an id of the server's.
#[inline(always)]
const fn is_from_before_the_server(first: u8, version: u32) -> bool {
    const VERSION_1: u32 = 1;
    /// RFC 9369, section 3.1.
    const VERSION_2: u32 = 0x6b33_43cf;
    let packet_type = first >> 4 & 3;
    match version {
        // RFC 9000, section 17.2: Initial, 0-RTT.
        VERSION_1 => packet_type == 0 || packet_type == 1,
        // RFC 9369, section 3.2: the same, numbered otherwise.
        VERSION_2 => packet_type == 1 || packet_type == 2,
        _ => false,
    }
}

/// The backend that the connection id at `offset` names, if it is one of this service.
#[inline(always)]
fn server(ctx: &XdpContext, offset: usize, service: &Service) -> Option<BackendId> {
    let [head, _]: [u8; 2] = read(ctx, offset)?;
    if head >> 5 != service.quic.rotation() {
        return None;
    }
    let bytes = [read::<u64>(ctx, offset + 1)?, read::<u64>(ctx, offset + 9)?].map(u64::from_be);
    maps::quic_server(&QuicServer::at_head_of(bytes, service.quic.length(), service.id))
}
