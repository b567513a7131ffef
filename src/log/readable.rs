//! How much there is to read, cheaply: for the byte budgets and minimum of a fetch.
//!
//! Runs on: the home shard. Looks at memory only.

use super::log::Log;
use crate::model::offset::Offset;

/// Counting stops here: above `fetch.max.bytes` nobody needs to know more.
const COUNT_BYTES_MAX: u64 = 64 << 20;

impl Log {
    /// Bytes of the batches from the one that holds `from` up to `upper_bound`: exact where they
    /// are in memory. Older ones count as the whole log, which a reader of old data does not wait
    /// for.
    pub fn readable_bytes(&self, from: Offset, upper_bound: Offset) -> u64 {
        if from >= upper_bound {
            return 0;
        }
        let counted = self.tail.borrow().size_between(from, upper_bound);
        let bytes = counted.unwrap_or_else(|| self.size_bytes().max(1));
        bytes.min(COUNT_BYTES_MAX)
    }
}
