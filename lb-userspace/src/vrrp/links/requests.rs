//! Orders and questions to the kernel, many in one datagram.

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike as _},
};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload},
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::LinkError;

/// The kernel answers before the request is sent; without this, an answer that it drops would be awaited for ever.
const TIMEOUT_SECONDS: i64 = 2;

/// Orders in one datagram: so many answers fit the socket's receive buffer.
const BATCH: usize = 64;

/// Something that the kernel is to do.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) message: RouteNetlinkMessage,
    /// `NLM_F_CREATE` and the like.
    pub(super) flags: u16,
}

/// A netlink socket.
#[derive(Debug)]
pub(super) struct Requests {
    socket: Socket,
    /// The number of the last message.
    sequence: u32,
}

impl Requests {
    pub(super) fn open() -> Result<Self, LinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Else the kernel lists the addresses of all interfaces, whichever is asked for.
            socket.set_netlink_get_strict_chk(true)?;
            // An answer needs no copy of the request.
            socket.set_cap_ack(true)?;
            setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS))?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(LinkError::Open)?, sequence: 0 })
    }

    /// Has all orders carried out, in their order; the results are in that order, too.
    pub(super) fn order(&mut self, orders: &[Order]) -> Result<Vec<io::Result<()>>, LinkError> {
        let mut results = Vec::with_capacity(orders.len());
        for batch in orders.chunks(BATCH) {
            results.extend(self.order_batch(batch)?);
        }
        Ok(results)
    }

    fn order_batch(&mut self, batch: &[Order]) -> Result<Vec<io::Result<()>>, LinkError> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for order in batch {
            self.append(&mut datagram, order.message.clone(), order.flags | NLM_F_ACK);
        }
        self.send(&datagram)?;
        let mut answers: Vec<Option<io::Result<()>>> = batch.iter().map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            for message in self.receive()? {
                let number = message.header.sequence_number.wrapping_sub(first) as usize;
                if let (Some(answer), NetlinkPayload::Error(error)) = (answers.get_mut(number), message.payload) {
                    *answer = Some(if error.code.is_none() { Ok(()) } else { Err(error.to_io()) });
                }
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Asks for one thing.
    pub(super) fn ask(&mut self, question: RouteNetlinkMessage) -> Result<io::Result<RouteNetlinkMessage>, LinkError> {
        let answers = self.answers(question, NLM_F_ACK)?;
        Ok(answers.and_then(|answers| answers.into_iter().next().ok_or_else(|| io::ErrorKind::NotFound.into())))
    }

    /// Asks for a list.
    pub(super) fn ask_all(
        &mut self,
        question: RouteNetlinkMessage,
    ) -> Result<io::Result<Vec<RouteNetlinkMessage>>, LinkError> {
        self.answers(question, NLM_F_DUMP)
    }

    fn answers(
        &mut self,
        question: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<io::Result<Vec<RouteNetlinkMessage>>, LinkError> {
        let mut datagram = Vec::new();
        self.append(&mut datagram, question, flags);
        self.send(&datagram)?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive()? {
                // What was not waited for earlier is of no interest now.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Ok(Err(error.to_io())),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(Ok(answers)),
                    _ => {}
                }
            }
        }
    }

    fn append(&mut self, datagram: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = datagram.len();
        datagram.resize(start + message.buffer_len(), 0);
        message.serialize(&mut datagram[start..]);
        datagram.resize(datagram.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn send(&self, datagram: &[u8]) -> Result<(), LinkError> {
        retry(|| self.socket.send(datagram, 0)).map(drop).map_err(LinkError::Socket)
    }

    /// The messages of one datagram.
    fn receive(&self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, LinkError> {
        let (datagram, _) = retry(|| self.socket.recv_from_full()).map_err(LinkError::Socket)?;
        let mut messages = Vec::new();
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(LinkError::Answer)?;
            let length = (message.header.length as usize).next_multiple_of(ALIGNMENT);
            rest = rest.get(length..).unwrap_or_default();
            messages.push(message);
        }
        Ok(messages)
    }
}

/// Messages start at multiples of this many bytes (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// Signals interrupt calls on a socket with a timeout.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
