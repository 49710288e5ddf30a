//! Which packets ask something of a backend, and which of its packets answer.

use super::{Event, Phase, Side};
use crate::Answer;

/// What a packet is to whoever waits for an answer.
///
/// Of a request the last packet counts and of a reply the first: from the one to the other it is the backend's turn. So a long upload
/// takes no time, nor does a long download. A request that comes again begins anew, as its answer may be to either (Karn and
/// Partridge, *Improving Round-Trip Time Estimates in Reliable Transport Protocols*, SIGCOMM 1987).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing, as all that has no data.
    None,
    /// The client asks for something, or goes on to.
    Asked,
    /// The backend has taken the connection, or begins to reply.
    Answered(Answer),
}

impl Turn {
    /// That of a packet of `side` in this phase of its flow.
    #[inline(always)]
    pub const fn of(side: Side, event: Event, phase: Phase) -> Self {
        let is_opening = phase.0 == Phase::OPENING.0;
        match (side, event) {
            // Before the backend has taken the connection, it is that which is waited for.
            (Side::Client, Event::Data | Event::LastData) if !is_opening => Self::Asked,
            (Side::Backend, Event::Data | Event::LastData) => Self::Answered(Answer::Reply),
            (Side::Backend, Event::Answer) if is_opening => Self::Answered(Answer::Handshake),
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Acknowledge, Data, Finish, LastData, Nothing, Open, Reset};
    use Side::{Backend, Client};

    #[test]
    fn only_data_is_a_request_or_a_reply() {
        let phases = [Phase::SIGHTED, Phase::ESTABLISHED, Phase::CLIENT_CLOSED, Phase::BACKEND_CLOSED, Phase::REPLIED];
        for phase in phases {
            for event in [Data, LastData] {
                assert_eq!(Turn::of(Client, event, phase), Turn::Asked, "{phase:?} {event:?}");
                assert_eq!(Turn::of(Backend, event, phase), Turn::Answered(Answer::Reply), "{phase:?} {event:?}");
            }
            for event in [Open, Event::Answer, Finish, Reset, Acknowledge, Nothing] {
                let turns = [Client, Backend].map(|side| Turn::of(side, event, phase));
                assert_eq!(turns, [Turn::None; 2], "{phase:?} {event:?}");
            }
        }
    }

    #[test]
    fn a_handshake_is_answered_once_and_what_is_no_answer_to_it_does_not_begin_it_anew() {
        let answered = Turn::Answered(Answer::Handshake);
        assert_eq!(Turn::of(Backend, Event::Answer, Phase::OPENING), answered);
        assert_eq!(Turn::of(Backend, Event::Answer, Phase::ANSWERED), Turn::None, "it comes again");
        assert_eq!(Turn::of(Backend, Event::Answer, Phase::SIGHTED), Turn::None, "nobody saw when it began");
        assert_eq!([Open, Data].map(|event| Turn::of(Client, event, Phase::OPENING)), [Turn::None; 2], "or too early");
        assert_eq!(Turn::of(Client, Data, Phase::ANSWERED), Turn::Asked);
    }

    #[test]
    fn the_first_datagram_is_a_request_as_all_others() {
        assert_eq!(Turn::of(Client, Data, Phase::UNREPLIED), Turn::Asked);
        assert_eq!(Turn::of(Backend, Data, Phase::UNREPLIED), Turn::Answered(Answer::Reply));
    }
}
