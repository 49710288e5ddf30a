//! Which backend a packet belongs to.

use aya_ebpf::programs::XdpContext;
use lb_common::{BackendId, Condition, FlowHash, Service, Verdict, flow_table::Signal};
use lb_ebpf::{
    packet::read,
    tcp::{ACK, FIN, RST, SYN},
};
use network_types::{ip::IpProto, tcp::TcpHdr, udp::UdpHdr};

use crate::{maps, parse::Packet, quic, track};

/// The backend that the packet's connection id names, or that its flow has, or the owner of the flow's slot.
#[inline(always)]
pub fn backend_of(
    ctx: &XdpContext,
    packet: &mut Packet,
    service: &Service,
    hash: FlowHash,
) -> Result<BackendId, Verdict> {
    let mut signal = None;
    if service.quic.is_in_use() {
        match quic::classify(ctx, packet.l4_offset + UdpHdr::LEN, service) {
            quic::Packet::Of(server) if maps::condition(server) != Condition::RESCHEDULE => return Ok(server),
            quic::Packet::Initial => signal = Some(Signal::Opens),
            quic::Packet::Of(_) | quic::Packet::Unknown => signal = Some(Signal::Data),
        }
    }
    let (chunk, index) = service.locate(hash.slot(service.slot_mask));
    let word = maps::slot(chunk, index).ok_or(Verdict::DropInternal)?;
    let backend = if word.look_up() {
        let signal = signal.unwrap_or_else(|| signal_of(ctx, packet));
        packet.veil(hash.0);
        track::backend_of(hash, word, signal, service.id)
    } else {
        word.current()
    };
    if backend == BackendId::NONE {
        return Err(Verdict::DropNoBackend);
    }
    Ok(backend)
}

/// What a packet says about its flow.
#[inline(always)]
fn signal_of(ctx: &XdpContext, packet: &Packet) -> Signal {
    /// Where the header's length in words and the flags stand (RFC 9293, section 3.1).
    const LENGTH_AND_FLAGS: usize = 12;
    if packet.flow.protocol != IpProto::Tcp as u8 {
        return Signal::Datagram;
    }
    let [length, flags]: [u8; 2] = read(ctx, packet.l4_offset + LENGTH_AND_FLAGS).unwrap_or([0, 0]);
    let header_len = usize::from(length >> 4) * 4;
    if flags & (SYN | ACK | RST) == SYN {
        Signal::Opens
    } else if flags & (FIN | RST) != 0 {
        Signal::Closes
    } else if packet.ip_offset + packet.ip_len as usize > packet.l4_offset + header_len.max(TcpHdr::LEN) {
        Signal::Data
    } else {
        Signal::Acknowledges
    }
}
