//! A TCP server that says which backend it is, line by line, on any number of connections.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::open_files;

/// Even if it is the only backend that is left.
const CONNECTIONS: u64 = 15_000;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The name to answer with
    #[arg(long)]
    name: String,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(options: Options) -> Result<()> {
    let Options { name, listen } = options;
    open_files::allow(CONNECTIONS)?;
    // It lives as long as the process.
    let answer: &'static [u8] = format!("{name}\n").into_bytes().leak();
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    eprintln!("listening on {listen}");
    loop {
        let (connection, _) = listener.accept().await.context("take a connection")?;
        tokio::spawn(serve(connection, answer));
    }
}

/// Until the client closes the connection, or it breaks: the client knows which.
async fn serve(mut connection: TcpStream, answer: &[u8]) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = [0; 64];
    loop {
        let length = connection.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        for _ in buffer[..length].iter().filter(|byte| **byte == b'\n') {
            connection.write_all(answer).await?;
        }
    }
}
