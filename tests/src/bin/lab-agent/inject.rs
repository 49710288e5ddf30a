//! Sends frames as they are given.

use std::{
    os::fd::AsRawFd as _,
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::sys::socket::{MsgFlags, send};

use crate::packet_socket;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to send
    #[arg(long)]
    interface: String,
    /// How often to send all frames
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// The time between two frames
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    spacing: Duration,
    /// Frames in hexadecimal digits, from the Ethernet header on
    #[arg(required = true)]
    frames: Vec<Frame>,
}

#[derive(Clone, Debug)]
struct Frame(Vec<u8>);

impl FromStr for Frame {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        ensure!(text.is_ascii() && text.len().is_multiple_of(2), "each byte has two digits");
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).context("a hexadecimal digit");
        Ok(Self((0..text.len()).step_by(2).map(byte).collect::<Result<_>>()?))
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { interface, rounds, spacing, frames } = options;
    let socket = packet_socket::open(interface)?;
    let mut next = Instant::now();
    for Frame(frame) in (0..*rounds).flat_map(|_| frames) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += *spacing;
        send(socket.as_raw_fd(), frame, MsgFlags::empty())
            .with_context(|| format!("send {} bytes on {interface}", frame.len()))?;
    }
    Ok(())
}
