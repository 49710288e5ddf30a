use super::{Event, Phase, Side};
use crate::{Address, BackendId, FlowTime, MacAddress, NetU16, NetU32, flow_table::WAYS};

/// Where a record stands: the number of its bucket in the forward index, and its way there. 24 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct RecordIndex(pub u32);

impl RecordIndex {
    /// That of a way of a bucket.
    #[inline(always)]
    pub const fn at(bucket: u32, way: usize) -> Self {
        Self(bucket * WAYS as u32 + way as u32)
    }

    /// The number of its bucket.
    #[inline(always)]
    pub const fn bucket(self) -> u32 {
        self.0 / WAYS as u32
    }

    /// Its way there.
    #[inline(always)]
    pub const fn way(self) -> usize {
        self.0 as usize % WAYS
    }
}

/// What changes of a flow with its packets, in one word, so that it is changed by compare-and-swap: backend, phase, and the time
/// of its last packet.
///
/// | bits | what |
/// |---|---|
/// | 0–7 | phase |
/// | 8–22 | backend |
/// | 23 | whether it is timed how long the backend takes to answer |
/// | 32–63 | time, in ticks |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct NatState(u64);

impl NatState {
    /// No flow.
    pub const FREE: Self = Self(0);

    const TIMED: u64 = 1 << 23;

    /// A tick is 2 to the power of this many nanoseconds: 1.07 s.
    const TICK_BITS: u32 = 30;

    /// A flow.
    #[inline(always)]
    pub const fn new(backend: BackendId, phase: Phase, now: FlowTime) -> Self {
        Self(Self::ticks(now) << 32 | (backend.get() as u64) << 8 | phase.0 as u64)
    }

    /// The same of a flow whose answers are timed, or are not.
    #[inline(always)]
    #[must_use]
    pub const fn timed(self, is_timed: bool) -> Self {
        Self(self.0 & !Self::TIMED | (is_timed as u64 * Self::TIMED))
    }

    /// From the word.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether it is timed how long the backend takes to answer.
    #[inline(always)]
    pub const fn is_timed(self) -> bool {
        self.0 & Self::TIMED != 0
    }

    /// What the flow is doing.
    #[inline(always)]
    pub const fn phase(self) -> Phase {
        Phase(self.0 as u8)
    }

    /// Whose it is.
    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        BackendId::truncate((self.0 >> 8) as u32)
    }

    /// Whose active connection it is; nobody's if it is none.
    #[inline(always)]
    pub const fn holder(self) -> BackendId {
        // Calculated, because the verifier of eBPF programs follows each branch on its own.
        BackendId::truncate(self.backend().get() * self.phase().is_active() as u32)
    }

    /// How long it has had no packet, in nanoseconds, to within a tick.
    #[inline(always)]
    pub const fn idle_ns(self, now: FlowTime) -> u64 {
        let ticks = (Self::ticks(now) as u32).wrapping_sub((self.0 >> 32) as u32);
        // A packet on another CPU may have seen a later time.
        if ticks > u32::MAX / 2 { 0 } else { (ticks as u64) << Self::TICK_BITS }
    }

    /// Whether what comes now may have been on its way when the connection was reset.
    #[inline(always)]
    pub const fn was_just_reset(self, now: FlowTime) -> bool {
        self.phase().0 == Phase::RESET.0 && self.idle_ns(now) < 2 << Self::TICK_BITS
    }

    /// Whether another flow may have its port where there is hardly a free one: both sides have closed the connection, and
    /// have been silent for two seconds. A backend that closed it first may have to be asked twice (RFC 6191): see
    /// docs/OPERATIONS.md.
    #[inline(always)]
    pub const fn leaves_port(self, now: FlowTime) -> bool {
        self.phase().0 == Phase::TIME_WAIT.0 && self.idle_ns(now) >= 2 << Self::TICK_BITS
    }

    /// The state after a packet of `side`.
    #[inline(always)]
    #[must_use]
    pub fn after(self, side: Side, event: Event, now: FlowTime) -> Self {
        Self(Self::new(self.backend(), self.phase().after(side, event), now).0 | self.0 & Self::TIMED)
    }

    /// The state of a flow that has ended, and whose place is to be freed.
    #[inline(always)]
    #[must_use]
    pub const fn over(self) -> Self {
        Self(self.0 & !0xff | Phase::OVER.0 as u64)
    }

    #[inline(always)]
    const fn ticks(now: FlowTime) -> u64 {
        now.0 >> Self::TICK_BITS & 0xffff_ffff
    }
}

/// Whose frames bring a client's packets: the link-layer address, and the VLAN tag, of which zero is none; in one word, so that the
/// datapath compares and changes them at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Neighbour(u64);

impl Neighbour {
    /// From both.
    #[inline(always)]
    pub const fn new(mac: MacAddress, vlan: NetU16) -> Self {
        let [a, b, c, d, e, f] = mac;
        let [g, h] = vlan.to_wire();
        Self(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The address in a word and a half.
    #[inline(always)]
    pub const fn mac(self) -> (NetU32, NetU16) {
        let [a, b, c, d, e, f, ..] = self.0.to_ne_bytes();
        (NetU32::from_wire([a, b, c, d]), NetU16::from_wire([e, f]))
    }

    /// The tag.
    #[inline(always)]
    pub const fn vlan(self) -> NetU16 {
        let [.., g, h] = self.0.to_ne_bytes();
        NetU16::from_wire([g, h])
    }
}

/// A translated flow: one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct NatRecord {
    /// See [`NatState`].
    pub state: NatState,
    /// The hash of the client's packets.
    pub hash: u64,
    /// The client.
    pub client: Address,
    /// The client's port, then the service's.
    pub ports: NetU32,
    /// Where its word in the reverse index stands: bucket and way, as in [`RecordIndex`].
    pub reverse: RecordIndex,
    /// The id of the service.
    pub service: u16,
    /// Which of the sources it has, by its number in the map of sources; or [`NatRecord::NO_SOURCE`].
    pub source: u16,
    /// The port that the backend sees.
    pub source_port: NetU16,
    /// The interface that the client's packets come in by.
    pub ifindex: u16,
    /// Where they come from on the link: replies go there.
    pub neighbour: Neighbour,
    /// About up to where the client has acknowledged what the backend has sent, and the backend what the client has; after a FIN, where
    /// that stands.
    pub acknowledged: [u32; 2],
}

impl NatRecord {
    /// The client's address and port are kept.
    pub const NO_SOURCE: u16 = u16::MAX;

    /// How far behind an acknowledgement may be that the record knows: so it is not written with each packet.
    const ACKNOWLEDGED_GRAIN: u32 = 1 << 15;
    /// How far before an acknowledgement a reset may stand: what was sent meanwhile, and not acknowledged. RFC 5961 allows a
    /// window, which is not known here without its scale.
    const RESET_WINDOW: u32 = 1 << 20;

    /// How far before an acknowledgement a FIN may stand: more than a host keeps of what was not acknowledged.
    const FINISH_WINDOW: u32 = 1 << 26;

    /// Whether `acknowledgment` is so much newer than `known` that it is to be written down.
    #[inline(always)]
    pub const fn is_news(known: u32, acknowledgment: u32) -> bool {
        let ahead = acknowledgment.wrapping_sub(known);
        ahead >= Self::ACKNOWLEDGED_GRAIN
    }

    /// Whether a reset with this sequence number can be one, to somebody who has acknowledged what comes before `acknowledged`.
    #[inline(always)]
    pub const fn may_reset(acknowledged: u32, sequence: u32) -> bool {
        sequence.wrapping_sub(acknowledged) < Self::RESET_WINDOW
    }

    /// Whether a FIN with this sequence number can be one, likewise.
    #[inline(always)]
    pub const fn may_finish(acknowledged: u32, sequence: u32) -> bool {
        sequence.wrapping_sub(acknowledged) < Self::FINISH_WINDOW
    }

    /// Whether a sequence number is one after a FIN, which its sender would not use. A probe for whether the other side is alive may have
    /// that of the FIN itself (RFC 1122, section 4.2.3.6).
    #[inline(always)]
    pub const fn is_after(finish: u32, sequence: u32) -> bool {
        let ahead = sequence.wrapping_sub(finish);
        ahead != 0 && ahead <= u32::MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;

    #[test]
    fn a_record_is_a_cache_line() {
        assert_eq!(size_of::<NatRecord>(), 64);
    }

    #[test]
    fn a_state_is_what_it_was_made_of() {
        let (backend, seconds) = (BackendId::truncate(0x7fff), 1_000_000_000);
        let state = NatState::new(backend, Phase::TIME_WAIT, FlowTime(5 * seconds));
        assert_eq!((state.backend(), state.phase()), (backend, Phase::TIME_WAIT));
        assert!((54 * seconds..=66 * seconds).contains(&state.idle_ns(FlowTime(65 * seconds))));
        assert_eq!(state.idle_ns(FlowTime(3 * seconds)), 0, "seen a moment later by another CPU");
        assert_eq!(state.over().backend(), backend);
        assert!(!state.over().phase().is_alive());
    }

    #[test]
    fn a_flow_is_timed_from_its_beginning_to_its_end_or_never() {
        for is_timed in [false, true] {
            let state = NatState::new(BackendId::truncate(0x7fff), Phase::OPENING, FlowTime(0)).timed(is_timed);
            let after = state.after(Side::Backend, Event::Answer, FlowTime(1 << 40));
            assert_eq!((after.backend(), after.phase()), (state.backend(), Phase::ANSWERED));
            assert_eq!(
                [state, after, after.over(), state.timed(!is_timed).timed(is_timed)].map(NatState::is_timed),
                [is_timed; 4]
            );
        }
    }

    #[test]
    fn what_was_lost_is_before_a_fin_and_what_goes_on_after_it() {
        for finish in [0, 5, u32::MAX - 5] {
            for (ahead, expected) in [(1, true), (1460, true), (1 << 30, true), (0, false)] {
                assert_eq!(NatRecord::is_after(finish, finish.wrapping_add(ahead)), expected, "{finish} {ahead}");
                assert!(!NatRecord::is_after(finish, finish.wrapping_sub(ahead)), "{finish} {ahead}");
            }
        }
    }

    #[test]
    fn a_reset_counts_at_what_was_acknowledged_and_a_little_beyond() {
        assert!(NatRecord::may_reset(u32::MAX - 5, 10), "round the corner");
        assert!(NatRecord::may_reset(7, 7));
        assert!(!NatRecord::may_reset(7, 6));
        assert!(!NatRecord::may_reset(0, 1 << 20));
    }
}
