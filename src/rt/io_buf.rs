//! Aligned buffers for direct I/O, within the shard's budget.
//!
//! The memory is glommio's `DmaBuffer` (4096-aligned; from the arena registered with the ring as
//! far as that reaches, else from the allocator). What is handed out is charged to the shard's
//! budget; who asks for more than is left waits, first come first served.
//!
//! Runs on: a shard. Not `Send`: it goes back to the shard's arena.
//! Promises: `alloc` waits and never fails; a buffer lent to the kernel stays alive until the
//! kernel is done, whatever becomes of the future (the ring owns it meanwhile). Contents are
//! undefined until written (under the simulator: poison), so zero what you do not fill.

use std::ops::{Deref, DerefMut};

use glommio::io::{DmaBuffer, ReadResult};

use super::file::ALIGNMENT;
use super::runtime::{self, Runtime};
use super::sync::semaphore::{Permit, Semaphore};

/// What an unwritten byte looks like under the simulator.
const POISON: u8 = 0xA5;

/// A buffer whose address and length are multiples of [`ALIGNMENT`] (a read's length may be less
/// at the end of the file). Derefs to its bytes.
pub struct IoBuf {
    memory: Memory,
    permit: Permit,
}

enum Memory {
    Owned(DmaBuffer),
    /// What the ring has read: shared with it, copied before the first write.
    Read(ReadResult),
}

impl std::fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IoBuf")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl IoBuf {
    /// A buffer of `len` bytes, rounded up to [`ALIGNMENT`]; waits while the shard's budget is used
    /// up. More than the whole budget is charged as the whole budget.
    ///
    /// Cancel: safe.
    pub async fn alloc(len: usize) -> Self {
        let len = round_up(len);
        let permit = Budget::current().acquire(len).await;
        Self {
            memory: Memory::Owned(memory(len)),
            permit,
        }
    }

    /// As [`alloc`](Self::alloc), or `None` when that would wait.
    pub fn try_alloc(len: usize) -> Option<Self> {
        let len = round_up(len);
        let permit = Budget::current().try_acquire(len)?;
        Some(Self {
            memory: Memory::Owned(memory(len)),
            permit,
        })
    }

    /// A buffer of zeroes. See [`alloc`](Self::alloc).
    pub async fn alloc_zeroed(len: usize) -> Self {
        let mut buf = Self::alloc(len).await;
        buf.fill(0);
        buf
    }

    pub(super) fn from_read(read: ReadResult, permit: Permit) -> Self {
        Self {
            memory: Memory::Read(read),
            permit,
        }
    }

    pub(super) fn from_parts(memory: DmaBuffer, permit: Permit) -> Self {
        Self {
            memory: Memory::Owned(memory),
            permit,
        }
    }

    /// The memory, cut to `len` bytes, and what it was charged.
    pub(super) fn into_parts(self, len: usize) -> (DmaBuffer, Permit) {
        let mut memory = match self.memory {
            Memory::Owned(memory) => memory,
            Memory::Read(read) => copy(&read),
        };
        memory.trim_to_size(len);
        (memory, self.permit)
    }

    /// Cuts the buffer to its first `len` bytes. It cannot grow again.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        match &mut self.memory {
            Memory::Owned(memory) => memory.trim_to_size(len),
            Memory::Read(read) => *read = ReadResult::slice(read, 0, len).unwrap_or_default(),
        }
    }
}

impl Deref for IoBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Owned(memory) => memory.as_bytes(),
            Memory::Read(read) => read,
        }
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        if let Memory::Read(read) = &self.memory {
            self.memory = Memory::Owned(copy(read));
        }
        match &mut self.memory {
            Memory::Owned(memory) => memory.as_bytes_mut(),
            Memory::Read(_) => unreachable!("replaced by an owned copy above"),
        }
    }
}

/// The bytes of I/O buffers that the shard on this thread may hold.
pub(super) struct Budget {
    semaphore: Semaphore,
    total: usize,
}

impl Budget {
    pub(super) fn new(total: usize) -> Self {
        Self {
            semaphore: Semaphore::new(total),
            total,
        }
    }

    pub(super) fn current() -> Self {
        match runtime::current() {
            Runtime::Uring(shard) => shard.budget().share(),
            Runtime::Sim(shard) => shard.budget().share(),
        }
    }

    fn share(&self) -> Self {
        Self {
            semaphore: self.semaphore.clone(),
            total: self.total,
        }
    }

    pub(super) async fn acquire(&self, len: usize) -> Permit {
        self.semaphore.acquire(len.min(self.total)).await
    }

    fn try_acquire(&self, len: usize) -> Option<Permit> {
        self.semaphore.try_acquire(len.min(self.total))
    }
}

/// Bytes of I/O buffers that this shard could still hand out without waiting.
pub fn available() -> usize {
    Budget::current().semaphore.available()
}

/// Bytes of I/O buffers that this shard has handed out, and may hand out at most.
pub fn usage() -> (usize, usize) {
    let budget = Budget::current();
    let available = budget.semaphore.available();
    (budget.total.saturating_sub(available), budget.total)
}

pub(super) fn round_up(len: usize) -> usize {
    len.max(1).next_multiple_of(ALIGNMENT)
}

/// `len` bytes of aligned memory, not charged to anybody. Not zero.
pub(super) fn memory(len: usize) -> DmaBuffer {
    match runtime::current() {
        Runtime::Uring(_) => glommio::allocate_dma_buffer(len),
        Runtime::Sim(_) => {
            let mut memory = glommio::allocate_dma_buffer_global(len);
            memory.as_bytes_mut().fill(POISON);
            memory
        }
    }
}

fn copy(bytes: &[u8]) -> DmaBuffer {
    let mut memory = memory(round_up(bytes.len()));
    let room = memory.as_bytes_mut();
    room[..bytes.len()].copy_from_slice(bytes);
    memory.trim_to_size(bytes.len());
    memory
}
