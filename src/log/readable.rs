//! How much there is to read, cheaply: for the byte budgets and minimum of a fetch.
//!
//! Runs on: the home shard. Looks at memory only.

use super::log::Log;
use crate::model::offset::Offset;

/// Counting stops here: above `fetch.max.bytes` nobody needs to know more.
const COUNT_BYTES_MAX: u64 = 64 << 20;

impl Log {
    /// Bytes of the batches from the one that holds `from` up to `upper_bound`: exact where they are
    /// in memory. Older ones count as the whole log, which a reader of old data does not wait for.
    pub fn readable_bytes(&self, from: Offset, upper_bound: Offset) -> u64 {
        if from >= upper_bound {
            return 0;
        }
        let tail = self.tail.borrow();
        if tail.first_offset().is_none_or(|first| first > from) {
            drop(tail);
            return self.size_bytes().clamp(1, COUNT_BYTES_MAX);
        }
        let mut bytes = 0u64;
        for batch in tail
            .from_offset(from)
            .take_while(|batch| batch.next_offset <= upper_bound)
        {
            bytes += u64::try_from(batch.bytes.len()).unwrap_or(u64::MAX);
            if bytes >= COUNT_BYTES_MAX {
                break;
            }
        }
        bytes
    }
}
