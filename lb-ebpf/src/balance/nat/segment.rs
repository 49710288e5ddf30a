//! What a packet says about its flow, and what becomes of the flow's record.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    FlowTime, NetU32,
    nat::{Event, NatRecord, Phase, Side},
};
use lb_ebpf::{
    packet::read,
    tcp::{ACK, FIN, RST, SYN},
};
use network_types::tcp::TcpHdr;

use super::TCP;
use crate::{
    maps::{self, MapRecord},
    parse::Packet,
};

/// How often the state is tried to be changed when others change it at the same time.
const ATTEMPTS: usize = 2;

/// What the datapath reads of a TCP header; of a datagram, nothing.
pub struct Segment {
    pub flags: u8,
    pub event: Event,
    sequence: u32,
    acknowledgment: u32,
    now: FlowTime,
}

impl Segment {
    #[inline(always)]
    pub fn read(ctx: &XdpContext, packet: &Packet) -> Self {
        let now = maps::now();
        if packet.flow.protocol != TCP {
            return Self { flags: 0, event: Event::Data, sequence: 0, acknowledgment: 0, now };
        }
        // Sequence number, acknowledgment number, header length and flags (RFC 9293, section 3.1).
        let [sequence, acknowledgment, word]: [NetU32; 3] =
            read(ctx, packet.l4_offset + 4).unwrap_or([NetU32::new(0); 3]);
        let [length, flags, ..] = word.to_wire();
        let header_len = (usize::from(length >> 4) * 4).max(TcpHdr::LEN);
        let has_data = packet.ip_offset + packet.ip_len as usize > packet.l4_offset + header_len;
        let event = if flags & RST != 0 {
            Event::Reset
        } else if flags & SYN != 0 {
            if flags & ACK == 0 { Event::Open } else { Event::Answer }
        } else if flags & FIN != 0 {
            Event::Finish
        } else if has_data {
            Event::Data
        } else {
            Event::Acknowledge
        };
        Self { flags, event, sequence: sequence.get(), acknowledgment: acknowledgment.get(), now }
    }

    /// Writes down that `side` has sent this; `false` if the flow is over.
    #[inline(always)]
    pub fn follow(&self, record: MapRecord, side: Side) -> bool {
        self.note_acknowledgment(record, side);
        for _ in 0..ATTEMPTS {
            let state = record.state();
            if !state.phase().is_alive() {
                return false;
            }
            let next = state.after(side, self.event_in(state.phase(), record.get(), side), self.now);
            if next == state {
                break;
            }
            let since = record.get().acknowledged[0];
            if record.replace_state(state, next) {
                // By whoever has made this change, so it is measured once.
                if next.phase().answers(state.phase()) {
                    maps::answered(next.backend(), since);
                }
                break;
            }
        }
        true
    }

    /// The event, where a reset that cannot be one is none.
    #[inline(always)]
    fn event_in(&self, phase: Phase, known: &NatRecord, side: Side) -> Event {
        let [by_client, by_backend] = known.acknowledged;
        let expected = if side as u8 == Side::Client as u8 { by_backend } else { by_client };
        // In a handshake the other side may not have acknowledged anything yet.
        let is_checked = self.event as u8 == Event::Reset as u8 && phase > Phase::ANSWERED;
        if is_checked && !NatRecord::may_reset(expected, self.sequence) { Event::Acknowledge } else { self.event }
    }

    #[inline(always)]
    fn note_acknowledgment(&self, record: MapRecord, side: Side) {
        if self.flags & (ACK | RST) != ACK {
            return;
        }
        let phase = record.state().phase();
        let is_opening = phase <= Phase::ANSWERED;
        let is_news = |known| is_opening || NatRecord::is_news(known, self.acknowledgment);
        let [by_client, by_backend] = record.get().acknowledged;
        if side as u8 == Side::Client as u8 {
            // As long as the backend has not answered, there stands since when it has not.
            if phase > Phase::OPENING && is_news(by_client) {
                record.update(|record| record.acknowledged[0] = self.acknowledgment);
            }
        } else if is_news(by_backend) {
            record.update(|record| record.acknowledged[1] = self.acknowledgment);
        }
    }
}
