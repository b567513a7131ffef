//! Memory that direct I/O takes.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

const ALIGNMENT: usize = 4096;

/// A zeroed buffer that begins at a page.
pub(crate) struct Aligned {
    start: *mut u8,
    layout: Layout,
}

impl Aligned {
    pub(crate) fn new(bytes: usize) -> Aligned {
        assert!(bytes > 0 && bytes.is_multiple_of(ALIGNMENT), "whole pages");
        let layout = Layout::from_size_align(bytes, ALIGNMENT).expect("a size below isize::MAX");
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Aligned { start, layout }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` points to `size` initialized bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.start, self.layout.size()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.layout.size()) }
    }

    /// For the kernel; the caller keeps the buffer until the kernel is done with it.
    pub(crate) fn pointer(&mut self) -> *mut u8 {
        self.start
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: `start` was allocated with this layout and is freed once.
        unsafe { dealloc(self.start, self.layout) }
    }
}
