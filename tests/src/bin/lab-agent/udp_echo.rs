//! A UDP server that says which backend it is.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The name to put in front of each datagram
    #[arg(long)]
    name: String,
    /// Where to listen. Answers leave from this address: it has to be the virtual IP where that matters
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let Options { name, listen } = options;
    let socket = UdpSocket::bind(listen).with_context(|| format!("listen on {listen}"))?;
    eprintln!("listening on {listen}");
    let mut buffer = vec![0; 0x1_0000];
    loop {
        let (length, client) = socket.recv_from(&mut buffer).context("receive")?;
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        if let Err(error) = socket.send_to(&answer, client) {
            eprintln!("answer {client}: {error}");
        }
    }
}
