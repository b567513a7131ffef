//! What a record says about itself: when it was due, who sent it, which one it is, its checksum.
//!
//! ```text
//! off len field                                  off len field
//!   0   8 due, nanoseconds since 1970             12   4 producer      } with --verify
//!   8   4 run, a random number                    16   8 sequence      }
//!                                                 24   4 CRC-32C of the rest of the value
//! ```
//! Pure: no async, no clock, no IO.
//! Promises: total over bytes; a value of another run is told apart from a damaged one only when
//! its checksum fits.

/// How much a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamping {
    /// Nothing: batches are sent as they were built.
    None,
    /// When it was due.
    Due,
    /// Everything.
    Full,
}

impl Stamping {
    /// Bytes of the value that it takes.
    pub(crate) const fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Due => DUE_LEN,
            Self::Full => FULL_LEN,
        }
    }
}

const DUE_LEN: usize = 12;
const CRC_AT: usize = 24;
const FULL_LEN: usize = 28;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) due_unix_ns: u64,
    pub(crate) run: u32,
    pub(crate) producer: u32,
    pub(crate) sequence: u64,
}

impl Stamp {
    /// Writes into a value that is long enough.
    pub(crate) fn write(&self, stamping: Stamping, value: &mut [u8]) {
        if stamping == Stamping::None {
            return;
        }
        value[..8].copy_from_slice(&self.due_unix_ns.to_be_bytes());
        value[8..12].copy_from_slice(&self.run.to_be_bytes());
        if stamping == Stamping::Full {
            value[12..16].copy_from_slice(&self.producer.to_be_bytes());
            value[16..24].copy_from_slice(&self.sequence.to_be_bytes());
            let crc = checksum(value);
            value[CRC_AT..FULL_LEN].copy_from_slice(&crc.to_be_bytes());
        }
    }

    /// Reads a value; `None` when it is too short or, with `Full`, damaged.
    pub(crate) fn read(stamping: Stamping, value: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            value
                .get(at..at + 8)?
                .try_into()
                .ok()
                .map(u64::from_be_bytes)
        };
        let short = |at: usize| {
            value
                .get(at..at + 4)?
                .try_into()
                .ok()
                .map(u32::from_be_bytes)
        };
        let mut stamp = Self {
            due_unix_ns: number(0)?,
            run: short(8)?,
            producer: 0,
            sequence: 0,
        };
        if stamping == Stamping::Full {
            stamp.producer = short(12)?;
            stamp.sequence = number(16)?;
            if short(CRC_AT)? != checksum(value) {
                return None;
            }
        }
        Some(stamp)
    }
}

fn checksum(value: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&value[..CRC_AT]);
    crc32c::crc32c_append(crc, &value[FULL_LEN..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_every_flipped_bit_is_noticed() {
        let stamp = Stamp {
            due_unix_ns: 1_700_000_000_000_000_001,
            run: 7,
            producer: 31,
            sequence: 1 << 40,
        };
        let mut value = [0xab; 40];
        stamp.write(Stamping::Full, &mut value);
        assert_eq!(Stamp::read(Stamping::Full, &value), Some(stamp));
        for bit in 0..value.len() * 8 {
            value[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::read(Stamping::Full, &value), None, "bit {bit}");
            value[bit / 8] ^= 1 << (bit % 8);
        }
        for len in 0..FULL_LEN {
            assert_eq!(Stamp::read(Stamping::Full, &value[..len]), None);
        }
    }

    #[test]
    fn due_alone_takes_twelve_bytes() {
        let stamp = Stamp {
            due_unix_ns: 5,
            run: 6,
            producer: 0,
            sequence: 0,
        };
        let mut value = [0; 12];
        stamp.write(Stamping::Due, &mut value);
        assert_eq!(Stamp::read(Stamping::Due, &value), Some(stamp));
    }
}
