//! The write loop: receive, CRC-32C, durable direct write, acknowledge.
//!
//! Frames are received where they will be written from, so nothing is copied in the process. One
//! turn of the sender fills one block; up to `depth` blocks are being written while the next one
//! is received. Acknowledgements leave in the order of the blocks, after their write is durable.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use crate::aligned::Aligned;
use crate::machine::{Usage, pin};
use crate::peer::{self, CONNECTIONS, FRAME_BYTES, Peer};
use crate::{Done, Loop};

const PREPARE_BYTES: usize = 4 << 20;
/// The first part of a run is not counted: connections and the device's queue settle.
const WARMUP: Duration = Duration::from_secs(1);

/// Writes the file from end to end, so that later writes allocate nothing.
pub(crate) fn prepare(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    let mut buffer = Aligned::new(PREPARE_BYTES);
    for (byte, number) in buffer.bytes_mut().iter_mut().zip((0..=250).cycle()) {
        *byte = number;
    }
    let step = u64::try_from(PREPARE_BYTES).map_err(io::Error::other)?;
    for position in (0..bytes / step * step).step_by(PREPARE_BYTES) {
        file.write_all_at(buffer.bytes(), position)?;
    }
    file.sync_all()
}

pub(crate) fn run(options: &Loop) -> io::Result<Done> {
    if options.block == 0 || !options.block.is_multiple_of(FRAME_BYTES) {
        return Err(io::Error::other(format!(
            "--block: a multiple of {FRAME_BYTES}"
        )));
    }
    pin(options.core)?;
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(&options.file)?;
    let (child, streams) = peer::start(Peer::Send, CONNECTIONS, options)?;
    let mut writer = Writer::new(file, options)?;
    let limit = WARMUP + Duration::from_secs(options.seconds);
    let started = Instant::now();
    let mut counted: Option<(Instant, Usage, u64)> = None;
    let mut checksum = 0;
    for turn in 0.. {
        let index = writer.free_block(&streams)?;
        let connection = turn % CONNECTIONS;
        let block = writer.blocks[index].bytes_mut();
        for frame in block.chunks_exact_mut(FRAME_BYTES) {
            (&streams[connection]).read_exact(frame)?;
            checksum ^= crc32c::crc32c(frame);
        }
        writer.write(index, connection)?;
        let elapsed = started.elapsed();
        if counted.is_none() && elapsed >= WARMUP {
            counted = Some((Instant::now(), Usage::now(), writer.acknowledged));
        }
        if elapsed >= limit {
            break;
        }
    }
    let (since, usage, before) = counted.ok_or_else(|| io::Error::other("nothing was counted"))?;
    let done = Done {
        bytes: (writer.acknowledged - before) * to_u64(options.block)?,
        seconds: since.elapsed().as_secs_f64(),
        usage: usage.since(),
    };
    while !writer.order.is_empty() {
        writer.reap(&streams, 1)?;
    }
    std::hint::black_box(checksum);
    for stream in &streams {
        stream.shutdown(Shutdown::Both)?;
    }
    drop(streams);
    peer::end(child)?;
    Ok(done)
}

/// Blocks on their way to the file.
struct Writer {
    ring: IoUring,
    file: File,
    blocks: Vec<Aligned>,
    free: Vec<usize>,
    /// Blocks being written, oldest first: block, connection, whether its write is done.
    order: VecDeque<(usize, usize, bool)>,
    position: u64,
    file_bytes: u64,
    depth: usize,
    in_flight: usize,
    acknowledged: u64,
    acks: Vec<u8>,
}

impl Writer {
    fn new(file: File, options: &Loop) -> io::Result<Writer> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .build(64)?;
        // one more than are written at a time: it is being received
        let count = options.depth + 1;
        let mut blocks: Vec<Aligned> = (0..count).map(|_| Aligned::new(options.block)).collect();
        let vectors: Vec<libc::iovec> = blocks
            .iter_mut()
            .map(|block| libc::iovec {
                iov_base: block.pointer().cast(),
                iov_len: options.block,
            })
            .collect();
        // SAFETY: the blocks live in `Writer` beside the ring and never move or shrink.
        unsafe { ring.submitter().register_buffers(&vectors)? };
        let length = file.metadata()?.len();
        let block_bytes = to_u64(options.block)?;
        Ok(Writer {
            ring,
            file,
            blocks,
            free: (0..count).collect(),
            order: VecDeque::new(),
            position: 0,
            file_bytes: length / block_bytes * block_bytes,
            depth: options.depth,
            in_flight: 0,
            acknowledged: 0,
            acks: vec![0; peer::acks_bytes(options.block)],
        })
    }

    /// A block to receive into; waits for writes when all are taken.
    fn free_block(&mut self, streams: &[TcpStream]) -> io::Result<usize> {
        self.reap(streams, 0)?;
        while self.free.is_empty() || self.in_flight >= self.depth {
            self.reap(streams, 1)?;
        }
        self.free
            .pop()
            .ok_or_else(|| io::Error::other("no block is free"))
    }

    fn write(&mut self, index: usize, connection: usize) -> io::Result<()> {
        let length = self.blocks[index].bytes().len();
        let entry = opcode::WriteFixed::new(
            types::Fd(self.file.as_raw_fd()),
            self.blocks[index].pointer(),
            u32::try_from(length).map_err(io::Error::other)?,
            u16::try_from(index).map_err(io::Error::other)?,
        )
        .offset(self.position)
        .build()
        .user_data(to_u64(index)?);
        // SAFETY: the block is neither read nor written here until its completion was seen.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        self.ring.submit()?;
        self.position = (self.position + to_u64(length)?) % self.file_bytes;
        self.in_flight += 1;
        self.order.push_back((index, connection, false));
        Ok(())
    }

    /// Takes completions, at least `count`, and acknowledges in order.
    fn reap(&mut self, streams: &[TcpStream], count: usize) -> io::Result<()> {
        if self.in_flight > 0 {
            self.ring.submit_and_wait(count)?;
        }
        for completion in self.ring.completion() {
            let index = usize::try_from(completion.user_data()).map_err(io::Error::other)?;
            let written = usize::try_from(completion.result())
                .map_err(|_| io::Error::from_raw_os_error(-completion.result()))?;
            if written != self.blocks[index].bytes().len() {
                return Err(io::Error::other("a short write"));
            }
            self.in_flight -= 1;
            for entry in self.order.iter_mut().filter(|entry| entry.0 == index) {
                entry.2 = true;
            }
        }
        while let Some(&(index, connection, true)) = self.order.front() {
            self.order.pop_front();
            self.free.push(index);
            (&streams[connection]).write_all(&self.acks)?;
            self.acknowledged += 1;
        }
        Ok(())
    }
}

fn to_u64(count: usize) -> io::Result<u64> {
    u64::try_from(count).map_err(io::Error::other)
}
