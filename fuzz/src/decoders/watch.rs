//! An allocator that remembers the largest single allocation of a thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What any decoder may take, however few the bytes are.
const BASE_BYTES: usize = 16 * 1024;
/// Bytes in memory for one byte of the input: a decoded array element is a struct with strings.
const FACTOR: usize = 128;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Passes everything on to the system. Each program that runs the decoders installs it.
pub(crate) struct Watching;

// SAFETY: every call goes to the system's allocator unchanged; the watching allocates nothing.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

fn note(size: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

/// The largest single allocation while `work` runs.
pub(crate) fn largest_allocation<T>(work: impl FnOnce() -> T) -> (usize, T) {
    LARGEST.with(|largest| largest.set(0));
    let result = work();
    (LARGEST.with(Cell::get), result)
}

/// Runs a decoder over `len` bytes: no allocation of it may be larger than those bytes can fill.
pub(crate) fn frugal<T>(len: usize, work: impl FnOnce() -> T) -> T {
    within(BASE_BYTES + FACTOR * len, work)
}

/// Runs a decoder that may allocate up to `limit` bytes at once.
pub(crate) fn within<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    let (largest, result) = largest_allocation(work);
    assert!(
        largest <= limit,
        "{largest} bytes at once, {limit} are enough"
    );
    result
}
