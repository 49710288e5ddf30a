//! Control bits of a TCP header (RFC 9293, section 3.1).

/// No more data from the sender.
pub const FIN: u8 = 1;
/// Synchronize sequence numbers.
pub const SYN: u8 = 2;
/// Reset the connection.
pub const RST: u8 = 4;
/// The acknowledgment field counts.
pub const ACK: u8 = 16;
