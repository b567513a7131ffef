//! The simulator's random numbers, and those of simulated clients: small, fast, and the same
//! everywhere for the same seed.
//!
//! Pure: no async, no clock, no IO.

/// `SplitMix64`: one 64-bit state, every output a mix of it.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A sequence of its own for every seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// An index into something of `len` elements, which is not zero.
    pub fn index(&mut self, len: usize) -> usize {
        let bound = u64::try_from(len).unwrap_or(u64::MAX);
        usize::try_from(self.below(bound)).unwrap_or(0)
    }

    /// True once in `n` times.
    pub const fn chance(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        let (first, second): (Vec<_>, Vec<_>) = (0..100).map(|_| (a.next(), b.next())).unzip();
        assert_eq!(first, second);
        assert_ne!(first[0], Rng::new(8).next());
    }

    #[test]
    fn every_index_comes_up() {
        let mut rng = Rng::new(1);
        let mut seen = [false; 7];
        (0..200).for_each(|_| seen[rng.index(7)] = true);
        assert_eq!(seen, [true; 7]);
    }
}
