//! The other side of a loop: a process of its own on another core, as light as possible.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};

use clap::ValueEnum;

use crate::Loop;
use crate::machine::pin;

/// Connections of the sender: what a broker with few producers sees.
pub(crate) const CONNECTIONS: usize = 8;
/// Bytes of one frame that the sender sends.
pub(crate) const FRAME_BYTES: usize = 64 << 10;
/// Bytes that may be sent and not yet acknowledged.
const OUTSTANDING_BYTES: usize = 8 << 20;
/// Bytes of the acknowledgement of one frame.
const ACK_BYTES: usize = 4;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Peer {
    /// Sends a block's frames in turn over each connection, and waits for their acknowledgement
    Send,
    /// Receives on one connection until it ends
    Receive,
}

/// Bytes of the acknowledgements of one block.
pub(crate) fn acks_bytes(block: usize) -> usize {
    block / FRAME_BYTES * ACK_BYTES
}

/// Starts the peer, and accepts its connections.
pub(crate) fn start(
    what: Peer,
    connections: usize,
    options: &Loop,
) -> io::Result<(Child, Vec<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let name = what.to_possible_value().expect("no value is skipped");
    let child = Command::new(std::env::current_exe()?)
        .args(["peer", name.get_name()])
        .arg(listener.local_addr()?.to_string())
        .arg(options.peer_core.to_string())
        .arg(options.block.to_string())
        .spawn()?;
    let mut accepted = Vec::new();
    for _ in 0..connections {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        accepted.push(stream);
    }
    Ok((child, accepted))
}

/// Waits for the peer, whose connections are closed.
pub(crate) fn end(mut child: Child) -> io::Result<()> {
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("the peer ended with {status}")))
}

pub(crate) fn run(what: Peer, address: &str, core: usize, block: usize) -> io::Result<()> {
    pin(core)?;
    match what {
        Peer::Send => send(address, block),
        Peer::Receive => receive(address),
    }
}

/// Sends until the loop closes its side; the frames are always the same bytes.
fn send(address: &str, block: usize) -> io::Result<()> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let turn: Vec<u8> = (0..=u8::MAX).cycle().take(block).collect();
    let mut acks = vec![0; acks_bytes(block)];
    let outstanding = OUTSTANDING_BYTES / block;
    for number in 0_usize.. {
        if number >= outstanding {
            let oldest = &mut streams[(number - outstanding) % CONNECTIONS];
            if oldest.read_exact(&mut acks).is_err() {
                return Ok(());
            }
        }
        if streams[number % CONNECTIONS].write_all(&turn).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn receive(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut buffer = vec![0; 1 << 20];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}
