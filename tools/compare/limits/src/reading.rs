//! The read loops: a file, or bytes in memory, to one socket as fast as one core can.
//!
//! `sendfile` and `direct` read each byte of the file once from a cold cache and end at its end.
//! `sendfile` asks the kernel to read ahead of it, because waiting for the disk in sendfile(2)
//! would make the loop slower than it has to be.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use crate::aligned::Aligned;
use crate::machine::{Usage, pin};
use crate::peer::{self, Peer};
use crate::{Done, Loop};

/// Bytes of one sendfile(2).
const SEND_BYTES: u64 = 1 << 20;
/// How far ahead of the socket the kernel is asked to read.
const AHEAD_BYTES: u64 = 16 << 20;

pub(crate) fn sendfile(options: &Loop) -> io::Result<Done> {
    pin(options.core)?;
    let file = File::open(&options.file)?;
    let length = file.metadata()?.len();
    advise(&file, 0, length, libc::POSIX_FADV_DONTNEED)?;
    stream_out(options, |socket, until| {
        let mut asked = 0;
        let mut position = 0;
        while position < length && Instant::now() < until {
            while asked < length.min(position + AHEAD_BYTES) {
                advise(&file, asked, SEND_BYTES, libc::POSIX_FADV_WILLNEED)?;
                asked += SEND_BYTES;
            }
            position += send_once(&file, socket, position, length)?;
        }
        Ok(position)
    })
}

/// One sendfile(2) from `position` on: the bytes that it sent.
fn send_once(file: &File, socket: &TcpStream, position: u64, length: u64) -> io::Result<u64> {
    let mut offset = i64::try_from(position).map_err(io::Error::other)?;
    let count = usize::try_from(SEND_BYTES.min(length - position)).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open, `offset` is a valid place for the position.
    let sent =
        unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut offset, count) };
    match u64::try_from(sent) {
        Ok(0) => Err(io::Error::other("the file became shorter")),
        Ok(sent) => Ok(sent),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn advise(file: &File, position: u64, bytes: u64, advice: i32) -> io::Result<()> {
    let position = i64::try_from(position).map_err(io::Error::other)?;
    let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; the call touches no memory of this process.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), position, bytes, advice) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

pub(crate) fn direct(options: &Loop) -> io::Result<Done> {
    pin(options.core)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&options.file)?;
    let length = file.metadata()?.len();
    let mut reader = Reader::new(file, length, options)?;
    stream_out(options, |socket, until| reader.send_all(socket, until))
}

/// Blocks on their way from the file, in the order of the file.
struct Reader {
    ring: IoUring,
    file: File,
    blocks: Vec<Aligned>,
    done: Vec<bool>,
    /// Blocks of the file.
    count: usize,
    asked: usize,
}

impl Reader {
    fn new(file: File, length: u64, options: &Loop) -> io::Result<Reader> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .build(64)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        Ok(Reader {
            ring,
            file,
            blocks: (0..options.depth)
                .map(|_| Aligned::new(options.block))
                .collect(),
            done: vec![true; options.depth],
            count: length / options.block,
            asked: 0,
        })
    }

    fn send_all(&mut self, mut socket: &TcpStream, until: Instant) -> io::Result<u64> {
        let depth = self.blocks.len();
        for _ in 0..depth.min(self.count) {
            self.ask()?;
        }
        let mut sent = 0;
        for number in 0..self.count {
            while !self.done[number % depth] {
                self.reap(1)?;
            }
            let block = self.blocks[number % depth].bytes();
            socket.write_all(block)?;
            sent += u64::try_from(block.len()).map_err(io::Error::other)?;
            let is_over = Instant::now() >= until;
            if is_over {
                break;
            }
            if self.asked < self.count {
                self.ask()?;
            }
        }
        // the kernel writes into the blocks until the last read is done
        while self.done.contains(&false) {
            self.reap(1)?;
        }
        Ok(sent)
    }

    /// Starts to read the next block of the file.
    fn ask(&mut self) -> io::Result<()> {
        let index = self.asked % self.blocks.len();
        let block = &mut self.blocks[index];
        let length = block.bytes().len();
        let position = u64::try_from(self.asked * length).map_err(io::Error::other)?;
        let entry = opcode::Read::new(
            types::Fd(self.file.as_raw_fd()),
            block.pointer(),
            u32::try_from(length).map_err(io::Error::other)?,
        )
        .offset(position)
        .build()
        .user_data(u64::try_from(index).map_err(io::Error::other)?);
        self.done[index] = false;
        // SAFETY: the block is not touched until its completion was seen.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.ring.submit()?;
        self.asked += 1;
        Ok(())
    }

    fn reap(&mut self, count: usize) -> io::Result<()> {
        self.ring.submit_and_wait(count)?;
        for completion in self.ring.completion() {
            let index = usize::try_from(completion.user_data()).map_err(io::Error::other)?;
            let read = usize::try_from(completion.result())
                .map_err(|_| io::Error::from_raw_os_error(-completion.result()))?;
            if read != self.blocks[index].bytes().len() {
                return Err(io::Error::other("a short read"));
            }
            self.done[index] = true;
        }
        Ok(())
    }
}

/// Sends the same bytes again and again: what delivering from memory costs.
pub(crate) fn memory(options: &Loop) -> io::Result<Done> {
    pin(options.core)?;
    let block = Aligned::new(options.block);
    stream_out(options, |mut socket, until| {
        let mut sent = 0;
        while Instant::now() < until {
            socket.write_all(block.bytes())?;
            sent += u64::try_from(options.block).map_err(io::Error::other)?;
        }
        Ok(sent)
    })
}

/// Runs `body` with a socket whose other side receives and discards.
fn stream_out(
    options: &Loop,
    mut body: impl FnMut(&TcpStream, Instant) -> io::Result<u64>,
) -> io::Result<Done> {
    let (child, streams) = peer::start(Peer::Receive, 1, options)?;
    let usage = Usage::now();
    let started = Instant::now();
    let bytes = body(&streams[0], started + Duration::from_secs(options.seconds))?;
    let done = Done {
        bytes,
        seconds: started.elapsed().as_secs_f64(),
        usage: usage.since(),
    };
    drop(streams);
    peer::end(child)?;
    Ok(done)
}
