//! How far a flow is, as the packets of both directions tell.

/// What a flow is doing. How long it may do so without a packet is the daemon's business.
///
/// A bare byte with named values: the datapath reads it from a map, where an enum of Rust may not hold every value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Phase(pub u8);

impl Phase {
    /// Nobody's, or being made.
    pub const FREE: Self = Self(0);
    /// TCP: the client's SYN was sent on.
    pub const OPENING: Self = Self(1);
    /// TCP: the backend has answered with SYN and ACK.
    pub const ANSWERED: Self = Self(2);
    /// TCP: the client has sent something in mid-connection, and the backend has not yet shown that it knows the connection.
    pub const SIGHTED: Self = Self(3);
    /// TCP: both sides have heard from each other.
    pub const ESTABLISHED: Self = Self(4);
    /// TCP: the client has sent its FIN.
    pub const CLIENT_CLOSED: Self = Self(5);
    /// TCP: the backend has sent its FIN.
    pub const BACKEND_CLOSED: Self = Self(6);
    /// TCP: both have.
    pub const TIME_WAIT: Self = Self(7);
    /// TCP: one side has sent a reset whose sequence number could be right.
    pub const RESET: Self = Self(8);
    /// UDP and ICMP echo: only the client has sent something.
    pub const UNREPLIED: Self = Self(9);
    /// UDP and ICMP echo: both have.
    pub const REPLIED: Self = Self(10);
    /// Nobody's any more: the daemon is to free the place.
    pub const OVER: Self = Self(11);

    const COUNT: usize = 16;

    /// The phase after a packet of `side`.
    #[inline(always)]
    #[must_use]
    pub fn after(self, side: Side, event: Event) -> Self {
        NEXT[self.0 as usize & (Self::COUNT - 1)][(event as usize * 2 + side as usize) & (EVENTS * 2 - 1)]
    }

    /// Whether a packet that opens a connection begins another one than this.
    #[inline(always)]
    pub const fn gives_way(self) -> bool {
        matches!(self, Self::TIME_WAIT | Self::RESET)
    }

    /// Whether a FIN of `side` was seen.
    #[inline(always)]
    pub const fn has_finished(self, side: Side) -> bool {
        self.0 == Self::TIME_WAIT.0 || self.0 == Self::CLIENT_CLOSED.0 + side as u8
    }

    /// Whether one side may not have acknowledged anything that the other has sent.
    #[inline(always)]
    pub const fn is_opening(self) -> bool {
        self.0 <= Self::SIGHTED.0
    }

    /// Whether a SYN of the backend can be the answer to one of the client.
    #[inline(always)]
    pub const fn may_be_answered(self) -> bool {
        self.is_opening() || self.0 == Self::RESET.0
    }

    /// Whether packets belong to this flow.
    #[inline(always)]
    pub const fn is_alive(self) -> bool {
        self.0 != Self::FREE.0 && self.0 < Self::OVER.0
    }

    /// Whether the flow counts as one that its backend is busy with.
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        self.is_alive() && !self.gives_way()
    }
}

/// Who has sent a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// The client.
    Client = 0,
    /// The backend.
    Backend = 1,
}

/// What a packet says about its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// A SYN without ACK.
    Open = 0,
    /// A SYN with ACK.
    Answer = 1,
    /// A FIN without data.
    Finish = 2,
    /// A reset that may be one (RFC 5961, section 3).
    Reset = 3,
    /// Data, or a datagram.
    Data = 4,
    /// An acknowledgement without data.
    Acknowledge = 5,
    /// What no host would take for a part of the connection.
    Nothing = 6,
    /// A FIN after the last data.
    LastData = 7,
}

impl Event {
    /// All of them, by their numbers.
    const ALL: [Self; EVENTS] = [
        Self::Open,
        Self::Answer,
        Self::Finish,
        Self::Reset,
        Self::Data,
        Self::Acknowledge,
        Self::Nothing,
        Self::LastData,
    ];

    /// The one with this number. Not from the table, of which the compiler makes what the verifier of eBPF programs does not allow.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Answer,
            2 => Self::Finish,
            3 => Self::Reset,
            4 => Self::Data,
            5 => Self::Acknowledge,
            7 => Self::LastData,
            _ => Self::Nothing,
        }
    }

    /// Whether it brings what an application has written.
    #[inline(always)]
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Data | Self::LastData)
    }
}

const EVENTS: usize = 8;

/// [`next`] for all phases and packets: a look-up has no branches for the verifier to follow.
static NEXT: [[Phase; EVENTS * 2]; Phase::COUNT] = {
    let mut table = [[Phase::FREE; EVENTS * 2]; Phase::COUNT];
    let mut phase = 0;
    while phase < Phase::COUNT {
        let mut event = 0;
        while event < EVENTS {
            table[phase][event * 2] = next(Phase(phase as u8), Side::Client, Event::ALL[event]);
            table[phase][event * 2 + 1] = next(Phase(phase as u8), Side::Backend, Event::ALL[event]);
            event += 1;
        }
        phase += 1;
    }
    table
};

/// The states of RFC 9293, section 3.3.2, as far as somebody in between can tell them. A FIN and a reset may be forged, so data
/// undoes what they have done: data that comes after the FIN in the stream, or a while after the reset. What was lost or overtaken does
/// not count as such; the datapath tells it. A client may be forged from the first segment on, so what makes a flow a lasting one is what
/// only the backend can say, or who has heard it.
const fn next(phase: Phase, side: Side, event: Event) -> Phase {
    use Event::{Acknowledge, Answer, Data, Finish, LastData, Nothing, Open, Reset};
    use Side::{Backend, Client};
    match (phase, side, event) {
        (_, _, LastData) => next(phase, side, Finish),
        (Phase::UNREPLIED, Backend, _) => Phase::REPLIED,
        (Phase::OPENING | Phase::SIGHTED | Phase::RESET, Backend, Answer) => Phase::ANSWERED,
        (Phase::RESET, Client, Data) => Phase::SIGHTED,
        (Phase::ANSWERED, Client, Data | Acknowledge)
        | (Phase::ANSWERED | Phase::BACKEND_CLOSED | Phase::RESET, Backend, Data)
        | (Phase::SIGHTED, Backend, Data | Acknowledge)
        | (Phase::CLIENT_CLOSED, Client, Data) => Phase::ESTABLISHED,
        (Phase::ANSWERED | Phase::ESTABLISHED, Client, Finish) | (Phase::TIME_WAIT, Backend, Data) => {
            Phase::CLIENT_CLOSED
        }
        (Phase::ANSWERED | Phase::SIGHTED | Phase::ESTABLISHED, Backend, Finish) | (Phase::TIME_WAIT, Client, Data) => {
            Phase::BACKEND_CLOSED
        }
        (Phase::CLIENT_CLOSED, Backend, Finish) | (Phase::BACKEND_CLOSED, Client, Finish) => Phase::TIME_WAIT,
        (
            Phase::OPENING
            | Phase::ANSWERED
            | Phase::SIGHTED
            | Phase::ESTABLISHED
            | Phase::CLIENT_CLOSED
            | Phase::BACKEND_CLOSED,
            _,
            Reset,
        ) => Phase::RESET,
        (_, Client | Backend, Open | Answer | Finish | Reset | Data | Acknowledge | Nothing) => phase,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;
    use Event::{Acknowledge, Answer, Data, Finish, Open, Reset};
    use Side::{Backend, Client};

    fn after(packets: &[(Side, Event)]) -> Phase {
        packets.iter().fold(Phase::OPENING, |phase, (side, event)| phase.after(*side, *event))
    }

    const OPENED: [(Side, Event); 2] = [(Backend, Answer), (Client, Acknowledge)];

    fn established_and(packets: &[(Side, Event)]) -> Phase {
        packets.iter().fold(after(&OPENED), |phase, (side, event)| phase.after(*side, *event))
    }

    #[test]
    fn a_handshake_is_three_packets_and_repeated_ones_change_nothing() {
        assert_eq!(after(&[(Client, Open)]), Phase::OPENING);
        assert_eq!(after(&[(Backend, Answer), (Client, Open), (Backend, Answer)]), Phase::ANSWERED);
        assert_eq!(after(&OPENED), Phase::ESTABLISHED);
        assert_eq!(after(&[(Client, Acknowledge)]), Phase::OPENING, "nobody has answered");
        assert_eq!(established_and(&[(Client, Open), (Backend, Answer)]), Phase::ESTABLISHED, "forged, or late");
    }

    #[test]
    fn a_connection_is_closed_by_both_and_half_closed_by_one() {
        let half_closed = [(Client, Finish), (Backend, Acknowledge), (Backend, Data), (Client, Acknowledge)];
        assert_eq!(established_and(&half_closed), Phase::CLIENT_CLOSED);
        assert_eq!(established_and(&[(Backend, Finish), (Client, Data)]), Phase::BACKEND_CLOSED);
        assert_eq!(established_and(&[(Backend, Finish), (Client, Finish)]), Phase::TIME_WAIT);
        assert_eq!(established_and(&[(Client, Finish), (Backend, Finish), (Client, Acknowledge)]), Phase::TIME_WAIT);
    }

    #[test]
    fn the_last_data_is_an_end_and_no_sign_of_life() {
        for phase in (0..16).map(Phase) {
            for side in [Client, Backend] {
                assert_eq!(phase.after(side, Event::LastData), phase.after(side, Finish), "{phase:?} {side:?}");
            }
        }
    }

    #[test]
    fn who_has_sent_a_fin_has_finished() {
        for phase in (0..16).map(Phase) {
            let finished = [Client, Backend].map(|side| phase.has_finished(side));
            let expected = match phase {
                Phase::CLIENT_CLOSED => [true, false],
                Phase::BACKEND_CLOSED => [false, true],
                Phase::TIME_WAIT => [true, true],
                _ => [false, false],
            };
            assert_eq!(finished, expected, "{phase:?}");
        }
    }

    #[test]
    fn an_event_has_a_number() {
        for event in Event::ALL {
            assert_eq!(Event::from_number(event as u32), event);
        }
    }

    #[test]
    fn a_forged_end_is_undone_by_data() {
        assert_eq!(established_and(&[(Client, Reset)]), Phase::RESET);
        assert_eq!(established_and(&[(Client, Reset), (Client, Acknowledge)]), Phase::RESET);
        assert_eq!(established_and(&[(Client, Reset), (Backend, Data)]), Phase::ESTABLISHED);
        assert_eq!(established_and(&[(Client, Reset), (Client, Data)]), Phase::SIGHTED, "the backend may say so");
        assert_eq!(established_and(&[(Client, Reset), (Client, Data), (Backend, Acknowledge)]), Phase::ESTABLISHED);
        assert_eq!(established_and(&[(Client, Finish), (Client, Data)]), Phase::ESTABLISHED);
        assert_eq!(established_and(&[(Client, Finish), (Backend, Finish), (Client, Data)]), Phase::BACKEND_CLOSED);
        assert_eq!(after(&[(Client, Reset), (Backend, Answer), (Client, Data)]), Phase::ESTABLISHED);
    }

    #[test]
    fn of_what_the_client_alone_says_nothing_lasts() {
        let of_client =
            |phase: Phase| [Open, Answer, Finish, Reset, Data, Acknowledge].map(|event| phase.after(Client, event));
        let (mut reached, mut todo) = (Vec::new(), vec![Phase::OPENING, Phase::SIGHTED]);
        while let Some(phase) = todo.pop() {
            if !reached.contains(&phase) {
                reached.push(phase);
                todo.extend(of_client(phase));
            }
        }
        reached.sort_unstable();
        assert_eq!(reached, [Phase::OPENING, Phase::SIGHTED, Phase::RESET]);
    }

    #[test]
    fn a_connection_that_was_made_elsewhere_lives_when_its_backend_knows_it() {
        for (event, expected) in
            [(Data, Phase::ESTABLISHED), (Acknowledge, Phase::ESTABLISHED), (Finish, Phase::BACKEND_CLOSED)]
        {
            assert_eq!(Phase::SIGHTED.after(Client, Data).after(Backend, event), expected);
        }
        assert_eq!(Phase::SIGHTED.after(Backend, Reset), Phase::RESET);
        assert_eq!(Phase::SIGHTED.after(Client, Open).after(Backend, Answer), Phase::ANSWERED, "it was another one");
    }

    #[test]
    fn a_reset_after_the_end_does_not_make_it_another_end() {
        assert_eq!(established_and(&[(Client, Finish), (Backend, Finish), (Client, Reset)]), Phase::TIME_WAIT);
    }

    #[test]
    fn a_datagram_of_the_backend_is_the_reply() {
        assert_eq!(Phase::UNREPLIED.after(Client, Data), Phase::UNREPLIED);
        assert_eq!(Phase::UNREPLIED.after(Backend, Data), Phase::REPLIED);
        assert_eq!(Phase::REPLIED.after(Client, Data), Phase::REPLIED);
    }

    #[test]
    fn no_packet_brings_back_what_is_over_or_free_and_none_frees_what_is_alive() {
        for phase in (0..16).map(Phase) {
            for side in [Client, Backend] {
                for event in Event::ALL {
                    assert_eq!(phase.after(side, event).is_alive(), phase.is_alive(), "{phase:?} {side:?} {event:?}");
                }
            }
        }
    }
}
