//! What a packet says about its flow, and what becomes of the flow's record.

use aya_ebpf::programs::XdpContext;
use lb_common::{
    FlowTime, NetU32,
    nat::{Event, NatRecord, NatState, Phase, Side},
};
use lb_ebpf::{
    packet::read,
    tcp::{ACK, FIN, RST, SYN},
};
use network_types::tcp::TcpHdr;

use super::{TCP, timing};
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
    data_len: u32,
    acknowledgment: u32,
    pub now: FlowTime,
}

impl Segment {
    #[inline(always)]
    pub fn read(ctx: &XdpContext, packet: &Packet) -> Self {
        let now = maps::now();
        if packet.flow.protocol != TCP {
            return Self { flags: 0, event: Event::Data, sequence: 0, data_len: 0, acknowledgment: 0, now };
        }
        // Sequence number, acknowledgment number, header length and flags (RFC 9293, section 3.1).
        let [sequence, acknowledgment, word]: [NetU32; 3] =
            read(ctx, packet.l4_offset + 4).unwrap_or([NetU32::new(0); 3]);
        let [length, flags, ..] = word.to_wire();
        let header_len = (usize::from(length >> 4) * 4).max(TcpHdr::LEN);
        let [end, data] = [packet.ip_offset + packet.ip_len as usize, packet.l4_offset + header_len];
        let data_len = end.saturating_sub(data) as u32;
        let has_data = data_len > 0;
        let event = if flags & RST != 0 {
            Event::Reset
        } else if flags & SYN != 0 {
            if flags & ACK == 0 { Event::Open } else { Event::Answer }
        } else if flags & ACK == 0 {
            // After the handshake a host drops what acknowledges nothing (RFC 9293, section 3.10.7.4).
            Event::Nothing
        } else if flags & FIN != 0 {
            if has_data { Event::LastData } else { Event::Finish }
        } else if has_data {
            Event::Data
        } else {
            Event::Acknowledge
        };
        Self { flags, event, sequence: sequence.get(), data_len, acknowledgment: acknowledgment.get(), now }
    }

    /// Whether it opens a connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.flags & (SYN | ACK | RST) == SYN
    }

    /// Whether it opens another connection than that of a record.
    #[inline(always)]
    pub fn begins_another(&self, record: MapRecord) -> bool {
        self.is(Event::Open) && record.state().phase().gives_way()
    }

    /// What it acknowledges; zero if that is nothing.
    #[inline(always)]
    pub fn acknowledgment(&self) -> u32 {
        if self.flags & ACK == 0 { 0 } else { self.acknowledgment }
    }

    /// Writes down that `side` has sent this; `false` if the flow is over.
    #[inline(always)]
    pub fn follow(&self, record: MapRecord, side: Side) -> bool {
        for _ in 0..ATTEMPTS {
            let state = record.state();
            if !state.phase().is_alive() {
                return false;
            }
            let event = self.event_in(state, record.get(), side);
            if event as u8 == Event::Nothing as u8 {
                return true;
            }
            self.note_sequence_numbers(record, state.phase(), side);
            let next = state.after(side, event, self.now);
            if next == state || record.replace_state(state, next) {
                if state.is_timed() {
                    timing::note(record, state, side, self.event);
                }
                break;
            }
        }
        true
    }

    /// The event, which is none if the segment cannot be one of the connection, or was on its way when that ended.
    #[inline(always)]
    fn event_in(&self, state: NatState, known: &NatRecord, side: Side) -> Event {
        let phase = state.phase();
        let [by_client, by_backend] = known.acknowledged;
        let is_clients = side as u8 == Side::Client as u8;
        let acknowledged = if is_clients { by_backend } else { by_client };
        let is_possible = if self.is(Event::Reset) {
            // While the connection opens the other side may not have acknowledged anything.
            phase.is_opening() || NatRecord::may_reset(acknowledged, self.sequence)
        } else if phase.has_finished(side) && self.is(Event::Data) {
            NatRecord::is_after(acknowledged, self.sequence)
        } else if self.is_finish() && !phase.is_opening() && !phase.has_finished(side) {
            NatRecord::may_finish(acknowledged, self.end())
        } else if self.is(Event::Data) || self.is(Event::Acknowledge) {
            !state.was_just_reset(self.now)
        } else {
            true
        };
        // Who has not got the backend's SYN cannot know what acknowledges it.
        let is_of_stranger = is_clients
            && phase == Phase::ANSWERED
            && !self.is(Event::Reset)
            && !self.is(Event::Open)
            && self.acknowledgment != by_client;
        if is_possible && !is_of_stranger { self.event } else { Event::Nothing }
    }

    #[inline(always)]
    fn is(&self, event: Event) -> bool {
        self.event as u8 == event as u8
    }

    #[inline(always)]
    fn is_finish(&self) -> bool {
        self.is(Event::Finish) || self.is(Event::LastData)
    }

    /// The sequence number after its data: that of the FIN, if there is one.
    #[inline(always)]
    fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.data_len)
    }

    /// Writes down where a FIN stands, what the segment acknowledges, and of the backend's SYN what is to acknowledge it.
    #[inline(always)]
    fn note_sequence_numbers(&self, record: MapRecord, phase: Phase, side: Side) {
        if self.flags & (ACK | RST) != ACK {
            return;
        }
        let [by_client, by_backend] = record.get().acknowledged;
        if self.is_finish() && !phase.has_finished(side) {
            record.update(|record| {
                if let Some(by_other) = record.acknowledged.get_mut(1 - side as usize) {
                    *by_other = self.end();
                }
            });
        }
        if side as u8 == Side::Client as u8 {
            // Until the backend has answered there is nothing that the client could acknowledge.
            let is_known = phase <= Phase::ANSWERED || phase.has_finished(Side::Backend);
            if !is_known && NatRecord::is_news(by_client, self.acknowledgment) {
                record.update(|record| record.acknowledged[0] = self.acknowledgment);
            }
            return;
        }
        let is_known = phase.has_finished(Side::Client);
        if phase.is_opening() || !is_known && NatRecord::is_news(by_backend, self.acknowledgment) {
            record.update(|record| record.acknowledged[1] = self.acknowledgment);
        }
        if self.flags & SYN != 0 && phase.may_be_answered() {
            record.update(|record| record.acknowledged[0] = self.sequence.wrapping_add(1));
        }
    }
}
