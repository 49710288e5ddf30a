//! Which backend a packet belongs to.

use aya_ebpf::programs::XdpContext;
use lb_common::{BackendId, Condition, FlowHash, HashInput, NetU32, Service, SlotWord, Verdict, flow_table::Signal};
use lb_ebpf::{
    packet::read,
    tcp::{ACK, FIN, RST, SYN},
};
use network_types::{ip::IpProto, udp::UdpHdr};

use crate::{
    affinity, maps,
    parse::Packet,
    quic, reset, schedule,
    track::{self, Tracked},
};

/// The backend that the packet's connection id names, or that its flow has, or the owner of the flow's slot.
#[inline(always)]
pub fn backend_of(
    ctx: &mut XdpContext,
    packet: &mut Packet,
    service: &Service,
    hash: FlowHash,
) -> Result<BackendId, Verdict> {
    let mut signal = None;
    let (mut hash, mut before) = (hash, hash);
    if !service.is_plain() {
        if service.quic.is_in_use() {
            match quic::classify(ctx, packet.l4_offset + UdpHdr::LEN, service) {
                quic::Packet::Of(server) if maps::condition(server) != Condition::RESCHEDULE => return Ok(server),
                quic::Packet::Initial => signal = Some(Signal::Opens),
                quic::Packet::Of(_) | quic::Packet::Unknown => signal = Some(Signal::Continues),
            }
        }
        let of_flow = hash;
        hash = hash_by(packet, of_flow, service.hash.now());
        before = service.hash.before().map_or(hash, |input| hash_by(packet, of_flow, input));
        packet.veil(hash.0);
        if service.datagrams.are_single() {
            return backend_of_datagram(service, hash);
        }
    }
    let mut word = word_of(service, hash)?;
    let backend = if word.look_up() {
        let signal = signal.unwrap_or_else(|| signal_of(ctx, packet));
        packet.veil(hash.0);
        if before != hash {
            word = word.coming_from(word_of(service, before)?);
        }
        match track::backend_of(service.id, hash, word, signal, before) {
            Tracked::To(backend) => backend,
            Tracked::Remember(entry) => {
                let backend = track::remember(hash, entry);
                track::forget(before, hash);
                backend
            }
            Tracked::New(vacancy) => match affinity::backend_of_new_flow(packet, service, hash, word) {
                BackendId::NONE => BackendId::NONE,
                backend => {
                    let backend = track::admit(hash, word, signal, backend, vacancy);
                    track::forget(before, hash);
                    backend
                }
            },
        }
    } else {
        word.current()
    };
    if backend != BackendId::NONE {
        return Ok(backend);
    }
    // A slot with an owner leads to some backend, unless all are full.
    if word.current() == BackendId::NONE {
        return Err(Verdict::DropNoBackend);
    }
    if maps::scheduler(service.id).resets_when_full() {
        return Err(reset::answer(ctx, packet));
    }
    Err(Verdict::DropBackendsFull)
}

/// The backend of a datagram that stands for itself.
#[inline(always)]
fn backend_of_datagram(service: &Service, hash: FlowHash) -> Result<BackendId, Verdict> {
    match schedule::backend_of_new_flow(service, hash, word_of(service, hash)?) {
        BackendId::NONE => Err(Verdict::DropNoBackend),
        backend => Ok(backend),
    }
}

/// The hash of the packet's flow in the slot that `input` picks.
#[inline(always)]
pub fn hash_by(packet: &Packet, hash: FlowHash, input: HashInput) -> FlowHash {
    if input == HashInput::FLOW {
        return hash;
    }
    let [a, b, c, d] = packet.flow.source.words().map(|word| u64::from(word.get()));
    let input = u32::from(input.prefix()) | u32::from(packet.flow.ipv4) << 8;
    hash.in_slot_of(FlowHash(hash_of_source(a << 32 | b, c << 32 | d, input)))
}

/// The hash of a client's address, of which `input` has the length of the prefix and whether it is IPv4. A global function: see `track`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn hash_of_source(high: u64, low: u64, input: u32) -> u64 {
    let words = [high >> 32, high, low >> 32, low].map(|word| NetU32::new(word as u32));
    HashInput::hash_of_source(words, input >> 8 & 1 == 1, input & 0xff, maps::hash_key()).0
}

#[inline(always)]
pub fn word_of(service: &Service, hash: FlowHash) -> Result<SlotWord, Verdict> {
    let (chunk, index) = service.locate(hash.slot(service.slot_mask));
    maps::slot(chunk, index).ok_or(Verdict::DropInternal)
}

/// What a packet says about its flow.
#[inline(always)]
fn signal_of(ctx: &XdpContext, packet: &Packet) -> Signal {
    /// Where the flags stand (RFC 9293, section 3.1).
    const FLAGS: usize = 13;
    if packet.flow.protocol != IpProto::Tcp as u8 {
        return Signal::Datagram;
    }
    let [flags]: [u8; 1] = read(ctx, packet.l4_offset + FLAGS).unwrap_or([0]);
    if flags & (SYN | ACK | RST) == SYN {
        Signal::Opens
    } else if flags & (FIN | RST) != 0 {
        Signal::Closes
    } else {
        Signal::Continues
    }
}
