//! Sends packets of flows that nobody has opened, from random sources.

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use nix::{
    errno::Errno,
    sys::socket::{LinkAddr, MsgFlags, MultiHeaders, sendmmsg},
};

use crate::packet_socket;

/// How many packets a system call sends.
const BATCH: u32 = 64;

/// After a longer standstill it does not catch up: what is due would come in one burst.
const LAG: Duration = Duration::from_millis(10);

/// 198.18.0.0/15: for tests, and routed nowhere (RFC 2544).
const SOURCES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const SOURCE_BITS: u32 = 17;

/// Says on standard error how many packets a second it was.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to send
    #[arg(value_enum)]
    packet: Packet,
    /// From where
    #[arg(long)]
    interface: String,
    /// The hardware address to send from
    #[arg(long, value_name = "MAC")]
    from: Mac,
    /// The hardware address to send to
    #[arg(long, value_name = "MAC")]
    gateway: Mac,
    /// What address to send to
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: SocketAddrV4,
    /// How many packets
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How many packets a second at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// What the sources follow from
    #[arg(long)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Packet {
    /// First segments of TCP connections
    Syn,
    /// Segments in the middle of TCP connections
    Ack,
    /// Datagrams of UDP
    Udp,
}

#[derive(Clone, Copy, Debug)]
struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(bytes.try_into().ok().context("six bytes with colons between them")?))
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { interface, count, rate, seed, .. } = options;
    let socket = packet_socket::open(interface)?;
    let mut random = fastrand::Rng::with_seed(*seed);
    let mut frames = vec![Frame::new(options); usize::try_from(BATCH)?];
    let mut headers = MultiHeaders::preallocate(frames.len(), None);

    let started = Instant::now();
    let mut next = started;
    let mut left = *count;
    while left > 0 {
        let size = left.min(BATCH);
        let batch = &mut frames[..usize::try_from(size)?];
        for frame in batch.iter_mut() {
            frame.change_source(&mut random);
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
        send_all(&socket, &mut headers, batch).with_context(|| format!("send on {interface}"))?;
        left -= size;
        next = (next + Duration::from_secs(1) * size / *rate).max(Instant::now().checked_sub(LAG).unwrap_or(next));
    }
    let rate = f64::from(*count) / started.elapsed().as_secs_f64();
    eprintln!("sent {count} packets, {rate:.0} packets a second");
    Ok(())
}

fn send_all(socket: &OwnedFd, headers: &mut MultiHeaders<LinkAddr>, mut frames: &[Frame]) -> Result<()> {
    while !frames.is_empty() {
        let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame.bytes())]).collect();
        let nowhere_else = vec![None; frames.len()];
        match sendmmsg(socket.as_raw_fd(), headers, &slices, nowhere_else, [], MsgFlags::empty()) {
            Ok(sent) => {
                let sent = sent.count();
                ensure!(sent > 0, "no packet could be sent");
                frames = &frames[sent..];
            }
            // The queue of the device is full.
            Err(Errno::ENOBUFS | Errno::EINTR) => thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

const ETHERNET: usize = 14;
const IP: usize = 20;
const TRANSPORT: usize = 20;
const LARGEST: usize = ETHERNET + IP + TRANSPORT;

/// A whole frame, with right checksums.
#[derive(Clone, Debug)]
struct Frame {
    packet: Packet,
    bytes: [u8; LARGEST],
    length: usize,
}

impl Frame {
    fn new(options: &Options) -> Self {
        let Options { packet, from, gateway, target, .. } = options;
        let (protocol, transport) = match packet {
            Packet::Syn | Packet::Ack => (6, TRANSPORT),
            Packet::Udp => (17, 8),
        };
        let length = ETHERNET + IP + transport;
        let mut bytes = [0; LARGEST];
        bytes[..6].copy_from_slice(&gateway.0);
        bytes[6..12].copy_from_slice(&from.0);
        bytes[12..14].copy_from_slice(&[0x08, 0x00]);
        let ip = &mut bytes[ETHERNET..];
        // Version, length of the header; don't fragment; hops.
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&sixteen_bits(IP + transport).to_be_bytes());
        ip[6] = 0x40;
        ip[8] = 64;
        ip[9] = protocol;
        ip[16..20].copy_from_slice(&target.ip().octets());
        let segment = &mut ip[IP..];
        segment[2..4].copy_from_slice(&target.port().to_be_bytes());
        match packet {
            // Length of the header, flags, window.
            Packet::Syn => segment[12..16].copy_from_slice(&[0x50, 0x02, 0xff, 0xff]),
            Packet::Ack => segment[12..16].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]),
            Packet::Udp => segment[4..6].copy_from_slice(&sixteen_bits(transport).to_be_bytes()),
        }
        Self { packet: *packet, bytes, length }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Another client, and with TCP other sequence numbers.
    fn change_source(&mut self, random: &mut fastrand::Rng) {
        let client = SOURCES.to_bits() | random.u32(..1 << SOURCE_BITS);
        let (ip, segment) = self.bytes[ETHERNET..self.length].split_at_mut(IP);
        ip[12..16].copy_from_slice(&client.to_be_bytes());
        ip[10..12].fill(0);
        let ip_checksum = checksum(sum(ip));
        ip[10..12].copy_from_slice(&ip_checksum);

        segment[..2].copy_from_slice(&random.u16(1..).to_be_bytes());
        let place = match self.packet {
            Packet::Syn => {
                segment[4..8].copy_from_slice(&random.u32(..).to_be_bytes());
                16
            }
            Packet::Ack => {
                segment[4..12].copy_from_slice(&random.u64(..).to_be_bytes());
                16
            }
            Packet::Udp => 6,
        };
        segment[place..place + 2].fill(0);
        let pseudo_header = sum(&ip[12..20]) + u32::from(ip[9]) + u32::from(sixteen_bits(segment.len()));
        let segment_checksum = checksum(pseudo_header + sum(segment));
        segment[place..place + 2].copy_from_slice(&segment_checksum);
    }
}

fn sixteen_bits(length: usize) -> u16 {
    u16::try_from(length).expect("frames are short")
}

/// Of the 16-bit words (RFC 1071); the number of bytes is even.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum()
}

fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    // No more than 16 bits are left of it.
    let [.., high, low] = (!folded).to_be_bytes();
    [high, low]
}
